"""Ids of names: the place of a name's hash among all of them, whatever the order of files and lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.arrays import MOST_IDS
from kgfast.data.prepared.hashing import contents
from kgfast.data.prepared.spill import PARTS, NameSpill, Pieces
from kgfast.errors import DataError

BORDERS = 1 << 20  # that are found at a time
Advance = Callable[[int, int], None]


class SameHash(Exception):
    """Two names have one hash: another salt is needed."""


def distinct(hashes: np.ndarray, names: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Both by ascending hash, each once; SameHash where different names have one."""
    order = np.argsort(hashes)
    hashes, names = hashes[order], names.take(pa.array(order))
    again = hashes[1:] == hashes[:-1]
    if again.any():
        mask = pa.array(again)
        if not pc.all(pc.equal(names.slice(1).filter(mask), names.slice(0, len(again)).filter(mask))).as_py():
            raise SameHash
        first = np.concatenate(([True], ~again))
        hashes, names = hashes[first], names.filter(pa.array(first))
    return hashes, names


def number_names(spill: NameSpill, folder: Path, kind: str, advance: Advance) -> HashTable:
    """Write `kind`.names (UTF-8, one behind the other) and `kind`.offsets (int64, where each begins, and the end) by
    ascending id; the table that finds ids."""
    found, count = np.empty(len(spill.hashes), np.uint64), 0  # what stays empty at its end takes no memory
    (folder / f"{kind}.names").unlink(missing_ok=True)
    (folder / f"{kind}.offsets").unlink(missing_ok=True)
    letters, offsets = Pieces(folder / f"{kind}.names", "u1"), Pieces(folder / f"{kind}.offsets", "<i8")
    offsets.append(np.zeros(1, np.int64))
    for part, (hashes, names) in enumerate(spill.parts()):
        hashes, names = distinct(hashes, names)
        begins, content = contents(names)
        offsets.append(len(letters) + begins[1:])
        letters.append(content)
        found[count : count + len(hashes)] = hashes
        count += len(hashes)
        advance(part + 1, PARTS)
    letters.close()
    offsets.close()
    if count > MOST_IDS:
        raise DataError(f"{count:,} {kind} are too many: a table has at most {MOST_IDS:,} rows")
    return HashTable(found[:count])


class HashTable:
    """The id of each hash: its place in `hashes`, which ascend and are spread evenly. Some 12 bytes a name."""

    def __init__(self, hashes: np.ndarray):
        self.hashes = hashes
        bits = max(1, int(len(hashes)).bit_length() - 1)
        self.shift = np.uint64(64 - bits)
        self.begins = np.empty(1 << bits, np.int32)
        for start in range(0, 1 << bits, BORDERS):
            borders = np.arange(start, min(start + BORDERS, 1 << bits), dtype=np.uint64) << self.shift
            self.begins[start : start + BORDERS] = np.searchsorted(hashes, borders)

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """int64 ids of hashes that are all in the table."""
        place = self.begins[hashes >> self.shift].astype(np.int64)
        wrong = np.flatnonzero(self.hashes[place] != hashes)
        while len(wrong):  # few names share their first bits
            place[wrong] += 1
            wrong = wrong[self.hashes[place[wrong]] != hashes[wrong]]
        return place
