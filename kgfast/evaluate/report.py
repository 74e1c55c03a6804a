"""RUN/report.html: one file that shows what a run learned, without network access or scripts."""

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from kgfast import __version__
from kgfast.core.files import read_plain, replacing
from kgfast.errors import KgfastError
from kgfast.evaluate import plots
from kgfast.evaluate.embedding_map import embedding_map
from kgfast.evaluate.markup import escape
from kgfast.evaluate.measures import heading, headings
from kgfast.evaluate.metrics import evaluate
from kgfast.evaluate.seen import WORDS
from kgfast.run.made_by import as_rows

MOST_BYTES = 1 << 30  # of a file of the run that is read for the report
FIRST_ROWS = 15  # of the relation table; the others are folded


def write_report(run, *, model, graph, details=None, progress=None):
    """Write RUN/report.html from a finished run's folder and return its path.

    `details`, the result of `evaluate(model, graph, details=True, seen=True)`, saves work: without it the test split
    (valid where there is no test) is evaluated; without either the ranking parts are left out.
    """
    run = Path(run)
    split = next((name for name in ("test", "valid") if len(getattr(graph, name))), None)
    if details is None and split is not None:
        details = evaluate(model, graph, split, details=True, seen=True, progress=progress)
    metrics = read_metrics(run)
    history = read_history(run / "history.jsonl")
    parts = [
        tiles(metrics, details, split),
        curves(history),
        ranking(metrics, details, split) if details else "",
        relations(details) if details else "",
        section("Map of entities", *embedding_map(model, graph)),
        tasks(metrics),
        section("Settings", card(f"<pre class=columns>{escape(config_text(run))}</pre>")),
        section("Data", card(f"<pre>{escape(chr(10).join(graph.report.lines()))}</pre>")),
        origin(metrics),
    ]
    return write_page(run, f"{model.score} on {graph.name}", f"{sizes(graph)}; {model.dim} numbers per entity", parts)


def sizes(graph):
    return f"{graph.num_entities:,} entities, {graph.num_relations:,} relations, {len(graph.train):,} training triples"


def write_page(run, title, subtitle, parts):
    """RUN/report.html from its parts, the empty ones left out."""
    return write_html(run / "report.html", title, subtitle, parts, f"run {run.resolve().name}")


