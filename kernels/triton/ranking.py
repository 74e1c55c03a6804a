"""Filtered rank and top-k over all candidates: nothing of size [B, C] is kept, answers (CSR) are read in the tile."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kgfast.core.sums import sum_dtype

from .configurations import WORKSPACE_BYTES, arithmetic, tiles
from .launching import ceil_div, is_product, panels, score_blocks, score_operand
from .tiles import first_at_least, panel_scores, replace_at_ids, score_tile

LEAST_KEY = tl.constexpr(-(2**63))
GREATEST = tl.constexpr(2**63 - 1)
LAST_ID = tl.constexpr(2**32 - 1)

# ---- rank ----------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["batch"])
def target_scores(
    query_ptr,  # [B, D]
    query_stride_row, query_stride_dim,
    table_ptr,  # [B + padding, D]: row b is the target of query b
    table_stride_row, table_stride_dim,
    out_ptr,  # [B]
    batch, dim,
    SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr, BLOCK_B: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[b] = similarity(query[b], table[b]): the diagonal of a tile, so that it is the same chain of operations, bit
    for bit, as that row's entry in any tile."""
    side: tl.constexpr = BLOCK_B if BLOCK_B < BLOCK_C else BLOCK_C
    first = tl.program_id(0) * side
    row, columns = first + tl.arange(0, BLOCK_B), first + tl.arange(0, BLOCK_C)
    read_row, read_column = row, tl.arange(0, BLOCK_C)
    if SIMILARITY.value.MATRIX_PRODUCT:
        read_row, read_column = (
            tl.minimum(row, batch - 1).to(tl.int64),
            tl.minimum(read_column, batch - 1 - first),
        )
    table_ptr += tl.cast(first, tl.int64) * table_stride_row
    scores = score_tile(
        sum=tl.zeros((BLOCK_B, BLOCK_C), ACC), query_ptr=query_ptr, query_stride_row=query_stride_row,
        query_stride_dim=query_stride_dim, rows=read_row, table_ptr=table_ptr, table_stride_row=table_stride_row,
        table_stride_dim=table_stride_dim, columns=read_column, dim=dim, SIMILARITY=SIMILARITY, ACC=ACC,
        INPUT_PRECISION=INPUT_PRECISION, BLOCK_D=BLOCK_D,
    )  # fmt: skip
    diagonal = tl.sum(tl.where(row[:, None] == columns[None, :], scores, 0.0), 1)
    tl.store(out_ptr + row, diagonal, mask=(row < batch) & (row < first + side))


