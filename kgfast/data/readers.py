"""Triples from files: tab- or comma-separated text, Parquet, N-Triples. One file in, three dictionary columns
out.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from kgfast.data.columns import COLUMNS, Columns
from kgfast.data.lines import excerpt, is_text, read_bytes, text_lines
from kgfast.data.ntriples import read_ntriples
from kgfast.errors import DataError

SEPARATORS = {".txt": "\t", ".tsv": "\t", ".csv": ","}
SEPARATOR_NAMES = {"\t": "tab", ",": "comma"}
FORMATS = (*SEPARATORS, ".parquet", ".nt")
DICTIONARY = pa.dictionary(pa.int32(), pa.string())
BLOCK = 1 << 24  # bytes that are parsed at a time: few, large dictionaries


def file_format(path: Path) -> str:
    """The one of FORMATS that the name of `path` ends in (.gz left aside); DataError if it is none."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        raise DataError(f"{path}: unknown kind of file; known are {' '.join(FORMATS)}, text also as .gz")
    return suffix


def read_triples(path: Path) -> Columns:
    """Read one file of triples. DataError with file and line for anything malformed."""
    suffix = file_format(path)
    if suffix == ".parquet":
        return read_parquet(path)
    if suffix == ".nt":
        return read_ntriples(path)
    return read_separated(path, SEPARATORS[suffix])


def read_separated(path: Path, separator: str) -> Columns:
    """Read tab- or comma-separated names, three to a line; CSV follows RFC 4180 quoting, tabs have no
    quoting.

    A first line that names the columns head, relation and tail (any order, others are left out) is a header.
    """
    data = read_bytes(path)
    names = header(data, separator)
    quoted = separator == ","
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(column_names=names or COLUMNS, skip_rows=1 if names else 0, block_size=BLOCK),
            pa.csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, DICTIONARY),
                include_columns=COLUMNS,
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise located(path, data, separator, names) or DataError(f"{path}: {error}") from None
    if not len(table):
        raise DataError(f"{path} has a header and no triples")
    columns = Columns(*(table[name].chunks for name in COLUMNS))
    for chunks in (columns.head, columns.relation, columns.tail):
        if any(pc.any(pc.equal(chunk.dictionary, "")).as_py() for chunk in chunks):
            raise located(path, data, separator, names) or DataError(f"{path}: empty name")
    return columns


def header(data: pa.Buffer, separator: str) -> list[str] | None:
    """The column names in lower case if the first line is a header, else None."""
    line = text_lines(data).readline().rstrip("\n")
    names = [name.strip(' "').lower() for name in line.split(separator)]
    return names if set(COLUMNS) <= set(names) else None


def located(path: Path, data: pa.Buffer, separator: str, names: list[str] | None) -> DataError | None:
    """The slow pass: the error of the first malformed line, or None if each one is well-formed."""
    expected = names or list(COLUMNS)
    lines = text_lines(data)
    rows = csv.reader(lines, strict=True) if separator == "," else (line.rstrip("\n").split("\t") for line in lines)
    number = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            return DataError(f"{path}, line {number + 1}: {error}")
        if row is None:
            return None
        # a quoted field may span lines: report the last line of the row
        number = rows.line_num if separator == "," else number + 1
        shown = excerpt(separator.join(row))
        where = f"{path}, line {number}: "
        if not all(map(is_text, row)):
            return DataError(f"{where}not valid UTF-8: {shown}")
        if len(row) != len(expected):
            kind = f"expected {len(expected)} {SEPARATOR_NAMES[separator]}-separated columns"
            found = 0 if row == [""] else len(row)
            return DataError(f"{where}{kind}, found {found}: {shown}")
        for name, value in zip(expected, row, strict=True):
            if name in COLUMNS and not value:
                return DataError(f"{where}the {name} is empty: {shown}")


def read_parquet(path: Path) -> Columns:
    """Read the columns head, relation and tail of a Parquet file: strings, or integers whose digits are the
    names.
    """
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    columns = Columns()
    try:
        with pa.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            missing = [name for name in COLUMNS if name not in schema.names]
            if missing:
                raise DataError(f"{path}: no column {', '.join(missing)}; it has {', '.join(schema.names)}")
            for name in COLUMNS:
                check_type(path, name, schema.field(name).type)
            start = 0
            for batch in file.iter_batches(1 << 20, columns=list(COLUMNS)):
                columns.append(*(as_names(path, name, batch[name], start) for name in COLUMNS))
                start += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {error}") from error
    if not start:
        raise DataError(f"{path} has no rows")
    return columns


def check_type(path: Path, name: str, kind: pa.DataType) -> None:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"{path}: column {name} holds {kind}; names must be strings or integers")


def as_names(path: Path, name: str, values: pa.Array, start: int) -> pa.Array:
    names = values.cast(pa.string())
    empty = pc.fill_null(pc.equal(names, ""), True)
    if pc.any(empty).as_py():
        row = start + pc.index(empty, True).as_py()
        raise DataError(f"{path}, row {row}: the {name} is empty")
    return names
