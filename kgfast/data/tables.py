"""Tables in memory: DataFrames of any library that speaks Arrow, SQL by DuckDB, and the columns of Parquet."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kgfast.core.optional import needs
from kgfast.data.columns import COLUMNS, Columns, as_names, no_names
from kgfast.data.header import ColumnChoice, choose, is_truth, title, untrue
from kgfast.data.malformed import BadLines
from kgfast.errors import DataError

SQL = "sql:"
ROWS = 1 << 18  # at a time


@dataclass(frozen=True)
class Layout:
    """Which columns of a table are read."""

    where: str  # what the table is called in errors
    names: list[str]
    places: tuple[int, int, int]
    truths: list[int]  # columns left out that may say which triples are true
    header: str
    dropped: list[str]

    @classmethod
    def of(cls, where: str, names: list[str], choice: ColumnChoice) -> Layout:
        chosen = choose(where, names, choice, named=True)
        for place in chosen.places:
            if names.count(names[place]) > 1:
                raise DataError(f"{where}: the column {title(names, place)} stands twice")
        truths = [place for place in range(len(names)) if place not in chosen.places and is_truth(names[place])]
        usual = tuple(names[place] for place in chosen.places) == COLUMNS
        header = "" if usual else f"by the names of its columns, {chosen.told(names)}"
        return cls(where, names, chosen.places, truths, header, chosen.dropped(names))

    def wanted(self) -> list[str]:
        return sorted({self.names[place] for place in (*self.places, *self.truths)})

    def columns(self, batches: Iterable[pa.RecordBatch], bad: BadLines) -> Iterator[Columns]:
        """The Columns of one batch after the other; `read` of each is the number of rows so far."""
        start = 0
        for batch in batches:
            whole = len(batch)
            if bad.skip:
                batch = self.named_rows(batch, start, bad)
            found = dict(zip(batch.schema.names, batch.columns, strict=True))
            columns = Columns(header=self.header, dropped=self.dropped, read=start + whole)
            for role, place in zip(COLUMNS, self.places, strict=True):
                where = functools.partial(self.row, start)
                getattr(columns, role).append(as_names(role, found[self.names[place]], where))
            for place in self.truths:
                told = untrue(title(self.names, place), found[self.names[place]].cast(pa.string()))
                columns.notes += [told] if told else []
            yield columns
            start += whole
        if not start:
            raise DataError(f"{self.where} has no rows")

    def named_rows(self, batch: pa.RecordBatch, start: int, bad: BadLines) -> pa.RecordBatch:
        """The rows that have all three names; the others go to `bad`."""
        empty = [no_names(batch[self.names[place]]) for place in self.places]
        any_empty = functools.reduce(pc.or_, empty)
        for row in pc.indices_nonzero(any_empty).to_pylist():
            role = next(role for role, missing in zip(COLUMNS, empty, strict=True) if missing[row].as_py())
            bad.add(self.where, f"row {start + row}", f"the {role} is empty")
        return batch.filter(pc.invert(any_empty))

    def row(self, start: int, row: int) -> str:
        return f"{self.where}, row {start + row}"


def is_table(source: object) -> bool:
    """Whether it is a DataFrame of pandas or polars, a table of Arrow, a relation of DuckDB, or the like."""
    return hasattr(source, "__arrow_c_stream__")


def is_sql(source: object) -> bool:
    return isinstance(source, str) and source.startswith(SQL)


def read_table(open_table: Callable[[], Any], where: str, choice: ColumnChoice) -> Columns:
    """All of a table."""
    columns = Columns()
    for part in stream_table(open_table, where, choice, BadLines()):
        columns.take(part)
    return columns


def stream_table(open_table: Callable[[], Any], where: str, choice: ColumnChoice, bad: BadLines) -> Iterator[Columns]:
    """The Columns of a table, some rows at a time; `open_table` gives what can be read once."""
    try:
        reader = pa.RecordBatchReader.from_stream(open_table())
    except (pa.ArrowException, TypeError) as error:
        raise DataError(f"{where} is no table: {error}") from error
    layout = Layout.of(where, reader.schema.names, choice)
    try:
        yield from layout.columns(pieces(reader), bad)
    except pa.ArrowException as error:
        raise DataError(f"{where}: {error}") from error


def pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, len(batch), ROWS):
            yield batch.slice(start, ROWS)


def query(text: str) -> Any:
    """What DuckDB answers, read as it is asked for."""
    duckdb = needs("duckdb", "a query of SQL", "sql")
    folder = os.path.join(tempfile.gettempdir(), "kgfast-sql")  # made where a query needs it
    try:
        found = duckdb.connect(config={"temp_directory": folder}).sql(text)
        if found is None:
            raise DataError(f"{SQL}{text}: it gives no table")
        return found.to_arrow_reader(ROWS)
    except duckdb.Error as error:
        raise DataError(f"{SQL}{text}: {' '.join(str(error).split())}") from None


def return_it(table: Any) -> Any:
    return table
