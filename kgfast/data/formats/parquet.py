"""Parquet: columns of strings, or of integers whose digits are the names."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from kgfast.data.columns import COLUMNS, Columns, as_names
from kgfast.data.formats import Format, add_format
from kgfast.data.header import Chosen, ColumnChoice, choose, is_truth, title, untrue
from kgfast.errors import DataError

ROWS = 1 << 20  # at a time


def read_parquet(path: Path, choice: ColumnChoice) -> Columns:
    """Read head, relation and tail of a Parquet file, known by the words that headers have."""
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    try:
        with path.open("rb") as content, pa.parquet.ParquetFile(content) as file:
            schema = file.schema_arrow
            chosen = choose(str(path), schema.names, choice, named=True)
            for place in chosen.places:
                if schema.names.count(schema.names[place]) > 1:
                    raise DataError(f"{path}: the column {title(schema.names, place)} stands twice")
            return read_rows(path, file, chosen)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {error}") from error


def read_rows(path: Path, file: pa.parquet.ParquetFile, chosen: Chosen) -> Columns:
    names = file.schema_arrow.names
    others = [place for place in range(len(names)) if place not in chosen.places]
    truths: dict[int, list] = {place: [] for place in others if is_truth(names[place])}
    columns, start = Columns(dropped=chosen.dropped(names)), 0
    wanted = sorted({names[place] for place in (*chosen.places, *truths)})
    for batch in file.iter_batches(ROWS, columns=wanted):
        found = dict(zip(batch.schema.names, batch.columns, strict=True))
        columns.append(*(
            as_names(role, found[names[place]], functools.partial(row_of, path, start))
            for role, place in zip(COLUMNS, chosen.places, strict=True)
        ))  # fmt: skip
        for place, values in truths.items():
            values.append(found[names[place]].cast(pa.string()))
        start += len(batch)
    if not start:
        raise DataError(f"{path} has no rows")
    if tuple(names[place] for place in chosen.places) != COLUMNS:
        columns.header = f"by the names of its columns, {chosen.told(names)}"
    for place, values in truths.items():
        told = untrue(title(names, place), pa.chunked_array(values))
        columns.notes += [told] if told else []
    return columns


def row_of(path: Path, start: int, row: int) -> str:
    return f"{path}, row {start + row}"


def write_parquet(path: Path, blocks: Iterator[list[pa.Array]]) -> None:
    schema = pa.schema([(name, pa.large_string()) for name in COLUMNS])
    with path.open("wb") as file, pa.parquet.ParquetWriter(file, schema) as writer:
        for block in blocks:
            writer.write_table(pa.table(block, schema=schema))


add_format(Format(suffixes=(".parquet",), read=read_parquet, write=write_parquet, columns=True))
