"""The first pass: triples of all files become rows of hashes, and their names are kept once a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from kgfast.data.columns import Columns, Counted
from kgfast.data.malformed import BadLines
from kgfast.data.prepared.hashing import mix, name_hashes
from kgfast.data.prepared.numbering import Advance, distinct
from kgfast.data.prepared.spill import NameSpill, RowSpill, Spill, part_of


@dataclass(frozen=True)
class Input:
    """Triples of one split: `read` gives them part by part, the same ones each time."""

    split: str
    file: str  # its name, for the report
    read: Callable[[BadLines], Iterator[Columns]]
    size: int  # bytes, for who waits; 0 where that isn't known


@dataclass
class Progress:
    """How far reading is, and what it found; it is kept as JSON, so that a later process goes on."""

    parts: dict[str, int] = field(default_factory=dict)  # by split: parts that were read
    ended: list[str] = field(default_factory=list)  # splits that were read to the end
    triples: dict[str, int] = field(default_factory=dict)
    literals: int = 0
    headers: dict[str, str] = field(default_factory=dict)  # by file, as in DataReport
    dropped: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list] = field(default_factory=dict)
    bad: dict[str, dict] = field(default_factory=lambda: {"count": {}, "first": {}})  # as in BadLines

    def add(self, one: Input, columns: Columns, count: int) -> None:
        self.parts[one.split] = self.parts.get(one.split, 0) + 1
        self.triples[one.split] = self.triples.get(one.split, 0) + count
        self.literals += columns.literals
        self.notes.setdefault(one.file, [])
        if columns.header:
            self.headers[one.file] = columns.header
        if columns.dropped:
            self.dropped[one.file] = columns.dropped
        notes = Columns(notes=[Counted(*note) if isinstance(note, list) else note for note in self.notes[one.file]])
        notes.add_notes(columns.notes)
        self.notes[one.file] = [list(note) if isinstance(note, Counted) else note for note in notes.notes]

    def lines(self) -> list[str]:
        """The notes, as sentences."""
        return [
            f"{file}: {Counted(*note) if isinstance(note, list) else note}."
            for file, notes in self.notes.items()
            for note in notes
        ]


class Spills:
    """Where all of it goes."""

    def __init__(self, folder: Path, splits: list[str]):
        self.entities, self.relations = NameSpill(folder, "entity"), NameSpill(folder, "relation")
        self.rows = {split: RowSpill(folder, split) for split in splits}

    def all(self) -> list[Spill]:
        return [self.entities, self.relations, *self.rows.values()]

    def close(self) -> None:
        for spill in self.all():
            spill.close()

    def append(self, split: str, columns: Columns, salt: int) -> int:
        """How many triples there were."""
        count = 0
        for head, relation, tail in zip(columns.head, columns.relation, columns.tail, strict=True):
            if not len(head):
                continue
            (heads, of_heads), (tails, of_tails) = hashed(head, salt), hashed(tail, salt)
            kinds, of_kinds = hashed(relation.dictionary_encode(), salt)
            both = (np.concatenate((of_heads[0], of_tails[0])), pa.concat_arrays([of_heads[1], of_tails[1]]))
            self.entities.append(*distinct(*both))
            self.relations.append(*distinct(*of_kinds))
            self.rows[split].append(np.stack((heads, kinds, tails), axis=1), part_of(mix(heads + tails)))
            count += len(head)
        return count


def hashed(chunk: pa.Array, salt: int) -> tuple[np.ndarray, tuple[np.ndarray, pa.Array]]:
    """(hash of each row, (hashes of names, names)), where a name may stand more than once."""
    if pa.types.is_dictionary(chunk.type):
        hashes = name_hashes(chunk.dictionary, salt)
        return hashes[chunk.indices.to_numpy()], (hashes, chunk.dictionary.cast(pa.large_string()))
    hashes = name_hashes(chunk, salt)
    return hashes, (hashes, chunk.cast(pa.large_string()))


def read_all(
    inputs: list[Input], spills: Spills, progress: Progress, salt: int, bad: BadLines, advance: Advance, save: Callable
) -> None:
    """Read what hasn't been read. `save()` is called behind each part, when all of it was handed on."""
    total = sum(one.size for one in inputs)
    before = 0
    for one in inputs:
        done = progress.parts.get(one.split, 0)
        found = BadLines(skip=bad.skip)
        for number, columns in enumerate(() if one.split in progress.ended else one.read(found)):
            if number < done:
                found.clear()  # an earlier process told of them
                continue
            bad.take(found)
            progress.add(one, columns, spills.append(one.split, columns, salt))
            progress.bad = {"count": bad.count, "first": bad.first}
            save()
            advance(before + min(columns.read, one.size), total)
        progress.ended.append(one.split)
        before += one.size
