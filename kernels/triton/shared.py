"""Losses over lists of negatives that many queries share: tiles of queries against a list.

Dots run on the tensor cores, or are the library's products (shared_products.py). `list_scores` writes the scores [B, N]
(-inf where masked), `list_loss` makes them dL/dscore a row at a time, the tiles of gradients multiply those with the
list's rows (query gradient) and with the queries (the rows' gradient). Lists g and queries b belong together where g =
b G // B. Memory: the scores B N, the lists' rows G N D; float32 in tiles and distances: transposed copies of lists and
queries; where lists are few, up to 16 G N D of sums over parts of the queries.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl

from kgfast.core.sums import sum_dtype

from . import shared_products
from .configurations import arithmetic, bits, tiles
from .launching import (
    ceil_div,
    coordinates,
    gradient_blocks,
    grouped_operand,
    is_far,
    is_product,
    parts_of,
    score_blocks,
    strided,
    transposed_by_group,
    transposes,
)
from .objectives import ObjectiveFormulae, first_largest, negative_weights, part_of, visit_negatives
from .sampled import MASKED
from .sampling import contains, known_range
from .scores import coefficient
from .shared_products import by_library
from .tiles import gradient_tile, load_halves, number, score_tile, split_program, store_halves, tile_of


@triton.jit
def rows_of(group, batch, groups):
    """First query of a group, and the first of the next."""
    wide = group.to(tl.int64)
    return (wide * batch + groups - 1) // groups, ((wide + 1) * batch + groups - 1) // groups


@triton.jit
def list_scores(
    query_ptr,  # [B, D]
    query_stride_row, query_stride_dim,
    lists_ptr,  # [G, N, D]: the lists' rows
    lists_stride_group, lists_stride_row, lists_stride_dim,
    out_ptr,  # [B, N]
    batch, groups, count, dim, row_tiles,
    SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[b, n] = similarity(query[b], row n of its list), one tile."""
    column_tiles = tl.cdiv(count, BLOCK_C)
    group, tile = split_program(tl.program_id(0), row_tiles * column_tiles)
    begin, stop = rows_of(group, batch, groups)
    row_tile, column_tile = tile_of(tile, row_tiles, column_tiles)
    height = (stop - begin).to(tl.int32) - row_tile * BLOCK_B
    if height > 0:
        begin += row_tile * BLOCK_B
        row = tl.arange(0, BLOCK_B)
        columns = tl.arange(0, BLOCK_C)
        first = column_tile * BLOCK_C
        width = tl.minimum(count - first, BLOCK_C)
        read_row = tl.minimum(row, height - 1)
        read_column = columns
        if SIMILARITY.value.MATRIX_PRODUCT:
            read_column = tl.minimum(columns, width - 1)
        lists_ptr += group.to(tl.int64) * lists_stride_group + tl.cast(first, tl.int64) * lists_stride_row
        scores = score_tile(
            sum=tl.zeros((BLOCK_B, BLOCK_C), ACC), query_ptr=query_ptr + begin * query_stride_row,
            query_stride_row=query_stride_row, query_stride_dim=query_stride_dim, rows=read_row, table_ptr=lists_ptr,
            table_stride_row=lists_stride_row, table_stride_dim=lists_stride_dim, columns=read_column, dim=dim,
            SIMILARITY=SIMILARITY, ACC=ACC, INPUT_PRECISION=INPUT_PRECISION, BLOCK_D=BLOCK_D,
        )  # fmt: skip
        out_ptrs = out_ptr + begin * count + first + row[:, None].to(tl.int64) * count + columns[None, :]
        tl.store(out_ptrs, scores, mask=(row < height)[:, None] & (columns < width)[None, :])


