"""Losses over all candidates in three products of the library: scores, gradient of the queries, gradient of the table.

Queries come in chunks (chunks.py). A chunk's scores are made by torch.mm, turned into losses and dL/dscore where they
lie by one kernel (in_place.py), and multiplied with the table and with the queries. So nothing is multiplied twice, as
candidates.py does, whose memory is smaller. A call is one launch that lists the rows that count, and four for each
chunk: three products and the kernel between. A bias takes one more; rows that don't count take four for a call; a table
of 16 bits whose rows are no multiple of 8 takes three more products for each chunk and three copies. No atomics.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from kgfast.core.sums import sum_dtype

from . import configurations
from .active_rows import gather_active, list_active, scatter_active
from .chunks import Chunks, plan
from .configurations import TYPES, bits
from .in_place import loss_in_place
from .launching import fresh

ADDS_WIDE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)  # torch's products know out_dtype on a GPU


def add_product(sums: Tensor, left: Tensor, right: Tensor, first: bool) -> None:
    """sums (+)= left @ right. `out=` keeps autocast from changing the operands' dtype."""
    if sums.dtype == left.dtype:
        if first:
            torch.mm(left, right, out=sums)
        else:
            torch.addmm(sums, left, right, out=sums)
    elif left.device.type == "cuda":
        if first:
            torch.mm(left, right, out_dtype=sums.dtype, out=sums)
        else:
            torch.addmm(sums, left, right, out_dtype=sums.dtype, out=sums)
    else:
        add_product(sums, left.to(sums.dtype), right.to(sums.dtype), first)


class Table:
    """The candidates as operands of products: (columns of the scores, rows, their gradient) of each part.

    A second part holds the rest of a number of rows that is no multiple of 8, padded with zeros, for 16-bit products.
    """

    def __init__(self, table: Tensor, grad_table: Tensor, cut: Chunks, gradient: bool, allocate):
        self.cut, self.grad_table = cut, grad_table
        sums = grad_table
        if cut.wide_sums and gradient:
            sums = allocate("d_table_sums", grad_table.shape, torch.float32)
        self.sums = sums
        self.parts = [(slice(0, cut.main), table[: cut.main], sums[: cut.main])]
        if cut.tail:
            rest, shape = len(table) - cut.main, (cut.tail, table.shape[1])
            rows = allocate("rest_of_table", shape, table.dtype)
            rows[:rest] = table[cut.main :]
            rows[rest:] = 0
            self.grad_rest = allocate("d_rest_of_table", shape if gradient else (0, shape[1]), sums.dtype)
            self.parts.append((slice(cut.main, cut.main + cut.tail), rows, self.grad_rest))

    def scores(self, queries: Tensor, out: Tensor) -> None:
        for columns, rows, _ in self.parts:
            torch.mm(queries, rows.t(), out=out[:, columns])

    def add_gradient(self, grad_scores: Tensor, queries: Tensor, first: bool) -> None:
        for columns, _, sums in self.parts:
            add_product(sums, grad_scores[:, columns].t(), queries, first)

    def query_gradient(self, grad_scores: Tensor, out: Tensor) -> None:
        """The small part goes first: then the large one is rounded once."""
        for place, (columns, rows, _) in enumerate(reversed(self.parts)):
            add_product(out, grad_scores[:, columns], rows, first=place == 0)

    def finish(self) -> None:
        if self.sums is not self.grad_table:
            self.grad_table.copy_(self.sums)
        if self.cut.tail:
            self.grad_table[self.cut.main :] = self.grad_rest[: len(self.grad_table) - self.cut.main]


