"""N-Triples and N-Quads: resources become names, literals are counted and left out, or are names as well."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.blocks import Block, blocks
from kgfast.data.columns import COLUMNS, Columns, Counted
from kgfast.data.formats import Format, add_format
from kgfast.data.header import ColumnChoice
from kgfast.data.lines import bad_text, excerpt, read_lines, split_lines, text_lines
from kgfast.data.malformed import BadLines
from kgfast.errors import DataError

# IRIs are taken as real dumps have them: anything but space, quotes and angle brackets; escapes must be whole
NUMBERED = r"u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}"
IRI = rf'<(?:[^<>"\s\\]|\\(?:{NUMBERED}))+>'
BLANK = r'_:[^\s<>".]+(?:\.+[^\s<>".]+)*'
LITERAL = rf'"(?:[^"\\]|\\(?:[tbnrf"\'\\]|{NUMBERED}))*"(?:@[A-Za-z]+(?:-[A-Za-z0-9]+)*|\^\^{IRI})?'
NEVER = '<>"{}|^`\\'
NODE = rf"(?:{IRI}|{BLANK})"
END = r"[ \t]*\.[ \t]*(?:#.*)?$"
BLOCK = 1 << 20  # lines at a time


class Statements:
    """The expressions that tell statements apart, with the name of a graph behind them or without."""

    def __init__(self, quads: bool):
        end = (rf"[ \t]*(?P<graph>{NODE})?" if quads else "") + END
        space = r"[ \t]*"
        self.usual = rf"^{NODE} {IRI} {NODE} \.$"
        self.with_literal = rf"^{space}{NODE}{space}{IRI}{space}{LITERAL}{end}"
        start = rf"^{space}(?:(?P<head>{NODE}){space}(?P<relation>{IRI}){space}(?P<tail>"
        self.any = rf"{start}{NODE}){end}|(?:#.*)?$)"
        self.literal = rf"{start}{LITERAL}){end})"
        self.quads = quads


KINDS = {quads: Statements(quads) for quads in (False, True)}


def read_ntriples(path: Path, choice: ColumnChoice, quads: bool = False) -> Columns:
    """Read an N-Triples file (or .gz). IRIs keep their whole text without the angle brackets, blank nodes
    their `_:`.

    Most lines are told apart by one linear regular expression and split at spaces; only the odd ones (tabs,
    comments, no space) pay for captured groups.
    """
    lines, kind, bad = read_lines(path), KINDS[quads], BadLines()
    columns, graphs = Columns(), 0
    for start in range(0, len(lines), BLOCK):
        graphs += read_block(path, lines.slice(start, BLOCK), start + 1, columns, kind, choice.literals, bad)
    columns.notes += graph_note(graphs)
    if not any(map(len, columns.head)):
        raise DataError(f"{path} has no triples between resources ({columns.literals:,} with literals)")
    return columns


def stream_ntriples(path: Path, choice: ColumnChoice, bad: BadLines, quads: bool = False) -> Iterator[Columns]:
    """The same block by block."""
    for block in blocks(path):
        columns, (lines, error) = Columns(read=block.read), split_lines(block.data)
        if error is not None:
            lines = readable(path, block, bad)
        graphs = read_block(path, lines, block.line, columns, KINDS[quads], choice.literals, bad)
        columns.notes += graph_note(graphs)
        yield columns


def graph_note(count: int) -> list[Counted]:
    return [Counted("", count, " statements name a graph, which was left out")] if count else []


def readable(path: Path, block: Block, bad: BadLines) -> pa.Array:
    """The lines of a block, an empty one in place of each that isn't UTF-8."""
    lines = text_lines(block.data).read().split("\n")
    for number, line in bad_text(block.data):
        bad.add(path, f"line {block.line + number - 1}", f"not valid UTF-8: {line}")
        lines[number - 1] = ""
    return pa.array(lines, pa.large_string())


def read_block(
    path: Path, lines: pa.Array, first: int, columns: Columns, kind: Statements, literals: bool, bad: BadLines
) -> int:
    """Append the triples of some lines, of which `first` is the number of the first; how many name a graph."""
    usual = pc.match_substring_regex(lines, kind.usual)
    literal = pc.match_substring_regex(lines, kind.with_literal)
    columns.literals += 0 if literals else pc.sum(literal).as_py()
    words = pc.split_pattern(lines.filter(usual), " ").flatten()
    rows = len(words) // 4
    found = [[words.take(pa.array(np.arange(rows) * 4 + column))] for column in range(3)]
    places = [places_of(usual)]
    odd = pc.invert(pc.or_(usual, literal))
    graphs = 0
    for which, expression in ((odd, kind.any), (literal, kind.literal)):
        if not pc.any(which).as_py() or (which is literal and not literals):
            continue
        groups, at = pc.extract_regex(lines.filter(which), expression), places_of(which)
        for place in at[groups.is_null().to_numpy(zero_copy_only=False)]:
            line = excerpt(lines[int(place)].as_py())
            escape = " (an escape in it is broken)" if "\\" in line else ""
            bad.add(path, f"line {first + int(place)}", f"not an N-Triples statement{escape}: {line}")
        resources = pc.fill_null(pc.not_equal(groups.field("head"), ""), False)  # the rest are comments and blank lines
        resources = pc.and_(resources, groups.is_valid())
        places.append(at[places_of(resources)])
        for column, name in zip(found, COLUMNS, strict=True):
            column.append(groups.field(name).filter(resources).cast(words.type))
        if kind.quads:
            graphs += pc.sum(pc.not_equal(groups.field("graph").filter(resources), "")).as_py() or 0

    def where(text: str) -> str:
        return f"{path}, line {first + pc.index(pc.match_substring(lines, text), True).as_py()}"

    order = pa.array(np.argsort(np.concatenate(places))) if len(places) > 1 else None
    joined = [pa.concat_arrays(column) for column in found]
    joined = joined if order is None else [column.take(order) for column in joined]
    columns.append(*(bare(column.dictionary_encode(), where) for column in joined))
    return graphs


def places_of(mask: pa.Array) -> np.ndarray:
    return np.flatnonzero(mask.to_numpy(zero_copy_only=False))


def bare(column: pa.DictionaryArray, where: Callable[[str], str]) -> pa.DictionaryArray:
    """The column without angle brackets, escapes of IRIs resolved; `where(text)` names the line that holds a text.
    Literals stay as they are written."""
    names = column.dictionary
    is_literal = pc.starts_with(names, '"')
    names = pc.if_else(is_literal, names, pc.utf8_trim(names, "<>"))
    if pc.any(pc.match_substring(names, "\\")).as_py():
        written = names.to_pylist()
        names = pa.array([name if name[0] == '"' else unescape(name, where) for name in written], names.type)
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


for suffix, quads in ((".nt", False), (".nq", True)):
    add_format(
        Format(
            suffixes=(suffix,),
            read=functools.partial(read_ntriples, quads=quads),
            stream=functools.partial(stream_ntriples, quads=quads),
            packed=True,
            iris=True,
        )
    )
