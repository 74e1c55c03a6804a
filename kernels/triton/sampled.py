"""Losses over each query's own negatives: scores, objective and the query's gradient in one visit of each row.

A program of one warp (more for wide rows) takes a query, reads a few rows at a time and keeps them in registers for the
score and for the slope, whose sum is rescaled when a larger exponent comes. What it leaves are raw scores, which
`coefficients` turns into dL/dscore. Bytes: B N D of rows, 8 B N of ids and twice 4 B N of scores; some 4 operations a
number of a row, so memory bounds it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .configurations import TYPES, bits, sum_dtype
from .objectives import (
    BCE,
    LOWEST,
    MARGIN,
    SOFTMAX,
    exponents,
    first_top,
    negative_term,
    outcome,
    weights_of,
)
from .pairs import chained
from .sampling import contains
from .scores import MODULUS, accumulate, accumulate_modulus, add_slope, add_slope_modulus, finish
from .tiles import number

LARGEST_DIM = 16384  # a row must fit the registers of one program
MASKED = tl.constexpr(float("-inf"))  # the score that is kept of a masked negative


@triton.jit
def row_score(x_a, x_b, y_a, y_b, SIMILARITY: tl.constexpr, AXIS: tl.constexpr):
    if SIMILARITY == MODULUS:
        parts = accumulate_modulus(tl.zeros_like(y_a), x_a, x_b, y_a, y_b)
    else:
        parts = accumulate(tl.zeros_like(y_a), x_a, y_a, SIMILARITY)
    return finish(tl.sum(parts, AXIS), SIMILARITY)


@triton.jit(do_not_specialize=["margin", "temperature", "count"])
def independent(query, table, targets, negatives, starts, ends, known, weights, losses, d_query, ids, scores, tops,
                shares, count, dim, margin: tl.int64, temperature: tl.int64, SIMILARITY: tl.constexpr,
                OBJECTIVE: tl.constexpr, WEIGHED: tl.constexpr, KNOWN: tl.constexpr, GRADIENT: tl.constexpr,
                SUM: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    margin, temperature = number(margin, SUM), number(temperature, SUM)
    length = dim // 2 if SIMILARITY == MODULUS else dim
    d = tl.arange(0, WIDTH)
    inside = d < length
    x_a = tl.load(query + b * dim + d, mask=inside, other=0.0).to(SUM)
    target = tl.load(targets + b)
    y_a = tl.load(table + target * dim + d, mask=inside, other=0.0).to(SUM)
    x_b, y_b = x_a, y_a
    if SIMILARITY == MODULUS:
        x_b = tl.load(query + b * dim + length + d, mask=inside, other=0.0).to(SUM)
        y_b = tl.load(table + target * dim + length + d, mask=inside, other=0.0).to(SUM)
    own = row_score(x_a, x_b, y_a, y_b, SIMILARITY, 0)
    top = first_top(own, OBJECTIVE)
    weight = tl.zeros((), SUM)
    value, slope, valid = weight, weight, weight
    sum_a = tl.zeros((WIDTH,), SUM)
    sum_b = sum_a
    start = tl.zeros((), tl.int64)
    end = start
    if KNOWN:
        start, end = tl.load(starts + b), tl.load(ends + b)
    for first in range(0, count, ROWS):
        n = first + tl.arange(0, ROWS)
        live = n < count
        id = tl.load(negatives + b * count + n, mask=live, other=-1)
        keep = live & (id >= 0) & (id != target)
        if KNOWN:
            keep &= contains(known, start, end, id) == 0
        rows = table + tl.where(keep, id, 0)[:, None] * dim + d[None, :]
        both = keep[:, None] & inside[None, :]
        z_a = tl.load(rows, mask=both, other=0.0).to(SUM)
        z_b = z_a
        if SIMILARITY == MODULUS:
            z_b = tl.load(rows + length, mask=both, other=0.0).to(SUM)
        score = row_score(x_a[None, :], x_b[None, :], z_a, z_b, SIMILARITY, 1)
        scale = tl.full((), 1.0, SUM)
        if WEIGHED:
            now = tl.maximum(top, tl.max(tl.where(keep, exponents(score, temperature, OBJECTIVE), LOWEST), 0))
            scale = tl.exp(top - now)
            top = now
        p = weights_of(score, keep, top, temperature, OBJECTIVE, WEIGHED)
        term, term_slope = negative_term(own, score, margin, OBJECTIVE)
        pull = tl.where(keep, p * term_slope, 0.0)
        weight = weight * scale + tl.sum(p, 0)
        value = value * scale + tl.sum(tl.where(keep, p * term, 0.0), 0)
        slope = slope * scale + tl.sum(pull, 0)
        valid += tl.sum(tl.where(keep, 1.0, 0.0).to(SUM), 0)
        if GRADIENT:
            c = chained(pull, score, SIMILARITY)[:, None]
            zeros = tl.zeros((ROWS, WIDTH), SUM)
            if SIMILARITY == MODULUS:
                part_a, part_b = add_slope_modulus(zeros, zeros, c, x_a[None, :], x_b[None, :], z_a, z_b)
                sum_b = sum_b * scale + tl.sum(part_b, 0)
            else:
                part_a = add_slope(zeros, c, x_a[None, :], z_a, SIMILARITY)
            sum_a = sum_a * scale + tl.sum(part_a, 0)
            place = b * (count + 1) + 1 + n
            tl.store(scores + place, tl.where(keep, score, MASKED), mask=live)
            tl.store(ids + place, tl.where(id < 0, target, id), mask=live)
    loss, d_target, share = outcome(own, top, weight, value, slope, valid, margin, OBJECTIVE, WEIGHED)
    of_row = tl.load(weights + b).to(SUM)
    tl.store(losses + b, loss * of_row)
    if GRADIENT:
        c = chained(d_target, own, SIMILARITY)
        out = d_query + b * dim + d
        if SIMILARITY == MODULUS:
            sum_a, sum_b = add_slope_modulus(sum_a * share, sum_b * share, c, x_a, x_b, y_a, y_b)
            tl.store(out + length, sum_b * of_row, mask=inside)
        else:
            sum_a = add_slope(sum_a * share, c, x_a, y_a, SIMILARITY)
        tl.store(out, sum_a * of_row, mask=inside)
        tl.store(scores + b * (count + 1), c * of_row)
        tl.store(ids + b * (count + 1), target)
        tl.store(tops + b, top)
        tl.store(shares + b, share * of_row)
        if OBJECTIVE == MARGIN:
            tl.store(tops + tl.num_programs(0) + b, own)


@triton.jit(do_not_specialize=["margin", "temperature", "count"])
def coefficients(scores, tops, shares, count, margin: tl.int64, temperature: tl.int64, SIMILARITY: tl.constexpr,
                 OBJECTIVE: tl.constexpr, WEIGHED: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """In place: the scores of a row's negatives become dL/dscore, for L2 divided by the score."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = n < count
    place = scores + b * (count + 1) + 1 + n
    score = tl.load(place, mask=live, other=MASKED)
    keep = score != MASKED
    own = tl.load(tops + b)
    if OBJECTIVE == MARGIN:
        own = tl.load(tops + tl.num_programs(0) + b)
    p = weights_of(score, keep, tl.load(tops + b), number(temperature, SUM), OBJECTIVE, WEIGHED)
    _, slope = negative_term(own, score, number(margin, SUM), OBJECTIVE)
    c = tl.where(keep, p * slope * tl.load(shares + b), 0.0)
    tl.store(place, chained(c, score, SIMILARITY), mask=live)


