"""The losses of several tasks at once: their tiles share persistent launches, so that small ones fill the device.

A task is the arguments of `candidate_loss` for dot products; all tasks have one dtype. Each is described by a row of
FIELDS 64-bit numbers in device memory (addresses and sizes), written by a kernel from its arguments: no copy from the
host, nothing read back, so that a CUDA graph can hold it. Going forward the losses come back as one tensor [T]; going
backward dL/dloss is read from a tensor [T], so that weights may be learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kgfast.kernels.triton.gradients import bias_gradient, slopes_block

from . import configurations
from .candidates import (
    COMPACT_BLOCK,
    coefficients_tile,
    compact_rows,
    list_queries,
    losses_block,
    statistics_tile,
)
from .configurations import GROUP, OBJECTIVES, TYPES, WORKSPACE_BYTES, arithmetic, bits, sum_dtype, tiles
from .launching import block, ceil_div, part_of, workspace_bytes
from .tiles import number, place_of

FIELDS = tl.constexpr(32)
(QUERY, TABLE, BIAS, STARTS, ENDS, ANSWERS, WEIGHTS, ROW_LIST, COUNTED, MOST, LARGEST, TOTAL, RIGHT, LOSSES, LOG_TOTAL,
 COEFFICIENTS, SUMS, D_TABLE, SCALE, BATCH, COUNT, DIM, OBJECTIVE, SHARE, FLOOR, FACTOR, PANEL, SLICE, SLICE_ROW) = (
    tl.constexpr(place) for place in range(29))  # fmt: skip


@triton.jit(do_not_specialize=[*range(1, 31)])
def describe(jobs, task, a: tl.int64, b: tl.int64, c: tl.int64, d: tl.int64, e: tl.int64, f: tl.int64, g: tl.int64,
             h: tl.int64, i: tl.int64, j: tl.int64, k: tl.int64, ll: tl.int64, m: tl.int64, n: tl.int64, o: tl.int64,
             p: tl.int64, q: tl.int64, r: tl.int64, s: tl.int64, t: tl.int64, u: tl.int64, v: tl.int64, w: tl.int64,
             x: tl.int64, y: tl.int64, z: tl.int64, aa: tl.int64, bb: tl.int64, cc: tl.int64):  # fmt: skip
    """jobs[task] = the arguments, in the order of the fields."""
    job = jobs + task * FIELDS
    tl.store(job + 0, a)
    tl.store(job + 1, b)
    tl.store(job + 2, c)
    tl.store(job + 3, d)
    tl.store(job + 4, e)
    tl.store(job + 5, f)
    tl.store(job + 6, g)
    tl.store(job + 7, h)
    tl.store(job + 8, i)
    tl.store(job + 9, j)
    tl.store(job + 10, k)
    tl.store(job + 11, ll)
    tl.store(job + 12, m)
    tl.store(job + 13, n)
    tl.store(job + 14, o)
    tl.store(job + 15, p)
    tl.store(job + 16, q)
    tl.store(job + 17, r)
    tl.store(job + 18, s)
    tl.store(job + 19, t)
    tl.store(job + 20, u)
    tl.store(job + 21, v)
    tl.store(job + 22, w)
    tl.store(job + 23, x)
    tl.store(job + 24, y)
    tl.store(job + 25, z)
    tl.store(job + 26, aa)
    tl.store(job + 27, bb)
    tl.store(job + 28, cc)


@triton.jit
def size(job, FIELD: tl.constexpr, WIDE: tl.constexpr = False):
    """WIDE: it is a multiple of 16. The hint stands here, as on what a call returns it would be lost."""
    found = tl.load(job + FIELD).to(tl.int32)
    if WIDE:
        found = tl.multiple_of(found, 16)
    return found


@triton.jit
def address(job, FIELD: tl.constexpr, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """ALIGNED: tables begin at multiples of 16 bytes, which makes loads of 16 bytes possible."""
    found = tl.load(job + FIELD).to(tl.pointer_type(TYPE))
    if ALIGNED:
        found = tl.multiple_of(found, 16)
    return found


@triton.jit
def panel_of(job, FIELD: tl.constexpr, turn):
    """[begin, end) of the columns of a task's panel number `turn`, empty where it has no more."""
    width = tl.load(job + FIELD)
    count = tl.load(job + COUNT)
    begin = tl.minimum(width * turn, count)
    return begin.to(tl.int32), tl.minimum(begin + width, count).to(tl.int32)


