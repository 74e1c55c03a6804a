"""The order of a step's rows: the ids of all its tables, sorted once on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kgfast.backends.cpu import _C, pointer, pointers
from kgfast.errors import KgfastError

MOST_ENTRIES = 2**32  # an entry has 32 bits for its position


class Order(NamedTuple):
    """Entries id << 32 | position of a table, by id, then by position; both count from the table's first on."""

    entries: Tensor  # int64
    first_id: int
    first_position: int

    def ids(self) -> Tensor:
        return (self.entries >> 32) - self.first_id


Sort = Callable[[Sequence[tuple[Tensor, int]], int], Tensor]  # (ids, first id of their table), bound of all ids


def order_tables(sources: Sequence[Sequence[Tensor]], rows: Sequence[int], sort: Sort) -> list[Order]:
    """The order of the ids of each table, which has so many rows: sorted together where their ids fit 31 bits."""
    if sum(rows) >= 2**31:
        return [order_tables([own], [count], sort)[0] for own, count in zip(sources, rows, strict=True)]
    first_ids = [sum(rows[:place]) for place in range(len(rows))]
    counts = [sum(ids.numel() for ids in own) for own in sources]
    if sum(counts) >= MOST_ENTRIES:
        raise KgfastError(f"a step of {sum(counts)} rows; below 2^32 are possible")
    flat = [(ids, first) for own, first in zip(sources, first_ids, strict=True) for ids in own if ids.numel()]
    entries = sort(flat, sum(rows)) if flat else torch.empty(0, dtype=torch.int64, device=sources[0][0].device)
    positions = [sum(counts[:place]) for place in range(len(counts))]
    return [Order(*one) for one in zip(entries.split(counts), first_ids, positions, strict=True)]


def sort_by_torch(sources: Sequence[tuple[Tensor, int]], bound: int) -> Tensor:
    """For who has no other: ids of 32 bits are sorted, whatever the bound."""
    flat = torch.cat([(ids.reshape(-1) + first if first else ids.reshape(-1)) for ids, first in sources])
    ids, places = torch.sort(flat.to(torch.int32), stable=True)
    return ids.long() << 32 | places


def sort_by_cub(run: Callable, sources: Sequence[tuple[Tensor, int]], bound: int) -> Tensor:
    """kernels/cuda/sort.cu, on the bits that ids below `bound` have; run(kernel, like, ..) launches it."""
    like, count = sources[0][0], sum(ids.numel() for ids, _ in sources)
    entries, other = (torch.empty(count, dtype=torch.int64, device=like.device) for _ in range(2))
    needed: list[int] = []
    run(lambda target, rows: needed.append(_C.cuda.sort_bytes(target, rows)), like, count)
    workspace = torch.empty(needed[0], dtype=torch.uint8, device=like.device)
    places = [(pointer(ids), ids.numel(), first) for ids, first in sources]
    run(_C.cuda.sort_rows, like, places, bound, *pointers(entries, other, workspace), needed[0])
    return entries


def launch(kernel, like: Tensor, *arguments) -> None:
    """kernel(target, ..) on the current stream of the GPU of `like`, which devices.py has made the current one."""
    kernel((False, torch.cuda.current_stream(like.device).cuda_stream), *arguments)
