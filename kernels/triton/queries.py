"""Queries of a batch and their adjoints: one program a row and block of coordinates.

Moves 3 rows a query (entity, relation, result), 5 for the adjoint; a few operations a number, so memory bounds both.
RESCAL multiplies its matrix as it reads it: dim^2 numbers a query.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .configurations import TYPES, sum_dtype
from .scores import OPERATORS, PARTS, RELATION_PARTS, RESCAL, ROTATE, head, head_adjoint, tail, tail_adjoint


@triton.jit
def relation_halves(row, place, length, inside, OPERATOR: tl.constexpr, RELATION_PARTS: tl.constexpr,
                    SUM: tl.constexpr):  # fmt: skip
    a = tl.load(row + place, mask=inside, other=0.0).to(SUM)
    if OPERATOR == ROTATE:
        return tl.cos(a), tl.sin(a)
    elif RELATION_PARTS == 2:
        return a, tl.load(row + length + place, mask=inside, other=0.0).to(SUM)
    else:
        return a, a


@triton.jit
def halves(row, place, length, inside, PARTS: tl.constexpr, SUM: tl.constexpr):
    a = tl.load(row + place, mask=inside, other=0.0).to(SUM)
    if PARTS == 2:
        return a, tl.load(row + length + place, mask=inside, other=0.0).to(SUM)
    else:
        return a, a


@triton.jit
def store_halves(row, place, length, inside, a, b, PARTS: tl.constexpr):
    tl.store(row + place, a.to(row.dtype.element_ty), mask=inside)
    if PARTS == 2:
        tl.store(row + length + place, b.to(row.dtype.element_ty), mask=inside)


@triton.jit
def elementwise(entities, relations, triples, out, dim, width, OPERATOR: tl.constexpr, SIDE: tl.constexpr,
                PARTS: tl.constexpr, RELATION_PARTS: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    length = dim // PARTS
    inside = place < length
    anchor = entities + tl.load(triples + 3 * b + 2 * SIDE) * dim
    e_a, e_b = halves(anchor, place, length, inside, PARTS, SUM)
    relation = relations + tl.load(triples + 3 * b + 1) * width
    r_a, r_b = relation_halves(relation, place, length, inside, OPERATOR, RELATION_PARTS, SUM)
    if SIDE == 0:
        q_a, q_b = tail(e_a, e_b, r_a, r_b, OPERATOR)
    else:
        q_a, q_b = head(e_a, e_b, r_a, r_b, OPERATOR)
    store_halves(out + b * dim, place, length, inside, q_a, q_b, PARTS)


@triton.jit
def elementwise_adjoint(d_query, entities, relations, triples, d_anchor, d_relation, dim, width,
                        OPERATOR: tl.constexpr, SIDE: tl.constexpr, PARTS: tl.constexpr,
                        RELATION_PARTS: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    length = dim // PARTS
    inside = place < length
    g_a, g_b = halves(d_query + b * dim, place, length, inside, PARTS, SUM)
    anchor = entities + tl.load(triples + 3 * b + 2 * SIDE) * dim
    e_a, e_b = halves(anchor, place, length, inside, PARTS, SUM)
    relation = relations + tl.load(triples + 3 * b + 1) * width
    r_a, r_b = relation_halves(relation, place, length, inside, OPERATOR, RELATION_PARTS, SUM)
    if SIDE == 0:
        a, b_, r, s = tail_adjoint(g_a, g_b, e_a, e_b, r_a, r_b, OPERATOR)
    else:
        a, b_, r, s = head_adjoint(g_a, g_b, e_a, e_b, r_a, r_b, OPERATOR)
    store_halves(d_anchor + b * dim, place, length, inside, a, b_, PARTS)
    store_halves(d_relation + b * width, place, length, inside, r, s, RELATION_PARTS)


@triton.jit
def matrix_vector(vectors, vector_ids, id_step, matrices, triples, out, dim, TURNED: tl.constexpr, GATHER: tl.constexpr,
                  SUM: tl.constexpr, BLOCK: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """out[b] = R v, or R^T v (TURNED), R row-major of triple b's relation; v a row by id (GATHER), or row b."""
    b = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    matrix = matrices + tl.load(triples + 3 * b + 1) * dim * dim
    if GATHER:
        vector = vectors + tl.load(vector_ids + b * id_step) * dim
    else:
        vector = vectors + b * dim
    inside = place < dim
    sum = tl.zeros((BLOCK,), SUM)
    for first in range(0, dim, DEPTH):
        k = first + tl.arange(0, DEPTH)
        v = tl.load(vector + k, mask=k < dim, other=0.0).to(SUM)
        if TURNED:  # rows of memory run along `place`
            both = (k < dim)[:, None] & inside[None, :]
            part = tl.load(matrix + k[:, None].to(tl.int64) * dim + place[None, :], mask=both, other=0.0).to(SUM)
            sum += tl.sum(part * v[:, None], 0)
        else:
            both = inside[:, None] & (k < dim)[None, :]
            part = tl.load(matrix + place[:, None].to(tl.int64) * dim + k[None, :], mask=both, other=0.0).to(SUM)
            sum += tl.sum(part * v[None, :], 1)
    tl.store(out + b * dim + place, sum.to(out.dtype.element_ty), mask=inside)


