"""Tab- and comma-separated text: names, three to a line or under a header."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from kgfast.data.columns import COLUMNS, Columns
from kgfast.data.formats import Format, add_format
from kgfast.data.header import (
    WAY_OUT,
    Chosen,
    ColumnChoice,
    choose,
    find_roles,
    header_doubt,
    is_truth,
    looks_like_header,
    title,
    untrue,
)
from kgfast.data.lines import BYTE_ORDER_MARK, excerpt, is_text, line_of, read_bytes, text_lines
from kgfast.data.strings import WHOLE_NUMBER
from kgfast.errors import DataError

SEPARATOR_NAMES = {"\t": "tab", ",": "comma"}
OTHER_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", " ": "spaces"}
DICTIONARY = pa.dictionary(pa.int32(), pa.string())
BLOCK = 1 << 24  # bytes that are parsed at a time: few, large dictionaries
LINES = 100_000  # lines that are written at a time


def read_separated(path: Path, choice: ColumnChoice, separator: str) -> Columns:
    """Read names, three to a line or under a header; CSV follows RFC 4180 quoting, tabs have no quoting."""
    data = read_bytes(path)
    fields = first_line(data, separator)
    if not is_text(separator.join(fields)):  # a header isn't among what Arrow decodes
        raise DataError(f"{path}, line 1: not valid UTF-8: {excerpt(separator.join(fields))}")
    chosen = choose(f"{path}, line 1", fields, choice)
    if len(fields) != 3 and not chosen.header and choice.columns is None:
        raise located(path, data, separator, chosen, 3) or DataError(f"{path}: not three columns")
    if separator == ",":
        check_quotes(path, data, chosen, len(fields))
    read = functools.partial(parse, path, data, separator, fields)
    columns, truths = read(chosen)
    if not chosen.header and choice.header is None:
        if numbers_follow(columns):
            chosen = Chosen(True, chosen.places)
            columns, truths = read(chosen)
        elif looks_like_header(fields):
            columns.notes.append(header_doubt(excerpt(separator.join(fields)), "its words look like it"))
    columns.dropped = chosen.dropped(fields)
    if chosen.header:
        columns.header = f"line 1 was taken for a header: {chosen.told(fields)}"
        columns.notes += repeated_header(columns, [fields[place] for place in chosen.places])
    columns.notes += [told for name, values in truths if (told := untrue(name, values, chosen.header))]
    columns.notes += in_quotes(columns) if separator == "\t" else []
    return columns


def first_line(data: pa.Buffer, separator: str) -> list[str]:
    """The fields of the first line, or row, where quoted names span lines."""
    lines = text_lines(data)
    if separator == ",":
        try:
            return next(csv.reader(lines))
        except csv.Error:  # which the slow pass finds again
            lines = text_lines(data)
    return lines.readline().rstrip("\n").split(separator)


def parse(path: Path, data: pa.Buffer, separator: str, fields: list[str], chosen: Chosen):
    """(Columns, (name, values) of the columns left out that may say which triples are true)."""
    quoted = separator == ","
    others = [place for place in range(len(fields)) if place not in chosen.places]
    truths = [place for place in others if not chosen.header or is_truth(fields[place])]
    names = [str(place) for place in range(len(fields))]
    wanted = [names[place] for place in (*chosen.places, *truths)]
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(column_names=names, skip_rows=int(chosen.header), block_size=BLOCK),
            pa.csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, DICTIONARY), include_columns=wanted, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise located(path, data, separator, chosen, len(fields)) or DataError(f"{path}: {error}") from None
    if not len(table):
        raise DataError(f"{path} has a header and no triples")
    columns = Columns(*(table[str(place)].chunks for place in chosen.places))
    for chunks in (columns.head, columns.relation, columns.tail):
        if any(pc.any(pc.equal(chunk.dictionary, "")).as_py() for chunk in chunks):
            raise located(path, data, separator, chosen, len(fields)) or DataError(f"{path}: empty name")
    titles = fields if chosen.header else [""] * len(fields)
    return columns, [(title(titles, place), table[str(place)]) for place in truths]


def numbers_follow(columns: Columns) -> bool:
    """Whether heads and tails are whole numbers, all but those of the first line: then that is a header."""
    if len(columns.head[0]) < 3:
        return False
    for chunk in (columns.head[0], columns.tail[0]):
        first, second = chunk.slice(0, 2).to_pylist()
        if is_number(first) or not is_number(second):
            return False
    for chunks in (columns.head, columns.tail):
        once = pc.sum(pc.equal(chunks[0].indices, chunks[0].indices[0])).as_py() == 1
        names = [chunk.dictionary.filter(pc.invert(are_numbers(chunk.dictionary))) for chunk in chunks]
        if not once or sum(map(len, names)) != 1:
            return False
    return True


def are_numbers(names: pa.Array) -> pa.Array:
    return pc.match_substring_regex(names, WHOLE_NUMBER)


def is_number(name: str) -> bool:
    return are_numbers(pa.array([name]))[0].as_py()


def repeated_header(columns: Columns, words: list[str]) -> Iterator[str]:
    """A sentence where later lines are the header again, as files put together have them."""
    count = 0
    for chunks in zip(columns.head, columns.relation, columns.tail, strict=True):
        places = [pc.index(chunk.dictionary, word.strip()).as_py() for chunk, word in zip(chunks, words, strict=True)]
        if min(places) >= 0:
            same = [chunk.indices.to_numpy() == place for chunk, place in zip(chunks, places, strict=True)]
            count += int(np.logical_and.reduce(same).sum())
    if count:
        yield f"{count:,} further lines hold the words of the header, and were read as triples"


def in_quotes(columns: Columns) -> Iterator[str]:
    """A sentence where names of tab-separated text are enclosed in quotes."""
    for role in COLUMNS:
        for chunk in getattr(columns, role):
            enclosed = pc.match_substring_regex(chunk.dictionary, '^".*"$')
            if pc.any(enclosed).as_py():
                name = chunk.dictionary.filter(enclosed)[0].as_py()
                yield f"names such as {name} hold quotes, which belong to the name in tab-separated text"
                return


def check_quotes(path: Path, data: pa.Buffer, chosen: Chosen, width: int) -> None:
    """DataError for a quote where RFC 4180 has none: behind a space, or with more behind it than a comma."""
    letters = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(letters == ord('"'))
    if not len(quotes):
        return
    edges = np.frombuffer(b',"\r\n', np.uint8)
    before = letters[np.maximum(quotes - 1, 0)]
    after = letters[np.minimum(quotes + 1, len(letters) - 1)]
    inside = ~np.isin(before, edges) & ~np.isin(after, edges) & (quotes > 0) & (quotes < len(letters) - 1)
    for place in quotes[inside]:
        front = place
        while front > 0 and letters[front - 1] in b" \t":
            front -= 1
        if front < place and (front == 0 or letters[front - 1] in b",\r\n"):
            number, line = line_of(data, int(place))
            raise DataError(f"{path}, line {number}: a space before a quote, which then encloses nothing: {line}")
    if inside.any() or len(quotes) % 2:
        error = located(path, data, ",", chosen, width)
        if error is not None:
            raise error


def located(path: Path, data: pa.Buffer, separator: str, chosen: Chosen, width: int) -> DataError | None:
    """The slow pass: the error of the first malformed line, or None if each one is well-formed."""
    lines = text_lines(data)
    quoted = csv.reader(lines, strict=True) if separator == "," else None
    rows: Iterator[list[str]] = quoted or (line.rstrip("\n").split("\t") for line in lines)
    number = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            return DataError(f"{path}, line {number + 1}: {error}")
        if row is None:
            return None
        # a quoted field may span lines: report the last line of the row
        number = quoted.line_num if quoted else number + 1
        shown = excerpt(separator.join(row))
        where = f"{path}, line {number}: "
        if not all(map(is_text, row)):
            return DataError(f"{where}not valid UTF-8: {shown}")
        if len(row) != width:
            kind = f"expected {width} {SEPARATOR_NAMES[separator]}-separated columns"
            found = 0 if row == [""] else len(row)
            return DataError(f"{where}{kind}, found {found}: {shown}{hint(row, number, width)}")
        for name, place in zip(COLUMNS, chosen.places, strict=True):
            if not row[place]:
                return DataError(f"{where}the {name} is empty: {shown}")


def hint(row: list[str], number: int, width: int) -> str:
    if len(row) == 1:
        for other, name in OTHER_SEPARATORS.items():
            if row[0].count(other) == width - 1:
                return f" (are its parts separated by {name}?)"
    if number == 1 and len(row) > 3:
        return f" ({WAY_OUT})"
    return ""


def write_tabs(path: Path, blocks: Iterator[list[pa.Array]]) -> None:
    """Names between tabs, with LF ends; under a header where a reader would take the first line for one."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for start, block in enumerate(blocks):
            if start == 0:
                file.write(guard(block))
            joined = pc.binary_join_element_wise(*block, pa.scalar("\t", pa.large_string()))
            for first in range(0, len(joined), LINES):
                file.write("\n".join(joined.slice(first, LINES).to_pylist()) + "\n")