@triton.jit(do_not_specialize=["panel_begin", "batch", "count"])
def count_better(
    query_ptr,  # [B, D]
    query_stride_row, query_stride_dim,
    table_ptr,  # [count, D], of the candidates from panel_begin on
    table_stride_row, table_stride_dim,
    target_scores_ptr,  # [B]
    targets_ptr,  # [B]
    known_starts_ptr,  # [B]
    known_ends_ptr,  # [B]
    known_ids_ptr,
    greater_ptr,  # [column tiles, B]
    equal_ptr,  # [column tiles, B]
    panel_begin, batch, count, dim,
    HAS_KNOWN: tl.constexpr, SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Per row and tile of a panel's columns: candidates above and level with the target, but the known."""
    scores, row, first, width, tile = panel_scores(
        program=tl.program_id(0), query_ptr=query_ptr, query_stride_row=query_stride_row,
        query_stride_dim=query_stride_dim, table_ptr=table_ptr, table_stride_row=table_stride_row,
        table_stride_dim=table_stride_dim, batch=batch, count=count, dim=dim, SIMILARITY=SIMILARITY, ACC=ACC,
        INPUT_PRECISION=INPUT_PRECISION, BLOCK_B=BLOCK_B, BLOCK_C=BLOCK_C, BLOCK_D=BLOCK_D,
    )  # fmt: skip
    inside = row < batch
    columns = tl.arange(0, BLOCK_C)
    first_id = panel_begin + first
    target_column = tl.load(targets_ptr + row, mask=inside, other=-1) - first_id
    target_score = tl.load(target_scores_ptr + row, mask=inside, other=0.0)[:, None]
    # 2 above, 1 level, 0 neither: of a NaN nothing is known, so that it counts as above
    standing = tl.where(scores <= target_score, tl.where(scores == target_score, 1, 0), 2)
    standing = tl.where((columns < width)[None, :] & (columns[None, :] != target_column[:, None]), standing, 0)
    if HAS_KNOWN:
        start = tl.load(known_starts_ptr + row, mask=inside, other=0)
        stop = tl.load(known_ends_ptr + row, mask=inside, other=0)
        cursor = first_at_least(known_ids_ptr, start, stop, first_id)
        standing, cursor = replace_at_ids(standing, 0, columns, first_id, width, known_ids_ptr, cursor, stop)
    at = tile.to(tl.int64) * batch + row
    tl.store(greater_ptr + at, tl.sum((standing == 2).to(tl.int32), 1), mask=inside)
    tl.store(equal_ptr + at, tl.sum((standing == 1).to(tl.int32), 1), mask=inside)


def rank(query, table, targets, starts, ends, known, similarity: int):
    """(greater, equal) int64 [B]: candidates above and level with the target that are no other known answer, and the
    targets' scores. Ids are not checked. Memory: two numbers for each row and tile, 64 MiB at most; distances:
    transposed copies likewise.

    The target's own score comes from a tile of the same arithmetic; the target itself is left out by its id.
    """
    (batch, dim), count, device = query.shape, len(table), query.device
    target_score = torch.empty((batch,), dtype=sum_dtype(query.dtype), device=device)
    greater, equal = torch.zeros_like(targets), torch.zeros_like(targets)
    if batch == 0 or count == 0:
        return greater, equal, target_score
    sizes = tiles("scores", query.dtype, similarity, device, batch)
    queries = score_operand("query", query, similarity, sizes.rows)
    shared = dict(batch=batch, dim=dim, **arithmetic(query.dtype, similarity), **score_blocks(sizes))
    beyond = torch.nn.functional.pad(targets, (0, sizes.columns))  # the last tile's columns go on past the targets
    target_rows = score_operand("table", table.index_select(0, beyond), similarity, sizes.columns)
    target_scores[(ceil_div(batch, min(sizes.rows, sizes.columns)),)](
        **queries, **target_rows, out_ptr=target_score, **shared
    )
    each = 8 * batch / sizes.columns + (0 if is_product(similarity) else dim * query.element_size())
    for begin, end in panels(count, each, WORKSPACE_BYTES, sizes.columns):
        column_tiles = ceil_div(end - begin, sizes.columns)
        counts = torch.empty((2, column_tiles, batch), dtype=torch.int32, device=device)
        count_better[(ceil_div(batch, sizes.rows) * column_tiles,)](
            **queries,
            **score_operand("table", table[begin:end], similarity, sizes.columns),
            target_scores_ptr=target_score,
            targets_ptr=targets,
            known_starts_ptr=starts,
            known_ends_ptr=ends,
            known_ids_ptr=known,
            greater_ptr=counts[0],
            equal_ptr=counts[1],
            panel_begin=begin,
            count=end - begin,
            HAS_KNOWN=len(starts) > 0,
            **shared,
        )
        greater += counts[0].sum(0)
        equal += counts[1].sum(0)
    return greater, equal, target_score


# ---- top-k ---------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["panel_begin", "batch", "count"])
def score_keys(
    query_ptr,  # [B, D]
    query_stride_row, query_stride_dim,
    table_ptr,  # [count, D], of the candidates from panel_begin on
    table_stride_row, table_stride_dim,
    excluded_starts_ptr,  # [B]
    excluded_ends_ptr,  # [B]
    excluded_ids_ptr,
    out_ptr,  # [B, count]
    out_stride_row, panel_begin, batch, count, dim,
    HAS_EXCLUDED: tl.constexpr, SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[b, c] int64: (score, -id) as one number that sorts like them, the least of all for an excluded one.

    A float's bits order like integers once those of a negative number but the sign are turned over; NaN is above all.
    A float64 score fills the number: there the caller's sort is stable.
    """
    scores, row, first, width, _ = panel_scores(
        program=tl.program_id(0), query_ptr=query_ptr, query_stride_row=query_stride_row,
        query_stride_dim=query_stride_dim, table_ptr=table_ptr, table_stride_row=table_stride_row,
        table_stride_dim=table_stride_dim, batch=batch, count=count, dim=dim, SIMILARITY=SIMILARITY, ACC=ACC,
        INPUT_PRECISION=INPUT_PRECISION, BLOCK_B=BLOCK_B, BLOCK_C=BLOCK_C, BLOCK_D=BLOCK_D,
    )  # fmt: skip
    inside = row < batch
    columns = tl.arange(0, BLOCK_C)
    first_id = panel_begin + first
    scores = tl.where(scores == 0, 0.0, scores)  # -0 = 0
    scores = tl.where(scores != scores, float("nan"), scores)  # of one sign
    if ACC == tl.float64:
        word = scores.to(tl.int64, bitcast=True)
        key = tl.where(word < 0, word ^ GREATEST, word)
    else:
        word = scores.to(tl.int32, bitcast=True)
        word = tl.where(word < 0, word ^ 0x7FFFFFFF, word)
        behind = (columns.to(tl.int64) + panel_begin + first) ^ LAST_ID  # LAST_ID - id
        key = (word.to(tl.int64) << 32) | behind[None, :]
    if HAS_EXCLUDED:
        start = tl.load(excluded_starts_ptr + row, mask=inside, other=0)
        stop = tl.load(excluded_ends_ptr + row, mask=inside, other=0)
        cursor = first_at_least(excluded_ids_ptr, start, stop, first_id)
        key, cursor = replace_at_ids(key, LEAST_KEY, columns, first_id, width, excluded_ids_ptr, cursor, stop)
    out_ptrs = out_ptr + first + row[:, None].to(tl.int64) * out_stride_row + columns[None, :]
    tl.store(out_ptrs, key, mask=inside[:, None] & (columns < width)[None, :])


def topk(query, table, starts, ends, excluded, k: int, similarity: int):
    """(scores [B, k], ids int64): the best candidates that are not excluded, ties by lower id; -inf and -1 where fewer
    remain. Ids are not checked. A panel of keys at a time meets the best so far. Memory: 64 MiB of keys, and [B, k] a
    few times (float64: sorted copies of the keys)."""
    (batch, dim), count, device, double = query.shape, len(table), query.device, query.dtype == torch.float64
    best = torch.full((batch, k), LEAST_KEY.value, dtype=torch.int64, device=device)
    ids = torch.full_like(best, -1)
    if batch and count:
        sizes = tiles("scores", query.dtype, similarity, device, batch)
        queries = score_operand("query", query, similarity, sizes.rows)
        each = 8 * batch + (0 if is_product(similarity) else dim * query.element_size())
        parts = panels(count, each, WORKSPACE_BYTES, sizes.columns)
        panel = torch.empty((batch, k + parts[0][1]), dtype=torch.int64, device=device)
        for begin, end in parts:
            score_keys[(ceil_div(batch, sizes.rows) * ceil_div(end - begin, sizes.columns),)](
                **queries,
                **score_operand("table", table[begin:end], similarity, sizes.columns),
                excluded_starts_ptr=starts,
                excluded_ends_ptr=ends,
                excluded_ids_ptr=excluded,
                out_ptr=panel[:, k:],
                out_stride_row=panel.shape[1],
                panel_begin=begin,
                batch=batch,
                count=end - begin,
                dim=dim,
                HAS_EXCLUDED=len(starts) > 0,
                **arithmetic(query.dtype, similarity),
                **score_blocks(sizes),
            )
            panel[:, :k] = best
            known = panel[:, : k + end - begin]
            if double:
                order = known.sort(dim=1, descending=True, stable=True)
                best, place = order.values[:, :k], order.indices[:, :k]
                ids = torch.where(place < k, ids.gather(1, place.clamp(max=k - 1)), begin + place - k)
            else:
                best = known.topk(k, dim=1).values
    missing = best == LEAST_KEY.value
    if double:
        scores = torch.where(best < 0, best ^ GREATEST.value, best).view(torch.float64)
    else:
        ids = LAST_ID.value - (best & LAST_ID.value)
        word = (best >> 32).to(torch.int32)
        scores = torch.where(word < 0, word ^ 0x7FFFFFFF, word).view(torch.float32)
    return scores.masked_fill(missing, -torch.inf).to(query.dtype), ids.masked_fill(missing, -1)
