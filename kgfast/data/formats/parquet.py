"""Parquet: columns of strings, or of integers whose digits are the names; a file, or a folder of parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from kgfast.data.columns import COLUMNS, Columns
from kgfast.data.formats import Format, add_format
from kgfast.data.header import ColumnChoice
from kgfast.data.malformed import BadLines
from kgfast.data.tables import ROWS, Layout
from kgfast.errors import DataError


def read_parquet(path: Path, choice: ColumnChoice) -> Columns:
    """Read head, relation and tail of a Parquet file, or of all in a folder, known by the words that headers have."""
    columns = Columns()
    for part in stream_parquet(path, choice, BadLines()):
        columns.take(part)
    return columns


def stream_parquet(path: Path, choice: ColumnChoice, bad: BadLines) -> Iterator[Columns]:
    """The same some rows at a time."""
    before = 0
    for file in part_files(path):
        if not (size := file.stat().st_size):
            raise DataError(f"{file} is empty")
        try:
            with file.open("rb") as content, pa.parquet.ParquetFile(content) as opened:
                layout = Layout.of(str(file), opened.schema_arrow.names, choice)
                for columns in layout.columns(opened.iter_batches(ROWS, columns=layout.wanted()), bad):
                    columns.read = before + size * columns.read // opened.metadata.num_rows
                    yield columns
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: {error}") from error
        before += size


def part_files(path: Path) -> list[Path]:
    """The Parquet files of a folder by name, or the file itself."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*.parquet") if file.is_file() and not file.name.startswith((".", "_")))


def write_parquet(path: Path, blocks: Iterator[list[pa.Array]]) -> None:
    schema = pa.schema([(name, pa.large_string()) for name in COLUMNS])
    with path.open("wb") as file, pa.parquet.ParquetWriter(file, schema) as writer:
        for block in blocks:
            writer.write_table(pa.table(block, schema=schema))


add_format(
    Format(
        suffixes=(".parquet",),
        read=read_parquet,
        stream=stream_parquet,
        write=write_parquet,
        columns=True,
        parts=part_files,
    )
)
