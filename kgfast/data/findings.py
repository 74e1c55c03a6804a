"""What is found in a graph: duplicates, leakage between splits, the unseen, inverse relations, odd names."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from kgfast.data.look_alikes import LookAlike, look_alikes, odd_names
from kgfast.data.report import DataReport, InversePair, shown
from kgfast.data.strings import Strings

INVERSE_SHARE = 0.8
FEW = 5  # triples a relation
LARGEST = np.iinfo(np.int64).max


def examine(name: str, splits: dict[str, np.ndarray], entities: Strings, relations: Strings):
    """(splits without duplicates, DataReport). `splits` are int64 [M, 3] whose ids are in range.

    Sorts all triples twice; memory some ten int64 per triple.
    """
    read = {split: len(rows) for split, rows in splits.items()}
    keys = keys_of(splits, len(entities), len(relations))
    for split in splits:
        keys[split], first = distinct(keys[split])
        if first is not None:
            splits = {**splits, split: splits[split][first]}
    leaked = {
        f"{later} in {earlier}": count_in(keys[later], keys[earlier])
        for later, earlier in (("valid", "train"), ("test", "train"), ("test", "valid"))
    }
    del keys
    pairs, inverse_leaked = inverse_relations(splits, len(entities), relations)
    return splits, DataReport(
        name=name,
        entities=len(entities),
        relations=len(relations),
        read=read,
        duplicates={split: read[split] - len(rows) for split, rows in splits.items()},
        triples={split: len(rows) for split, rows in splits.items()},
        self_loops={split: int((rows[:, 0] == rows[:, 2]).sum()) for split, rows in splits.items()},
        leaked=leaked,
        **_unseen(splits, len(entities), len(relations)),
        inverse_pairs=pairs,
        inverse_leaked=inverse_leaked,
        fingerprint=fingerprint(splits, entities, relations),
        **about_names(entities, relations, sum(map(len, splits.values()))),
    )


def first_lines_alone(splits: dict[str, np.ndarray], num_relations: int) -> list[str]:
    """The splits whose first line has names that occur nowhere but in first lines, as those of a header do.

    Nothing is said of few triples, nor where many relations are that rare.
    """
    filled = {split: rows for split, rows in splits.items() if len(rows)}
    if sum(map(len, filled.values())) < FEW * num_relations:
        return []
    return [split for split, rows in filled.items() if _alone(rows[0], filled.values())]


def _alone(row: np.ndarray, splits: Iterable[np.ndarray]) -> bool:
    for columns, name in ((slice(1, 2), row[1]), (slice(0, 3, 2), row[0]), (slice(0, 3, 2), row[2])):
        for rows in splits:  # mostly, a look at the relations is enough
            if (rows[:, columns] == name).sum() > (rows[0, columns] == name).sum():
                return False
    return True


def about_names(entities: Strings, relations: Strings, triples: int, most: float = math.inf) -> dict:
    """What looks odd about the names; those that look alike are looked for among at most so many."""
    alike: list[LookAlike] = []
    count, notes = 0, []
    for where, names in (("entities", entities), ("relations", relations)):
        if len(names) <= most:
            found, number = look_alikes(where, names.array)
            alike, count = alike + found, count + number
        else:
            notes.append(f"Of {len(names):,} {where}, names that look alike were not looked for.")
        odd, some = odd_names(names.array)
        if odd:
            notes.append(
                f"Names of {where} that begin or end with white space, or hold characters that can't be seen: {odd:,}, "
                f"such as {' and '.join(map(repr, some))}."
            )
    if len(relations) > len(entities) and triples < FEW * len(relations):
        notes.append(
            f"There are more relations than entities, such as {shown(relations[0])}: if the columns are in another "
            "order than head, relation, tail, columns= says so."
        )
    return {"look_alikes": alike, "look_alike_count": count, "notes": notes}


def keys_of(splits: dict[str, np.ndarray], num_entities: int, num_relations: int) -> dict[str, np.ndarray]:
    """One int64 a triple, equal where the triples are equal, in any split."""
    rows = np.concatenate(list(splits.values()))
    front = rows[:, 1] * num_entities + rows[:, 0]
    if num_relations * num_entities * num_entities > LARGEST:
        front = np.unique(front, return_inverse=True)[1]  # at most as many values as triples, so the product fits
    key = front * num_entities + rows[:, 2]
    return dict(zip(splits, np.split(key, np.cumsum([len(rows) for rows in splits.values()])[:-1]), strict=True))


def distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(distinct keys ascending, where each occurs first, ascending, or None if none repeats)."""
    ascending = np.sort(keys)
    if (ascending[1:] != ascending[:-1]).all():  # the usual case needs no slower argsort
        return ascending, None
    order = np.argsort(keys)
    ascending = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1])))
    return ascending[starts], np.sort(np.minimum.reduceat(order, starts))


