"""The commands of `kgfast` on many runs; `kgfast.cli.main` has their options."""

from __future__ import annotations

from kgfast.cli.console import errors, plain_table, print_json, screen, spread
from kgfast.research.compare import best, heading, shown
from kgfast.research.compare import compare as compare_runs
from kgfast.research.page import seeds, write_comparison

BESIDE = 6  # settings at most that stand as columns beside the results


def compare(folders, metrics, page, as_json):
    """kgfast compare"""
    found = compare_runs(folders, metrics)
    if page is not None:
        write_comparison(page, found)
    if as_json:
        return print_json(found.as_dict() | {"page": None if page is None else str(page)})
    for run in found.unfinished:
        errors().print(f"{run.path} isn't finished: left out", soft_wrap=True)
    console = screen()
    beside = found.settings if len(found.settings) <= BESIDE else []
    show_results(console, found, beside)
    if not beside and found.settings:
        show_settings(console, found)
    if any(len(row.runs) > 1 for row in found.rows):
        console.print("mean ± sample standard deviation over seeds; bold: the best mean", style="dim")
    if page is not None:
        console.print(f"{page}", soft_wrap=True)


def show_results(console, found, beside):
    """A row for each combination of settings, the best first."""
    names = ["run", *beside, "seeds"]
    table = plain_table([*names, *map(heading, found.metrics)], left=range(len(names)))
    winners = {name: best(found.rows, name) for name in found.metrics}
    for row in found.rows:
        numbers = [emphasised(spread(row.metrics[name]), winners[name] is row) for name in found.metrics]
        table.add_row(row.runs[0].path.name, *(shown(row.settings[key]) for key in beside), seeds(row), *numbers)
    console.print(table)


def show_settings(console, found):
    """The settings that differ, where they are too many to stand beside the results: a column for each row."""
    table = plain_table(["setting", *(row.runs[0].path.name for row in found.rows)], left=range(1 + len(found.rows)))
    for key in found.settings:
        table.add_row(key, *(shown(row.settings[key]) for row in found.rows))
    console.print()
    console.print(table)


def emphasised(text, winner):
    from rich.text import Text

    return Text(text, style="bold" if winner else "")
