"""The commands of `kgfast` on joint runs; `kgfast.cli.main` has their options."""

from __future__ import annotations

from pathlib import Path

from kgfast.cli.console import errors, plain_table, print_json, screen
from kgfast.cli.joint_tables import show_ablation, show_answers, show_tasks
from kgfast.data import KnowledgeGraph
from kgfast.errors import KgfastError
from kgfast.joint import ablate as ablation
from kgfast.joint import ask as asking
from kgfast.joint.checkpoint import load_run
from kgfast.joint.config import resolve
from kgfast.joint.evaluate import evaluate_tasks
from kgfast.joint.loop import train_joint
from kgfast.joint.tasks.link import LinkTask, link_model
from kgfast.joint.unseen import evaluate_unseen
from kgfast.run.memory import use_threads
from kgfast.run.settings import check_device, found_device


def train(file, pairs, options, as_json):
    """kgfast train"""
    metrics = train_joint(resolve(file, pairs=pairs, options=options), console=errors())
    if not metrics:  # a process of torchrun that isn't the first
        return
    if as_json:
        print_json(metrics)
        return
    console = screen()
    show_tasks(console, metrics["tasks"])
    speed = metrics["train"]
    memory = speed["peak_memory_bytes"] / 2**20
    console.print(f"{speed['steps']:,} steps in {speed['seconds']:,.1f} s, {memory:,.0f} MiB")
    console.print(f"{Path(metrics['run']) / 'report.html'}", soft_wrap=True)


def open_run(run, data=None, threads=None, device="auto"):
    """The model of a joint run, with its graph and texts."""
    use_threads(threads)
    device = found_device(device)
    check_device(device)
    return load_run(run, data)[0].to(device)


def open_links(run, data=None, threads=None, device="auto"):
    """(KGEModel, graph) of a joint run: its entities as rows, encoded now."""
    model = open_run(run, data, threads, device)
    return link_model(model, model.graph), model.graph


def evaluate(run, split, unseen, data, threads, device, as_json):
    """kgfast evaluate"""
    model = open_run(run, data, threads, device)
    if unseen is None:
        found = evaluate_tasks(model, split)
    else:
        found = {LinkTask.name: evaluate_unseen(model, KnowledgeGraph.load(unseen), split)}
    if as_json:
        print_json(found)
    else:
        show_tasks(screen(), {task: {split: metrics} for task, metrics in found.items()})


def predict_for_text(run, text, relation, k, data, as_json):
    """kgfast predict --head-text"""
    rows = asking.predict_for_text(open_run(run, data), text, relation, k)
    if as_json:
        print_json({"head_text": text, "relation": relation, "answers": rows})
        return
    table = plain_table(["", "name", "label", "score"], left=(1, 2))
    for row in rows:
        table.add_row(str(row["rank"]), row["name"], row["label"], f"{row['score']:.4f}")
    screen().print(table)


def ask(run, question, topic, k, data, threads, as_json):
    """kgfast ask"""
    model = open_run(run, data, threads)
    if "qa" not in model.tasks:
        raise KgfastError(
            f"{run} was not trained with questions, so it can't answer {question!r}; try `kgfast predict`"
        )
    found = asking.ask(model, question, topic=topic, k=k)
    if as_json:
        print_json(found)
    else:
        show_answers(screen(), found)


def ablate(file, pairs, options, seeds, alone, as_json):
    """kgfast ablate"""
    console = errors()
    found = ablation.ablate(
        resolve(file, pairs=pairs, options=options), seeds=range(seeds), alone=alone, console=console,
        say=lambda text: console.print(text, soft_wrap=True),
    )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        show_ablation(screen(), found)
