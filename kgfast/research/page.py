"""The page of `kgfast compare`: the table, and the curves of all runs, a colour for each row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kgfast.joint.facts import told_by
from kgfast.pages import plots
from kgfast.pages.blocks import Beside, Chart, Legend, Note, Section, Spread, Table
from kgfast.pages.render import write_page
from kgfast.research.compare import Comparison, Row, best, heading, shown
from kgfast.run.reading import flat

DRAWN = len(plots.COLOURS)  # rows that get a colour
MOST_VALIDATED = 6  # charts of numbers on valid


def write_comparison(path: str | os.PathLike, found: Comparison) -> Path:
    """Write the page; returns its path."""
    rows, runs = len(found.rows), sum(len(row.runs) for row in found.rows)
    subtitle = f"{runs} runs of {rows} settings" if rows > 1 else f"{runs} runs of the same settings"
    drawn = list(zip(found.rows, plots.COLOURS, strict=False))
    charts = [Chart(chart, title) for title, chart in curves(drawn) if chart]
    sections = [Section("Results", [results(found), Note(explanation(found))])]
    if charts:
        legend = Legend([(row.name, colour) for row, colour in drawn])
        note = f"The best {DRAWN} of {rows} rows are drawn." if rows > DRAWN else ""
        sections.append(Section("Curves", [legend, Beside(charts)], note))
    sections += settings(found)
    return write_page(path, "Runs side by side", subtitle, None, sections, f"{runs} runs")


def results(found: Comparison) -> Table:
    """A row for each combination of settings; the best mean of every metric is set off."""
    winners = {name: best(found.rows, name) for name in found.metrics}
    headings = ["Run", *found.beside, "Seeds", *map(heading, found.metrics)]
    rows = []
    for row in found.rows:
        numbers = [
            Spread(row.metrics[name]["mean"], row.metrics[name]["spread"], winners[name] is row)
            for name in found.metrics
        ]
        settings = [shown(row.settings[key]) for key in found.beside]
        rows.append([row.runs[0].path.name, *settings, seeds(row), *numbers])
    return Table(headings, rows, words=2 + len(found.beside))


def settings(found: Comparison) -> list[Section]:
    """The settings that differ, where they are too many to stand beside the results: a column for each row."""
    if found.beside or not found.settings:
        return []
    rows = [[key, *(shown(row.settings[key]) for row in found.rows)] for key in found.settings]
    names = [row.runs[0].path.name for row in found.rows]
    return [Section("Settings that differ", [Table(["Setting", *names], rows, words=1 + len(names))])]


def seeds(row: Row) -> str:
    return ", ".join(str(run.seed) for run in row.runs)


def explanation(found: Comparison) -> str:
    text = "Mean and sample standard deviation over seeds; bold: the best mean."
    left = [run.path.name for run in found.unfinished]
    return f"{text} Not finished, and left out: {', '.join(left)}." if left else text


def curves(drawn: list[tuple[Row, str]]) -> list[tuple[str, Markup]]:
    """(title, chart) of what was measured on valid, then of the losses; a line for each run."""
    keys = dict.fromkeys(key for row, _ in drawn for run in row.runs for line in run.history for key in curved(line))
    valid = [key for key in keys if key.startswith("valid.")]
    losses = [key for key in keys if not key.startswith("valid.")]
    charts = []
    for key in [*valid[:MOST_VALIDATED], *losses]:
        series = []
        for row, colour in drawn:
            for run in row.runs:
                points = [(line["epoch"], curved(line)[key]) for line in run.history if key in curved(line)]
                if points:
                    xs, ys = zip(*points, strict=True)
                    series.append((f"{run.path.name} (seed {run.seed})", colour, xs, ys))
        title = heading(key).replace(".", " ")
        charts.append((title, plots.curves_chart(series, label=f"{title} by epoch", x_label="epoch", zero=False)))
    return charts


def curved(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line of history that get a chart, by dotted name: MRR or what leads a task, and losses."""
    valid = line.get("valid", {})
    kept: dict[str, Any] = {"valid": {"mrr": valid["mrr"]}} if "mrr" in valid else {}
    of_tasks = {task: metrics for task, metrics in valid.items() if isinstance(metrics, dict)}
    leading = {task: told_by(task).headline_of(metrics) for task, metrics in of_tasks.items()}
    if leading:
        kept["valid"] = {task: {name: value} for task, (name, value) in leading.items()}
    kept |= {key: line[key] for key in ("loss", "losses") if key in line}
    return {key: float(value) for key, value in flat(kept) if isinstance(value, (int, float))}