@triton.jit
def outer_product(d_query, entities, triples, out, dim, SIDE: tl.constexpr, SUM: tl.constexpr, ROWS: tl.constexpr,
                  COLUMNS: tl.constexpr):  # fmt: skip
    """out[b] = h g^T (tail) or g t^T (head), row-major."""
    b = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(dim, COLUMNS)
    i = tl.program_id(1) // tiles * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) % tiles * COLUMNS + tl.arange(0, COLUMNS)
    anchor = entities + tl.load(triples + 3 * b + 2 * SIDE) * dim
    gradient = d_query + b * dim
    if SIDE == 0:
        left = tl.load(anchor + i, mask=i < dim, other=0.0).to(SUM)
        right = tl.load(gradient + j, mask=j < dim, other=0.0).to(SUM)
    else:
        left = tl.load(gradient + i, mask=i < dim, other=0.0).to(SUM)
        right = tl.load(anchor + j, mask=j < dim, other=0.0).to(SUM)
    where = out + (b * dim + i[:, None]) * dim + j[None, :]
    tl.store(where, (left[:, None] * right[None, :]).to(out.dtype.element_ty),
             mask=(i < dim)[:, None] & (j < dim)[None, :])  # fmt: skip


def launch(dim: int, operator: str, dtype):
    """(number of blocks, constants) of an elementwise kernel."""
    code = OPERATORS[operator]
    length = dim // PARTS[code]
    block = min(1024, max(32, triton.next_power_of_2(length)))
    constants = dict(OPERATOR=code, PARTS=PARTS[code], RELATION_PARTS=RELATION_PARTS[code],
                     SUM=TYPES[sum_dtype(dtype)], BLOCK=block)  # fmt: skip
    return triton.cdiv(length, block), constants, dict(num_warps=max(1, block // 128))


def make_queries(entities, relations, triples, operator: str, side: int, out) -> None:
    """out [B, D]: tail_query(h, r), or head_query(t, r)."""
    batch, dim = out.shape
    if out.numel() == 0:
        return
    if OPERATORS[operator] == RESCAL.value:
        multiply(entities, triples[:, 2 * side], 3, relations, triples, out, side == 0)
        return
    blocks, constants, options = launch(dim, operator, entities.dtype)
    elementwise[(batch, blocks)](entities, relations, triples, out, dim, relations.shape[1], SIDE=side, **constants,
                                 **options)  # fmt: skip


def adjoint(d_query, entities, relations, triples, operator: str, side: int, d_anchor, d_relation) -> None:
    """d_anchor [B, D] and d_relation [B, W] from d_query [B, D]."""
    batch, dim = d_query.shape
    if d_query.numel() == 0:
        return
    if OPERATORS[operator] == RESCAL.value:
        multiply(d_query, None, 0, relations, triples, d_anchor, side == 1)
        rows, columns = 8, min(128, max(16, triton.next_power_of_2(dim)))
        outer_product[(batch, triton.cdiv(dim, rows) * triton.cdiv(dim, columns))](
            d_query, entities, triples, d_relation, dim, side, TYPES[sum_dtype(entities.dtype)], rows, columns
        )
        return
    blocks, constants, options = launch(dim, operator, entities.dtype)
    elementwise_adjoint[(batch, blocks)](d_query, entities, relations, triples, d_anchor, d_relation, dim,
                                         relations.shape[1], SIDE=side, **constants, **options)  # fmt: skip


def multiply(vectors, ids, step: int, matrices, triples, out, turned: bool) -> None:
    batch, dim = out.shape
    block = min(128 if turned else 16, max(16, triton.next_power_of_2(dim)))
    depth = min(16 if turned else 128, max(16, triton.next_power_of_2(dim)))
    matrix_vector[(batch, triton.cdiv(dim, block))](
        vectors, triples if ids is None else ids, step, matrices, triples, out, dim, turned, ids is not None,
        TYPES[sum_dtype(matrices.dtype)], block, depth,
    )  # fmt: skip
