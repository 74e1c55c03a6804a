"""Scores of a query against rows named by id, and their gradient for the query; rows are read where they lie.

A program takes one query and a few rows, each row's numbers in one load of neighbouring threads. Bytes: B K D for each.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kgfast.core.sums import sum_dtype

from .configurations import TYPES
from .scores import SimilarityFormulae, coefficient
from .tiles import load_halves, split_program


@triton.jit
def pair_scores(
    query_ptr,  # [B, D]
    table_ptr,  # [C, D]
    ids_ptr,  # [B, K]
    scores_ptr,  # [B, K]
    count,  # K
    dim, SIMILARITY: tl.constexpr, ACC: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """scores[b, k] = similarity(query[b], table[ids[b, k]])."""
    row, part = split_program(tl.program_id(0), tl.cdiv(count, BLOCK_K))
    b, k = row.to(tl.int64), part * BLOCK_K + tl.arange(0, BLOCK_K)
    live = k < count
    row_ptrs = table_ptr + tl.load(ids_ptr + b * count + k, mask=live, other=0)[:, None] * dim
    sum = tl.zeros((BLOCK_K, BLOCK_D), ACC)
    length = dim // 2 if SIMILARITY.value.COMPLEX else dim
    for first in range(0, length, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        inside = d < length
        both = live[:, None] & inside[None, :]
        x_a = tl.load(query_ptr + b * dim + d, mask=inside, other=0.0).to(ACC)[None, :]
        y_a = tl.load(row_ptrs + d[None, :], mask=both, other=0.0).to(ACC)
        x_b, y_b = x_a, y_a
        if SIMILARITY.value.COMPLEX:
            x_b = tl.load(query_ptr + b * dim + length + d, mask=inside, other=0.0).to(ACC)[None, :]
            y_b = tl.load(row_ptrs + length + d[None, :], mask=both, other=0.0).to(ACC)
        sum = SIMILARITY.value.accumulate(sum, x_a, x_b, y_a, y_b)
    tl.store(scores_ptr + b * count + k, SIMILARITY.value.score(tl.sum(sum, 1)), mask=live)


@triton.jit
def pair_query_gradient(
    grad_scores_ptr,  # [B, K]
    scores_ptr,  # [B, K]
    query_ptr,  # [B, D]
    table_ptr,  # [C, D]
    ids_ptr,  # [B, K]
    coefficients_ptr,  # [B, K]
    grad_query_ptr,  # [B, D]
    count,  # K
    dim, SIMILARITY: tl.constexpr, ACC: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad_query[b] = sum_k dL/ds[b, k] ds[b, k]/dquery[b], and the coefficients of the rows' gradients."""
    length = dim // 2 if SIMILARITY.value.COMPLEX else dim
    row, part = split_program(tl.program_id(0), tl.cdiv(length, BLOCK_D))
    b, d = row.to(tl.int64), part * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < length
    x_a, x_b = load_halves(query_ptr + b * dim, d, length, inside, SIMILARITY.value.COMPLEX, ACC)
    x_a, x_b = x_a[None, :], x_b[None, :]
    sum_a = tl.zeros((BLOCK_K, BLOCK_D), ACC)
    sum_b = sum_a
    for first in range(0, count, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        live = k < count
        at = b * count + k
        grad_score = tl.load(grad_scores_ptr + at, mask=live, other=0.0).to(ACC)
        c = coefficient(grad_score, tl.load(scores_ptr + at, mask=live, other=0.0).to(ACC), SIMILARITY)
        if part == 0:
            tl.store(coefficients_ptr + at, c, mask=live)
        row_ptrs = table_ptr + tl.load(ids_ptr + at, mask=live, other=0)[:, None] * dim
        both = live[:, None] & inside[None, :]
        y_a, y_b = load_halves(row_ptrs, d[None, :], length, both, SIMILARITY.value.COMPLEX, ACC)
        sum_a, sum_b = SIMILARITY.value.add_gradient(sum_a, sum_b, c[:, None], x_a, x_b, y_a, y_b)
    tl.store(grad_query_ptr + b * dim + d, tl.sum(sum_a, 0), mask=inside)
    if SIMILARITY.value.COMPLEX:
        tl.store(grad_query_ptr + b * dim + length + d, tl.sum(sum_b, 0), mask=inside)


def blocks(dim: int, count: int, similarity: int, dtype):
    """(number of coordinates, constants): a tile has up to 2,048 numbers, rows of a warp's width at least."""
    formulae = SimilarityFormulae.find(similarity)
    length = dim // 2 if formulae.COMPLEX else dim
    width = min(512, max(32, triton.next_power_of_2(length)))
    numbers = 1024 if formulae.COMPLEX else 2048
    rows = min(numbers // width, max(1, triton.next_power_of_2(count)))
    return length, dict(SIMILARITY=formulae, ACC=TYPES[sum_dtype(dtype)], BLOCK_K=rows, BLOCK_D=width, num_warps=1)


def score(query, table, ids, similarity: int, scores) -> None:
    """Fills scores [B, K]."""
    if ids.numel():
        (batch, count), dim = ids.shape, query.shape[1]
        _, constants = blocks(dim, count, similarity, table.dtype)
        pair_scores[(batch * triton.cdiv(count, constants["BLOCK_K"]),)](
            query_ptr=query,
            table_ptr=table,
            ids_ptr=ids,
            scores_ptr=scores,
            count=count,
            dim=dim,
            **constants,
        )


def query_gradient(grad_scores, scores, query, table, ids, similarity: int, coefficients, grad_query) -> None:
    """Fills coefficients [B, K] and grad_query [B, D]."""
    if grad_query.numel():
        (batch, count), dim = ids.shape, query.shape[1]
        length, constants = blocks(dim, count, similarity, table.dtype)
        pair_query_gradient[(batch * triton.cdiv(length, constants["BLOCK_D"]),)](
            grad_scores_ptr=grad_scores,
            scores_ptr=scores,
            query_ptr=query,
            table_ptr=table,
            ids_ptr=ids,
            coefficients_ptr=coefficients,
            grad_query_ptr=grad_query,
            count=count,
            dim=dim,
            **constants,
        )
