"""`kgfast plan`: what a run would take of the machine, before there is a graph."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from kgfast.cli.console import errors, plain_table, print_json, screen
from kgfast.cli.options import Json, words

if TYPE_CHECKING:
    from kgfast.train.plan import Plan


def plan(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE.yaml KEY=VALUE", help="Any setting of train.", show_default=False),
    ] = None,
    entities: Annotated[int | None, typer.Option(min=1, help="How many there are.", show_default="in --data")] = None,
    relations: Annotated[int | None, typer.Option(min=1, help="How many there are.", show_default="in --data")] = None,
    triples: Annotated[int | None, typer.Option(min=1, help="Of train.", show_default="in --data")] = None,
    held_out: Annotated[
        int | None, typer.Option("--held-out", min=0, help="Triples of valid and test.", show_default="in --data, or 0")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A graph that is there already.", show_default=False)] = None,
    dim: Annotated[int | None, typer.Option(help="As in train.", show_default=False)] = None,
    no_time: Annotated[bool, typer.Option("--no-time", help="Measure nothing: memory alone.")] = False,
    as_json: Json = False,
):
    """Memory, time and bytes written of `kgfast train` with these settings, measured on this machine in seconds."""
    from kgfast.errors import ConfigError
    from kgfast.run.memory import use_threads
    from kgfast.train.config import resolve
    from kgfast.train.plan import GraphSize, libraries_bytes
    from kgfast.train.plan import plan as make

    file, pairs = words(settings)
    given: dict[str, int | None] = dict(entities=entities, relations=relations, triples=triples)
    lacking = [name for name, value in given.items() if value is None]
    named = data or any(pair.startswith("data=") for pair in pairs)
    if lacking and not named:
        raise ConfigError(f"--{lacking[0]} is missing: give the three sizes, or --data")
    config = resolve(file, pairs=pairs, options={"data": data or (None if named else "a planned graph"), "dim": dim})
    use_threads(config.threads)
    libraries = libraries_bytes(config)
    if lacking or held_out is None and named:
        graph = config.load_graph()
        own = dict(entities=graph.num_entities, relations=graph.num_relations, triples=len(graph.train))
        given = {name: own[name] if value is None else value for name, value in given.items()}
        held_out = len(graph.valid) + len(graph.test) if held_out is None else held_out
    size = GraphSize(given["entities"] or 0, given["relations"] or 0, given["triples"] or 0, held_out or 0)
    found = make(
        config, size, measure=not no_time, libraries=libraries, say=lambda text: errors().print(text, style="dim")
    )
    if as_json:
        parts = {name: [{"what": n.what, "bytes": n.size} for n in getattr(found, name)] for name in PHASES}
        return print_json({**asdict(found), **parts, "size": size._asdict(), "training_bytes": found.training_bytes,
                           "peak_bytes": found.peak_bytes, "fits": found.fits})  # fmt: skip
    show(found)


PHASES = ("training", "evaluation")


def show(found: Plan) -> None:
    """Tables of memory and of time, and what would fit where this doesn't."""
    from kgfast.run.memory import amount
    from kgfast.run.progress import lasting

    table = plain_table(["memory", ""])
    for need in found.training:
        table.add_row(f"  {need.what}", amount(need.size))
    table.add_row("while training", amount(found.training_bytes), style="bold")
    for need in found.evaluation:
        table.add_row(f"  {need.what}", amount(need.size))
    table.add_row("at the end, with the evaluation", amount(found.peak_bytes), style="bold")
    if found.free is not None:
        table.add_row("free here", amount(found.free), style=None if found.fits else "bold red")
    table.add_row("", "")
    table.add_row("a checkpoint", amount(found.checkpoint_bytes))
    for title, seconds in (
        ("a step", found.step_seconds), (f"an epoch of {found.steps_per_epoch:,} steps", found.epoch_seconds),
        ("training", found.training_seconds), ("the final evaluation", found.evaluation_seconds),
        ("writing a checkpoint", found.checkpoint_seconds),
    ):  # fmt: skip
        if seconds is not None:
            table.add_row(title, f"{1000 * seconds:,.1f} ms" if seconds < 10 else lasting(seconds))
    screen().print(table)
    for line in found.advice():
        screen().print(line, soft_wrap=True)
