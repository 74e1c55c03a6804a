"""`kgfast reproduce`: what is published, and one of it made again."""

from __future__ import annotations

from typing import Any

import typer

from kgfast.cli.console import errors, plain_table, print_json, screen, spread
from kgfast.evaluate.spread import mean_and_spread
from kgfast.research import reproduce as work


def list_all(as_json: bool) -> None:
    """kgfast reproduce without a name"""
    if as_json:
        return print_json({name: one.model_dump() | {"command": one.command()} for name, one in work.table().items()})
    table = plain_table(["name", "data", "minutes", "ours", "theirs"], left=(0, 1))
    table.columns[0].no_wrap = True
    for name, one in work.table().items():
        figure = next(iter(one.figures.values()))
        theirs = "" if figure.theirs is None else f"{figure.theirs:g}"
        ours = spread(mean_and_spread(figure.ours))
        table.add_row(name, one.data, f"{one.minutes:g} on {one.machine}", ours, theirs)
    console = screen()
    console.print(table)
    told = "figures: test MRR; machines: docs/measured.md; kgfast reproduce NAME --data FOLDER makes one again"
    console.print(told, style="dim", soft_wrap=True)


def one(name: str, data: str | None, as_json: bool, **options: Any) -> None:
    """kgfast reproduce NAME; ends with 1 where a figure is outside its tolerance."""
    published, console = work.find(name), errors()
    console.print(published.command(data), soft_wrap=True)
    console.print(f"{published.minutes:g} minutes on machine {published.machine} (docs/measured.md)", soft_wrap=True)
    found = work.reproduce(name, data, console=console, **options)
    print_json(found) if as_json else show(found)
    for sentence in work.slips(found):
        console.print(f"slip: {sentence}", style="bold red", soft_wrap=True)
    if not found["within"]:
        raise typer.Exit(1)


def show(found: dict[str, Any]) -> None:
    """Ours as stated, theirs, and what was measured just now."""
    table = plain_table([found["name"], "theirs", "ours", "tolerance", "measured", "verdict"], left=(0, 5))
    for metric, one in found["figures"].items():
        theirs = "" if one["theirs"] is None else f"{one['theirs']:g}"
        table.add_row(
            metric, theirs, spread(one["ours"]), f"{one['tolerance']:.4f}", f"{one['measured']:.4f}", one["verdict"]
        )
    table.add_row("minutes", "", f"{found['expected_minutes']:g}", "", f"{found['minutes']:.1f}", "")
    console = screen()
    console.print(table)
    if found["source"] is not None:
        console.print(f"theirs: {found['source']}", style="dim", soft_wrap=True)
    console.print(found["run"], soft_wrap=True)
