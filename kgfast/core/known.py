"""Known answers of every query, as CSR: what filtered ranking, redrawn negatives and multi-answer losses
read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike

from kgfast.core import checks
from kgfast.core.codes import is_one_of
from kgfast.errors import DataError, KgfastError

COLUMNS = ("head", "relation", "tail")
LARGEST = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Side:
    """One direction: `ids[offsets[i]:offsets[i + 1]]` answer the query `keys[i] = relation * num_entities +
    known`.
    """

    keys: torch.Tensor  # [K] int64, ascending
    offsets: torch.Tensor  # [K + 1] int64
    ids: torch.Tensor  # [M] int64, ascending within a query

    def to(self, device: torch.device | str) -> Side:
        return Side(self.keys.to(device), self.offsets.to(device), self.ids.to(device))


class KnownTriples:
    """The set of triples known to be true, looked up by query (head, relation, ?) or (?, relation, tail).

    Built by `from_triples`. Memory: 16 bytes a triple and 16 bytes a distinct query of either side.
    """

    def __init__(self, tail: Side, head: Side, num_entities: int, num_relations: int):
        self._sides = {"tail": tail, "head": head}
        self.num_entities = num_entities
        self.num_relations = num_relations

    @classmethod
    def from_triples(cls, triples: ArrayLike | torch.Tensor, num_entities: int, num_relations: int) -> KnownTriples:
        """Index triples; repeated ones count once. Costs two sorts of M keys.

        Args:
            triples: integers [M, 3] of (head, relation, tail), a tensor or an array.
            num_entities: heads and tails are below it.
            num_relations: relations are below it.

        DataError, naming value and row, for a wrong shape, a dtype that isn't integer, or an id out of range.
        """
        triples = as_ids(triples)
        num_entities = checks.integer("num_entities", num_entities, 1)
        num_relations = checks.integer("num_relations", num_relations, 1)
        check_triples(triples, num_entities, num_relations)
        head, relation, tail = triples.unbind(1)
        return cls(
            _side(relation * num_entities + head, tail, num_entities, num_relations),
            _side(relation * num_entities + tail, head, num_entities, num_relations),
            num_entities,
            num_relations,
        )

    def lookup(self, triples: torch.Tensor, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the known answers of B queries lie: (starts, ends), int64 [B], into `ids(side)`.

        A query that was never seen, or holds an id out of range, has an empty range. O(B log K), no synchronisation
        with the device, no data-dependent shapes.

        Args:
            triples: ids [B, 3], int64 or int32; the column asked for isn't read.
            side: which column is asked for, "tail" or "head".
        """
        index = self._side(side)
        triples = checks.triples(triples, index.ids, copy=False)
        known, relation = triples[:, 0 if side == "tail" else 2], triples[:, 1]
        if not len(index.keys):
            return torch.zeros_like(known), torch.zeros_like(known)
        # without the range tests, entity num_entities of relation r would pass for entity 0 of relation r + 1, and a
        # relation of 2^62 for 0, as keys wrap
        inside = (known >= 0) & (known < self.num_entities) & (relation >= 0) & (relation < self.num_relations)
        key = relation * self.num_entities + known
        place = torch.searchsorted(index.keys, key).clamp_(max=len(index.keys) - 1)
        found = inside & (index.keys[place] == key)
        return torch.where(found, index.offsets[place], 0), torch.where(found, index.offsets[place + 1], 0)

    def ids(self, side: str) -> torch.Tensor:
        """All answers of one side, int64 [M], ascending within each query; ranges come from `lookup`.

        Args:
            side: which column is asked for, "tail" or "head".
        """
        return self._side(side).ids

    def answers(self, triple: ArrayLike | torch.Tensor, side: str) -> torch.Tensor:
        """The known answers to one query, ascending int64 ids.

        Args:
            triple: (head, relation, tail), three integers; the one asked for isn't read.
            side: which of them is asked for, "tail" or "head".
        """
        row = as_tensor(triple, "triple")
        if row.numel() != 3:
            raise DataError(f"triple must be (head, relation, tail), not of shape {list(row.shape)}")
        row = as_ids(row.reshape(1, 3), "triple").to(self.device)
        start, end = (bound.item() for bound in self.lookup(row, side))
        return self.ids(side)[start:end]

    def reciprocal(self) -> KnownTriples:
        """The same knowledge for a model with 2R relations, where relation r + R is r turned around.

        The answers to (h, r, ?) stay; those to (?, r, t) become also the answers to (t, r + R, ?), and so on.
        """
        tail, head = self._sides["tail"], self._sides["head"]
        shift = self.num_relations * self.num_entities
        if 2 * shift > LARGEST:
            raise DataError("2 * num_relations * num_entities does not fit into 64 bits")
        sides = _append(tail, head, shift), _append(head, tail, shift)
        return KnownTriples(*sides, self.num_entities, 2 * self.num_relations)

    def to(self, device: torch.device | str) -> KnownTriples:
        """The same knowledge elsewhere.

        Args:
            device: such as "cpu" or "cuda".
        """
        device = checks.device("device", device)
        tail, head = (self._sides[side].to(device) for side in ("tail", "head"))
        return KnownTriples(tail, head, self.num_entities, self.num_relations)

    @property
    def device(self) -> torch.device:
        return self.ids("tail").device

    def __len__(self) -> int:
        """Distinct triples."""
        return len(self.ids("tail"))

    def __repr__(self) -> str:
        counts = f"{len(self):,} triples, {self.num_entities:,} entities, {self.num_relations:,} relations"
        return f"KnownTriples({counts}, {self.device})"

    def _side(self, side: str) -> Side:
        if not is_one_of(side, self._sides):
            raise KgfastError(f"side must be 'tail' or 'head', not {side!r}")
        return self._sides[side]


