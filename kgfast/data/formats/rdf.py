"""Turtle, TriG and RDF/XML, which pyoxigraph parses: resources become names, as those of N-Triples."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from kgfast.core.optional import needs
from kgfast.data.columns import Columns, Counted
from kgfast.data.formats import Format, add_format
from kgfast.data.header import ColumnChoice
from kgfast.data.malformed import BadLines
from kgfast.data.packed import ERRORS, opened
from kgfast.errors import DataError

FORMATS = {".ttl": "TURTLE", ".trig": "TRIG", ".rdf": "RDF_XML", ".owl": "RDF_XML"}
STATEMENTS = 200_000  # at a time
GRAPH, NESTED = " statements name a graph, which was left out", " statements about statements were left out"
UNNAMED = re.compile("[a-f][0-9a-f]{15,31}")  # what the parser calls blank nodes without a name, anew each time


def read_rdf(path: Path, choice: ColumnChoice, form: str) -> Columns:
    """Read all statements between resources; those with literals are counted."""
    columns = Columns()
    for part in stream_rdf(path, choice, BadLines(), form):
        columns.take(part)
    if not any(map(len, columns.head)):
        raise DataError(f"{path} has no triples between resources ({columns.literals:,} with literals)")
    return columns


def stream_rdf(path: Path, choice: ColumnChoice, bad: BadLines, form: str) -> Iterator[Columns]:
    """The same some statements at a time. A malformed one is an error: what is behind it means nothing without it."""
    library = needs("pyoxigraph", f"reading {path.name}", "rdf")
    names = Terms(library, path.name.split(".")[0])
    with opened(path) as (file, content, packed):
        try:
            statements = library.parse(content, format=getattr(library.RdfFormat, form))
            while columns := names.columns(statements, choice.literals):
                columns.read = file.tell()
                yield columns
        except SyntaxError as error:
            line = f", line {error.lineno}" if error.lineno else ""
            raise DataError(f"{path}{line}: {error.msg}") from None
        except ERRORS as error:
            raise DataError(f"{path}: {f'broken {packed} data: ' if packed else ''}{error}") from error
        if not file.tell():
            raise DataError(f"{path} is empty")


class Terms:
    """Names of a parser's terms. Blank nodes without a name are numbered in the order of the file."""

    def __init__(self, library: Any, file: str):
        self.library, self.file = library, file
        self.unnamed: dict[str, str] = {}

    def columns(self, statements: Iterator[Any], literals: bool) -> Columns | None:
        """The next statements; None where there are none."""
        rows: list[list[str]] = [[], [], []]
        kinds = (self.library.NamedNode, self.library.BlankNode)
        literal, default = self.library.Literal, self.library.DefaultGraph
        columns, graphs, nested, count = Columns(), 0, 0, 0
        for count, statement in enumerate(statements, 1):
            tail = statement.object
            graphs += not isinstance(statement.graph_name, default)
            if isinstance(tail, literal) and not literals:
                columns.literals += 1
            elif not isinstance(tail, (*kinds, literal)) or not isinstance(statement.subject, kinds):
                nested += 1
            else:
                for column, term in zip(rows, (statement.subject, statement.predicate, tail), strict=True):
                    column.append(str(term) if isinstance(term, literal) else self.name(term))
            if count == STATEMENTS:
                break
        if not count:
            return None
        columns.head, columns.relation, columns.tail = ([pa.array(column, pa.string())] for column in rows)
        notes = {
            " statements name a graph, which was left out": graphs,
            " statements about statements were left out": nested,
        }
        columns.notes += [Counted("", number, words) for words, number in notes.items() if number]
        return columns

    def name(self, term: Any) -> str:
        value = term.value
        if isinstance(term, self.library.NamedNode):
            return value
        if UNNAMED.fullmatch(value):
            return self.unnamed.setdefault(value, f"_:{self.file}.{len(self.unnamed) + 1}")
        return f"_:{value}"


for suffix, form in FORMATS.items():
    add_format(
        Format(
            suffixes=(suffix,),
            read=functools.partial(read_rdf, form=form),
            stream=functools.partial(stream_rdf, form=form),
            packed=True,
            iris=True,
        )
    )
