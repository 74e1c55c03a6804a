"""Losses over all candidates in three products of the library: scores, gradient of the queries, gradient of the table.

Queries come in chunks (chunks.py). A chunk's scores are made by torch.mm, turned into losses and dL/dscore where they
lie by one kernel (in_place.py), and multiplied with the table and with the queries. So nothing is multiplied twice, as
candidates.py does, whose memory is smaller. A call is one launch that lists the rows that count, one that clears
nothing it need not, and four for each chunk: three products and the kernel between. No atomics.
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
        active_rows = allocate("active_rows", (batch,), torch.int32)
        num_active = allocate("num_active", (1,), torch.int32)
        list_active(weights, starts, ends, objective, allocate("max_weight", (1,), acc), active_rows, num_active)
        total = int(num_active) if wait else batch
    if total == 0:
        return tuple(one.zero_() for one in found)
    cut = plan(total, count, dim, dtype.itemsize, wide=ADDS_WIDE or query.device.type == "cpu")
    whole = wait and total == batch
    queries = grad_queries = query
    if whole:
        grad_queries = grad_query
    else:
        losses.zero_()
        queries = grad_queries = allocate("active_query", (total, dim), dtype)
        gather_active(query, active_rows, num_active, queries)
    operands = Table(table, grad_table, cut, gradient, allocate)
    scores = allocate("scores", (cut.rows, cut.stride), dtype)
    bias_sums = allocate("d_bias_sums", (2, len(grad_bias)), acc)
    wide_bias = bias if len(bias) in (0, cut.stride) else torch.nn.functional.pad(bias, (0, cut.stride - count))
    block, warps = block_of(cut.stride, dtype, query.device)
    lists = dict(zip(("known_starts_ptr", "known_ends_ptr", "known_ids_ptr"), known or (None,) * 3, strict=True))
    for begin in range(0, total, cut.rows):
        rows = queries[begin : begin + cut.rows]
        part, first = scores[: len(rows)], begin == 0
        operands.scores(rows, part)
        loss_in_place[(len(rows),)](
            scores_ptr=part, width=cut.stride, bias_ptr=wide_bias, starts_ptr=starts, ends_ptr=ends,
            answer_ids_ptr=answers, **lists, active_rows_ptr=active_rows, num_active_ptr=num_active,
            weights_ptr=weights, losses_ptr=losses, first_place=begin, count=count,
            answer_label_bits=bits(1.0 - smoothing), smooth_label_bits=bits(smoothing / count),
            HAS_BIAS=len(bias) > 0, HAS_KNOWN=known is not None, OBJECTIVE=int(objective), SMOOTH=smoothing != 0,
            GRADIENT=gradient, ACC=TYPES[acc], BLOCK=block, BLOCK_N=32, num_warps=warps,
        )  # fmt: skip
        if gradient:
            operands.add_gradient(part, rows, first)
            if len(bias):
                torch.sum(part[:, :count], 0, dtype=acc, out=bias_sums[int(not first)])
                if not first:
                    bias_sums[0] += bias_sums[1]
            operands.query_gradient(part, grad_queries[begin : begin + cut.rows])  # may overwrite the chunk's queries
    if gradient:
        operands.finish()
        grad_bias.copy_(bias_sums[0])
        if not whole:
            scatter_active(grad_queries, active_rows, num_active, grad_query.zero_())
    return found
