"""Triples and names that a program hands in as arrays and lists, checked before memory is taken for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from kgfast.core import checks
from kgfast.core.known import as_ids
from kgfast.data.names import Names
from kgfast.errors import DataError

MOST_IDS = 2**31 - 1  # a table has fewer than 2^31 rows
SURROGATE = re.compile("[\ud800-\udfff]")
SPARSE_IDS, IDS_PER_ROW = 10_000_000, 100  # an id from both on is taken for a slip


def as_triples(rows: Any, split: str) -> torch.Tensor:
    """The rows as an int64 [M, 3] tensor on the CPU; ids are checked later."""
    if rows is None:
        return torch.empty((0, 3), dtype=torch.int64)
    return as_ids(rows, split).cpu().clone(memory_format=torch.contiguous_format)


class Largest(NamedTuple):
    """The largest id of some columns, and what stands there."""

    id: int
    place: str  # train[3]
    rows: int  # of all splits

    @classmethod
    def of(cls, splits: dict[str, torch.Tensor], columns: tuple[int, ...]) -> Largest:
        found = []
        for split, rows in splits.items():
            if len(rows):
                ids = rows[:, list(columns)].max(1).values
                found.append((int(ids.max()), f"{split}[{int(ids.argmax())}]"))
        return cls(*max(found, key=lambda one: one[0]), sum(map(len, splits.values())))


def as_names(kind: str, names: Sequence[str] | None, count: int | None, largest: Largest) -> Names:
    """Names by id: those given, checked, or the ids as text."""
    count = None if count is None else checked_count(kind, count)
    if names is None:
        count = count_of(kind, largest) if count is None else count
        try:
            return Names(pa.array(np.arange(count)).cast(pa.large_string()))
        except MemoryError as error:
            raise DataError(f"no memory for the names of {count:,} {kind} ids: {error}") from None
    if isinstance(names, str) or not isinstance(names, (Sequence, np.ndarray)):
        raise DataError(f"{kind}_names must be a list of strings, not {names!r}")
    if count is not None and count != len(names):
        raise DataError(f"{kind}_names has {len(names)} names for {count} ids")
    for place, text in enumerate(names):
        if not isinstance(text, str) or not text:
            raise DataError(f"{kind}_names[{place}] must be a string that isn't empty, not {text!r}")
    try:
        names = Names(names)
    except UnicodeEncodeError:
        place, text = next((place, text) for place, text in enumerate(names) if SURROGATE.search(text))
        raise DataError(f"{kind}_names[{place}] is no valid text: {text!r}") from None
    first = names.find_all(names.array)  # the first place of each name
    repeated = np.flatnonzero(first != np.arange(len(names)))
    if len(repeated):
        place = int(repeated[0])
        raise DataError(f"{kind}_names[{place}] repeats {names[place]!r}, the name of {int(first[place])}")
    return names


def argument_of(kind: str) -> str:
    """What from_arrays calls the number of ids."""
    return f"num_{'entities' if kind == 'entity' else 'relations'}"


def checked_count(kind: str, count: object) -> int:
    """The number of ids that the caller gives."""
    found, given = checks.as_integer(count), argument_of(kind)
    if checks.is_truth(found) or not isinstance(found, int):
        raise DataError(f"{given} must be an integer, not {count!r}")
    if not 1 <= found <= MOST_IDS:
        raise DataError(f"{given}={found}: must be from 1 to {MOST_IDS:,}")
    return found


def count_of(kind: str, largest: Largest) -> int:
    """How many ids there are. DataError, before any memory is taken, for what can't be meant."""
    if largest.id >= max(SPARSE_IDS, IDS_PER_ROW * largest.rows):
        raise DataError(
            f"{largest.place}: {kind} id {largest.id} would make {largest.id + 1:,} rows, and triples are "
            f"{largest.rows:,}: number what occurs from 0, or give {argument_of(kind)}"
        )
    return max(largest.id, 0) + 1
