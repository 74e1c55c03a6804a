"""Strings by id in Arrow memory: millions of names cost their bytes, not a Python object each."""

from __future__ import annotations

import difflib
import operator
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

WHOLE_NUMBER = r"^(0|[1-9][0-9]{0,17})$"
NEIGHBOURS = 10_000


class Strings(Sequence):
    """A sequence of str by id, read-only, maybe memory-mapped; an item of a column of texts may be None."""

    def __init__(self, values: pa.Array | Iterable[str | None]):
        if not isinstance(values, pa.Array):
            values = pa.array(list(values), pa.large_string())
        self.array = values.cast(pa.large_string())  # no copy where it is one already

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.array.take(pa.array(range(*index.indices(len(self))), pa.int64())).to_pylist()
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"id {index} is outside [0, {len(self)})")
        return self.array[index % len(self)].as_py()

    def __iter__(self):
        for start in range(0, len(self), NEIGHBOURS):  # block by block: a list of all would be large
            yield from self.array.slice(start, NEIGHBOURS).to_pylist()

    def __eq__(self, other) -> bool:
        if isinstance(other, Strings):
            return self.array.equals(other.array)
        if isinstance(other, (list, tuple)):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"Strings([{shown}{', ...' if len(self) > 3 else ''}], {len(self):,} in all)"

    @cached_property
    def _order(self) -> np.ndarray:
        """Ids by ascending string, missing ones left out. 8 bytes an entry, made at the first search."""
        order = pc.array_sort_indices(self.array).to_numpy()
        return order[: len(self) - self.array.null_count]

    def _place(self, text: str) -> int:
        return bisect_left(self._order, text, key=lambda index: self.array[int(index)].as_py())

    def find(self, text: str) -> int | None:
        """The id of `text` (any one of them where it occurs more than once), or None. O(log n)."""
        place = self._place(text)
        if place < len(self._order) and self[self._order[place]] == text:
            return int(self._order[place])
        return None

    def find_all(self, texts) -> np.ndarray:
        """The id of each of `texts` (a list or an Arrow array), -1 where there is none; int64, O(n +
        len(texts)).
        """
        if not isinstance(texts, (pa.Array, pa.ChunkedArray)):
            texts = pa.array(texts, pa.large_string())
        found = pc.index_in(texts.cast(pa.large_string()), value_set=self.array)
        return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def nearest(self, text: str, count: int = 3) -> list[str]:
        """The strings most like `text`, best first; of a large table, only those that begin much like it
        compete.
        """
        place = self._place(text)
        near = self._order[max(0, place - NEIGHBOURS) : place + NEIGHBOURS]
        return difflib.get_close_matches(text, self.array.take(pa.array(near)).to_pylist(), count)

    def buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """(offsets int64 [n + 1] from 0, UTF-8 bytes): the exact content, for hashing. Missing counts as
        empty.
        """
        _, offsets, data = self.array.buffers()
        start, stop = self.array.offset, self.array.offset + len(self) + 1
        offsets = np.frombuffer(offsets, np.int64)[start:stop] if offsets else np.zeros(1, np.int64)
        data = np.frombuffer(data or b"", np.uint8)
        return offsets - offsets[0], data[offsets[0] : offsets[-1]]


def name_order(names: pa.Array) -> np.ndarray:
    """The order that gives names their ids: by number where all are whole numbers, else by UTF-8 bytes."""
    if len(names) and pc.all(pc.match_substring_regex(names, WHOLE_NUMBER)).as_py():
        return np.argsort(names.cast(pa.int64()).to_numpy(), kind="stable")
    return pc.array_sort_indices(names).to_numpy()
