"""The commands on many runs, with their options; the work is imported when one is called."""

from pathlib import Path
from typing import Annotated

import typer

from kgfast.cli.options import Device, Json, Threads, setting, words


def ablate(
    settings: Annotated[
        list[str], typer.Argument(metavar="FILE.yaml KEY=VALUE", help="Settings of a joint run.", show_default=False)
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, .. that every run is repeated with.")] = 3,
    alone: Annotated[
        list[str] | None,
        typer.Option(help="Tasks trained without the others, such as mlm,nsp; repeatable.", show_default="each task"),
    ] = None,
    out: Annotated[Path | None, setting(help="Folder for all runs and ablation.json.")] = None,
    as_json: Json = False,
):
    """Joint training against each task alone, over seeds: mean and spread of every metric on test."""
    from kgfast.cli import joint_runs

    file, pairs = words(settings)
    parts = [part.split(",") for part in alone] if alone else None
    joint_runs.ablate(file, pairs, {"out": None if out is None else str(out)}, seeds, parts, as_json)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN..", help="Folders of finished runs.", show_default=False)],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="What to compare, such as test.mrr or train.seconds; repeatable.", show_default="its table"),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a page with the table and all curves here.", show_default=False)
    ] = None,
    as_json: Json = False,
):
    """Runs side by side: mean and spread over seeds, only the settings that differ, the best first."""
    from kgfast.cli import research

    research.compare(runs, metric or (), page, as_json)


def sweep(
    settings: Annotated[
        list[str],
        typer.Argument(metavar="FILE.yaml KEY=VALUE", help="Settings, and what is searched.", show_default=False),
    ],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Runs in all, earlier ones included.", show_default="the file's, or 20")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time, which share the cores.")] = 1,
    out: Annotated[Path | None, setting(help="Folder of the sweep; one that was stopped goes on.")] = None,
    as_json: Json = False,
):
    """Search for the best settings on valid: `search:` in the file says where. Leaves OUT/best.yaml for `train`."""
    from kgfast.cli import research

    file, pairs = words(settings)
    research.sweep(file, pairs, trials, processes, None if out is None else str(out), as_json)


def reproduce(
    name: Annotated[str | None, typer.Argument(help="A run; none: list all.", show_default=False)] = None,
    data: Annotated[
        str | None, typer.Option(help="Where its data lies, as `train` takes it.", show_default="by its name")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Ours had 0, 1, ..")] = 0,
    threads: Threads = None,
    device: Device = "auto",
    out: Annotated[Path | None, setting(metavar="FOLDER", help="Folder of the run.")] = None,
    as_json: Json = False,
):
    """Train a run whose figures are published, and hold them against ours; 1 is the exit code where one slips."""
    from kgfast.cli import reproduce as work

    if name is None:
        return work.list_all(as_json)
    options = dict(seed=seed, threads=threads, device=device, out=None if out is None else str(out))
    work.one(name, data, as_json, **options)
