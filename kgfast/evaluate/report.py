"""RUN/report.html: one file that shows what a run learned, without network access or scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from kgfast.core.files import read_plain
from kgfast.errors import KgfastError
from kgfast.evaluate.embedding_map import embedding_map
from kgfast.evaluate.measures import heading, headings
from kgfast.evaluate.metrics import evaluate
from kgfast.evaluate.predict import SLOTS, best_entities, relation_label
from kgfast.evaluate.seen import WORDS
from kgfast.pages import plots
from kgfast.pages.blocks import Beside, Chart, Example, Examples, Lines, Section, Share, Table, Tile, Tiles
from kgfast.pages.render import figure, write_page
from kgfast.run.made_by import as_rows

MOST_BYTES = 1 << 30  # of a file of the run that is read for the report
FIRST_ROWS = 15  # of the relation table; the others are folded
SAID = 3  # answers of the model that an example shows
KINDS = {"1-1": "one to one, 1-1", "1-n": "one to many, 1-n", "n-1": "many to one, n-1", "n-n": "many to many, n-n"}

Progress = Callable[[int, int], None]


def write_report(
    run: str | os.PathLike,
    *,
    model: Any,
    graph: Any,
    details: dict[str, Any] | None = None,
    progress: Progress | None = None,
    mapping: Progress | None = None,
) -> Path:
    """Write RUN/report.html from a finished run's folder and return its path.

    `details`, the result of `evaluate(model, graph, details=True, seen=True)`, saves work: without it the test split
    (valid where there is no test) is evaluated; without either the ranking parts are left out. `progress` counts
    queries that are ranked, `mapping` iterations of the map.
    """
    run = Path(run)
    split = next((name for name in ("test", "valid") if len(getattr(graph, name))), None)
    if details is None and split is not None:
        details = evaluate(model, graph, split, details=True, seen=True, progress=progress)
    metrics = read_metrics(run)
    history = read_history(run / "history.jsonl")
    sections = [
        *curves(history),
        *([] if details is None or split is None else ranked(model, graph, metrics, details, split)),
        Section("Map of entities", embedding_map(model, graph, mapping)),
        *tasks(metrics),
        *origin(run, graph, metrics),
    ]
    title, subtitle = f"{model.score} on {graph.name}", f"{sizes(graph)}; {model.dim} numbers per entity"
    return write_page(
        run / "report.html", title, subtitle, tiles(metrics, details, split), sections, f"run {run.resolve().name}"
    )


def sizes(graph: Any) -> str:
    return f"{graph.num_entities:,} entities, {graph.num_relations:,} relations, {len(graph.train):,} training triples"


def origin(run: Path, graph: Any, metrics: dict[str, Any]) -> list[Section]:
    """Settings, data, and what made the results, where metrics.json says it."""
    rows = as_rows(metrics.get("made_by", {}))
    return [
        Section("Settings", [Lines(config_text(run), columns=True), *chosen(metrics)]),
        Section("Data", [Lines("\n".join(graph.report.lines()))]),
        *([Section("Made by", [Table(["", ""], rows, words=2)])] if rows else []),
    ]


def chosen(metrics: dict[str, Any]) -> list[Table]:
    """What was chosen for the setting that is `auto`, and by what."""
    found = metrics.get("train", {}).get("auto")
    if not found:
        return []
    rows = [[f"{one['regularizer_weight']:g}", one["mrr"]] for one in found["trials"]]
    heading = f"regularizer_weight, auto: {found['regularizer_weight']:g}, {found['why']}"
    return [Table(["Tried", "Valid MRR"], rows, title=heading)]


# Files of the run


def config_text(run: Path) -> str:
    return read_plain(run / "config.yaml", MOST_BYTES).decode("utf-8", "replace").strip()


def read_metrics(run: Path) -> dict[str, Any]:
    """RUN/metrics.json as a dict."""
    path = run / "metrics.json"
    try:
        metrics = json.loads(read_plain(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise KgfastError(f"{path} isn't JSON: {error}") from error
    if not isinstance(metrics, dict):
        raise KgfastError(f"{path} must hold names and values, got a {type(metrics).__name__}")
    return metrics


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of history.jsonl as dicts; none where the file is absent (a run of zero epochs)."""
    if not os.path.lexists(path):
        return []
    try:
        return [json.loads(line) for line in read_plain(path, MOST_BYTES).splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise KgfastError(f"{path} isn't JSON lines: {error}") from error


# Parts of the page


def tiles(metrics: dict[str, Any], details: dict[str, Any] | None, split: str | None) -> Tiles:
    train = metrics.get("train", {})
    found = (metrics.get(split) if split else None) or details or {}
    beside = (details or {}).get("baselines", {})
    values = [
        Tile(figure(found[key]), f"{heading(key)}, {split}", compared(beside, key))
        for key in ("mrr", "hits@1", "hits@10")
        if key in found
    ]
    if "triples_per_second" in train:
        values.append(Tile(plots.number(train["triples_per_second"]), "triples a second"))
    return Tiles(values + effort(train))


def compared(baselines: dict[str, Any], key: str) -> list[str]:
    """What a number is beside: the same by frequency and by chance."""
    return [f"{name} {figure(found[key])}" for name, found in baselines.items()]


def effort(train: dict[str, Any]) -> list[Tile]:
    """What training took."""
    found = []
    if "seconds" in train:
        steps = [f"{train['steps']:,} steps"] if "steps" in train else []
        found.append(Tile(duration(train["seconds"]), "training time", steps))
    if train.get("peak_memory_bytes"):
        found.append(Tile(f"{train['peak_memory_bytes'] / 2**20:,.0f} MiB", "peak memory"))
    return found


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def curves(history: list[dict[str, Any]]) -> list[Section]:
    """Loss, valid MRR and speed over the epochs."""
    charts = []
    shown: Sequence[tuple[str, tuple[str, ...], str, bool]] = (
        ("Loss", ("loss",), plots.COLOURS[0], False),
        ("Valid MRR", ("valid", "mrr"), plots.COLOURS[2], True),
        ("Triples a second", ("triples_per_second",), plots.COLOURS[4], True),
    )
    for title, path, colour, zero in shown:
        xs, ys = series(history, path)
        if not xs:
            continue
        best = ys.index(max(ys))
        mark = (xs[best], ys[best], f"best {ys[best]:.3f}") if title == "Valid MRR" else None
        chart = plots.line_chart(
            xs, ys, label=f"{title} by epoch", x_label="epoch", colour=colour, zero=zero, mark=mark
        )
        if chart:
            charts.append(Chart(chart, title))
    return [Section("Training", [Beside(charts, across=3)])] if charts else []


def series(history: list[dict[str, Any]], path: Sequence[str]) -> tuple[list[float], list[float]]:
    """(epochs, values) of what history holds under nested keys."""
    xs, ys = [], []
    for row in history:
        value: Any = row
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            xs.append(row["epoch"])
            ys.append(float(value))
    return xs, ys


def ranked(
    model: Any, graph: Any, metrics: dict[str, Any], details: dict[str, Any], split: str, title: str = "Ranking"
) -> list[Section]:
    """What ranks of a split say: metrics, single predictions, relations."""
    return [
        ranking(metrics, details, split, title),
        *predictions(model, graph, details),
        relations(details),
    ]


def ranking(metrics: dict[str, Any], details: dict[str, Any], split: str, title: str) -> Section:
    """The metrics of both sides, where the ranks lie, and entities that training never saw."""
    measured = {name: metrics.get(name) or (details if name == split else None) for name in ("test", "valid")}
    results = {name: found for name, found in measured.items() if found}
    columns = headings(next(iter(results.values())))
    rows: list[list[Any]] = []
    for name, found in results.items():
        rows.append([name, *(found[key] for key in columns)])
        rows += [[f" {side}", *(found[side][key] for key in columns)] for side in ("tail", "head")]
        beside = details.get("baselines", {}) if name == split else {}
        rows += [[f" {word}", *(others.get(key) for key in columns)] for word, others in beside.items()]
    edges = details["histogram"]["edges"]
    names = [
        str(a) if b - a == 1 else f"{a}–{b - 1}" if b <= 100 else f"{plots.number(a)}+"
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    sides = [("tail", details["histogram"]["tail"]), ("head", details["histogram"]["head"])]
    chart = plots.bar_chart(names, sides, label="Ranks of the right answers", x_label="rank")
    legend = list(zip(("finding the tail", "finding the head"), plots.COLOURS, strict=False))
    text = (
        "Each right answer is ranked among all entities; other known answers are left out of the ranking "
        "(filtered with train, valid and test), ties count as the mean rank. Frequency: the same queries "
        "answered by what train has most often with the relation."
    )
    if "of" in details:
        text += f" All but the metrics of {split} and valid: of {details['triples']:,} of its triples, drawn."
    table = Table(["", *columns.values()], rows, title="Metrics")
    bars = Chart(chart, f"Rank of the right answer, {split}", legend)
    return Section(title, [Beside([table, bars]), *unseen(details), *by_seen(details)], text)


def unseen(details: dict[str, Any]) -> list[Table]:
    if "unseen" not in details["entities"]:
        return []
    words = {"seen": "both entities seen in training", "unseen": "an entity not seen in training"}
    rows = [
        [words[name], *(found[key] for key in ("triples", "mrr", "hits@10"))]
        for name, found in details["entities"].items()
    ]
    return [Table(["Triples with", "Triples", "MRR", "Hits@10"], rows)]


def by_seen(details: dict[str, Any]) -> list[Table]:
    """MRR by what training saw of the queries, where the details have it."""
    rows = []
    for what, parts in details.get("by_seen", {}).items():
        for name, found in parts.items():
            sides = [found[side]["mrr"] if side in found else "" for side in ("tail", "head")]
            rows.append([WORDS[what], name, found["queries"], Share(found["mrr"]), found["hits@10"], *sides])
    named = ["Queries by", "", "Queries", "MRR", "Hits@10", "MRR tail", "MRR head"]
    return [Table(named, rows, words=2, title="Seen in training")] if rows else []


def predictions(model: Any, graph: Any, details: dict[str, Any]) -> list[Section]:
    """Single queries with the model's answers: where it is right against the odds, and where it is furthest off."""
    found = details.get("examples", {})
    titles = {"best": "Right at once, where frequency is furthest off", "worst": "Furthest off"}
    shown = [Examples(title, answered(model, graph, found[name])) for name, title in titles.items() if found.get(name)]
    text = (
        "With the rank of the right answer, in brackets its rank by frequency. "
        "Other known answers are left out, of the model's first answers too."
    )
    return [Section("Best and worst predictions", [Beside(shown)], text)] if shown else []


@torch.no_grad()
def answered(model: Any, graph: Any, found: list[dict[str, Any]]) -> list[Example]:
    """Examples of `evaluate.examples` with the model's first answers."""
    known = graph.known()
    shown = [Example("", [], [], "")] * len(found)
    for side in ("head", "tail"):
        places = [place for place, one in enumerate(found) if one["side"] == side]
        asked, slot = [found[place]["ids"] for place in places], SLOTS.index(side)
        others = [set(known.answers(ids, side).tolist()) - {ids[slot]} for ids in asked]
        said = best_entities(model, graph, asked, slot, SAID, others, model) if asked else []
        for place, (head, relation, tail), (_, answers) in zip(places, asked, said, strict=True):
            right = (head, relation, tail)[slot]
            words = [str(graph.label(head)), relation_label(graph, relation), str(graph.label(tail))]
            words[slot] = "?"
            first = [(str(graph.label(entity)), "", entity == right) for entity in answers]
            verdict = f"rank {rank_of(found[place]['rank'])} ({rank_of(found[place]['by_frequency'])})"
            shown[place] = Example(" · ".join(words), [str(graph.label(right))], first, verdict)
    return shown


def rank_of(rank: float) -> str:
    return f"{rank:,.0f}" if rank == int(rank) else f"{rank:,.1f}"


def relations(details: dict[str, Any]) -> Section:
    """MRR by category and by relation."""
    headings = ["Triples", "MRR", "Hits@10", "MRR tail", "MRR head"]

    def numbers(found: dict[str, Any]) -> list[Any]:
        sides = [found["tail"]["mrr"], found["head"]["mrr"]]
        return [found["triples"], Share(found["mrr"]), found["hits@10"], *sides]

    categories = [
        [KINDS.get(name, name), found["relations"], *numbers(found)] for name, found in details["per_category"].items()
    ]
    rows = [[found["relation"], found["category"], *numbers(found)] for found in details["per_relation"]]
    return Section(
        "Relations",
        [
            Table(["Kind", "Relations", *headings], categories),
            Table(["Relation", "Kind", *headings], rows, words=2, first=FIRST_ROWS),
        ],
    )


def tasks(metrics: dict[str, Any]) -> list[Section]:
    """Results of other tasks, as they stand in metrics.json."""
    rows = [
        [f"{task}, {split}", name, value]
        for task, splits in metrics.get("tasks", {}).items()
        for split, found in splits.items()
        for name, value in flat(found)
    ]
    return [Section("Tasks", [Table(["Task", "Metric", "Value"], rows, words=2)])] if rows else []


def flat(found: dict[str, Any], prefix: str = "") -> Any:
    """(name, number) of nested metrics, names joined by blanks."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name} ")
        elif isinstance(value, (int, float)):
            yield prefix + name, value