def check_form(triples: torch.Tensor, name: str = "triples") -> None:
    """Raise DataError unless `triples` is an integer tensor [M, 3]."""
    if triples.ndim != 2 or triples.shape[1] != 3:
        raise DataError(f"{name} must have shape [M, 3] (head, relation, tail), not {list(triples.shape)}")
    if triples.dtype == torch.bool or triples.is_floating_point() or triples.is_complex():
        raise DataError(f"{name} must hold integer ids, not {triples.dtype}")


def as_tensor(value: Any, name: str) -> torch.Tensor:
    """A tensor, array or list of numbers as a dense tensor; DataError for what isn't one."""
    try:
        return checks.tensor(name, torch.as_tensor(value))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(f"{name} is no array of integers of 64 bits: {error}") from None


def as_ids(triples: Any, name: str = "triples") -> torch.Tensor:
    """A tensor, array or list of integers as int64 [M, 3]. DataError for what isn't one; ids are checked later."""
    rows = as_tensor(triples, name)
    check_form(rows, name)
    ids = rows.to(torch.int64)
    if rows.dtype == torch.uint64 and (ids < 0).any():  # from 2^63 on
        row, column = (ids < 0).nonzero()[0].tolist()
        raise DataError(f"{name}[{row}]: {COLUMNS[column]} id {rows[row, column].item()} is beyond {LARGEST}")
    return ids


def check_triples(triples: torch.Tensor, num_entities: int, num_relations: int, name: str = "triples") -> None:
    """Raise DataError, naming value and row, unless `triples` is an integer [M, 3] with ids in range."""
    check_form(triples, name)
    if num_entities < 1 or num_relations < 1:
        raise DataError(f"num_entities ({num_entities}) and num_relations ({num_relations}) must be positive")
    if num_entities * num_relations > LARGEST:
        raise DataError(f"num_entities * num_relations ({num_entities} * {num_relations}) needs over 64 bits")
    for column, limit in enumerate((num_entities, num_relations, num_entities)):
        ids = triples[:, column]
        wrong = (ids < 0) | (ids >= limit)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise DataError(
                f"{name}[{row}]: {COLUMNS[column]} id {int(ids[row])} is outside [0, {limit}), "
                f"the ids of {limit} {'relations' if column == 1 else 'entities'}"
            )


def _side(keys: torch.Tensor, ids: torch.Tensor, num_entities: int, num_relations: int) -> Side:
    if num_relations * num_entities * num_entities <= LARGEST:
        both = torch.unique(keys * num_entities + ids)  # sorted by key, then by id
        keys = both // num_entities
        ids = both - keys * num_entities
    else:  # key and id don't fit into one 64-bit number: sort by id, then stably by key
        order = torch.argsort(ids, stable=True)
        order = order[torch.argsort(keys[order], stable=True)]
        keys, ids = keys[order], ids[order]
        first = torch.ones_like(keys, dtype=torch.bool)
        first[1:] = (keys[1:] != keys[:-1]) | (ids[1:] != ids[:-1])
        keys, ids = keys[first], ids[first]
    keys, counts = torch.unique_consecutive(keys, return_counts=True)
    return Side(keys, torch.nn.functional.pad(counts.cumsum(0), (1, 0)), ids)


def _append(first: Side, second: Side, shift: int) -> Side:
    keys = torch.cat([first.keys, second.keys + shift])
    offsets = torch.cat([first.offsets, second.offsets[1:] + len(first.ids)])
    return Side(keys, offsets, torch.cat([first.ids, second.ids]))
