"""Filtered rank and top-k over all candidates: nothing of size [B, C] is kept, answers (CSR) are read in the tile."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .configurations import GROUP, WORKSPACE_BYTES, arithmetic, sum_dtype, tiles
from .launching import block, ceil_div, panels, readable
from .scores import DOT
from .tiles import first_at_least, place_of, replace_at_answers, score_tile

LEAST_KEY = tl.constexpr(-(2**63))
GREATEST = tl.constexpr(2**63 - 1)
LAST_ID = tl.constexpr(2**32 - 1)


@triton.jit
def tile_at(program, query, q_row, q_d, table, t_row, t_d, batch, count, dim, SIMILARITY: tl.constexpr,
            SUM: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
            DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """(scores, place of the row tile, its first column, number of columns here, number of the column tile)."""
    row_tile, tile = place_of(program, tl.cdiv(batch, ROWS), tl.cdiv(count, COLUMNS), GROUP)
    place = row_tile * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    first = tile * COLUMNS
    here = tl.minimum(count - first, COLUMNS)
    read, row = columns, place
    if SIMILARITY == DOT:
        read, row = tl.minimum(columns, here - 1), tl.minimum(place, batch - 1).to(tl.int64)
    table += tl.cast(first, tl.int64) * t_row
    zeros = tl.zeros((ROWS, COLUMNS), SUM)
    scores = score_tile(zeros, query, q_row, q_d, row, table, t_row, t_d, read, dim, SIMILARITY, SUM, PRECISION, ROWS,
                        COLUMNS, DEPTH)  # fmt: skip
    return scores, place, first, here, tile


@triton.jit(do_not_specialize=["batch"])
def own_scores(query, q_row, q_d, table, t_row, t_d, out, batch, dim, SIMILARITY: tl.constexpr, SUM: tl.constexpr,
               PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Score of query b and row b of `table`: the diagonal of a tile, so that it is the same chain of operations, bit
    for bit, as that row's entry in any tile."""
    side: tl.constexpr = ROWS if ROWS < COLUMNS else COLUMNS
    first = tl.program_id(0) * side
    place, columns = first + tl.arange(0, ROWS), first + tl.arange(0, COLUMNS)
    read, row = tl.arange(0, COLUMNS), place
    if SIMILARITY == DOT:
        read, row = tl.minimum(read, batch - 1 - first), tl.minimum(place, batch - 1).to(tl.int64)
    table += tl.cast(first, tl.int64) * t_row
    scores = score_tile(tl.zeros((ROWS, COLUMNS), SUM), query, q_row, q_d, row, table, t_row, t_d, read, dim,
                        SIMILARITY, SUM, PRECISION, ROWS, COLUMNS, DEPTH)  # fmt: skip
    diagonal = tl.sum(tl.where(place[:, None] == columns[None, :], scores, 0.0), 1)
    tl.store(out + place, diagonal, mask=(place < batch) & (place < first + side))


@triton.jit(do_not_specialize=["origin", "batch", "count"])
def count_better(query, q_row, q_d, table, t_row, t_d, own, targets, starts, ends, known, greater, equal, origin, batch,
                 count, dim, FILTER: tl.constexpr, SIMILARITY: tl.constexpr, SUM: tl.constexpr,
                 PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
                 GROUP: tl.constexpr):  # fmt: skip
    """Per row and tile of `count` columns from `origin`: candidates above and level with the target, but the known."""
    scores, place, first, here, tile = tile_at(
        tl.program_id(0), query, q_row, q_d, table, t_row, t_d, batch, count, dim, SIMILARITY, SUM, PRECISION, ROWS,
        COLUMNS, DEPTH, GROUP,
    )  # fmt: skip
    inside = place < batch
    columns = tl.arange(0, COLUMNS)
    at_target = tl.load(targets + place, mask=inside, other=-1) - (origin + first)
    mine = tl.load(own + place, mask=inside, other=0.0)[:, None]
    # 2 above, 1 level, 0 neither: of a NaN nothing is known, so that it counts as above
    standing = tl.where(scores <= mine, tl.where(scores == mine, 1, 0), 2)
    standing = tl.where((columns < here)[None, :] & (columns[None, :] != at_target[:, None]), standing, 0)
    if FILTER:
        start, stop = tl.load(starts + place, mask=inside, other=0), tl.load(ends + place, mask=inside, other=0)
        cursor = first_at_least(known, start, stop, origin + first)
        standing, cursor = replace_at_answers(standing, 0, columns, origin + first, here, known, cursor, stop)
    part = tile.to(tl.int64) * batch + place
    tl.store(greater + part, tl.sum((standing == 2).to(tl.int32), 1), mask=inside)
    tl.store(equal + part, tl.sum((standing == 1).to(tl.int32), 1), mask=inside)


