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
        words = column in left  # where a terminal is narrow, they take more lines, and numbers stay whole
        table.add_column(heading, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    return table


def metrics_table(results, prefix=""):
    """A table of ranking metrics, {split: result of `evaluate`}; their names begin with the prefix, "sampled_" or none.
    None where there are no results."""
    from kgfast.evaluate.measures import headings  # comes with torch

    if not results:
        return None
    columns = headings(next(iter(results.values())), prefix)
    table = plain_table([prefix.strip("_"), *columns.values()])
    for name, found in results.items():
        beside = [(f"  {word}", part) for word, part in found.get("baselines", {}).items()]
        for title, part in ((name, found), ("  tail", found["tail"]), ("  head", found["head"]), *beside):
            values = [f"{part[key]:,.1f}" if key.endswith("mean_rank") else f"{part[key]:.4f}" for key in columns]
            table.add_row(title, *values, style="bold" if part is found else "dim")
    return table


def details_table(what, remark, rows, prefix=""):
    """The same by parts of a split; `what` names the parts, `remark` what stands behind each name."""
    headings = [f"{prefix.strip('_')} {what}".strip(), remark, "triples", "MRR", "Hits@10", "MRR tail", "MRR head"]
    table = plain_table(headings, left=(0, 1))
    for name, note, part in rows:
        mrr, hits = prefix + "mrr", prefix + "hits@10"
        numbers = (part[mrr], part[hits], part["tail"][mrr], part["head"][mrr])
        table.add_row(name, str(note), f"{part['triples']:,}", *(f"{value:.4f}" for value in numbers))
    return table


def seen_table(what, parts, prefix=""):
    """Metrics by what training saw of the queries, {bucket: its metrics}; `what` says by what."""
    mrr, hits = prefix + "mrr", prefix + "hits@10"
    named = f"{prefix.strip('_')} {what}".strip()
    table = plain_table([named, "queries", "MRR", "Hits@10", "MRR tail", "MRR head"])
    for name, part in parts.items():
        sides = [f"{part[side][mrr]:.4f}" if side in part else "" for side in ("tail", "head")]
        table.add_row(name, f"{part['queries']:,}", f"{part[mrr]:.4f}", f"{part[hits]:.4f}", *sides)
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
