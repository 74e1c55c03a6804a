"""Triples of ids part by part: numbered, without repeated ones, and what is found in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kgfast.data.findings import Turned, count_in, keys_of, strong_pairs
from kgfast.data.prepared.numbering import Advance, HashTable
from kgfast.data.prepared.spill import PARTS, Pieces, RowSpill
from kgfast.data.sources import SPLITS
from kgfast.data.strings import Strings

LEAKS = (("valid", "train"), ("test", "train"), ("test", "valid"))


class Triples:
    """The triples of a split in a file of int64 [M, 3], which are part by part those of the unordered pairs."""

    def __init__(self, folder: Path, split: str):
        path = folder / f"{split}.triples"
        path.unlink(missing_ok=True)
        self.pieces, self.ends = Pieces(path, "<i8", 3), [0]

    def append(self, rows: np.ndarray) -> None:
        """The next part."""
        self.pieces.append(rows)
        self.ends.append(self.ends[-1] + len(rows))

    def part(self, number: int) -> np.ndarray:
        return self.pieces.read(self.ends[number], self.ends[number + 1])

    def parts(self) -> Iterator[np.ndarray]:
        return (self.part(number) for number in range(PARTS))

    def __len__(self) -> int:
        return self.ends[-1]


def number_triples(
    spills: dict[str, RowSpill], folder: Path, entities: HashTable, relations: HashTable, advance: Advance
) -> tuple[dict[str, Triples], dict[str, int]]:
    """(triples of each split, each once, by relation, head and tail in their part; how many of one split are in
    another)."""
    tables = {split: Triples(folder, split) for split in SPLITS}
    leaked = {f"{later} in {earlier}": 0 for later, earlier in LEAKS}
    for number, parts in enumerate(zip(*(spill.parts() for spill in spills.values()), strict=True)):
        advance(number + 1, PARTS)
        rows = dict.fromkeys(SPLITS, np.empty((0, 3), np.int64))
        if not any(map(len, parts)):  # as most are in a small graph
            for table in tables.values():
                table.append(rows["train"])
            continue
        for split, hashes in zip(spills, parts, strict=True):
            ends = entities.find(hashes[:, [0, 2]].ravel()).reshape(-1, 2)
            rows[split] = np.stack((ends[:, 0], relations.find(hashes[:, 1]), ends[:, 1]), axis=1)
        keys = keys_of(rows, len(entities), len(relations))
        for split in SPLITS:
            order = np.argsort(keys[split])
            ascending = keys[split][order]
            first = np.concatenate(([True], ascending[1:] != ascending[:-1])) if len(order) else np.empty(0, bool)
            keys[split] = ascending[first]
            tables[split].append(rows[split][order[first]])
        for later, earlier in LEAKS:
            leaked[f"{later} in {earlier}"] += count_in(keys[later], keys[earlier])
    return tables, leaked


def examine_parts(tables: dict[str, Triples], entities: int, relations: Strings, advance: Advance) -> dict[str, Any]:
    """What `kgfast.data.findings.examine` finds in triples, as the entries of a DataReport."""
    number = len(relations)
    seen, seen_relations = np.zeros(entities, bool), np.zeros(number, bool)
    codes, common, sizes = np.empty(0, np.int64), np.empty(0, np.int64), np.zeros(number, np.int64)
    loops = dict.fromkeys(SPLITS, 0)
    for place, rows in enumerate(tables["train"].parts()):
        advance(place + 1, PARTS)
        if not len(rows):
            continue
        seen[rows[:, [0, 2]].ravel()] = True
        seen_relations[rows[:, 1]] = True
        turned = Turned(rows, entities)
        loops["train"] += len(rows) - len(turned.train)
        sizes += np.bincount(turned.train[:, 1], minlength=number)
        more, counts = turned.codes(number)
        codes, where = np.unique(np.concatenate((codes, more)), return_inverse=True)
        common = np.bincount(where, np.concatenate((common, counts)), len(codes)).astype(np.int64)
    pairs, codes = strong_pairs(codes, common, sizes, relations)
    found: dict[str, Any] = {
        "unseen_entities": {"all": int((~seen).sum())},
        "unseen_relations": {"all": int((~seen_relations).sum())},
        "unseen_triples": {},
        "inverse_leaked": {},
        "inverse_pairs": pairs,
        "self_loops": loops,
    }
    for split in ("valid", "test"):
        fresh, fresh_relations, unknown, leaked = np.zeros(entities, bool), np.zeros(number, bool), 0, 0
        for place, rows in enumerate(tables[split].parts()):
            if not len(rows):
                continue
            ends = rows[:, [0, 2]]
            new, new_relations = ~seen[ends], ~seen_relations[rows[:, 1]]
            fresh[ends[new]], fresh_relations[rows[new_relations, 1]] = True, True
            unknown += int((new.any(axis=1) | new_relations).sum())
            loops[split] += int((rows[:, 0] == rows[:, 2]).sum())
            leaked += Turned(tables["train"].part(place), entities).leaked(rows, number, codes)
        found["unseen_entities"][split] = int(fresh.sum())
        found["unseen_relations"][split] = int(fresh_relations.sum())
        found["unseen_triples"][split], found["inverse_leaked"][split] = unknown, leaked
    return found
