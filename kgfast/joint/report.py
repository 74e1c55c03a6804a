"""RUN/report.html of a joint run: results of every task, their losses and weights over time, a map of the entities."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from kgfast.evaluate import plots
from kgfast.evaluate.embedding_map import embedding_map
from kgfast.evaluate.report import (
    card,
    config_text,
    duration,
    figure,
    flat,
    origin,
    read_history,
    section,
    sizes,
    table,
    write_page,
)
from kgfast.joint.facts import told_by
from kgfast.joint.model.joint_model import JointModel
from kgfast.joint.tasks.link import link_model


def write_joint_report(run: Path, model: JointModel, metrics: dict[str, Any]) -> Path:
    """Write RUN/report.html from the run's history, the model and what metrics.json holds; returns its path."""
    graph, history = model.graph, read_history(Path(run) / "history.jsonl")
    names = list(model.tasks)
    parts = [
        tiles(metrics),
        section("Losses", '<p class="soft small">Each task before weighting.</p>', curves(history, names, "losses")),
        section("Weights of the tasks", curves(history, names, "weights", zero=True)),
        validation(history, names),
        *(results(name, splits) for name, splits in metrics["tasks"].items()),
        section("Map of entities", *embedding_map(link_model(model, graph), graph)),
        utilisation(history, model),
        section("Settings", card(f"<pre class=columns>{escape(config_text(Path(run)))}</pre>")),
        section("Data", card(f"<pre>{escape(chr(10).join(graph.report.lines()))}</pre>")),
        origin(metrics),
    ]
    subtitle = f"{sizes(graph)}; {model.score}, {model.dim} numbers per entity, entities: {model.entities.kind}"
    return write_page(Path(run), f"{', '.join(names)} on {graph.name}", subtitle, parts)


def headline(task: str, metrics: dict[str, Any]) -> tuple[str, float | None]:
    """(heading, value) of the one number that stands for a task."""
    name, value = told_by(task).headline_of(metrics)
    return told_by(task).columns.get(name, name), value


def tiles(metrics: dict[str, Any]) -> str:
    """The one number of each task, and what training took."""
    values = []
    for task, splits in metrics["tasks"].items():
        for split in ("test", "valid"):
            if split in splits:
                word, value = headline(task, splits[split])
                if value is not None:
                    values.append((figure(value), f"{task}: {word}, {split}"))
                break
    train = metrics["train"]
    values.append((duration(train["seconds"]), f"{train['steps']:,} steps"))
    values.append((f"{train['peak_memory_bytes'] / 2**20:,.0f} MiB", "peak memory"))
    inside = "".join(
        f'<div class="card tile"><b>{escape(value)}</b><span>{escape(word)}</span></div>' for value, word in values
    )
    return f'<div class="tiles">{inside}</div>'


def curves(history: list[dict[str, Any]], names: list[str], key: str, zero: bool = False) -> str:
    """A chart a task of what history holds under `key`, over steps."""
    cards = []
    for place, name in enumerate(names):
        rows = [(row["step"], row[key][name]) for row in history if name in row.get(key, {})]
        if rows:
            xs, ys = zip(*rows, strict=True)
            chart = plots.line_chart(
                xs, ys, label=f"{key} of {name} by step", x_label="step", colour=plots.COLOURS[place % 10], zero=zero
            )
            cards.append(card(chart, title=name))
    return f'<div class="grid">{"".join(cards)}</div>'


def validation(history: list[dict[str, Any]], names: list[str]) -> str:
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
    return section("Validation", curves(rows, labels, "valid")) if rows else ""


def results(task: str, splits: dict[str, dict[str, Any]]) -> str:
    """A table a task: a row a metric, a column a split."""
    columns = [split for split in ("test", "valid") if split in splits]
    found = {split: dict(flat(splits[split])) for split in columns}
    keys = list(dict.fromkeys(key for split in columns for key in found[split]))
    words = told_by(task).columns
    rows = [[words.get(key, key), *(found[split].get(key, "") for split in columns)] for key in keys]
    return section(f"Results: {task}", card(table(["Metric", *columns], rows))) if rows else ""


def utilisation(history: list[dict[str, Any]], model: JointModel) -> str:
    """Which experts the tokens of each task took of late, a mean over layers."""
    found = [row["utilisation"] for row in history if "utilisation" in row]
    if not found or model.backbone is None:
        return ""
    rows = [[task, *map(float, shares)] for task, shares in zip(model.backbone.names, found[-1], strict=True)]
    headings = ["Texts of", *(f"expert {number + 1}" for number in range(len(found[-1][0])))]
    text = "The share of each task's tokens that an expert got, a mean over layers, at the end of training."
    return section("Experts", f'<p class="soft small">{text}</p>', card(table(headings, rows)))
