"""`kgfast data SOURCE`: what a source of triples holds, and, with --out, the same as a folder that is mapped and not
read. Beside it stand the commands of `kgfast.cli.datasets`."""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from kgfast.cli import datasets
from kgfast.cli.console import print_json, print_line, progress_bar
from kgfast.cli.options import Json
from kgfast.errors import ConfigError


class DataCommands(TyperGroup):
    """A first word that is none of its commands is a source to read."""

    def parse_args(self, ctx, args):
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named or not args else ["read", *args])


data = typer.Typer(
    cls=DataCommands,
    no_args_is_help=True,
    help="What a source of triples holds: kgfast data SOURCE, the same as read. Datasets by name: fetch, list.",
)


@data.command()
def read(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help='Dataset folder, file, name of a graph, or "sql:SELECT .." with columns head, relation, tail.',
            show_default=False,
        ),
    ],
    header: Annotated[
        str, typer.Option(metavar="yes|no|auto", help="Whether the first line names columns; auto: its words tell.")
    ] = "auto",
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="Columns of head, relation, tail: names or numbers from 1.", show_default=False
        ),
    ] = None,
    literals: Annotated[
        str, typer.Option(metavar="drop|keep", help="Literals of RDF: left out, or entities too.")
    ] = "drop",
    out: Annotated[
        Path | None,
        typer.Option(help="Write the graph to this folder, whatever its size; train with --data FOLDER then."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Shares of train, valid, test, as in 0.9,0.05,0.05. With --out."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what --split draws.")] = 0,
    on_bad_line: Annotated[
        str, typer.Option(metavar="error|skip", help="skip: leave lines out that can't be read, and tell. With --out.")
    ] = "error",
    as_json: Json = False,
):
    """What a dataset holds, what of it was not read, and what is wrong or looks odd; --out prepares it for training."""
    if seed and split is None:
        raise ConfigError("--seed is of what --split draws, and there is no --split")
    if out is None:
        for name, given in (("--split", split), ("--on-bad-line", on_bad_line != "error")):
            if given:
                raise ConfigError(f"{name} is of what --out FOLDER writes, and there is no --out")
        report = report_of(source, header, columns, literals)
    else:
        from kgfast.data import prepare

        report = prepare(
            source, out, split=split, seed=seed, header=header, columns=columns, literals=literals,
            on_bad_line=on_bad_line, bar=progress_bar,
        )  # fmt: skip
    if as_json:
        return print_json(report.as_dict())
    for line in report.lines():
        print_line(line)


def report_of(source, header, columns, literals):
    """The report of what is read into memory."""
    from kgfast.data import KnowledgeGraph
    from kgfast.data.header import ColumnChoice
    from kgfast.data.tables import SQL, is_sql

    if is_sql(source):
        ColumnChoice.of(header, columns, literals).check_table(source)
        return KnowledgeGraph.from_sql(source[len(SQL) :], columns=columns).report
    return KnowledgeGraph.load(source, header=header, columns=columns, literals=literals).report


data.command()(datasets.fetch)
data.command(name="list")(datasets.list_datasets)