def write_html(path, title, subtitle, parts, about):
    """A page of parts at `path`, the empty ones left out; returns the path."""
    page = Template((files("kgfast.evaluate") / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        body="\n".join(part for part in parts if part),
        footer=escape(f"kgfast {__version__} · {about}"),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return path


def origin(metrics):
    """What made the results, where metrics.json says it."""
    rows = as_rows(metrics.get("made_by", {}))
    return section("Made by", card(table(["", ""], rows, words=2))) if rows else ""


def config_text(run):
    return read_plain(run / "config.yaml", MOST_BYTES).decode("utf-8", "replace").strip()


def read_metrics(run):
    """RUN/metrics.json as a dict."""
    path = run / "metrics.json"
    try:
        metrics = json.loads(read_plain(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise KgfastError(f"{path} isn't JSON: {error}") from error
    if not isinstance(metrics, dict):
        raise KgfastError(f"{path} must hold names and values, got a {type(metrics).__name__}")
    return metrics


def read_history(path):
    """The lines of history.jsonl as dicts; none where the file is absent (a run of zero epochs)."""
    if not os.path.lexists(path):
        return []
    try:
        return [json.loads(line) for line in read_plain(path, MOST_BYTES).splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise KgfastError(f"{path} isn't JSON lines: {error}") from error


# Pieces of HTML


def section(title, *parts):
    return f"<h2>{escape(title)}</h2>" + "".join(parts)


@dataclass(frozen=True)
class Cell:
    """A ready <td> element; no string is taken for one, whatever it looks like."""

    html: str


def card(*parts, title=""):
    return '<div class="card">' + (f"<h3>{escape(title)}</h3>" if title else "") + "".join(parts) + "</div>"


def table(headings, rows, words=1):
    """Cells are strings, numbers, or `Cell`s; the first `words` columns are text."""

    def cell(value, column):
        if isinstance(value, Cell):
            return value.html
        kind = ' class="word"' if column < words else ""
        return f"<td{kind}>{escape(value) if isinstance(value, str) else figure(value)}</td>"

    head = "".join(f"<th{' class=word' if i < words else ''}>{escape(name)}</th>" for i, name in enumerate(headings))
    body = "".join(
        f"<tr{' class=under' if row and str(row[0]).startswith(' ') else ''}>"
        + "".join(cell(value, column) for column, value in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(value):
    """Counts whole, shares with three digits, ranks with one."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:,.1f}"


def bar_cell(value):
    return Cell(f'<td class="bar" style="--share:calc({value:.4f} * (100% - 20px))">{value:.3f}</td>')


def tiles(metrics, details, split):
    train = metrics.get("train", {})
    found = metrics.get(split) or details or {}
    values = [(figure(found[key]), f"{heading(key)}, {split}") for key in ("mrr", "hits@1", "hits@10") if key in found]
    if "triples_per_second" in train:
        values.append((plots.number(train["triples_per_second"]), "triples a second"))
    if "seconds" in train:
        values.append((duration(train["seconds"]), "training time"))
    if train.get("peak_memory_bytes"):
        values.append((f"{train['peak_memory_bytes'] / 2**20:,.0f} MiB", "peak memory"))
    inside = "".join(
        f'<div class="card tile"><b>{escape(value)}</b><span>{escape(word)}</span></div>' for value, word in values
    )
    return f'<div class="tiles">{inside}</div>'


def duration(seconds):
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def curves(history):
    """Loss, valid MRR and speed over the epochs."""
    if not history:
        return ""

    def series(*path):
        xs, ys = [], []
        for row in history:
            value = row
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                xs.append(row["epoch"])
                ys.append(float(value))
        return xs, ys

    cards = []
    charts = (
        ("Loss", ("loss",), plots.COLOURS[0], False),
        ("Valid MRR", ("valid", "mrr"), plots.COLOURS[2], True),
        ("Triples a second", ("triples_per_second",), plots.COLOURS[5], True),
    )
    for title, path, colour, zero in charts:
        xs, ys = series(*path)
        if not xs:
            continue
        best = ys.index(max(ys))
        mark = (xs[best], ys[best], f"best {ys[best]:.3f}") if title == "Valid MRR" else None
        chart = plots.line_chart(
            xs, ys, label=f"{title} by epoch", x_label="epoch", colour=colour, zero=zero, mark=mark
        )
        cards.append(card(chart, title=title))
    return section("Training", f'<div class="grid">{"".join(cards)}</div>')


def ranking(metrics, details, split):
    """The metrics of both sides, where the ranks lie, and entities that training never saw."""
    measured = {name: metrics.get(name) or (details if name == split else None) for name in ("test", "valid")}
    results = {name: found for name, found in measured.items() if found}
    columns = headings(next(iter(results.values())))
    rows = [
        [word, *(part[key] for key in columns)]
        for name, found in results.items()
        for word, part in ((name, found), (" tail", found["tail"]), (" head", found["head"]))
    ]
    left = card(table(["", *columns.values()], rows), title="Metrics")
    edges = details["histogram"]["edges"]
    names = [
        str(a) if b - a == 1 else f"{a}–{b - 1}" if b <= 100 else f"{plots.number(a)}+"
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    sides = [("tail", details["histogram"]["tail"]), ("head", details["histogram"]["head"])]
    chart = plots.bar_chart(names, sides, label="Ranks of the right answers", x_label="rank")
    right = card(
        chart,
        plots.legend(["finding the tail", "finding the head"]),
        title=f"Rank of the right answer, {split}",
    )
    text = (
        "Each right answer is ranked among all entities; other known answers are left out of the ranking "
        "(filtered with train, valid and test), ties count as the mean rank."
    )
    return section(
        "Ranking",
        f'<p class="soft small">{text}</p><div class="wide">{left}{right}</div>',
        unseen(details),
        by_seen(details),
    )


def by_seen(details):
    """MRR by what training saw of the queries, where the details have it."""
    if "by_seen" not in details:
        return ""
    rows = []
    for what, parts in details["by_seen"].items():
        for name, found in parts.items():
            sides = [found[side]["mrr"] if side in found else "" for side in ("tail", "head")]
            rows.append([WORDS[what], name, found["queries"], bar_cell(found["mrr"]), found["hits@10"], *sides])
    named = ["Queries by", "", "Queries", "MRR", "Hits@10", "MRR tail", "MRR head"]
    return '<div style="height:14px"></div>' + card(table(named, rows, words=2), title="Seen in training")


def unseen(details):
    if "unseen" not in details["entities"]:
        return ""
    words = {"seen": "both entities seen in training", "unseen": "an entity not seen in training"}
    rows = [
        [words[name], *(found[key] for key in ("triples", "mrr", "hits@10"))]
        for name, found in details["entities"].items()
    ]
    return '<div style="height:14px"></div>' + card(table(["Triples with", "Triples", "MRR", "Hits@10"], rows))


def relations(details):
    """MRR by category and by relation."""
    words = {
        "1-1": "one to one, 1-1",
        "1-n": "one to many, 1-n",
        "n-1": "many to one, n-1",
        "n-n": "many to many, n-n",
    }
    headings = ["Triples", "MRR", "Hits@10", "MRR tail", "MRR head"]

    def numbers(found):
        sides = [found["tail"]["mrr"], found["head"]["mrr"]]
        return [found["triples"], bar_cell(found["mrr"]), found["hits@10"], *sides]

    categories = [
        [words.get(name, name), found["relations"], *numbers(found)] for name, found in details["per_category"].items()
    ]
    rows = [[found["relation"], found["category"], *numbers(found)] for found in details["per_relation"]]
    named = ["Relation", "Kind", *headings]
    each = [table(named, rows[:FIRST_ROWS], words=2)]
    if len(rows) > FIRST_ROWS:
        others = table(named, rows[FIRST_ROWS:], words=2)
        each.append(f"<details><summary>{len(rows) - FIRST_ROWS} more</summary>{others}</details>")
    return section(
        "Relations",
        card(table(["Kind", "Relations", *headings], categories)),
        '<div style="height:14px"></div>',
        card(*each),
    )


def tasks(metrics):
    """Results of the other tasks of a joint run, as they stand in metrics.json."""
    rows = [
        [f"{task}, {split}", name, value]
        for task, splits in metrics.get("tasks", {}).items()
        for split, found in splits.items()
        for name, value in flat(found)
    ]
    return section("Tasks", card(table(["Task", "Metric", "Value"], rows, words=2))) if rows else ""


def flat(found, prefix=""):
    """(name, number) of nested metrics, names joined by blanks."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name} ")
        elif isinstance(value, (int, float)):
            yield prefix + name, value
