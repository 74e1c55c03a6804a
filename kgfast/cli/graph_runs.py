"""The commands of `kgfast` on runs of the graph alone; `kgfast.cli.main` has their options."""

from __future__ import annotations

import os

from kgfast import evaluate as evaluation
from kgfast.cli.console import (
    details_table,
    errors,
    metrics_table,
    print_json,
    progress_bar,
    screen,
    seen_table,
)
from kgfast.errors import KgfastError
from kgfast.evaluate.given import OGB_PREFIX
from kgfast.evaluate.kept import KeptRanks
from kgfast.evaluate.measures import SAMPLED
from kgfast.evaluate.seen import WORDS
from kgfast.run.folder import run_folder
from kgfast.run.session import check_triples
from kgfast.train import loop
from kgfast.train.config import resolve

FIRST_RELATIONS = 25  # that `evaluate --details` prints


def train(file, pairs, options, as_json):
    """kgfast train"""
    config = resolve(file, pairs=pairs, options=options)
    resume, console = loop.begin(config, False), errors()
    graph = config.load_graph()
    check_triples(graph)
    with run_folder(config.out, loop.run_name(config, graph), resume) as run:
        console.print(f"{graph.name}: {graph.num_entities:,} entities, {graph.num_relations:,} relations")
        for line in graph.report.reading():
            console.print(line, soft_wrap=True)
        training = loop.Training(config.replace(out=str(run)), graph, run, console, resume=resume)
        metrics = training.run_to_end()
    if as_json:
        return print_json({"run": str(run), **metrics})
    table = metrics_table({split: metrics[split] for split in ("test", "valid") if metrics[split]})
    speed = metrics["train"]
    console = screen()
    if table is not None:
        console.print(table)
    memory = speed["peak_memory_bytes"] / 2**20
    console.print(f"{speed['triples_per_second']:,.0f} triples/s, {speed['seconds']:,.1f} s, {memory:,.0f} MiB")
    console.print(f"{run / 'report.html'}", soft_wrap=True)


def evaluate(run, split, details, ties, batch_size, asked, as_json):
    """kgfast evaluate; `asked` has the other arguments, of which some bound the work"""
    kept = KeptRanks(run.folder / "evaluation") if os.access(run.folder, os.W_OK) else None
    with progress_bar(f"ranking {split}") as advance:
        found = evaluation.evaluate(
            run.model, run.graph, split, batch_size=batch_size, ties=ties, details=details, seen=True,
            progress=advance, kept=kept, **asked,
        )  # fmt: skip
    if kept is not None:
        kept.remove()
    if as_json:
        return print_json(found)
    prefix = SAMPLED if asked["candidates"] is not None else ""
    console = screen()
    console.print(metrics_table({split: found}, prefix))
    for line in bounds(found, prefix):
        console.print(line)
    for what, parts in found["by_seen"].items():
        if details or what == "query":
            console.print()
            console.print(seen_table(WORDS[what], parts, prefix))
    if details:
        show_details(console, found, prefix)


def check_ogb(details, ties, candidates):
    """KgfastError for what can't go together with --ogb."""
    given = {"--details": details, "--ties": ties != "realistic", "--candidates": candidates is not None}
    for name, used in given.items():
        if used:
            raise KgfastError(f"--ogb is OGB's metric, with its own candidates and rule of ties: {name} can't apply")


def evaluate_ogb(run, split, batch_size, asked, as_json):
    """kgfast evaluate --ogb"""
    asked = {key: value for key, value in asked.items() if key != "candidates"}
    with progress_bar(f"ranking {split} among OGB's candidates") as advance:
        found = evaluation.evaluate_ogb(run.model, run.graph, split, batch_size=batch_size, progress=advance, **asked)
    if as_json:
        return print_json(found)
    console = screen()
    console.print(metrics_table({split: found}, OGB_PREFIX))
    for line in bounds(found, OGB_PREFIX):
        console.print(line)


def bounds(found, prefix):
    """What the metrics were measured on, where that is less than everything."""
    if "given_candidates" in found:
        heads, tails = (f"{found['given_candidates'][side]:,}" for side in ("head", "tail"))
        yield f"ranked among the candidates that OGB gives ({heads} heads, {tails} tails a triple), not among all"
    if "candidates" in found:
        yield f"ranked among {found['candidates']:,} entities drawn by seed {found['seed']}, not among all"
    if "of" in found:
        low, high = found["interval"][prefix + "mrr"]
        drawn = f"{found['triples']:,} of {found['of']:,} triples, drawn by seed {found['seed']}"
        yield f"{drawn}: with 95 % confidence {prefix.replace('_', ' ')}MRR {low:.4f} to {high:.4f} of all"


def show_details(console, found, prefix):
    """By kind of relation, by relation, and by whether training saw the entities."""
    kinds = [(name, part["relations"], part) for name, part in found["per_category"].items()]
    console.print()
    console.print(details_table("kind", "relations", kinds, prefix))
    console.print()
    rows = [(part["relation"], part["category"], part) for part in found["per_relation"]]
    console.print(details_table("relation", "kind", rows[:FIRST_RELATIONS], prefix))
    if len(rows) > FIRST_RELATIONS:
        console.print(f"and {len(rows) - FIRST_RELATIONS} more relations: --json prints all")
    if "unseen" in found["entities"]:
        entities = [(name, "", part) for name, part in found["entities"].items()]
        console.print()
        console.print(details_table("entities", "", entities, prefix))
