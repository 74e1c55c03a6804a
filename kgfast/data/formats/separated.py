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

from kgfast.data.blocks import Block, blocks
from kgfast.data.columns import COLUMNS, Columns, Counted, dictionary_of
from kgfast.data.formats import Format, add_format
from kgfast.data.header import (
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
from kgfast.data.malformed import BadLines, located, sift
from kgfast.data.strings import WHOLE_NUMBER
from kgfast.errors import DataError

DICTIONARY = pa.dictionary(pa.int32(), pa.string())
BLOCK = 1 << 24  # bytes that are parsed at a time: few, large dictionaries
LINES = 100_000  # lines that are written at a time


def read_separated(path: Path, choice: ColumnChoice, separator: str) -> Columns:
    """Read names, three to a line or under a header; CSV follows RFC 4180 quoting, tabs have no quoting."""
    text = Text(path, separator, choice)
    text.begin(read_bytes(path), BadLines())
    return text.columns


def stream_separated(path: Path, choice: ColumnChoice, bad: BadLines, separator: str) -> Iterator[Columns]:
    """The same block by block; what stands in the first lines tells whether there is a header."""
    text = Text(path, separator, choice)
    for block in blocks(path, quoted=separator == ","):
        if block.line == 1:
            text.begin(block.data, bad)
        else:
            text.go_on(block, bad)
        text.columns.read = block.read
        yield text.columns


class Text:
    """A file of separated text: what its first line says of the columns, and the columns read last."""

    def __init__(self, path: Path, separator: str, choice: ColumnChoice):
        self.path, self.separator, self.choice = path, separator, choice
        self.fields: list[str] = []
        self.chosen = Chosen(False)
        self.columns = Columns()
        self.truths: list[int] = []  # columns left out that may say which triples are true

    def begin(self, data: pa.Buffer, bad: BadLines) -> None:
        path, fields = self.path, first_line(data, self.separator)
        if not is_text(self.separator.join(fields)):  # a header isn't among what Arrow decodes
            raise DataError(f"{path}, line 1: not valid UTF-8: {excerpt(self.separator.join(fields))}")
        chosen = choose(f"{path}, line 1", fields, self.choice)
        if len(fields) != 3 and not chosen.header and self.choice.columns is None:
            if not bad.skip:
                raise located(path, data, self.separator, chosen, 3) or DataError(f"{path}: not three columns")
            fields = [""] * 3
        self.fields, self.chosen = fields, chosen
        columns, truths = self.parse(data, DICTIONARY, 1, bad)
        if not self.chosen.header and self.choice.header is None:
            if numbers_follow(columns):
                self.chosen = Chosen(True, chosen.places)
                columns, truths = self.parse(data, DICTIONARY, 1, bad)
            elif looks_like_header(fields):
                columns.notes.append(header_doubt(excerpt(self.separator.join(fields)), "its words look like it"))
        columns.dropped = self.chosen.dropped(fields)
        if self.chosen.header:
            columns.header = f"line 1 was taken for a header: {self.chosen.told(fields)}"
        self.tell(columns, truths)
        self.truths = [place for place, values in truths if untrue("", values, self.chosen.header)]
        self.columns = columns

    def go_on(self, block: Block, bad: BadLines) -> None:
        """A block that isn't the first."""
        self.columns, truths = self.parse(block.data, pa.string(), block.line, bad)
        self.tell(self.columns, truths)

    def tell(self, columns: Columns, truths: list) -> None:
        titles = self.fields if self.chosen.header else [""] * len(self.fields)
        if self.chosen.header:
            columns.notes += repeated_header(columns, [self.fields[place] for place in self.chosen.places])
        told = [untrue(title(titles, place), values, self.chosen.header) for place, values in truths]
        columns.notes += [note for note in told if note]
        columns.notes += in_quotes(columns) if self.separator == "\t" else []

    def parse(self, data: pa.Buffer, kind: pa.DataType, line: int, bad: BadLines):
        """(Columns, [(place, values)] of the columns left out that may say which triples are true)."""
        truths = [place for place in range(len(self.fields)) if place not in self.chosen.places]
        if self.chosen.header:
            truths = [place for place in truths if is_truth(self.fields[place])]
        elif line > 1:
            truths = self.truths
        chosen, width = self.chosen, len(self.fields)
        try:
            if self.separator == ",":
                check_quotes(self.path, data, chosen, width, line)
            found = parse(self.path, data, self.separator, width, chosen, truths, kind, line)
        except DataError:
            if not bad.skip:
                raise
            rows = sift(self.path, data, self.separator, chosen, width, line, bad)
            found = {place: [rows[place].cast(kind)] for place in (*chosen.places, *truths)}
        head, relation, tail = (found[place] for place in chosen.places)
        columns = Columns(head, relation, tail)
        return columns, [(place, pa.chunked_array(found[place])) for place in truths]


def first_line(data: pa.Buffer, separator: str) -> list[str]:
    """The fields of the first line, or row, where quoted names span lines."""
    lines = text_lines(data)
    if separator == ",":
        try:
            return next(csv.reader(lines))
        except csv.Error:  # which the slow pass finds again
            lines = text_lines(data)
    return lines.readline().rstrip("\n").split(separator)


def parse(
    path: Path, data: pa.Buffer, separator: str, width: int, chosen: Chosen, truths: list[int], kind, line: int
) -> dict[int, list[pa.Array]]:
    """{place: chunks} of the chosen columns and `truths`; DataError for the first malformed line."""
    quoted = separator == ","
    names = [str(place) for place in range(width)]
    wanted = [names[place] for place in (*chosen.places, *truths)]
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            pa.csv.ReadOptions(column_names=names, skip_rows=int(chosen.header and line == 1), block_size=BLOCK),
            pa.csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, kind), include_columns=wanted, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise located(path, data, separator, chosen, width, line) or DataError(f"{path}: {error}") from None
    if not len(table):
        raise DataError(f"{path} has a header and no triples")
    for chunks in (table[str(place)].chunks for place in chosen.places):
        if any(pc.any(pc.equal(dictionary_of(chunk), "")).as_py() for chunk in chunks):
            raise located(path, data, separator, chosen, width, line) or DataError(f"{path}: empty name")
    return {place: table[str(place)].chunks for place in (*chosen.places, *truths)}


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


