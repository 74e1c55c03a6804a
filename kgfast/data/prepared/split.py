"""Train, valid and test of one set of triples: drawn by a seed, and train holds every entity and relation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kgfast.data.prepared.hashing import mix
from kgfast.data.prepared.numbering import Advance
from kgfast.data.prepared.spill import PARTS
from kgfast.data.prepared.triples import Triples
from kgfast.data.sources import SPLITS
from kgfast.errors import DataError

COARSE = 16  # bits of the numbers that are counted first, to find those at a border
LAST = np.uint64(2**64 - 1)
SECOND = np.uint64(0x9E3779B97F4A7C15)


def as_shares(split: object) -> tuple[float, float, float]:
    """The shares of train, valid and test from "0.9,0.05,0.05" or three numbers; DataError where they are none."""
    parts = split.split(",") if isinstance(split, str) else split
    try:
        train, valid, test = (float(part) for part in parts)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise DataError(f"split must be three shares, as in 0.9,0.05,0.05, not {split!r}") from None
    if not (0 < train < 1 and 0 <= valid < 1 and 0 <= test < 1 and abs(train + valid + test - 1) < 1e-6):
        raise DataError(f"split={split}: the shares of train, valid and test must add up to 1, and train's not be 0")
    return train, valid, test


def draw(rows: np.ndarray, seed: int) -> np.ndarray:
    """uint64: a random number of each triple."""
    if not len(rows):
        return np.empty(0, np.uint64)
    drawn = mix(np.full(len(rows), seed, np.uint64))
    for column in range(3):
        drawn = mix(drawn ^ rows[:, column].astype(np.uint64))
    return drawn


class Anchors:
    """Of each entity and each relation the triple with the least number of all it is in: these stay in train."""

    def __init__(self, triples: Triples, entities: int, relations: int, seed: int):
        self.seed = seed
        self.least = [np.full(count, LAST) for count in (entities, relations)]
        for rows in triples.parts():
            drawn = draw(rows, seed)
            for column, least in enumerate((self.least[0], self.least[1], self.least[0])):
                np.minimum.at(least, rows[:, column], drawn)

    def free(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(whether a triple may leave train, another random number of each)."""
        drawn = draw(rows, self.seed)
        kept = drawn == self.least[1][rows[:, 1]]
        for column in (0, 2):
            kept |= drawn == self.least[0][rows[:, column]]
        return ~kept, mix(drawn ^ SECOND)


def split_triples(
    triples: Triples, folder: Path, shares: tuple[float, ...], seed: int, sizes: tuple[int, int], advance: Advance
) -> dict[str, Triples]:
    """Valid and test are drawn evenly from the triples that train can spare, and have their shares of all exactly."""
    anchors = Anchors(triples, *sizes, seed)
    counts = [round(len(triples) * share) for share in shares[1:]]
    borders = least_numbers(triples, anchors, counts)
    tables = {split: Triples(folder, split) for split in SPLITS}
    for part, rows in enumerate(triples.parts()):
        free, drawn = anchors.free(rows)
        place = np.where(free, np.searchsorted(borders, drawn, side="right"), len(counts))
        for number, split in enumerate(("valid", "test", "train")):
            tables[split].append(rows[place == number])
        advance(part + 1, PARTS)
    return tables


def least_numbers(triples: Triples, anchors: Anchors, counts: list[int]) -> np.ndarray:
    """uint64 by split: below the first are as many numbers of free triples as it has, and so on."""
    shift = np.uint64(64 - COARSE)
    coarse = np.zeros(1 << COARSE, np.int64)
    for rows in triples.parts():
        free, drawn = anchors.free(rows)
        coarse += np.bincount(drawn[free] >> shift, minlength=1 << COARSE)
    ranks = np.cumsum(counts)
    if ranks[-1] > coarse.sum():
        raise DataError(
            f"split: {ranks[-1]:,} triples for valid and test are too many: {coarse.sum():,} of {len(triples):,} may "
            "leave train, which keeps one of each entity and relation"
        )
    below = np.cumsum(coarse)
    places = np.searchsorted(below, ranks, side="right")  # where the first number stands that is no longer taken
    near: list[list[np.ndarray]] = [[] for _ in ranks]
    for rows in triples.parts():
        free, drawn = anchors.free(rows)
        drawn = drawn[free]
        for place, found in zip(places, near, strict=True):
            found.append(drawn[drawn >> shift == np.uint64(place)])
    borders = []
    for rank, place, found in zip(ranks, places, near, strict=True):
        numbers = np.sort(np.concatenate(found))
        before = below[place - 1] if place else 0
        borders.append(numbers[rank - before] if place < len(below) else LAST)
    return np.array(borders, np.uint64)
