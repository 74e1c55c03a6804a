"""Queries of a batch and their adjoints: one program a row and block of coordinates.

Moves 3 rows a query (entity, relation, result), 5 for the adjoint; a few operations a number, so memory bounds both.
RESCAL multiplies its matrix as it reads it: dim^2 numbers a query.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kgfast.core.sums import sum_dtype
from kgfast.registry import Side

from .configurations import TYPES
from .scores import TAIL, Operator
from .tiles import load_halves, split_program, store_halves

RESCAL = "Rescal"  # the operator that is a matrix product

# ---- elementwise operators -----------------------------------------------------------------------------------


@triton.jit
def load_relation(row_ptr, d, length, inside, OPERATOR: tl.constexpr, ACC: tl.constexpr):
    if OPERATOR.value.PHASES:
        phase = tl.load(row_ptr + d, mask=inside, other=0.0).to(ACC)
        return tl.cos(phase), tl.sin(phase)
    else:
        return load_halves(row_ptr, d, length, inside, OPERATOR.value.RELATION_HALVES, ACC)


@triton.jit
def elementwise_queries(
    entities_ptr,  # [E, D]
    relations_ptr,  # [R, W]
    triples_ptr,  # [B, 3]
    query_ptr,  # [B, D]
    dim,
    relation_width,  # W
    OPERATOR: tl.constexpr, SIDE: tl.constexpr,
    ANCHOR: tl.constexpr,  # the column of a triple that is known
    ACC: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """query[b] = tail(h, r), or head(t, r)."""
    length = dim // 2 if OPERATOR.value.ENTITY_HALVES else dim
    row, part = split_program(tl.program_id(0), tl.cdiv(length, BLOCK_D))
    b, d = row.to(tl.int64), part * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < length
    anchor_ptr = entities_ptr + tl.load(triples_ptr + 3 * b + ANCHOR) * dim
    e_a, e_b = load_halves(anchor_ptr, d, length, inside, OPERATOR.value.ENTITY_HALVES, ACC)
    relation_ptr = relations_ptr + tl.load(triples_ptr + 3 * b + 1) * relation_width
    r_a, r_b = load_relation(relation_ptr, d, length, inside, OPERATOR, ACC)
    if SIDE == TAIL:
        q_a, q_b = OPERATOR.value.tail(e_a, e_b, r_a, r_b)
    else:
        q_a, q_b = OPERATOR.value.head(e_a, e_b, r_a, r_b)
    store_halves(query_ptr + b * dim, d, length, inside, q_a, q_b, OPERATOR.value.ENTITY_HALVES)


@triton.jit
def elementwise_adjoint(
    grad_query_ptr,  # [B, D]
    entities_ptr,  # [E, D]
    relations_ptr,  # [R, W]
    triples_ptr,  # [B, 3]
    grad_anchor_ptr,  # [B, D]
    grad_relation_ptr,  # [B, W]
    dim,
    relation_width,  # W
    OPERATOR: tl.constexpr, SIDE: tl.constexpr, ANCHOR: tl.constexpr, ACC: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """(dL/d anchor, dL/d relation) of each triple from dL/dq."""
    length = dim // 2 if OPERATOR.value.ENTITY_HALVES else dim
    row, part = split_program(tl.program_id(0), tl.cdiv(length, BLOCK_D))
    b, d = row.to(tl.int64), part * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < length
    g_a, g_b = load_halves(grad_query_ptr + b * dim, d, length, inside, OPERATOR.value.ENTITY_HALVES, ACC)
    anchor_ptr = entities_ptr + tl.load(triples_ptr + 3 * b + ANCHOR) * dim
    e_a, e_b = load_halves(anchor_ptr, d, length, inside, OPERATOR.value.ENTITY_HALVES, ACC)
    relation_ptr = relations_ptr + tl.load(triples_ptr + 3 * b + 1) * relation_width
    r_a, r_b = load_relation(relation_ptr, d, length, inside, OPERATOR, ACC)
    if SIDE == TAIL:
        d_a, d_b, dr_a, dr_b = OPERATOR.value.tail_adjoint(g_a, g_b, e_a, e_b, r_a, r_b)
    else:
        d_a, d_b, dr_a, dr_b = OPERATOR.value.head_adjoint(g_a, g_b, e_a, e_b, r_a, r_b)
    store_halves(grad_anchor_ptr + b * dim, d, length, inside, d_a, d_b, OPERATOR.value.ENTITY_HALVES)
    grad_row_ptr = grad_relation_ptr + b * relation_width
    store_halves(grad_row_ptr, d, length, inside, dr_a, dr_b, OPERATOR.value.RELATION_HALVES)


# ---- RESCAL --------------------------------------------------------------------------------------------------


@triton.jit
def matrix_vector(
    vectors_ptr,  # [E, D], or [B, D]
    vector_ids_ptr,  # [B], vector_id_stride apart
    vector_id_stride,
    matrices_ptr,  # [R, D, D]
    triples_ptr,  # [B, 3]
    out_ptr,  # [B, D]
    dim, TRANSPOSED: tl.constexpr, GATHER: tl.constexpr, ACC: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[b] = R v, or R^T v (TRANSPOSED), R row-major of triple b's relation; v a row by id (GATHER), or row b."""
    row, block = split_program(tl.program_id(0), tl.cdiv(dim, BLOCK_D))
    b, d = row.to(tl.int64), block * BLOCK_D + tl.arange(0, BLOCK_D)
    matrix_ptr = matrices_ptr + tl.load(triples_ptr + 3 * b + 1) * dim * dim
    if GATHER:
        vector_ptr = vectors_ptr + tl.load(vector_ids_ptr + b * vector_id_stride) * dim
    else:
        vector_ptr = vectors_ptr + b * dim
    inside = d < dim
    sum = tl.zeros((BLOCK_D,), ACC)
    for first in range(0, dim, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        v = tl.load(vector_ptr + k, mask=k < dim, other=0.0).to(ACC)
        if TRANSPOSED:  # rows of memory run along d
            both = (k < dim)[:, None] & inside[None, :]
            part = tl.load(matrix_ptr + k[:, None].to(tl.int64) * dim + d[None, :], mask=both, other=0.0).to(ACC)
            sum += tl.sum(part * v[:, None], 0)
        else:
            both = inside[:, None] & (k < dim)[None, :]
            part = tl.load(matrix_ptr + d[:, None].to(tl.int64) * dim + k[None, :], mask=both, other=0.0).to(ACC)
            sum += tl.sum(part * v[None, :], 1)
    tl.store(out_ptr + b * dim + d, sum.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def outer_product(
    grad_query_ptr,  # [B, D]
    entities_ptr,  # [E, D]
    triples_ptr,  # [B, 3]
    out_ptr,  # [B, D, D]
    dim, SIDE: tl.constexpr, ANCHOR: tl.constexpr, ACC: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
):  # fmt: skip
    """out[b] = h g^T (tail) or g t^T (head), row-major."""
    tiles = tl.cdiv(dim, BLOCK_J)
    row, tile = split_program(tl.program_id(0), tl.cdiv(dim, BLOCK_I) * tiles)
    b = row.to(tl.int64)
    i = tile // tiles * BLOCK_I + tl.arange(0, BLOCK_I)
    j = tile % tiles * BLOCK_J + tl.arange(0, BLOCK_J)
    anchor_ptr = entities_ptr + tl.load(triples_ptr + 3 * b + ANCHOR) * dim
    gradient_ptr = grad_query_ptr + b * dim
    if SIDE == TAIL:
        left = tl.load(anchor_ptr + i, mask=i < dim, other=0.0).to(ACC)
        right = tl.load(gradient_ptr + j, mask=j < dim, other=0.0).to(ACC)
    else:
        left = tl.load(gradient_ptr + i, mask=i < dim, other=0.0).to(ACC)
        right = tl.load(anchor_ptr + j, mask=j < dim, other=0.0).to(ACC)
    out_ptrs = out_ptr + (b * dim + i[:, None]) * dim + j[None, :]
    both = (i < dim)[:, None] & (j < dim)[None, :]
    tl.store(out_ptrs, (left[:, None] * right[None, :]).to(out_ptr.dtype.element_ty), mask=both)


# ---- launches ------------------------------------------------------------------------------------------------


def elementwise_launch(dim: int, relation_width: int, operator: str, side: int, dtype):
    """(number of blocks, arguments that both elementwise kernels take)."""
    formulae = Operator.find(operator)
    length = dim // 2 if formulae.ENTITY_HALVES else dim
    block = min(1024, max(32, triton.next_power_of_2(length)))
    return triton.cdiv(length, block), dict(
        dim=dim,
        relation_width=relation_width,
        OPERATOR=formulae,
        SIDE=int(side),
        ANCHOR=Side(side).anchor,
        ACC=TYPES[sum_dtype(dtype)],
        BLOCK_D=block,
        num_warps=max(1, block // 128),
    )


def make_queries(entities, relations, triples, operator: str, side: int, out) -> None:
    """out [B, D]: tail_query(h, r), or head_query(t, r)."""
    batch, dim = out.shape
    if out.numel() == 0:
        return
    if operator == RESCAL:
        anchors = triples[:, Side(side).anchor]
        multiply_matrices(entities, relations, triples, out, transposed=side == Side.TAIL, ids=anchors)
        return
    blocks, arguments = elementwise_launch(dim, relations.shape[1], operator, side, entities.dtype)
    elementwise_queries[(batch * blocks,)](
        entities_ptr=entities, relations_ptr=relations, triples_ptr=triples, query_ptr=out, **arguments
    )


def adjoint(grad_query, entities, relations, triples, operator: str, side: int, grad_anchor, grad_relation) -> None:
    """grad_anchor [B, D] and grad_relation [B, W] from grad_query [B, D]."""
    batch, dim = grad_query.shape
    if grad_query.numel() == 0:
        return
    if operator == RESCAL:
        multiply_matrices(grad_query, relations, triples, grad_anchor, transposed=side == Side.HEAD)
        rows, columns = 8, min(128, max(16, triton.next_power_of_2(dim)))
        outer_product[(batch * triton.cdiv(dim, rows) * triton.cdiv(dim, columns),)](
            grad_query_ptr=grad_query,
            entities_ptr=entities,
            triples_ptr=triples,
            out_ptr=grad_relation,
            dim=dim,
            SIDE=int(side),
            ANCHOR=Side(side).anchor,
            ACC=TYPES[sum_dtype(entities.dtype)],
            BLOCK_I=rows,
            BLOCK_J=columns,
        )
        return
    blocks, arguments = elementwise_launch(dim, relations.shape[1], operator, side, entities.dtype)
    elementwise_adjoint[(batch * blocks,)](
        grad_query_ptr=grad_query,
        entities_ptr=entities,
        relations_ptr=relations,
        triples_ptr=triples,
        grad_anchor_ptr=grad_anchor,
        grad_relation_ptr=grad_relation,
        **arguments,
    )


def multiply_matrices(vectors, matrices, triples, out, transposed: bool, ids=None) -> None:
    """out[b] = each triple's matrix times vectors[b], or vectors[ids[b]]."""
    batch, dim = out.shape
    block = min(128 if transposed else 16, max(16, triton.next_power_of_2(dim)))
    depth = min(16 if transposed else 128, max(16, triton.next_power_of_2(dim)))
    matrix_vector[(batch * triton.cdiv(dim, block),)](
        vectors_ptr=vectors,
        vector_ids_ptr=triples if ids is None else ids,
        vector_id_stride=0 if ids is None else ids.stride(0),
        matrices_ptr=matrices,
        triples_ptr=triples,
        out_ptr=out,
        dim=dim,
        TRANSPOSED=transposed,
        GATHER=ids is not None,
        ACC=TYPES[sum_dtype(matrices.dtype)],
        BLOCK_D=block,
        BLOCK_K=depth,
    )