def count_in(keys: np.ndarray, others: np.ndarray) -> int:
    """How many of `keys` are among `others`; both ascending and distinct."""
    if not len(others):
        return 0
    place = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    return int((others[place] == keys).sum())


def _unseen(splits: dict[str, np.ndarray], num_entities: int, num_relations: int) -> dict[str, Any]:
    train = splits["train"]
    seen_entity, seen_relation = np.zeros(num_entities, bool), np.zeros(num_relations, bool)
    seen_entity[train[:, 0]] = seen_entity[train[:, 2]] = True
    seen_relation[train[:, 1]] = True
    entities = {"all": int((~seen_entity).sum())}
    relations = {"all": int((~seen_relation).sum())}
    triples = {}
    for split in ("valid", "test"):
        rows = splits[split]
        known = seen_entity[rows[:, 0]] & seen_entity[rows[:, 2]] & seen_relation[rows[:, 1]]
        entities[split] = len(np.unique(rows[:, [0, 2]][~seen_entity[rows[:, [0, 2]]]]))
        relations[split] = len(np.unique(rows[:, 1][~seen_relation[rows[:, 1]]]))
        triples[split] = int((~known).sum())
    return {"unseen_entities": entities, "unseen_relations": relations, "unseen_triples": triples}


class Turned:
    """Triples by the pair they link, to find those that link it the other way around.

    A triple from an entity to itself is its own reverse and has no part.
    """

    def __init__(self, train: np.ndarray, num_entities: int):
        self.train = train = train[train[:, 0] != train[:, 2]]
        self.num_entities = num_entities
        pair = train[:, 0] * num_entities + train[:, 2]
        order = np.argsort(pair)
        pair, self.relation = pair[order], train[order, 1]
        self.starts = np.flatnonzero(np.diff(pair, prepend=-1))
        self.distinct, self.counts = pair[self.starts], np.diff(self.starts, append=len(pair))

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(row, relation of a training triple that is this row turned around), one entry for every such triple."""
        key = rows[:, 2] * self.num_entities + rows[:, 0]
        by_key = np.argsort(key)  # ascending queries keep the binary search in cache
        place = np.searchsorted(self.distinct, key[by_key])
        place[place == len(self.distinct)] = -1
        found = self.distinct[place] == key[by_key] if len(self.distinct) else place >= 0
        by_key, place = by_key[found], place[found]
        start, count = self.starts[place], self.counts[place]
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(by_key, count), self.relation[np.repeat(start, count) + within]

    def codes(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(relation * number + inverse, how many triples have such a reverse), by ascending code."""
        row, inverse = self.of(self.train)
        return np.unique(self.train[row, 1] * number + inverse, return_counts=True)

    def leaked(self, rows: np.ndarray, number: int, codes: np.ndarray) -> int:
        """How many rows have a reverse by one of the codes."""
        row, inverse = self.of(rows)
        by_pair = np.isin(rows[row, 1] * number + inverse, codes) & (rows[row, 0] != rows[row, 2])
        found = np.zeros(len(rows), bool)
        found[row[by_pair]] = True
        return int(found.sum())


def strong_pairs(codes, common, sizes: np.ndarray, relations: Strings) -> tuple[list[InversePair], np.ndarray]:
    """(pairs with a share of at least INVERSE_SHARE by falling size, their codes); `sizes`: training triples of each
    relation that don't lead from an entity to itself."""
    number = len(relations)
    share = common / sizes[codes // number]
    strong = share >= INVERSE_SHARE
    codes, share = codes[strong], share[strong]
    by_size = np.lexsort((codes, -sizes[codes // number]))
    pairs = [
        InversePair(relations[int(c) // number], relations[int(c) % number], float(s), int(sizes[int(c) // number]))
        for c, s in zip(codes[by_size], share[by_size], strict=True)
    ]
    return pairs, codes


def inverse_relations(splits: dict[str, np.ndarray], num_entities: int, relations: Strings):
    """(InversePairs of train, triples of valid and test leaked by them)."""
    turned, number = Turned(splits["train"], num_entities), len(relations)
    sizes = np.bincount(turned.train[:, 1], minlength=number)
    pairs, codes = strong_pairs(*turned.codes(number), sizes, relations)
    return pairs, {split: turned.leaked(splits[split], number, codes) for split in ("valid", "test")}


def fingerprint(splits: dict[str, np.ndarray], entities: Strings, relations: Strings) -> str:
    """Hex sha256 over the names in order of their ids and the triples in order, little-endian int64."""
    digest = hashlib.sha256()
    for names in (entities, relations):
        digest.update(np.array([len(names)], "<i8").data)
        for part in names.buffers():
            digest.update(np.ascontiguousarray(part).data)
    for split in ("train", "valid", "test"):
        rows = np.ascontiguousarray(splits[split], "<i8")
        digest.update(np.array([len(rows)], "<i8").data)
        digest.update(rows.data)
    return digest.hexdigest()
