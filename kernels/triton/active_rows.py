"""The rows of a batch that count, listed on the device: others (weight 0, softmax without an answer) cost nothing."""

from __future__ import annotations

import triton
import triton.language as tl

from kgfast.registry import Objective

from .configurations import TYPES
from .launching import ceil_div
from .tiles import split_program

SOFTMAX = tl.constexpr(int(Objective.SOFTMAX))
COMPACT_BLOCK = 1024


@triton.jit
def compact_rows(
    weights_ptr, starts_ptr, ends_ptr,  # [B]
    active_rows_ptr,  # [B]: the rows that count, in order
    num_active_ptr, max_weight_ptr,  # [1]: how many, and the largest |weight|
    batch, OBJECTIVE, ACC: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Rows count whose weight is not 0 and, for softmax, that have an answer. One program."""
    count = 0
    largest = tl.zeros((), ACC)
    for first in range(0, batch, BLOCK_B):
        row = first + tl.arange(0, BLOCK_B)
        inside = row < batch
        weight = tl.load(weights_ptr + row, mask=inside, other=0.0).to(ACC)
        keep = inside & (weight != 0)
        if OBJECTIVE == SOFTMAX:
            start = tl.load(starts_ptr + row, mask=inside, other=0)
            keep &= start < tl.load(ends_ptr + row, mask=inside, other=0)
        ones = keep.to(tl.int32)
        tl.store(active_rows_ptr + count + tl.cumsum(ones, 0) - 1, row, mask=keep)
        count += tl.sum(ones, 0)
        largest = tl.maximum(largest, tl.max(tl.where(keep, tl.abs(weight), 0.0), 0))
    tl.store(num_active_ptr, count)
    tl.store(max_weight_ptr, largest)


@triton.jit(do_not_specialize=["batch"])
def compact(
    weights_ptr, starts_ptr, ends_ptr,  # [B]
    active_rows_ptr,  # [B]
    num_active_ptr, max_weight_ptr,  # [1]
    batch, OBJECTIVE: tl.constexpr, ACC: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    compact_rows(
        weights_ptr=weights_ptr, starts_ptr=starts_ptr, ends_ptr=ends_ptr, active_rows_ptr=active_rows_ptr,
        num_active_ptr=num_active_ptr, max_weight_ptr=max_weight_ptr, batch=batch, OBJECTIVE=OBJECTIVE, ACC=ACC,
        BLOCK_B=BLOCK_B,
    )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def gather_rows(
    query_ptr,  # [B, D]
    active_rows_ptr,  # [B]
    num_active_ptr,  # [1]
    out_ptr,  # [B, D]
    batch, dim, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[i] = query[active_rows[i]], and zeros from num_active on."""
    block, part = split_program(tl.program_id(0), tl.cdiv(dim, BLOCK_D))
    place, d = block * BLOCK_B + tl.arange(0, BLOCK_B), part * BLOCK_D + tl.arange(0, BLOCK_D)
    kept, inside = (place < tl.load(num_active_ptr))[:, None], (d < dim)[None, :]
    row = tl.load(active_rows_ptr + place, mask=place < batch, other=0).to(tl.int64)
    found = tl.load(query_ptr + row[:, None] * dim + d[None, :], mask=kept & inside, other=0.0)
    out_ptrs = out_ptr + place[:, None].to(tl.int64) * dim + d[None, :]
    tl.store(out_ptrs, found, mask=(place < batch)[:, None] & inside)


def list_active(weights, starts, ends, objective: int, max_weight, active_rows_ptr, num_active_ptr) -> None:
    """Fills active_rows [B], num_active [1] and max_weight [1]."""
    compact[(1,)](
        weights_ptr=weights,
        starts_ptr=starts,
        ends_ptr=ends,
        active_rows_ptr=active_rows_ptr,
        num_active_ptr=num_active_ptr,
        max_weight_ptr=max_weight,
        batch=len(weights),
        OBJECTIVE=int(objective),
        ACC=TYPES[max_weight.dtype],
        BLOCK_B=COMPACT_BLOCK,
    )


@triton.jit(do_not_specialize=["count"])
def scatter_rows(
    rows_ptr,  # [count, D]
    active_rows_ptr,  # [B]
    num_active_ptr,  # [1]
    out_ptr,  # [B, D]
    count, dim, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[active_rows[i]] = rows[i], i below num_active."""
    block, part = split_program(tl.program_id(0), tl.cdiv(dim, BLOCK_D))
    place, d = block * BLOCK_B + tl.arange(0, BLOCK_B), part * BLOCK_D + tl.arange(0, BLOCK_D)
    kept = (place < tl.minimum(count, tl.load(num_active_ptr)))[:, None] & (d < dim)[None, :]
    row = tl.load(active_rows_ptr + place, mask=place < count, other=0).to(tl.int64)
    found = tl.load(rows_ptr + place[:, None].to(tl.int64) * dim + d[None, :], mask=kept, other=0.0)
    tl.store(out_ptr + row[:, None] * dim + d[None, :], found, mask=kept)


def gather_active(query, active_rows, num_active, out) -> None:
    """Fills out [.., D] with the queries that count, then zeros: kernels then read rows that lie together."""
    (batch, dim), width = out.shape, 64
    gather_rows[(ceil_div(batch, 16) * ceil_div(dim, width),)](
        query_ptr=query,
        active_rows_ptr=active_rows,
        num_active_ptr=num_active,
        out_ptr=out,
        batch=batch,
        dim=dim,
        BLOCK_B=16,
        BLOCK_D=width,
    )


def scatter_active(rows, active_rows, num_active, out) -> None:
    """Puts the rows back where `gather_active` took them; others of `out` stay."""
    (count, dim), width = rows.shape, 64
    scatter_rows[(ceil_div(count, 16) * ceil_div(dim, width),)](
        rows_ptr=rows,
        active_rows_ptr=active_rows,
        num_active_ptr=num_active,
        out_ptr=out,
        count=count,
        dim=dim,
        BLOCK_B=16,
        BLOCK_D=width,
    )