def block_of(width: int, dtype: torch.dtype, device) -> tuple[int, int]:
    """(columns that a program reads at a time, its warps)."""
    if configurations.device_properties(device)[0] == 0:
        return 64, 1  # the interpreter: several blocks even of small tables
    block = min(triton.next_power_of_2(width), (16 << 10) // dtype.itemsize)
    return block, max(1, min(8, block // 256))


def loss_arguments(width: int, count: int, bias, known, objective: int, smoothing: float, dtype, device) -> dict:
    """Arguments of the kernel between products that are the same for every chunk."""
    padded = bias if len(bias) in (0, width) else torch.nn.functional.pad(bias, (0, width - count))
    block, warps = block_of(width, dtype, device)
    lists = dict(zip(("known_starts_ptr", "known_ends_ptr", "known_ids_ptr"), known or (None,) * 3, strict=True))
    return lists | dict(
        width=width,
        count=count,
        bias_ptr=padded,
        answer_label_bits=bits(1.0 - smoothing),
        smooth_label_bits=bits(smoothing / count),
        HAS_BIAS=len(bias) > 0,
        HAS_KNOWN=known is not None,
        OBJECTIVE=int(objective),
        SMOOTH=smoothing != 0,
        ACC=TYPES[sum_dtype(dtype)],
        BLOCK=block,
        BLOCK_N=32,
        num_warps=warps,
    )


def add_columns(sums: Tensor, grad_scores: Tensor, first: bool) -> None:
    """sums[0] (+)= the sum of the chunk's rows; sums[1] is used on the way."""
    torch.sum(grad_scores, 0, dtype=sums.dtype, out=sums[int(not first)])
    if not first:
        sums[0] += sums[1]


@torch.no_grad()
def candidate_loss(
    query, table, bias, starts, ends, answers, weights, objective: int, smoothing: float, gradient: bool,
    allocate=None, known=None, wait: bool = False,
):  # fmt: skip
    """As candidates.candidate_loss, for dot products. Memory beyond the gradients: chunks.Chunks.extra_bytes, and where
    rows don't count the active queries.

    wait: reads back how many rows count, and others cost nothing. Without, they are multiplied as zeros, and nothing
    waits for the device.
    """
    allocate = allocate or fresh(query.device)
    (batch, dim), count, dtype, acc = query.shape, len(table), query.dtype, sum_dtype(query.dtype)
    losses = allocate("losses", (batch,), acc)
    grad_query = allocate("d_query", (batch if gradient else 0, dim), dtype)
    grad_table = allocate("d_table", (count if gradient else 0, dim), dtype)
    grad_bias = allocate("d_bias", (len(bias) if gradient else 0,), dtype)
    found = losses, grad_query, grad_table, grad_bias
    total = 0
    if batch and count:
        active = allocate("active_rows", (batch,), torch.int32), allocate("num_active", (1,), torch.int32)
        list_active(weights, starts, ends, objective, allocate("max_weight", (1,), acc), *active)
        total = int(active[1]) if wait else batch
    if total == 0:
        return tuple(one.zero_() for one in found)
    whole = wait and total == batch
    queries, grad_queries = query, grad_query
    if not whole:  # a chunk's gradient takes the place of its queries, which are read until then
        losses.zero_()
        queries = grad_queries = allocate("active_query", (total, dim), dtype)
        gather_active(query, *active, queries)
    cut = plan(total, count, dim, dtype.itemsize, wide=ADDS_WIDE or query.device.type == "cpu")
    operands = Table(table, grad_table, cut, gradient, allocate)
    scores = allocate("scores", (cut.rows, cut.stride), dtype)
    bias_sums = allocate("d_bias_sums", (2, len(grad_bias)), acc)
    shared = loss_arguments(cut.stride, count, bias, known, objective, smoothing, dtype, query.device)
    rows = dict(starts_ptr=starts, ends_ptr=ends, answer_ids_ptr=answers, weights_ptr=weights, losses_ptr=losses)
    rows |= dict(zip(("active_rows_ptr", "num_active_ptr"), active, strict=True))
    for begin in range(0, total, cut.rows):
        chunk = queries[begin : begin + cut.rows]
        part, first = scores[: len(chunk)], begin == 0
        operands.scores(chunk, part)
        loss_in_place[(len(chunk),)](scores_ptr=part, first_place=begin, GRADIENT=gradient, **rows, **shared)
        if gradient:
            operands.add_gradient(part, chunk, first)
            operands.query_gradient(part, grad_queries[begin : begin + cut.rows])
            if len(bias):
                add_columns(bias_sums, part[:, :count], first)
    if gradient:
        operands.finish()
        if len(bias):
            grad_bias.copy_(bias_sums[0])
        if not whole:
            scatter_active(grad_queries, *active, grad_query.zero_())
    return found
