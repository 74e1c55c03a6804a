"""RUN/report.html of a joint run: results of every task, their losses and weights over time, a map of the entities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kgfast.evaluate.embedding_map import embedding_map
from kgfast.evaluate.metrics import evaluate
from kgfast.evaluate.report import Progress, compared, effort, origin, ranked, read_history, sizes
from kgfast.joint.evaluate import SPLITS
from kgfast.joint.facts import told_by
from kgfast.joint.model.joint_model import JointModel, evaluating
from kgfast.joint.task import Shown
from kgfast.joint.tasks.link import link_model
from kgfast.pages import plots
from kgfast.pages.blocks import Beside, Chart, Examples, Note, Section, Table, Tile, Tiles
from kgfast.pages.render import figure, write_page

MAIN = "link"  # the task whose ranks are looked into
LOOKED_AT = 5000  # its triples


def write_joint_report(run: Path, model: JointModel, metrics: dict[str, Any], mapping: Progress | None = None) -> Path:
    """Write RUN/report.html from the run's history, the model and what metrics.json holds; returns its path.
    `mapping` counts iterations of the map."""
    graph, history = model.graph, read_history(Path(run) / "history.jsonl")
    names, tables = list(model.tasks), link_model(model, graph)
    split = next((split for split in SPLITS if split in metrics["tasks"].get(MAIN, {})), None)
    details = None if split is None else evaluate(tables, graph, split, details=True, triples=LOOKED_AT)
    with evaluating(model):
        shown = {name: single_answers(model, name, splits) for name, splits in metrics["tasks"].items()}
    sections = [
        *charts("Losses", history, names, "losses", note="Each task before weighting."),
        *charts("Weights of the tasks", history, names, "weights", zero=True),
        *validation(history),
    ]
    for name, splits in metrics["tasks"].items():
        if name == MAIN and details is not None and split is not None:
            sections += ranked(tables, graph, metrics, details, split, title=f"Results: {name}")
        else:
            sections += results(name, splits, shown[name])
    sections += [
        Section("Map of entities", embedding_map(tables, graph, mapping)),
        *utilisation(history, model),
        *origin(Path(run), graph, metrics),
    ]
    title = f"{', '.join(names)} on {graph.name}"
    subtitle = f"{sizes(graph)}; {model.score}, {model.dim} numbers per entity, entities: {model.entities.kind}"
    head = tiles(metrics, shown, {} if details is None else details["baselines"])
    return write_page(Path(run) / "report.html", title, subtitle, head, sections, f"run {Path(run).resolve().name}")


def single_answers(model: JointModel, name: str, splits: dict[str, Any]) -> Shown | None:
    """What a task shows of the first split that it has results of."""
    split = next((split for split in SPLITS if split in splits), None)
    return model.tasks[name].shown(model, split) if split is not None and name in model.tasks else None


def headline(task: str, metrics: dict[str, Any]) -> tuple[str, float | None]:
    """(heading, value) of the one number that stands for a task."""
    name, value = told_by(task).headline_of(metrics)
    return told_by(task).columns.get(name, name), value


def tiles(metrics: dict[str, Any], shown: dict[str, Shown | None], baselines: dict[str, Any]) -> Tiles:
    """The one number of each task beside what it is to be compared with, and what training took."""
    values = []
    for task, splits in metrics["tasks"].items():
        split = next((split for split in SPLITS if split in splits), None)
        if split is None:
            continue
        word, value = headline(task, splits[split])
        if value is None:
            continue
        single = shown.get(task)
        others = {**told_by(task).beside_of(splits[split]), **(single.beside if single else {})}
        beside = [f"{name} {figure(number)}" for name, number in others.items()]
        beside += compared(baselines, "mrr") if task == MAIN else []
        values.append(Tile(figure(value), f"{task}: {word}, {split}", beside))
    return Tiles(values + effort(metrics["train"]))


def charts(
    title: str, history: list[dict[str, Any]], names: list[str], key: str, zero: bool = False, note: str = ""
) -> list[Section]:
    """A chart a task of what history holds under `key`, over steps."""
    found = []
    for place, name in enumerate(names):
        rows = [(row["step"], row[key][name]) for row in history if name in row.get(key, {})]
        if rows:
            xs, ys = zip(*rows, strict=True)
            chart = plots.line_chart(
                xs, ys, label=f"{key} of {name} by step", x_label="step", colour=plots.COLOURS[place % 10], zero=zero
            )
            found += [Chart(chart, name)] if chart else []
    return [Section(title, [Beside(found, across=3)], note)] if found else []


def validation(history: list[dict[str, Any]]) -> list[Section]:
    """The one number of each task on valid, over steps."""
    rows = []
    for row in history:
        found = {}
        for name, metrics in row.get("valid", {}).items():
            word, value = headline(name, metrics)
            if value is not None:
                found[f"{name}: {word}"] = value
        if found:
            rows.append({"step": row["step"], "valid": found})
    labels = list(dict.fromkeys(label for row in rows for label in row["valid"]))
    return charts("Validation", rows, labels, "valid")


def results(task: str, splits: dict[str, dict[str, Any]], shown: Shown | None) -> list[Section]:
    """A row a split with its groups below, as on the terminal, and single answers."""
    told = told_by(task)
    columns = next((told.columns_of(splits[split]) for split in SPLITS if split in splits), {})
    rows: list[list[Any]] = []
    for split in SPLITS:
        if split in splits:
            rows.append([split, *(splits[split].get(key, "") for key in columns)])
            rows += [
                [f" {name}", *(part.get(key, "") for key in columns)] for name, part in told.groups_of(splits[split])
            ]
    if not rows:
        return []
    blocks: list[Any] = [Table(["", *columns.values()], rows)]
    if shown is not None:
        examples = [Examples(title, found) for title, found in shown.examples.items() if found]
        blocks += [Note(shown.note), Beside(examples)] if examples else []
    return [Section(f"Results: {task}", blocks)]


def utilisation(history: list[dict[str, Any]], model: JointModel) -> list[Section]:
    """Which experts the tokens of each task took of late, a mean over layers."""
    found = [row["utilisation"] for row in history if "utilisation" in row]
    if not found or model.backbone is None:
        return []
    rows = [[task, *map(float, shares)] for task, shares in zip(model.backbone.names, found[-1], strict=True)]
    headings = ["Texts of", *(f"expert {number + 1}" for number in range(len(found[-1][0])))]
    text = "The share of each task's tokens that an expert got, a mean over layers, at the end of training."
    return [Section("Experts", [Table(headings, rows)], text)]