def weighed(objective: int, temperature: float) -> bool:
    """Whether negatives weigh differently."""
    return objective == SOFTMAX.value or (objective != BCE.value and temperature != 0)


def loss(query, table, targets, negatives, starts, ends, known, weights, similarity: int, objective: int, margin: float,
         temperature: float, losses, d_query, ids, scores, tops, shares) -> None:  # fmt: skip
    """Fills losses [B] and, unless d_query is empty, d_query [B, D], ids and coefficients (`scores`) [B, 1 + N].

    tops [2, B] and shares [B] are room for the second kernel.
    """
    (batch, dim), count = query.shape, negatives.shape[1]
    if batch == 0:
        return
    length = dim // 2 if similarity == MODULUS.value else dim
    width = max(32, triton.next_power_of_2(length))
    numbers = 2 * width if similarity == MODULUS.value else width
    warps = min(16, max(1, numbers // 1024))
    rows = max(1, min(2048 * warps // numbers, triton.next_power_of_2(max(count, 1))))
    gradient = len(d_query) > 0
    constants = dict(SIMILARITY=similarity, OBJECTIVE=objective, WEIGHED=weighed(objective, temperature),
                     SUM=TYPES[sum_dtype(table.dtype)])  # fmt: skip
    numbers = bits(margin), bits(temperature)
    independent[(batch,)](
        query, table, targets, negatives, starts, ends, known, weights, losses, d_query, ids, scores, tops, shares,
        count, dim, *numbers, KNOWN=len(starts) > 0, GRADIENT=gradient, ROWS=rows, WIDTH=width, **constants,
        num_warps=warps,
    )  # fmt: skip
    if gradient and count:
        block = min(1024, triton.next_power_of_2(count))
        coefficients[(batch, triton.cdiv(count, block))](
            scores, tops, shares, count, *numbers, BLOCK=block, **constants, num_warps=max(1, block // 256)
        )


def check_dim(dim: int) -> str | None:
    """None, or why rows of `dim` numbers can't be served."""
    return None if dim <= LARGEST_DIM else f"rows of {dim} numbers: Triton's sampled losses serve {LARGEST_DIM}"
