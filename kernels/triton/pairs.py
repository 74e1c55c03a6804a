"""Scores of a query against rows named by id, and their gradient for the query; rows are read where they lie.

A program takes one query and a few rows, each row's numbers in one load of neighbouring threads. Bytes: B K D for each.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .configurations import TYPES, sum_dtype
from .scores import L2, MODULUS, accumulate, accumulate_modulus, add_slope, add_slope_modulus, finish


@triton.jit
def chained(g, score, SIMILARITY: tl.constexpr):
    """The coefficient of a slope: dL/ds, for L2 through the root (s = -|x - y|, so ds/dx = (x - y) / s)."""
    if SIMILARITY == L2:
        return tl.where(score < 0, g / score, 0.0)
    else:
        return g


@triton.jit
def pair_scores(query, table, ids, scores, count, dim, SIMILARITY: tl.constexpr, SUM: tl.constexpr,
                ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    live = k < count
    rows = table + tl.load(ids + b * count + k, mask=live, other=0)[:, None] * dim
    sum = tl.zeros((ROWS, WIDTH), SUM)
    length = dim // 2 if SIMILARITY == MODULUS else dim
    for first in range(0, length, WIDTH):
        d = first + tl.arange(0, WIDTH)
        inside = d < length
        both = live[:, None] & inside[None, :]
        x = tl.load(query + b * dim + d, mask=inside, other=0.0).to(SUM)[None, :]
        y = tl.load(rows + d[None, :], mask=both, other=0.0).to(SUM)
        if SIMILARITY == MODULUS:
            x_b = tl.load(query + b * dim + length + d, mask=inside, other=0.0).to(SUM)[None, :]
            y_b = tl.load(rows + length + d[None, :], mask=both, other=0.0).to(SUM)
            sum = accumulate_modulus(sum, x, x_b, y, y_b)
        else:
            sum = accumulate(sum, x, y, SIMILARITY)
    tl.store(scores + b * count + k, finish(tl.sum(sum, 1), SIMILARITY), mask=live)


@triton.jit
def pair_query_gradient(g, scores, query, table, ids, coefficients, d_query, count, dim, SIMILARITY: tl.constexpr,
                        SUM: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    length = dim // 2 if SIMILARITY == MODULUS else dim
    inside = d < length
    x = tl.load(query + b * dim + d, mask=inside, other=0.0).to(SUM)[None, :]
    x_b = x
    if SIMILARITY == MODULUS:
        x_b = tl.load(query + b * dim + length + d, mask=inside, other=0.0).to(SUM)[None, :]
    sum = tl.zeros((ROWS, WIDTH), SUM)
    sum_b = sum
    for first in range(0, count, ROWS):
        k = first + tl.arange(0, ROWS)
        live = k < count
        place = b * count + k
        slope = tl.load(g + place, mask=live, other=0.0).to(SUM)
        c = chained(slope, tl.load(scores + place, mask=live, other=0.0).to(SUM), SIMILARITY)
        if tl.program_id(1) == 0:
            tl.store(coefficients + place, c, mask=live)
        rows = table + tl.load(ids + place, mask=live, other=0)[:, None] * dim + d[None, :]
        both = live[:, None] & inside[None, :]
        y = tl.load(rows, mask=both, other=0.0).to(SUM)
        if SIMILARITY == MODULUS:
            y_b = tl.load(rows + length, mask=both, other=0.0).to(SUM)
            sum, sum_b = add_slope_modulus(sum, sum_b, c[:, None], x, x_b, y, y_b)
        else:
            sum = add_slope(sum, c[:, None], x, y, SIMILARITY)
    tl.store(d_query + b * dim + d, tl.sum(sum, 0), mask=inside)
    if SIMILARITY == MODULUS:
        tl.store(d_query + b * dim + length + d, tl.sum(sum_b, 0), mask=inside)


def launch(dim: int, count: int, similarity: int, dtype):
    """(number of coordinates, constants): a tile has up to 2,048 numbers, rows of a warp's width at least."""
    length = dim // 2 if similarity == MODULUS.value else dim
    width = min(512, max(32, triton.next_power_of_2(length)))
    numbers = 1024 if similarity == MODULUS.value else 2048
    rows = min(numbers // width, max(1, triton.next_power_of_2(count)))
    return length, dict(SIMILARITY=similarity, SUM=TYPES[sum_dtype(dtype)], ROWS=rows, WIDTH=width, num_warps=1)


def score(query, table, ids, similarity: int, scores) -> None:
    if ids.numel():
        _, constants = launch(query.shape[1], ids.shape[1], similarity, table.dtype)
        pair_scores[(len(query), triton.cdiv(ids.shape[1], constants["ROWS"]))](
            query, table, ids, scores, ids.shape[1], query.shape[1], **constants
        )


def query_gradient(g, scores, query, table, ids, similarity: int, coefficients, d_query) -> None:
    if d_query.numel():
        length, constants = launch(query.shape[1], ids.shape[1], similarity, table.dtype)
        pair_query_gradient[(len(query), triton.cdiv(length, constants["WIDTH"]))](
            g, scores, query, table, ids, coefficients, d_query, ids.shape[1], query.shape[1], **constants
        )