def guard(block: list[pa.Array]) -> str:
    """What must stand before the triples of a block so that they are read as they are: mostly nothing."""
    first = [column[0].as_py() for column in block]
    number_follows = len(block[0]) > 1 and is_number(block[0][1].as_py()) and not is_number(first[0])
    marked = first[0].startswith(BYTE_ORDER_MARK.decode())
    doubtful = number_follows or marked or find_roles("", first, strict=False) or looks_like_header(first)
    return "\t".join(COLUMNS) + "\n" if doubtful else ""


def write_commas(path: Path, blocks: Iterator[list[pa.Array]]) -> None:
    """CSV as RFC 4180 has it, under a header."""
    schema = pa.schema([(name, pa.large_string()) for name in COLUMNS])
    with path.open("wb") as file, pa.csv.CSVWriter(file, schema) as writer:
        for block in blocks:
            writer.write(pa.table(block, schema=schema))


add_format(
    Format(
        suffixes=(".txt", ".tsv"),
        read=functools.partial(read_separated, separator="\t"),
        write=write_tabs,
        packed=True,
        columns=True,
        refused=(r"[\t\r\n]", "a tab or an end of line"),
    )
)
add_format(
    Format(
        suffixes=(".csv",),
        read=functools.partial(read_separated, separator=","),
        write=write_commas,
        packed=True,
        columns=True,
    )
)