@triton.jit
def next_tile(tile, end):
    """The first of this program's tiles that is not below `end`."""
    step = tl.num_programs(0)
    return tile + tl.cdiv(tl.maximum(end - tile, 0), step) * step


@triton.jit
def grouped_compact(jobs, SUM: tl.constexpr, BLOCK: tl.constexpr):
    job = jobs + tl.program_id(0) * FIELDS
    compact_rows(address(job, WEIGHTS, SUM, False), address(job, STARTS, tl.int64, False),
                 address(job, ENDS, tl.int64, False), address(job, ROW_LIST, tl.int32, False),
                 address(job, COUNTED, tl.int32, False), address(job, MOST, SUM, False), size(job, BATCH),
                 size(job, OBJECTIVE), SUM, BLOCK)  # fmt: skip


@triton.jit(do_not_specialize=["tasks", "turn"])
def grouped_statistics(jobs, tasks, turn, WIDE_DIM: tl.constexpr, HAS_BIAS: tl.constexpr, SMOOTH: tl.constexpr,
                       TYPE: tl.constexpr, SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
                       ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
                       GROUP: tl.constexpr):  # fmt: skip
    tile = tl.program_id(0)
    done = 0
    for task in range(tasks):
        job = jobs + task * FIELDS
        origin, end = panel_of(job, PANEL, turn)
        counted = tl.load(address(job, COUNTED, tl.int32, False))
        row_tiles, column_tiles = tl.cdiv(counted, ROWS), tl.cdiv(end - origin, COLUMNS)
        todo = row_tiles * column_tiles
        for mine in range(tile - done, todo, tl.num_programs(0)):
            row_tile, column_tile = place_of(mine, row_tiles, column_tiles, GROUP)
            dim, batch = size(job, DIM, WIDE_DIM), size(job, BATCH)
            part = (column_tile + 1) * batch
            statistics_tile(address(job, QUERY, TYPE, True), dim, 1,
                            address(job, TABLE, TYPE, True) + tl.cast(origin, tl.int64) * dim, dim, 1,
                            address(job, BIAS, TYPE, False), address(job, STARTS, tl.int64, False),
                            address(job, ENDS, tl.int64, False), address(job, ANSWERS, tl.int64, False),
                            address(job, ROW_LIST, tl.int32, False), counted, address(job, LARGEST, SUM, False) + part,
                            address(job, TOTAL, SUM, False) + part, address(job, RIGHT, SUM, False) + part, row_tile,
                            origin, column_tile * COLUMNS, end, dim, number(tl.load(job + SHARE), SUM),
                            number(tl.load(job + FLOOR), SUM), HAS_BIAS, size(job, OBJECTIVE), SMOOTH, SIMILARITY, SUM,
                            PRECISION, ROWS, COLUMNS, DEPTH)  # fmt: skip
        tile = next_tile(tile, done + todo)
        done += todo


@triton.jit(do_not_specialize=["turn"])
def grouped_losses(jobs, turn, per_task, COLUMNS: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr):
    """One program a task: its rows' losses in their order, so that the sum is always the same."""
    job = jobs + tl.program_id(0) * FIELDS
    origin, end = panel_of(job, PANEL, turn)
    count = size(job, COUNT)
    if origin < end:
        counted = tl.load(address(job, COUNTED, tl.int32, False))
        sum = tl.zeros((BLOCK,), SUM)
        for part in range(0, tl.cdiv(counted, BLOCK)):
            sum += losses_block(
                address(job, WEIGHTS, SUM, False), address(job, ROW_LIST, tl.int32, False), counted,
                address(job, LARGEST, SUM, False), address(job, TOTAL, SUM, False), address(job, RIGHT, SUM, False),
                address(job, LOSSES, SUM, False), address(job, LOG_TOTAL, SUM, False), part,
                tl.cdiv(end - origin, COLUMNS), size(job, BATCH), count, tl.where(turn == 0, 1, 0), end == count,
                size(job, OBJECTIVE), SUM, BLOCK,
            )  # fmt: skip
        if end == count:
            tl.store(per_task + tl.program_id(0), tl.sum(sum, 0))


