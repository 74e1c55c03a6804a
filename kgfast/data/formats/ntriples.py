"""N-Triples: resources become names, literals are counted and left out, a malformed line is an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.columns import COLUMNS, Columns
from kgfast.data.formats import Format, add_format
from kgfast.data.header import ColumnChoice
from kgfast.data.lines import excerpt, read_lines
from kgfast.errors import DataError

# IRIs are taken as real dumps have them: anything but space, quotes and angle brackets; escapes must be whole
NUMBERED = r"u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}"
IRI = rf'<(?:[^<>"\s\\]|\\(?:{NUMBERED}))+>'
BLANK = r'_:[^\s<>".]+(?:\.+[^\s<>".]+)*'
LITERAL = rf'"(?:[^"\\]|\\(?:[tbnrf"\'\\]|{NUMBERED}))*"(?:@[A-Za-z]+(?:-[A-Za-z0-9]+)*|\^\^{IRI})?'
NEVER = '<>"{}|^`\\'
NODE = rf"(?:{IRI}|{BLANK})"
END = r"[ \t]*\.[ \t]*(?:#.*)?$"

USUAL = rf"^{NODE} {IRI} {NODE} \.$"
WITH_LITERAL = rf"^[ \t]*{NODE}[ \t]*{IRI}[ \t]*{LITERAL}{END}"
ANY = rf"^[ \t]*(?:(?P<head>{NODE})[ \t]*(?P<relation>{IRI})[ \t]*(?P<tail>{NODE}){END}|(?:#.*)?$)"
BLOCK = 1 << 20  # lines at a time


def read_ntriples(path: Path, choice: ColumnChoice) -> Columns:
    """Read an N-Triples file (or .gz). IRIs keep their whole text without the angle brackets, blank nodes
    their `_:`.

    Most lines are told apart by one linear regular expression and split at spaces; only the odd ones (tabs,
    comments, no space) pay for captured groups.
    """
    lines = read_lines(path)
    columns = Columns()
    for start in range(0, len(lines), BLOCK):
        read_block(path, lines.slice(start, BLOCK), start, columns)
    if not any(map(len, columns.head)):
        raise DataError(f"{path} has no triples between resources ({columns.literals:,} with literals)")
    return columns


def read_block(path: Path, lines: pa.Array, start: int, columns: Columns) -> None:
    usual = pc.match_substring_regex(lines, USUAL)
    literal = pc.match_substring_regex(lines, WITH_LITERAL)
    columns.literals += pc.sum(literal).as_py()
    words = pc.split_pattern(lines.filter(usual), " ").flatten()
    rows = len(words) // 4
    triples = [words.take(pa.array(np.arange(rows) * 4 + column)) for column in range(3)]

    odd = pc.invert(pc.or_(usual, literal))
    if pc.any(odd).as_py():
        groups = pc.extract_regex(lines.filter(odd), ANY)
        places = np.flatnonzero(odd.to_numpy(zero_copy_only=False))
        if groups.null_count:
            place = int(places[groups.is_null().to_numpy(zero_copy_only=False)][0])
            line = excerpt(lines[place].as_py())
            escape = " (an escape in it is broken)" if "\\" in line else ""
            raise DataError(f"{path}, line {start + place + 1}: not an N-Triples statement{escape}: {line}")
        resources = pc.not_equal(groups.field("head"), "")  # the rest are comments and blank lines
        places = np.concatenate((np.flatnonzero(usual.to_numpy(zero_copy_only=False)),
                                 places[resources.to_numpy(zero_copy_only=False)]))  # fmt: skip
        order = pa.array(np.argsort(places))
        for column, name in enumerate(COLUMNS):
            both = pa.concat_arrays([triples[column], groups.field(name).filter(resources).cast(words.type)])
            triples[column] = both.take(order)

    def where(text: str) -> str:
        return f"{path}, line {start + pc.index(pc.match_substring(lines, text), True).as_py() + 1}"

    columns.append(*(bare(column.dictionary_encode(), where) for column in triples))


def bare(column: pa.DictionaryArray, where: Callable[[str], str]) -> pa.DictionaryArray:
    """The column without angle brackets, escapes of IRIs resolved; `where(text)` names the line that holds a text."""
    names = pc.utf8_trim(column.dictionary, "<>")
    if pc.any(pc.match_substring(names, "\\")).as_py():
        names = pa.array([unescape(name, where) for name in names.to_pylist()], names.type)
    return pa.DictionaryArray.from_arrays(column.indices, names)


def unescape(name: str, where: Callable[[str], str]) -> str:
    def letter(match: re.Match) -> str:
        code = int(match[1] or match[2], 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise DataError(f"{where(match[0])}: {match[0]} in <{name}> is no Unicode character")
        if code <= 0x20 or chr(code) in NEVER:
            raise DataError(f"{where(match[0])}: {match[0]} in <{name}> is {chr(code)!r}, which no IRI may hold")
        return chr(code)

    return re.sub(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})", letter, name)


add_format(Format(suffixes=(".nt",), read=read_ntriples, packed=True, iris=True))