@triton.jit
def target_score(x_ptr, y_ptr, length, SIMILARITY: tl.constexpr, ACC: tl.constexpr, BLOCK_D: tl.constexpr):
    """similarity(x, y) of two rows."""
    sum = tl.zeros((BLOCK_D,), ACC)
    for first in range(0, length, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        x_a, x_b = load_halves(x_ptr, d, length, d < length, SIMILARITY.value.COMPLEX, ACC)
        y_a, y_b = load_halves(y_ptr, d, length, d < length, SIMILARITY.value.COMPLEX, ACC)
        sum = SIMILARITY.value.accumulate(sum, x_a, x_b, y_a, y_b)
    return SIMILARITY.value.score(tl.sum(sum, 0))


@triton.jit
def store_target_gradient(c, x_ptr, y_ptr, out_ptr, length, SIMILARITY: tl.constexpr, ACC: tl.constexpr,
                          BLOCK_D: tl.constexpr):  # fmt: skip
    """out = c ds(x, y)/dx."""
    for first in range(0, length, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        zeros = tl.zeros((BLOCK_D,), ACC)
        x_a, x_b = load_halves(x_ptr, d, length, d < length, SIMILARITY.value.COMPLEX, ACC)
        y_a, y_b = load_halves(y_ptr, d, length, d < length, SIMILARITY.value.COMPLEX, ACC)
        part_a, part_b = SIMILARITY.value.add_gradient(zeros, zeros, c, x_a, x_b, y_a, y_b)
        store_halves(out_ptr, d, length, d < length, part_a, part_b, SIMILARITY.value.COMPLEX)


@triton.jit(do_not_specialize=["margin_bits", "temperature_bits", "count"])
def list_loss(
    query_ptr,  # [B, D]
    table_ptr,  # [C, D]
    targets_ptr,  # [B]
    negatives_ptr,  # [G, N]
    known_starts_ptr, known_ends_ptr, known_ids_ptr,  # [B], [B], [..]
    weights_ptr,  # [B]
    scores_ptr,  # [B, N]
    grad_scores_ptr,  # [B, N]
    losses_ptr,  # [B]
    grad_targets_ptr,  # [B]: coefficients of the targets
    grad_query_ptr,  # [B, D]
    groups, count, dim, margin_bits: tl.int64, temperature_bits: tl.int64,
    HAS_KNOWN: tl.constexpr, OBJECTIVE: tl.constexpr, WEIGHTED: tl.constexpr, GRADIENT: tl.constexpr,
    SIMILARITY: tl.constexpr, ACC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Row b: weights[b] * objective(s+, s_1 .. s_N); coefficients of its negatives; of the target the coefficient and
    its part of the query's gradient.

    Scores of masked negatives become -inf in the first visit, so that the second needs no look at ids.
    """
    b = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + b)
    list_ptr = negatives_ptr + b * groups // tl.num_programs(0) * count
    start, end = known_range(known_starts_ptr, known_ends_ptr, b, HAS_KNOWN)
    margin, temperature = number(margin_bits, ACC), number(temperature_bits, ACC)
    length = dim // 2 if SIMILARITY.value.COMPLEX else dim
    x_ptr, y_ptr = query_ptr + b * dim, table_ptr + target * dim
    own = target_score(x_ptr, y_ptr, length, SIMILARITY, ACC, BLOCK_D)
    largest = first_largest(own, OBJECTIVE)
    weight = tl.zeros((), ACC)
    value, gradient, kept = weight, weight, weight  # sums over negatives
    for first in range(0, count, BLOCK_N):
        n = first + tl.arange(0, BLOCK_N)
        live = n < count
        id = tl.load(list_ptr + n, mask=live, other=-1)
        keep = (id >= 0) & (id != target)
        if HAS_KNOWN:
            keep &= contains(known_ids_ptr, start, end, id) == 0
        score = tl.load(scores_ptr + b * count + n, mask=keep, other=MASKED)
        tl.store(scores_ptr + b * count + n, score, mask=live & (keep == 0))
        largest, weight, value, gradient, kept, _, _ = visit_negatives(
            largest, weight, value, gradient, kept, own, score, keep, margin, temperature, OBJECTIVE, WEIGHTED, ACC
        )
    loss, grad_target, share = OBJECTIVE.value.loss(own, largest, weight, value, gradient, kept, margin, WEIGHTED)
    of_row = tl.load(weights_ptr + b).to(ACC)
    tl.store(losses_ptr + b, part_of(loss, of_row))
    if GRADIENT:
        tl.debug_barrier()  # what the first visit has masked
        for first in range(0, count, BLOCK_N):
            n = first + tl.arange(0, BLOCK_N)
            score = tl.load(scores_ptr + b * count + n, mask=n < count, other=MASKED)
            keep = score != MASKED
            p = negative_weights(score, keep, largest, temperature, OBJECTIVE, WEIGHTED)
            _, term_gradient = OBJECTIVE.value.negative(own, score, margin)
            c = coefficient(tl.where(keep, part_of(p * term_gradient, part_of(share, of_row)), 0.0), score, SIMILARITY)
            tl.store(grad_scores_ptr + b * count + n, c.to(grad_scores_ptr.dtype.element_ty), mask=n < count)
        c = coefficient(part_of(grad_target, of_row), own, SIMILARITY)
        tl.store(grad_targets_ptr + b, c)
        store_target_gradient(c, x_ptr, y_ptr, grad_query_ptr + b * dim, length, SIMILARITY, ACC, BLOCK_D)


@triton.jit
def list_query_gradient(
    grad_scores_ptr,  # [B, N]
    query_ptr,  # [B, D]
    lists_ptr,  # [G, N, D]
    lists_stride_group, lists_stride_row, lists_stride_dim,
    grad_query_ptr,  # [B, D]
    batch, groups, count, dim, row_tiles, TRANSPOSED: tl.constexpr, FAR: tl.constexpr,
    SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    """grad_query[b] += sum_n c[b, n] d similarity(q_b, row n of its list) / dq."""
    stride = count
    if FAR:
        stride, lists_stride_dim = tl.cast(count, tl.int64), tl.cast(lists_stride_dim, tl.int64)
    length = dim // 2 if SIMILARITY.value.COMPLEX else dim
    d_tiles = tl.cdiv(length, BLOCK_D)
    group, tile = split_program(tl.program_id(0), row_tiles * d_tiles)
    first, stop = rows_of(group, batch, groups)
    row_tile, d_tile = tile_of(tile, row_tiles, d_tiles)
    begin = first + row_tile * BLOCK_X
    row = begin + tl.arange(0, BLOCK_X)
    if begin < stop:
        read_row = tl.minimum(row, stop - 1)
        d = d_tile * BLOCK_D + tl.arange(0, BLOCK_D)
        kept = (row < stop)[:, None] & (d < length)[None, :]
        out_ptrs = grad_query_ptr + row[:, None] * dim + d[None, :]
        sum_a = tl.load(out_ptrs, mask=kept, other=0.0)
        sum_b = sum_a
        if SIMILARITY.value.COMPLEX:
            sum_b = tl.load(out_ptrs + length, mask=kept, other=0.0)
        list_ptr, list_rows = lists_ptr + group.to(tl.int64) * lists_stride_group, count
        if TRANSPOSED:
            list_rows = tl.cdiv(count, 16) * 16
        sum_a, sum_b = gradient_tile(
            sum_a=sum_a, sum_b=sum_b, grad_ptr=grad_scores_ptr + begin * count, grad_stride_x=stride, grad_stride_y=1,
            grad_x=stop - begin, grad_y=count, x_ptr=query_ptr, rows=read_row, y_ptr=list_ptr,
            y_stride_row=lists_stride_row, y_stride_dim=lists_stride_dim, y_rows=list_rows, count=count, dim=dim,
            first_d=d_tile * BLOCK_D, SIMILARITY=SIMILARITY, ACC=ACC, INPUT_PRECISION=INPUT_PRECISION,
            BLOCK_X=BLOCK_X, BLOCK_D=BLOCK_D, BLOCK_Y=BLOCK_Y,
        )  # fmt: skip
        tl.store(out_ptrs, sum_a, mask=kept)
        if SIMILARITY.value.COMPLEX:
            tl.store(out_ptrs + length, sum_b, mask=kept)


@triton.jit
def list_row_gradient(
    grad_scores_ptr,  # [B, N]
    lists_ptr,  # [G, N, D]
    query_ptr,  # [B, D], or TRANSPOSED [G, D, ..], with zeros up to a multiple of 16
    query_stride_group, query_stride_row, query_stride_dim,
    out_ptr,  # [parts, G, N, D]
    batch, groups, count, dim, parts, TRANSPOSED: tl.constexpr, FAR: tl.constexpr,
    SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    """out[part, list, n] = sum over a part of the queries b of a list of c[b, n] d similarity / d row n."""
    length = dim // 2 if SIMILARITY.value.COMPLEX else dim
    row_tiles, d_tiles = tl.cdiv(count, BLOCK_X), tl.cdiv(length, BLOCK_D)
    place, tile = split_program(tl.program_id(0), row_tiles * d_tiles)
    group, part = place % groups, place // groups
    first, stop = rows_of(group, batch, groups)
    queries = (stop - first).to(tl.int32)
    share = tl.cdiv(tl.cdiv(queries, parts), 16) * 16
    offset = tl.minimum(part * share, queries)
    num_queries = tl.minimum(queries - offset, share)
    row_tile, d_tile = tile_of(tile, row_tiles, d_tiles)
    begin = row_tile * BLOCK_X
    stride = count
    if FAR:
        stride, query_stride_dim = tl.cast(count, tl.int64), tl.cast(query_stride_dim, tl.int64)
    row = (begin + tl.arange(0, BLOCK_X)).to(tl.int64)
    read_row = tl.minimum(row, count - 1)
    zeros = tl.zeros((BLOCK_X, BLOCK_D), ACC)
    if TRANSPOSED:
        y_ptr = query_ptr + group.to(tl.int64) * query_stride_group + part * share * query_stride_row
        y_rows = tl.cdiv(num_queries, 16) * 16
    else:
        y_ptr, y_rows = query_ptr + (first + offset) * query_stride_row, num_queries
    sum_a, sum_b = gradient_tile(
        sum_a=zeros, sum_b=zeros, grad_ptr=grad_scores_ptr + (first + offset) * count + begin, grad_stride_x=1,
        grad_stride_y=stride, grad_x=count - begin, grad_y=num_queries,
        x_ptr=lists_ptr + group.to(tl.int64) * count * dim, rows=read_row, y_ptr=y_ptr, y_stride_row=query_stride_row,
        y_stride_dim=query_stride_dim, y_rows=y_rows, count=num_queries, dim=dim, first_d=d_tile * BLOCK_D,
        SIMILARITY=SIMILARITY, ACC=ACC, INPUT_PRECISION=INPUT_PRECISION, BLOCK_X=BLOCK_X, BLOCK_D=BLOCK_D,
        BLOCK_Y=BLOCK_Y,
    )  # fmt: skip
    d = d_tile * BLOCK_D + tl.arange(0, BLOCK_D)
    kept = (row < count)[:, None] & (d < length)[None, :]
    out_ptrs = out_ptr + ((part * groups + group).to(tl.int64) * count + row)[:, None] * dim + d[None, :]
    tl.store(out_ptrs, sum_a, mask=kept)
    if SIMILARITY.value.COMPLEX:
        tl.store(out_ptrs + length, sum_b, mask=kept)


# ---- launches ------------------------------------------------------------------------------------------------


def gradient_tiles(dtype, similarity: int, device, rows: int):
    sizes = tiles("gradients", dtype, similarity, device, rows)
    return replace(sizes, columns=min(sizes.columns, 128))  # wider tiles don't fit the registers


def score_lists(query, lists, similarity: int, scores) -> None:
    """Fills scores [B, N]."""
    (batch, dim), (groups, count, _) = query.shape, lists.shape
    largest = ceil_div(batch, groups)
    sizes = tiles("scores", query.dtype, similarity, query.device, largest)
    row_tiles, column_tiles = ceil_div(largest, sizes.rows), ceil_div(count, sizes.columns)
    if is_product(similarity):
        operands = strided("query", query, dim, 1) | grouped_operand("lists", lists, count * dim, dim, 1)
    else:  # tiles of distances read a coordinate of many rows at once
        operands = strided("query", query.t().contiguous(), 1, batch)
        operands |= transposed_by_group("lists", lists.view(-1, dim), groups, sizes.columns)
    list_scores[(groups * row_tiles * column_tiles,)](
        **operands,
        out_ptr=scores,
        batch=batch,
        groups=groups,
        count=count,
        dim=dim,
        row_tiles=row_tiles,
        **arithmetic(query.dtype, similarity),
        **score_blocks(sizes),
    )


def multiply_gradients(grad_scores, query, lists, similarity: int, grad_query, grad_negatives, allocate) -> None:
    """Adds to grad_query [B, D] and fills grad_negatives [G, N, D] from coefficients [B, N]."""
    (batch, dim), (groups, count, _), dtype = query.shape, lists.shape, query.dtype
    largest, length = ceil_div(batch, groups), coordinates(dim, similarity)
    for_queries, for_lists = (gradient_tiles(dtype, similarity, query.device, most) for most in (largest, count))
    copies = transposes(query, similarity)
    if copies:
        summed_lists = transposed_by_group("lists", lists.view(-1, dim), groups)
        summed_queries = transposed_by_group("query", query, groups)
    else:
        summed_lists = grouped_operand("lists", lists, count * dim, dim, 1)
        summed_queries = grouped_operand("query", query, 0, dim, 1)
    shared = dict(grad_scores_ptr=grad_scores, batch=batch, groups=groups, count=count, dim=dim, TRANSPOSED=copies)
    shared["FAR"] = is_far(max(count, largest))
    shared |= arithmetic(dtype, similarity)
    row_tiles = ceil_div(largest, for_queries.rows)
    list_query_gradient[(groups * row_tiles * ceil_div(length, for_queries.columns),)](
        **summed_lists,
        query_ptr=query,
        grad_query_ptr=grad_query,
        row_tiles=row_tiles,
        **shared,
        **gradient_blocks(for_queries),
    )
    programs = ceil_div(count, for_lists.rows) * ceil_div(length, for_lists.columns)
    parts = parts_of(programs * groups, largest, query.device)
    sums = grad_negatives
    if parts > 1:
        sums = allocate("parts_of_lists", (parts, *grad_negatives.shape), grad_negatives.dtype)
    list_row_gradient[(parts * groups * programs,)](
        **summed_queries, lists_ptr=lists, out_ptr=sums, parts=parts, **shared, **gradient_blocks(for_lists)
    )
    if parts > 1:
        torch.sum(sums, 0, out=grad_negatives)


@torch.no_grad()
def loss(query, table, targets, negatives, starts, ends, known, weights, similarity: int, objective: int, margin: float,
         temperature: float, losses, grad_query, grad_targets, grad_negatives, allocate) -> None:  # fmt: skip
    """Fills losses [B] and, unless grad_query is empty, grad_query [B, D], the targets' coefficients [B, 1] and
    grad_negatives [G, N, D]."""
    (batch, dim), (groups, count), dtype = query.shape, negatives.shape, table.dtype
    if batch == 0:
        return
    gradient, acc = len(grad_query) > 0, sum_dtype(dtype)
    scores = allocate("raw_scores", (batch, count), acc)
    lists = table.index_select(0, negatives.clamp(min=0).view(-1)).view(groups, count, dim)
    library = by_library(query, groups, similarity)
    if count and library:
        shared_products.score_lists(query, lists, scores)
    elif count:
        score_lists(query, lists, similarity, scores)
    grad_scores = scores
    if gradient and is_product(similarity) and acc != dtype:  # tensor cores take both factors in one dtype
        grad_scores = allocate("grad_scores_of_lists", (batch, count), dtype)
    formulae, kind = ObjectiveFormulae.find(objective), arithmetic(dtype, similarity)
    list_loss[(batch,)](
        query_ptr=query,
        table_ptr=table,
        targets_ptr=targets,
        negatives_ptr=negatives,
        known_starts_ptr=starts,
        known_ends_ptr=ends,
        known_ids_ptr=known,
        weights_ptr=weights,
        scores_ptr=scores,
        grad_scores_ptr=grad_scores,
        losses_ptr=losses,
        grad_targets_ptr=grad_targets,
        grad_query_ptr=grad_query,
        groups=groups,
        count=count,
        dim=dim,
        margin_bits=bits(margin),
        temperature_bits=bits(temperature),
        HAS_KNOWN=len(starts) > 0,
        OBJECTIVE=formulae,
        WEIGHTED=formulae.weighs(temperature),
        GRADIENT=gradient,
        SIMILARITY=kind["SIMILARITY"],
        ACC=kind["ACC"],
        BLOCK_N=min(1024, triton.next_power_of_2(max(count, 1))),
        BLOCK_D=min(1024, max(32, triton.next_power_of_2(dim))),
        num_warps=4,
    )
    if gradient and count and library:
        shared_products.multiply_gradients(grad_scores, query, lists, grad_query, grad_negatives)
    elif gradient and count:
        multiply_gradients(grad_scores, query, lists, similarity, grad_query, grad_negatives, allocate)
