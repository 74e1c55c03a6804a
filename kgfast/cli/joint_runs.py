"""The commands of `kgfast` on joint runs; `kgfast.cli.main` has their options."""

from __future__ import annotations

from pathlib import Path

from kgfast.cli.console import errors, print_json, progress_bar, screen
from kgfast.cli.joint_tables import show_ablation, show_tasks
from kgfast.data import KnowledgeGraph
from kgfast.errors import KgfastError
from kgfast.joint import ablate as ablation
from kgfast.joint import export as exporting
from kgfast.joint.checkpoint import load_run
from kgfast.joint.config import resolve
from kgfast.joint.evaluate import evaluate_tasks, plain
from kgfast.joint.facts import FactResults, evaluate_facts
from kgfast.joint.loop import train_joint
from kgfast.joint.unseen import evaluate_tasks_unseen
from kgfast.use.loading import is_joint


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


def export_folder(run, out, data):
    """kgfast export --format hf"""
    if not is_joint(run):
        raise KgfastError(f"{run} was trained on the graph alone and has no Transformer: format=hf has no meaning")
    model, config = load_run(run, data)
    return exporting.export_folder(model, config, run, out)


def evaluate(run, split, unseen, facts, as_json):
    """kgfast evaluate"""
    if facts:
        with progress_bar(f"asking for the facts of {split}") as advance:
            found = {FactResults.name: plain(evaluate_facts(run.joint, split, progress=advance))}
    elif unseen is None:
        with progress_bar(f"evaluating {split}") as advance:
            found = evaluate_tasks(run.joint, split, progress=advance)
    else:
        found = evaluate_tasks_unseen(run.joint, KnowledgeGraph.load(unseen), split)
    if as_json:
        print_json(found)
    else:
        show_tasks(screen(), {task: {split: metrics} for task, metrics in found.items()})


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
