"""Names to ids: dictionary-encoded chunks of all files become one table of names and int64 ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.strings import name_order
from kgfast.errors import DataError

COLUMNS = ("head", "relation", "tail")
Rename = Callable[[pa.Array, np.ndarray], tuple[pa.Array, pa.Array]]


class Counted(NamedTuple):
    """A sentence with a number in it, which grows where a file is read in parts."""

    before: str
    number: int
    after: str

    def __str__(self) -> str:
        return f"{self.before}{self.number:,}{self.after}"


@dataclass
class Columns:
    """The triples of one file, or a part of it, as names: per column a list of chunks, in the order of the file,
    dictionary-encoded where it is a whole file; and what the report must say of it.
    """

    head: list[pa.Array] = field(default_factory=list)
    relation: list[pa.Array] = field(default_factory=list)
    tail: list[pa.Array] = field(default_factory=list)
    literals: int = 0  # statements whose object is a literal: left out, for a literal is no entity
    header: str = ""  # the first line, in words, where it was taken for a header
    dropped: list[str] = field(default_factory=list)  # names of columns that were not read
    notes: list[str | Counted] = field(default_factory=list)  # what looks odd, as sentences that follow "FILE: "
    read: int = 0  # bytes of the file read so far, for who waits

    def add_notes(self, notes: list[str | Counted]) -> None:
        """A sentence that is there already is said once; its numbers are added up."""
        for note in notes:
            for place, other in enumerate(self.notes):
                if isinstance(note, Counted) and isinstance(other, Counted) and note[::2] == other[::2]:
                    self.notes[place] = note._replace(number=note.number + other.number)
                    break
            else:
                self.notes += [note] if note not in self.notes else []

    def take(self, part: Columns) -> None:
        """The next part of the file too."""
        self.append(*(pa.chunked_array(chunks).combine_chunks() for chunks in (part.head, part.relation, part.tail)))
        self.literals += part.literals
        self.header, self.dropped = self.header or part.header, self.dropped or part.dropped
        self.add_notes(part.notes)

    def append(self, *chunks: pa.Array) -> None:
        for name, chunk in zip(COLUMNS, chunks, strict=True):
            getattr(self, name).append(chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode())


def dictionary_of(chunk: pa.Array) -> pa.Array:
    """The strings of a chunk, each at least once."""
    return chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk


def as_names(role: str, values: pa.Array, where: Callable[[int], str]) -> pa.Array:
    """A column of strings, or of integers whose digits are the names; `where(row)` says in an error where that is."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (text or pa.types.is_integer(kind)):
        raise DataError(f"{where(0)}: column {role} holds {kind}; names must be strings or integers")
    names = values.cast(pa.string())
    empty = no_names(names)
    if pc.any(empty).as_py():
        raise DataError(f"{where(pc.index(empty, True).as_py())}: the {role} is empty")
    return names


def no_names(values: pa.Array) -> pa.Array:
    """Which of them are missing, or empty."""
    return pc.fill_null(pc.equal(values.cast(pa.string()), ""), True)


def number(
    columns: list[list[pa.DictionaryArray]], linked: Sequence[bool] = (), rename: Rename | None = None
) -> tuple[pa.Array, pa.Array, list[np.ndarray]]:
    """(names by id, the same as files have them, ids of each column int64): ids follow `name_order`.

    They depend on the set of names alone, not on the order of files, lines or threads. Only the chunks'
    dictionaries are hashed, so the strings of a column are never all in memory. `linked` says which columns hold
    IRIs, and `rename(names, whether one is in such a column)` gives the names of the graph and how files have
    them; what it makes equal is one name.
    """
    chunks = [chunk for column in columns for chunk in column]
    every = pa.concat_arrays([chunk.dictionary.cast(pa.large_string()) for chunk in chunks]).dictionary_encode()
    names = written = every.dictionary
    table = codes = every.indices.to_numpy()
    if rename is not None:
        renamed, written = rename(names, in_columns(columns, linked, codes, len(names)))
        renamed = renamed.dictionary_encode()
        names, place = renamed.dictionary, renamed.indices.to_numpy()
        first = np.empty(len(names), np.int64)
        first[place] = np.arange(len(place))  # any one: those of equal names are written alike
        written, table = written.take(pa.array(first)), place[codes]
    order = name_order(names)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    table = rank[table]
    numbered, start = [], 0
    for column in columns:
        parts = []
        for chunk in column:
            parts.append(table[start:][chunk.indices.to_numpy()])
            start += len(chunk.dictionary)
        numbered.append(np.concatenate(parts))
    order = pa.array(order)
    names = names.take(order)
    return names, (names if rename is None else written.take(order)), numbered


def in_columns(columns: list, chosen: Sequence[bool], codes: np.ndarray, count: int) -> np.ndarray:
    """bool [count]: which of `count` names the chosen columns hold; `codes` are those of all dictionaries in turn."""
    held, start = np.zeros(count, bool), 0
    for column, wanted in zip(columns, chosen, strict=True):
        size = sum(len(chunk.dictionary) for chunk in column)
        if wanted:
            held[codes[start : start + size]] = True
        start += size
    return held