def repeated_header(columns: Columns, words: list[str]) -> Iterator[Counted]:
    """A sentence where later lines are the header again, as files put together have them."""
    count = 0
    for chunks in zip(columns.head, columns.relation, columns.tail, strict=True):
        same = [where_is(chunk, word.strip()) for chunk, word in zip(chunks, words, strict=True)]
        count += int(np.logical_and.reduce(same).sum())
    if count:
        yield Counted("", count, " further lines hold the words of the header, and were read as triples")


def where_is(chunk: pa.Array, word: str) -> np.ndarray:
    if pa.types.is_dictionary(chunk.type):
        return chunk.indices.to_numpy() == pc.index(chunk.dictionary, word).as_py()
    return pc.equal(chunk, word).to_numpy(zero_copy_only=False)


def in_quotes(columns: Columns) -> Iterator[str]:
    """A sentence where names of tab-separated text are enclosed in quotes."""
    for role in COLUMNS:
        for chunk in getattr(columns, role):
            names = dictionary_of(chunk)
            enclosed = pc.match_substring_regex(names, '^".*"$')
            if pc.any(enclosed).as_py():
                name = names.filter(enclosed)[0].as_py()
                yield f"names such as {name} hold quotes, which belong to the name in tab-separated text"
                return


def check_quotes(path: Path, data: pa.Buffer, chosen: Chosen, width: int, first: int) -> None:
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
            number += first - 1
            raise DataError(f"{path}, line {number}: a space before a quote, which then encloses nothing: {line}")
    if inside.any() or len(quotes) % 2:
        error = located(path, data, ",", chosen, width, first)
        if error is not None:
            raise error


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
        stream=functools.partial(stream_separated, separator="\t"),
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
        stream=functools.partial(stream_separated, separator=","),
        write=write_commas,
        packed=True,
        columns=True,
    )
)
