"""Losses over each query's own negatives: scores, objective and the query's gradient in one visit of each row.

A program of one warp (more for wide rows) takes a query, reads a few rows at a time and keeps them in registers for the
score and for the gradient, whose sum is rescaled when a larger score comes. What it leaves are raw scores, which
`negative_score_gradients` turns into dL/dscore. Bytes: B N D of rows, 8 B N of ids and twice 4 B N of scores; some 4
operations a number of a row, so memory bounds it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kgfast.core.sums import sum_dtype

from .configurations import TYPES, bits
from .launching import coordinates
from .objectives import ObjectiveFormulae, first_largest, negative_weights, part_of, visit_negatives
from .sampling import contains, known_range
from .scores import SimilarityFormulae, coefficient
from .tiles import load_halves, number, split_program, store_halves

LARGEST_DIM = 16384  # a row must fit the registers of one program
MASKED = tl.constexpr(float("-inf"))  # the score that is kept of a masked negative


@triton.jit
def row_score(x_a, x_b, y_a, y_b, SIMILARITY: tl.constexpr, AXIS: tl.constexpr):
    parts = SIMILARITY.value.accumulate(tl.zeros_like(y_a), x_a, x_b, y_a, y_b)
    return SIMILARITY.value.score(tl.sum(parts, AXIS))


@triton.jit(do_not_specialize=["margin_bits", "temperature_bits", "count"])
def own_negatives_loss(  # long: one pass, whose state is in registers
    query_ptr,  # [B, D]
    table_ptr,  # [C, D]
    targets_ptr,  # [B]
    negatives_ptr,  # [B, N]
    known_starts_ptr, known_ends_ptr, known_ids_ptr,  # [B], [B], [..]
    weights_ptr,  # [B]
    losses_ptr,  # [B]
    grad_query_ptr,  # [B, D]
    ids_ptr, scores_ptr,  # [B, 1 + N]: what the rows' gradients need, the target first
    largest_ptr,  # [2, B]: the largest score; the target's score, where the objective needs it again
    shares_ptr,  # [B]
    count, dim, margin_bits: tl.int64, temperature_bits: tl.int64,
    SIMILARITY: tl.constexpr, OBJECTIVE: tl.constexpr, WEIGHTED: tl.constexpr, HAS_KNOWN: tl.constexpr,
    GRADIENT: tl.constexpr, ACC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """losses[b] = weights[b] * objective(s+, s_1 .. s_N), and with GRADIENT dL/dquery[b]."""
    b = tl.program_id(0).to(tl.int64)
    margin, temperature = number(margin_bits, ACC), number(temperature_bits, ACC)
    length = dim // 2 if SIMILARITY.value.COMPLEX else dim
    d = tl.arange(0, BLOCK_D)
    inside = d < length
    target = tl.load(targets_ptr + b)
    x_a, x_b = load_halves(query_ptr + b * dim, d, length, inside, SIMILARITY.value.COMPLEX, ACC)
    y_a, y_b = load_halves(table_ptr + target * dim, d, length, inside, SIMILARITY.value.COMPLEX, ACC)
    own = row_score(x_a, x_b, y_a, y_b, SIMILARITY, 0)
    largest = first_largest(own, OBJECTIVE)
    weight = tl.zeros((), ACC)
    value, gradient, kept = weight, weight, weight  # sums over negatives
    sum_a = tl.zeros((BLOCK_D,), ACC)
    sum_b = sum_a
    start, end = known_range(known_starts_ptr, known_ends_ptr, b, HAS_KNOWN)
    for first in range(0, count, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        live = n < count
        id = tl.load(negatives_ptr + b * count + n, mask=live, other=-1)
        keep = live & (id >= 0) & (id != target)
        if HAS_KNOWN:
            keep &= contains(known_ids_ptr, start, end, id) == 0
        row_ptrs = table_ptr + tl.where(keep, id, 0)[:, None] * dim
        both = keep[:, None] & inside[None, :]
        z_a, z_b = load_halves(row_ptrs, d[None, :], length, both, SIMILARITY.value.COMPLEX, ACC)
        score = row_score(x_a[None, :], x_b[None, :], z_a, z_b, SIMILARITY, 1)
        largest, weight, value, gradient, kept, scale, pull = visit_negatives(
            largest, weight, value, gradient, kept, own, score, keep, margin, temperature, OBJECTIVE, WEIGHTED, ACC
        )
        if GRADIENT:
            c = coefficient(pull, score, SIMILARITY)[:, None]
            zeros = tl.zeros((BLOCK_N, BLOCK_D), ACC)
            part_a, part_b = SIMILARITY.value.add_gradient(zeros, zeros, c, x_a[None, :], x_b[None, :], z_a, z_b)
            if SIMILARITY.value.COMPLEX:
                sum_b = sum_b * scale + tl.sum(part_b, 0)
            sum_a = sum_a * scale + tl.sum(part_a, 0)
            at = b * (count + 1) + 1 + n
            tl.store(scores_ptr + at, tl.where(keep, score, MASKED), mask=live)
            tl.store(ids_ptr + at, tl.where(id < 0, target, id), mask=live)
    loss, grad_target, share = OBJECTIVE.value.loss(own, largest, weight, value, gradient, kept, margin, WEIGHTED)
    of_row = tl.load(weights_ptr + b).to(ACC)
    tl.store(losses_ptr + b, part_of(loss, of_row))
    if GRADIENT:
        c = coefficient(grad_target, own, SIMILARITY)
        sum_a, sum_b = SIMILARITY.value.add_gradient(sum_a * share, sum_b * share, c, x_a, x_b, y_a, y_b)
        sum_a, sum_b = part_of(sum_a, of_row), part_of(sum_b, of_row)
        store_halves(grad_query_ptr + b * dim, d, length, inside, sum_a, sum_b, SIMILARITY.value.COMPLEX)
        tl.store(scores_ptr + b * (count + 1), part_of(c, of_row))
        tl.store(ids_ptr + b * (count + 1), target)
        tl.store(largest_ptr + b, largest)
        tl.store(shares_ptr + b, part_of(share, of_row))
        if OBJECTIVE.value.NEEDS_TARGET:
            tl.store(largest_ptr + tl.num_programs(0) + b, own)


@triton.jit(do_not_specialize=["margin_bits", "temperature_bits", "count"])
def negative_score_gradients(
    scores_ptr,  # [B, 1 + N]
    largest_ptr,  # [2, B]
    shares_ptr,  # [B]
    count, margin_bits: tl.int64, temperature_bits: tl.int64,
    SIMILARITY: tl.constexpr, OBJECTIVE: tl.constexpr, WEIGHTED: tl.constexpr, ACC: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """In place: the scores of a row's negatives become dL/dscore, for L2 divided by the score."""
    parts = tl.cdiv(count, BLOCK_N)
    row, part = split_program(tl.program_id(0), parts)
    b, n = row.to(tl.int64), part * BLOCK_N + tl.arange(0, BLOCK_N)
    live = n < count
    score_ptrs = scores_ptr + b * (count + 1) + 1 + n
    score = tl.load(score_ptrs, mask=live, other=MASKED)
    keep = score != MASKED
    largest = tl.load(largest_ptr + b)
    own = largest
    if OBJECTIVE.value.NEEDS_TARGET:
        own = tl.load(largest_ptr + tl.num_programs(0) // parts + b)
    p = negative_weights(score, keep, largest, number(temperature_bits, ACC), OBJECTIVE, WEIGHTED)
    _, gradient = OBJECTIVE.value.negative(own, score, number(margin_bits, ACC))
    c = tl.where(keep, part_of(p * gradient, tl.load(shares_ptr + b)), 0.0)
    tl.store(score_ptrs, coefficient(c, score, SIMILARITY), mask=live)


def loss(query, table, targets, negatives, starts, ends, known, weights, similarity: int, objective: int, margin: float,
         temperature: float, losses, grad_query, ids, scores, largest, shares) -> None:  # fmt: skip
    """Fills losses [B] and, unless grad_query is empty, grad_query [B, D], ids and dL/dscore (`scores`) [B, 1 + N].

    largest [2, B] and shares [B] are room for the second kernel.
    """
    (batch, dim), count = query.shape, negatives.shape[1]
    if batch == 0:
        return
    length = coordinates(dim, similarity)
    width = max(32, triton.next_power_of_2(length))
    numbers = width * (dim // length)
    warps = min(16, max(1, numbers // 1024))
    rows = max(1, min(2048 * warps // numbers, triton.next_power_of_2(max(count, 1))))
    gradient = len(grad_query) > 0
    formulae = ObjectiveFormulae.find(objective)
    shared = dict(
        scores_ptr=scores,
        largest_ptr=largest,
        shares_ptr=shares,
        count=count,
        margin_bits=bits(margin),
        temperature_bits=bits(temperature),
        SIMILARITY=SimilarityFormulae.find(similarity),
        OBJECTIVE=formulae,
        WEIGHTED=formulae.weighs(temperature),
        ACC=TYPES[sum_dtype(table.dtype)],
    )
    own_negatives_loss[(batch,)](
        query_ptr=query,
        table_ptr=table,
        targets_ptr=targets,
        negatives_ptr=negatives,
        known_starts_ptr=starts,
        known_ends_ptr=ends,
        known_ids_ptr=known,
        weights_ptr=weights,
        losses_ptr=losses,
        grad_query_ptr=grad_query,
        ids_ptr=ids,
        dim=dim,
        HAS_KNOWN=len(starts) > 0,
        GRADIENT=gradient,
        BLOCK_N=rows,
        BLOCK_D=width,
        **shared,
        num_warps=warps,
    )
    if gradient and count:
        block = min(1024, triton.next_power_of_2(count))
        negative_score_gradients[(batch * triton.cdiv(count, block),)](
            **shared, BLOCK_N=block, num_warps=max(1, block // 256)
        )


def check_dim(dim: int) -> str | None:
    """None, or why rows of `dim` numbers can't be served."""
    return None if dim <= LARGEST_DIM else f"rows of {dim} numbers: Triton's sampled losses serve {LARGEST_DIM}"
