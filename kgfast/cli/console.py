"""Printing for the command line: tables and JSON on standard output, progress and errors on standard error."""

import json
import sys

from rich.table import Table

from kgfast.core.files import naming
from kgfast.core.terminal import STEERING, Screen, visible


def screen():
    return Screen()


def errors():
    return Screen(stderr=True)


def print_line(value):
    """One line on standard output, of whatever width."""
    with naming("standard output"):
        print(visible(str(value)))


def print_json(value):
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not unicode, allow_nan=False)
    print_line(STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text))  # the same JSON, which steers no terminal


def progress_bar(text):
    """`run.progress.progress_bar` on standard error."""
    from kgfast.run import progress

    return progress.progress_bar(errors(), text)


def plain_table(headings, left=(0,)):
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
    for column, heading in enumerate(headings):
        table.add_column(heading, justify="left" if column in left else "right", overflow="fold")
    return table


def metrics_table(prefix=""):
    """A table of ranking metrics, whose names begin with the prefix, "sampled_" or none."""
    from kgfast.evaluate.metrics import HEADINGS  # comes with torch

    return plain_table([prefix.strip("_"), *HEADINGS.values()])


def add_sides(table, name, found, prefix=""):
    for title, part in ((name, found), ("  tail", found["tail"]), ("  head", found["head"])):
        values = [f"{part[prefix + key]:.4f}" for key in ("mrr", "hits@1", "hits@3", "hits@10")]
        style = "bold" if part is found else "dim"
        table.add_row(title, *values, f"{part[prefix + 'mean_rank']:,.1f}", style=style)


def details_table(what, rows, prefix=""):
    """The same by parts of a split; `what` names the parts."""
    headings = [what, prefix.strip("_"), "triples", "MRR", "Hits@10", "MRR tail", "MRR head"]
    table = plain_table(headings, left=(0, 1))
    for name, note, part in rows:
        mrr, hits = prefix + "mrr", prefix + "hits@10"
        numbers = (part[mrr], part[hits], part["tail"][mrr], part["head"][mrr])
        table.add_row(name, str(note), f"{part['triples']:,}", *(f"{value:.4f}" for value in numbers))
    table.title, table.title_justify, table.title_style = "", "left", "none"
    return table


def figure(value):
    """A number of any size, for people."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"


def spread(value):
    """Mean and spread over seeds."""
    return figure(value["mean"]) + ("" if value["spread"] is None else f" ± {figure(value['spread'])}")