def rank(query, table, targets, starts, ends, known, similarity: int):
    """(greater, equal) int64 [B]: candidates above and level with the target that are no other known answer, and the
    targets' scores. Ids are not checked. Memory: two numbers for each row and tile, 64 MiB at most; distances:
    transposed copies likewise.

    The target's own score comes from a tile of the same arithmetic; the target itself is left out by its id.
    """
    (batch, dim), count, device = query.shape, len(table), query.device
    wide = sum_dtype(query.dtype)
    own = torch.empty((batch,), dtype=wide, device=device)
    greater, equal = torch.zeros_like(targets), torch.zeros_like(targets)
    if batch == 0 or count == 0:
        return greater, equal, own
    kind = arithmetic(query.dtype, similarity)
    sizes = tiles("scores", query.dtype, similarity, device, batch)
    turned = readable(query, similarity, sizes.rows)
    beyond = torch.nn.functional.pad(targets, (0, sizes.columns))  # the last tile's columns go on past the targets
    mine = readable(table.index_select(0, beyond), similarity, sizes.columns)
    own_scores[(ceil_div(batch, min(sizes.rows, sizes.columns)),)](
        *turned, *mine, own, batch, dim, **kind, **block(sizes)
    )
    each = 8 * batch / sizes.columns + (dim * query.element_size() if similarity != DOT else 0)
    for begin, end in panels(count, each, WORKSPACE_BYTES, sizes.columns):
        number = ceil_div(end - begin, sizes.columns)
        parts = torch.empty((2, number, batch), dtype=torch.int32, device=device)
        count_better[(ceil_div(batch, sizes.rows) * number,)](
            *turned, *readable(table[begin:end], similarity, sizes.columns), own, targets, starts, ends, known,
            *parts, begin, batch, end - begin, dim, FILTER=len(starts) > 0, **kind, **block(sizes), GROUP=GROUP,
        )  # fmt: skip
        greater += parts[0].sum(0)
        equal += parts[1].sum(0)
    return greater, equal, own


@triton.jit(do_not_specialize=["origin", "batch", "count"])
def keys(query, q_row, q_d, table, t_row, t_d, starts, ends, excluded, out, out_row, origin, batch, count, dim,
         FILTER: tl.constexpr, SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
         ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """out[b, c] int64: (score, -id) as one number that sorts like them, the least of all for an excluded one.

    A float's bits order like integers once those of a negative number but the sign are turned over; NaN is above all.
    A float64 score fills the number: there the caller's sort is stable.
    """
    scores, place, first, here, _ = tile_at(
        tl.program_id(0), query, q_row, q_d, table, t_row, t_d, batch, count, dim, SIMILARITY, SUM, PRECISION, ROWS,
        COLUMNS, DEPTH, GROUP,
    )  # fmt: skip
    inside = place < batch
    columns = tl.arange(0, COLUMNS)
    scores = tl.where(scores == 0, 0.0, scores)  # -0 = 0
    scores = tl.where(scores != scores, float("nan"), scores)  # of one sign
    if SUM == tl.float64:
        word = scores.to(tl.int64, bitcast=True)
        key = tl.where(word < 0, word ^ GREATEST, word)
    else:
        word = scores.to(tl.int32, bitcast=True)
        word = tl.where(word < 0, word ^ 0x7FFFFFFF, word)
        behind = (columns.to(tl.int64) + origin + first) ^ LAST_ID  # LAST_ID - id
        key = (word.to(tl.int64) << 32) | behind[None, :]
    if FILTER:
        start, stop = tl.load(starts + place, mask=inside, other=0), tl.load(ends + place, mask=inside, other=0)
        cursor = first_at_least(excluded, start, stop, origin + first)
        key, cursor = replace_at_answers(key, LEAST_KEY, columns, origin + first, here, excluded, cursor, stop)
    target = out + first + place[:, None].to(tl.int64) * out_row + columns[None, :]
    tl.store(target, key, mask=inside[:, None] & (columns < here)[None, :])


def topk(query, table, starts, ends, excluded, k: int, similarity: int):
    """(scores [B, k], ids int64): the best candidates that are not excluded, ties by lower id; -inf and -1 where fewer
    remain. Ids are not checked. A panel of keys at a time meets the best so far. Memory: 64 MiB of keys, and [B, k] a
    few times (float64: sorted copies of the keys)."""
    (batch, dim), count, device, double = query.shape, len(table), query.device, query.dtype == torch.float64
    best = torch.full((batch, k), LEAST_KEY.value, dtype=torch.int64, device=device)
    ids = torch.full_like(best, -1)
    if batch and count:
        sizes = tiles("scores", query.dtype, similarity, device, batch)
        turned = readable(query, similarity, sizes.rows)
        each = 8 * batch + (dim * query.element_size() if similarity != DOT else 0)
        parts = panels(count, each, WORKSPACE_BYTES, sizes.columns)
        panel = torch.empty((batch, k + parts[0][1]), dtype=torch.int64, device=device)
        for begin, end in parts:
            keys[(ceil_div(batch, sizes.rows) * ceil_div(end - begin, sizes.columns),)](
                *turned, *readable(table[begin:end], similarity, sizes.columns), starts, ends, excluded, panel[:, k:],
                panel.shape[1], begin, batch, end - begin, dim, FILTER=len(starts) > 0,
                **arithmetic(query.dtype, similarity), **block(sizes), GROUP=GROUP,
            )  # fmt: skip
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
