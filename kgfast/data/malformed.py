"""Lines that can't be read: an error, or left out and told with number and reason; the slow pass that finds them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from kgfast.data.columns import COLUMNS
from kgfast.data.header import WAY_OUT, Chosen
from kgfast.data.lines import excerpt, is_text, text_lines
from kgfast.errors import DataError

KEPT = 1000  # bad lines of a file that are kept with their reason
SEPARATOR_NAMES = {"\t": "tab", ",": "comma"}
OTHER_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", " ": "spaces"}


@dataclass
class BadLines:
    """What becomes of a malformed line: an error (`skip` False), or it is counted, told and left out."""

    skip: bool = False
    count: dict[str, int] = field(default_factory=dict)  # by file
    first: dict[str, list[list]] = field(default_factory=dict)  # by file: [place, reason] of the first KEPT

    def add(self, path: Path | str, place: str, reason: str) -> None:
        """`path` is that of a file, or what a table is called; `place` is "line 12" or "row 3"."""
        if not self.skip:
            raise DataError(f"{path}, {place}: {reason}")
        name = Path(path).name
        self.count[name] = self.count.get(name, 0) + 1
        if self.count[name] <= KEPT:
            self.first.setdefault(name, []).append([place, reason])

    def take(self, other: BadLines) -> None:
        """Those of another too, which has none then."""
        for name, count in other.count.items():
            self.count[name] = self.count.get(name, 0) + count
            first = self.first.setdefault(name, [])
            first += other.first[name][: KEPT - len(first)]
        other.clear()

    def clear(self) -> None:
        self.count, self.first = {}, {}


def rows_of(data: pa.Buffer, separator: str, first: int = 1) -> Iterator[tuple[int, list[str] | None, str]]:
    """(number of its last line, fields or None, what the parser says) of each row, line by line; slow."""
    lines = text_lines(data)
    quoted = csv.reader(lines, strict=True) if separator == "," else None
    rows: Iterator[list[str]] = quoted or (line.rstrip("\n").split("\t") for line in lines)
    number = first - 1
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield number + 1, None, str(error)
            number = first - 1 + quoted.line_num if quoted else number + 1
            continue
        if row is None:
            return
        # a quoted field may span lines: report the last line of the row
        number = first - 1 + quoted.line_num if quoted else number + 1
        yield number, row, ""


def fault(row: list[str], number: int, separator: str, chosen: Chosen, width: int) -> str:
    """What is wrong with the fields of a row; nothing where it is well-formed."""
    shown = excerpt(separator.join(row))
    if not all(map(is_text, row)):
        return f"not valid UTF-8: {shown}"
    if len(row) != width:
        kind = f"expected {width} {SEPARATOR_NAMES[separator]}-separated columns"
        found = 0 if row == [""] else len(row)
        return f"{kind}, found {found}: {shown}{hint(row, number, width)}"
    empty = [name for name, place in zip(COLUMNS, chosen.places, strict=True) if not row[place]]
    return f"the {empty[0]} is empty: {shown}" if empty else ""


def located(
    path: Path, data: pa.Buffer, separator: str, chosen: Chosen, width: int, first: int = 1
) -> DataError | None:
    """The error of the first malformed line, or None if each one is well-formed."""
    for number, row, said in rows_of(data, separator, first):
        if reason := said if row is None else fault(row, number, separator, chosen, width):
            return DataError(f"{path}, line {number}: {reason}")
    return None


def sift(
    path: Path, data: pa.Buffer, separator: str, chosen: Chosen, width: int, first: int, bad: BadLines
) -> list[pa.Array]:
    """The columns of the well-formed rows; the others go to `bad`."""
    columns: list[list[str]] = [[] for _ in range(width)]
    for number, row, said in rows_of(data, separator, first):
        reason = said if row is None else fault(row, number, separator, chosen, width)
        if reason:
            bad.add(path, f"line {number}", reason)
        elif row is not None and not (number == 1 and chosen.header):
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    return [pa.array(column, pa.string()) for column in columns]


def hint(row: list[str], number: int, width: int) -> str:
    if len(row) == 1:
        for other, name in OTHER_SEPARATORS.items():
            if row[0].count(other) == width - 1:
                return f" (are its parts separated by {name}?)"
    if number == 1 and len(row) > 3:
        return f" ({WAY_OUT})"
    return ""