@triton.jit(do_not_specialize=["tasks", "turn"])
def grouped_coefficients(jobs, tasks, turn, WIDE_DIM: tl.constexpr, HAS_BIAS: tl.constexpr, TYPE: tl.constexpr,
                         SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
                         COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    tile = tl.program_id(0)
    done = 0
    for task in range(tasks):
        job = jobs + task * FIELDS
        origin, end = panel_of(job, SLICE, turn)
        counted = tl.load(address(job, COUNTED, tl.int32, False))
        row_tiles, column_tiles = tl.cdiv(counted, ROWS), tl.cdiv(end - origin, COLUMNS)
        todo = row_tiles * column_tiles
        for mine in range(tile - done, todo, tl.num_programs(0)):
            row_tile, column_tile = place_of(mine, row_tiles, column_tiles, GROUP)
            dim = size(job, DIM, WIDE_DIM)
            coefficients_tile(address(job, QUERY, TYPE, True), dim, 1,
                              address(job, TABLE, TYPE, True) + tl.cast(origin, tl.int64) * dim, dim, 1,
                              address(job, BIAS, TYPE, False), address(job, STARTS, tl.int64, False),
                              address(job, ENDS, tl.int64, False), address(job, ANSWERS, tl.int64, False),
                              address(job, ROW_LIST, tl.int32, False), counted, address(job, WEIGHTS, SUM, False),
                              tl.load(address(job, MOST, SUM, False)), address(job, LOG_TOTAL, SUM, False),
                              address(job, COEFFICIENTS, TYPE, True), size(job, SLICE_ROW, True),
                              row_tile, origin, column_tile * COLUMNS, end, size(job, BATCH), dim,
                              number(tl.load(job + SHARE), SUM), number(tl.load(job + FLOOR), SUM), HAS_BIAS,
                              size(job, OBJECTIVE), SIMILARITY, SUM, PRECISION, ROWS, COLUMNS, DEPTH)  # fmt: skip
        tile = next_tile(tile, done + todo)
        done += todo


@triton.jit(do_not_specialize=["tasks", "turn"])
def grouped_slopes(jobs, tasks, turn, WIDE_DIM: tl.constexpr, QUERIES: tl.constexpr, TYPE: tl.constexpr,
                   SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
                   WIDTH: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """QUERIES: the panels' parts of the query gradients are added to the sums; else the table gradients are written."""
    tile = tl.program_id(0)
    done = 0
    for task in range(tasks):
        job = jobs + task * FIELDS
        origin, end = panel_of(job, SLICE, turn)
        counted = tl.load(address(job, COUNTED, tl.int32, False))
        dim = size(job, DIM, WIDE_DIM)
        x_count = end - origin
        if QUERIES:
            x_count = tl.where(origin < end, counted, 0)
        todo = tl.cdiv(x_count, ROWS) * tl.cdiv(dim, WIDTH)
        for mine in range(tile - done, todo, tl.num_programs(0)):
            g, g_row = address(job, COEFFICIENTS, TYPE, True), size(job, SLICE_ROW, True)
            query = address(job, QUERY, TYPE, True)
            offset = tl.cast(origin, tl.int64) * dim
            panel, rows = address(job, TABLE, TYPE, True) + offset, address(job, ROW_LIST, tl.int32, False)
            if QUERIES:
                sums = address(job, SUMS, SUM, True)
                slopes_block(g, g_row, 1, query, counted, panel, dim, 1, end - origin, rows, 1.0, sums, sums,
                             mine, dim, True, False, True, False, False, SIMILARITY, SUM, PRECISION, ROWS, WIDTH,
                             DEPTH, GROUP)  # fmt: skip
            else:
                scale = tl.load(address(job, SCALE, SUM, False)) * number(tl.load(job + FACTOR), SUM)
                out = address(job, D_TABLE, TYPE, True) + offset
                slopes_block(g, 1, g_row, panel, x_count, query, dim, 1, counted, rows, scale, out, out, mine,
                             dim, False, True, False, True, False, SIMILARITY, SUM, PRECISION, ROWS, WIDTH, DEPTH,
                             GROUP)  # fmt: skip
        tile = next_tile(tile, done + todo)
        done += todo


# ---- launches ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """The arguments of `candidate_loss`; bias is empty where there is none, weights have the dtype of the sums."""

    query: Tensor
    table: Tensor
    bias: Tensor
    starts: Tensor
    ends: Tensor
    answers: Tensor
    weights: Tensor
    objective: int
    smoothing: float = 0.0


class Group:
    """Tasks with what their launches share: buffers, their description on the device, tile sizes."""

    def __init__(self, tasks: list[Task]):
        self.tasks = tasks
        first = tasks[0].query
        self.dtype, self.device, self.wide = first.dtype, first.device, sum_dtype(first.dtype)
        self.sizes = tiles("grouped scores", self.dtype, 0, self.device, max(len(task.query) for task in tasks))
        self.slope_sizes = tiles("grouped slopes", self.dtype, 0, self.device, 2**30)
        self.jobs = self.new((len(tasks), FIELDS.value), torch.int64)
        self.listed = [torch.empty_like(task.query) for task in tasks]  # the queries that count, then zeros
        self.most = self.new((len(tasks),), self.wide)
        self.widths, self.buffers = [], []
        budget = WORKSPACE_BYTES // len(tasks)
        for place, task in enumerate(tasks):
            batch, count = len(task.query), len(task.table)
            mine = min(workspace_bytes(batch, count, task.query.shape[1]), budget)
            columns = self.sizes.columns
            panel = max(mine // max(3 * batch * self.wide.itemsize, 1), 1) * columns
            part = max(mine // max(batch * self.dtype.itemsize * columns, 1), 1) * columns
            panel, part = (min(width, ceil_div(count, columns) * columns) for width in (panel, part))
            splits = 1 + panel // columns
            work = self.new(
                (max(3 * splits * batch * self.wide.itemsize, batch * part * self.dtype.itemsize),), torch.uint8
            )
            statistics = part_of(work, (3 * splits, batch), self.wide).split(splits)
            lists = self.new((batch,), torch.int32).zero_(), self.new((1,), torch.int32), self.most[place : place + 1]
            rows = self.new((batch,), self.wide), self.new((2, batch), self.wide)
            self.widths.append((panel, part))
            self.buffers.append((work, lists, statistics, rows))
        self.constants = dict(TYPE=TYPES[self.dtype], WIDE_DIM=all(task.query.shape[1] % 16 == 0 for task in tasks))
        self.kind = arithmetic(self.dtype, 0)
        self.has_bias = any(len(task.bias) for task in tasks)

    def new(self, shape, dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def describe(self, scales: Tensor | None = None, outputs: list | None = None) -> None:
        softmax = [OBJECTIVES[task.objective] == "softmax" for task in self.tasks]
        for place, (task, buffers, widths) in enumerate(zip(self.tasks, self.buffers, self.widths, strict=True)):
            work, lists, statistics, rows = buffers
            sums, d_table = outputs[place] if outputs else (work, work)
            tensors = (self.listed[place], task.table, task.bias, task.starts, task.ends, task.answers, task.weights,
                       *lists, *statistics, *rows, work, sums, d_table,
                       self.most if scales is None else scales[place:])  # fmt: skip
            count = len(task.table)
            sizes = (len(task.query), count, task.query.shape[1], task.objective, bits(1.0 - task.smoothing),
                     bits(task.smoothing / count), bits(1.0 if softmax[place] else 1.0 / count), *widths,
                     widths[1])  # fmt: skip
            describe[(1,)](self.jobs, place, *(one.data_ptr() if one.numel() else 0 for one in tensors), *sizes)

    def turns(self, which: int) -> int:
        return max(
            ceil_div(len(task.table), max(width[which], 1)) for task, width in zip(self.tasks, self.widths, strict=True)
        )

    def grid(self, sizes, tiles_of) -> tuple[int]:
        """As many programs as stay on the device together; each walks on over the tiles of all tasks."""
        number = sum(tiles_of(task, width) for task, width in zip(self.tasks, self.widths, strict=True))
        resident = configurations.device_properties(self.device)[1] * (1 if sizes.warps > 4 else 2)
        return (max(min(number, resident), 1),)


def task_losses(tasks: list[Task]) -> tuple[Tensor, Group]:
    """(sum of each task's weighted losses [T], in the dtype of the sums; what `task_gradients` needs).

    Memory: 64 MiB for all tasks together, listed queries [B, D] of each until its gradients are made, and some numbers
    a row. Ids are not checked.
    """
    group = Group(tasks)
    per_task = torch.zeros((len(tasks),), dtype=group.wide, device=group.device)
    group.describe()
    sizes, shared = group.sizes, (group.kind | block(group.sizes))
    grouped_compact[(len(tasks),)](group.jobs, group.kind["SUM"], COMPACT_BLOCK)
    for task, listed, (_, lists, *_) in zip(tasks, group.listed, group.buffers, strict=True):
        list_queries(task.query, *lists[:2], listed)
    grid = group.grid(
        sizes, lambda task, width: ceil_div(len(task.query), sizes.rows) * ceil_div(width[0], sizes.columns)
    )
    for turn in range(group.turns(0)):
        grouped_statistics[grid](group.jobs, len(tasks), turn, HAS_BIAS=group.has_bias,
                                 SMOOTH=any(task.smoothing for task in tasks), GROUP=GROUP, **group.constants,
                                 **shared)  # fmt: skip
        grouped_losses[(len(tasks),)](group.jobs, turn, per_task, sizes.columns, group.kind["SUM"], 256)
    return per_task, group


def task_gradients(group: Group, scales: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(d_query, d_table, d_bias) of every task for sum_t scales[t] * loss_t; scales [T] is read on the device."""
    tasks, sizes, slope_sizes = group.tasks, group.sizes, group.slope_sizes
    scales = scales.detach().to(group.wide) * group.most
    outputs = [(torch.zeros(task.query.shape, dtype=group.wide, device=group.device), torch.empty_like(task.table))
               for task in tasks]  # fmt: skip
    group.describe(scales, outputs)
    d_biases = [torch.empty_like(task.bias) for task in tasks]
    grid = group.grid(
        sizes, lambda task, width: ceil_div(len(task.query), sizes.rows) * ceil_div(width[1], sizes.columns)
    )
    dims = [ceil_div(task.query.shape[1], slope_sizes.columns) for task in tasks]
    for turn in range(group.turns(1)):
        grouped_coefficients[grid](group.jobs, len(tasks), turn, HAS_BIAS=group.has_bias, GROUP=GROUP,
                                   **group.constants, **group.kind, **block(sizes))  # fmt: skip
        for queries in (True, False):
            number = sum(columns * ceil_div(len(task.query) if queries else width[1], slope_sizes.rows)
                         for columns, task, width in zip(dims, tasks, group.widths, strict=True))  # fmt: skip
            resident = group.grid(slope_sizes, lambda task, width: number)  # noqa: B023
            grouped_slopes[resident](group.jobs, len(tasks), turn, QUERIES=queries, GROUP=GROUP, **group.constants,
                                     **group.kind, **block(slope_sizes, ("ROWS", "WIDTH", "DEPTH")))  # fmt: skip
        for place, (task, (_, part)) in enumerate(zip(tasks, group.widths, strict=True)):
            begin, end = turn * part, min((turn + 1) * part, len(task.table))
            if len(task.bias) and begin < end:
                work, lists = group.buffers[place][:2]
                factor = bits(1.0 if OBJECTIVES[task.objective] == "softmax" else 1.0 / len(task.table))
                bias_gradient[(ceil_div(end - begin, 128),)](
                    part_of(work, (len(task.query), part), group.dtype), part, lists[1], scales[place:], factor,
                    d_biases[place][begin:end], end - begin, group.kind["SUM"], 32, 128,
                )  # fmt: skip
    found = []
    for place, (task, (sums, d_table)) in enumerate(zip(tasks, outputs, strict=True)):
        factor = 1.0 if OBJECTIVES[task.objective] == "softmax" else 1.0 / len(task.table)
        d_query = sums if group.wide == group.dtype else torch.empty_like(task.query)
        torch.mul(sums, scales[place] * factor, out=d_query)
        found.append((d_query, d_table, d_biases[place]))
    return found
