"""`kgfast data fetch` and `kgfast data list`: datasets by name."""

from pathlib import Path
from typing import Annotated

import typer

from kgfast.cli.console import errors, plain_table, print_json, print_line, progress_bar, screen
from kgfast.cli.options import Json
from kgfast.core.terminal import Screen

WIDTH = 150  # of the list: a line a dataset, also where the terminal is narrower
Folder = Annotated[
    Path | None,
    typer.Option(help="Where datasets lie.", show_default="KGFAST_DATASETS, or ~/.cache/kgfast/datasets"),
]


def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME..", help="As kgfast data list has them.", show_default=False)
    ] = None,
    folder: Folder = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="An address, or a folder, that has the files as NAME/FILE.",
            show_default="KGFAST_MIRROR, or their authors'",
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Fetch it even if it is there.")] = False,
    as_json: Json = False,
):
    """Fetch datasets from where their authors publish them; without a name: the list of those there are."""
    if not names:
        return list_datasets(folder, as_json)
    from kgfast.data.published import fetch as published

    for name in names:
        published.find(name)  # before the first is fetched
    found = []
    for name in names:
        say = errors().print
        place = published.fetch(name, folder=folder, mirror=mirror, again=again, bar=progress_bar, say=say)
        dataset, record = published.find(name), published.record_of(name, place.parent)
        found.append({"name": name, "folder": str(place), **record})
        if not as_json:
            print_line(f"{name}: {counts(dataset)}; in {place}")
            for file, told in record.get("fetched", {}).items():
                print_line(f"  {file}: {checked(told)}")
            print_line(f"  licence: {dataset.licence}")
            print_line(f"  source: {dataset.source}")
            print_line(f"  cite: {dataset.cite}")
    if as_json:
        print_json(found)


def counts(dataset):
    return f"{dataset.entities:,} entities, {dataset.relations:,} relations, {dataset.triples:,} triples"


def checked(told):
    if told["known"]:
        return "as published, by its checksum"
    return f"no checksum known; SHA-256 {told['sha256']} was seen first, and is compared from now on"


def list_datasets(folder: Folder = None, as_json: Json = False):
    """The datasets that can be fetched by name: sizes, licences, sources."""
    from kgfast.data.published.fetch import datasets, datasets_folder

    root = folder or datasets_folder()
    here = {name for name in datasets() if (root / name).is_dir()}
    if as_json:
        keys = ("entities", "relations", "triples", "size", "licence", "source", "cite")
        return print_json(
            [
                {"name": one.name, **{key: getattr(one, key) for key in keys}, "here": one.name in here}
                for one in datasets().values()
            ]
        )
    table = plain_table(["", "entities", "relations", "triples", "MB", "licence", "source", ""], left=(0, 5, 6, 7))
    for one in datasets().values():
        size = "?" if one.size is None else f"{one.size / 1e6:,.2f}"
        numbers = (f"{one.entities:,}", f"{one.relations:,}", f"{one.triples:,}", size)
        state = "here" if one.name in here else ""
        table.add_row(one.name, *numbers, one.licence, one.source.removeprefix("https://"), state)
    Screen(width=max(WIDTH, screen().width)).print(table)
