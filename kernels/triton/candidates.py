"""Losses over all candidates, and their gradients, without a [B, C] matrix of scores.

Forward: `statistics` keeps of each tile of scores (largest, sum of exponentials, sum at answers) per row, and `losses`
joins those, a panel of columns at a time, into a running log-sum-exp. Backward, a panel at a time again: `coefficients`
makes the scores once more and turns them into dL/dscore, in a bounded workspace; `slopes` (slopes.py) multiplies those
with the table (query gradient, added up over the panels) and with the queries (the panel's part of the table gradient,
written once). No atomics: results do
not depend on the order in which programs run. Rows that count are listed first (`compact`), others cost nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kgfast.kernels.triton.gradients import bias_gradient, slopes

from .configurations import GROUP, OBJECTIVES, arithmetic, bits, sum_dtype, tiles
from .launching import (
    block,
    ceil_div,
    fresh,
    laid_for_slopes,
    panels,
    part_of,
    readable,
    transposes,
    workspace_bytes,
)
from .scores import DOT, L2, MODULUS
from .tiles import first_at_least, number, place_of, score_tile, subtract_at_answers, sum_at_answers

SOFTMAX = tl.constexpr(1)
COMPACT_BLOCK = 1024


@triton.jit
def compact_rows(weights, starts, ends, rows, counted, largest, batch, OBJECTIVE, SUM: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    """rows: the rows that count, in order; counted: how many; largest: max |weight|. One program."""
    count = 0
    most = tl.zeros((), SUM)
    for first in range(0, batch, BLOCK):
        row = first + tl.arange(0, BLOCK)
        inside = row < batch
        weight = tl.load(weights + row, mask=inside, other=0.0).to(SUM)
        keep = inside & (weight != 0)
        if OBJECTIVE == SOFTMAX:
            keep &= tl.load(starts + row, mask=inside, other=0) < tl.load(ends + row, mask=inside, other=0)
        ones = keep.to(tl.int32)
        tl.store(rows + count + tl.cumsum(ones, 0) - 1, row, mask=keep)
        count += tl.sum(ones, 0)
        most = tl.maximum(most, tl.max(tl.where(keep, tl.abs(weight), 0.0), 0))
    tl.store(counted, count)
    tl.store(largest, most)


@triton.jit
def score_columns(query, q_row, q_d, place, counted, table, t_row, t_d, bias, origin, offset, here, dim,
                  HAS_BIAS: tl.constexpr, SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
                  ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Scores of listed queries `place` and the `here` columns from origin + offset on; `table` begins with `origin`.

    Distances read transposed tables, padded to whole tiles.
    """
    columns = tl.arange(0, COLUMNS)
    read = columns
    row = place.to(tl.int64)
    if SIMILARITY == DOT:
        read = tl.minimum(columns, here - 1)
        row = tl.minimum(place, counted - 1).to(tl.int64)
    sum = tl.zeros((ROWS, COLUMNS), SUM)
    if HAS_BIAS:  # only dot products have one; to begin with it costs no registers later
        there = tl.where(bias.to(tl.int64) != 0, here, 0)  # in a group some tasks have none
        sum += tl.load(bias + origin + offset + columns, mask=columns < there, other=0.0).to(SUM)[None, :]
    table += tl.cast(offset, tl.int64) * t_row
    return score_tile(sum, query, q_row, q_d, row, table, t_row, t_d, read, dim, SIMILARITY, SUM, PRECISION, ROWS,
                      COLUMNS, DEPTH)  # fmt: skip


@triton.jit
def statistics_tile(query, q_row, q_d, table, t_row, t_d, bias, starts, ends, answers, rows, counted, largest, total,
                    right, row_tile, origin, offset, end, dim, share, floor, HAS_BIAS: tl.constexpr, OBJECTIVE,
                    SMOOTH: tl.constexpr, SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
                    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """What the loss needs of one tile: per row the largest score, the sum of exponentials (bce: of softplus), and the
    sum of label times score."""
    place = row_tile * ROWS + tl.arange(0, ROWS)
    row = tl.load(rows + tl.minimum(place, counted - 1)).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    first = origin + offset
    here = tl.minimum(end - first, COLUMNS)
    scores = score_columns(query, q_row, q_d, place, counted, table, t_row, t_d, bias, origin, offset, here, dim,
                           HAS_BIAS, SIMILARITY, SUM, PRECISION, ROWS, COLUMNS, DEPTH)  # fmt: skip
    start, stop = tl.load(starts + row), tl.load(ends + row)
    own = tl.zeros((ROWS,), SUM) + share
    if OBJECTIVE == SOFTMAX:
        own = share / (stop - start).to(SUM)
    cursor = first_at_least(answers, start, stop, first)
    found, cursor = sum_at_answers(scores, columns, first, here, answers, cursor, stop, SUM)
    found *= own
    inside = (columns < here)[None, :]
    if SMOOTH:
        found += floor * tl.sum(tl.where(inside, scores, 0.0), 1)
    kept = place < counted
    tl.store(right + place, found, mask=kept)
    if OBJECTIVE == SOFTMAX:
        scores = tl.where(inside, scores, float("-inf"))
        top = tl.max(scores, 1)
        tl.store(largest + place, top, mask=kept)
        scores = tl.exp(scores - tl.where(top == float("-inf"), 0.0, top)[:, None])  # no row of -inf alone is NaN
    else:
        scores = tl.where(inside, tl.maximum(scores, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(scores))), 0.0)
    tl.store(total + place, tl.sum(scores, 1), mask=kept)


@triton.jit
def losses_block(weights, rows, counted, largest, total, right, losses, log_total, block, splits, batch, count,
                 BEGIN, LAST, OBJECTIVE, SUM: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Joins the statistics of a panel's tiles, 1 .. splits, and, where BEGIN is 0 and not 1, those at 0, of the panels
    before it: at 0 again, or LAST as losses and log-sum-exps. Returns BLOCK rows' losses, 0 where there is no row."""
    place = block * BLOCK + tl.arange(0, BLOCK)
    kept = place < counted
    row = tl.load(rows + place, mask=kept, other=0).to(tl.int64)
    top = tl.full((BLOCK,), float("-inf"), SUM)
    sum = tl.zeros((BLOCK,), SUM)
    at_labels = tl.zeros((BLOCK,), SUM)
    for split in range(BEGIN, splits + 1):
        at = split * batch + place
        part = tl.load(total + at, mask=kept, other=0.0)
        at_labels += tl.load(right + at, mask=kept, other=0.0)
        if OBJECTIVE == SOFTMAX:
            other = tl.load(largest + at, mask=kept, other=float("-inf"))
            now = tl.maximum(top, other)
            shift = tl.where(now == float("-inf"), 0.0, now)
            sum = sum * tl.exp(top - shift) + part * tl.exp(other - shift)
            top = now
        else:
            sum += part
    loss = tl.zeros((BLOCK,), SUM)
    if LAST:
        if OBJECTIVE == SOFTMAX:
            logarithm = tl.log(tl.where(kept, sum, 1.0))
            tl.store(log_total + place, top, mask=kept)  # apart: their sum would round off what large scores differ by
            tl.store(log_total + batch + place, logarithm, mask=kept)
            loss = tl.where(kept, top, 0.0) - at_labels + logarithm
        else:
            loss = (sum - at_labels) / count
        loss *= tl.load(weights + row, mask=kept, other=0.0).to(SUM)
        loss = tl.where(kept, loss, 0.0)
        tl.store(losses + row, loss, mask=kept)
    else:
        tl.store(largest + place, top, mask=kept)
        tl.store(total + place, sum, mask=kept)
        tl.store(right + place, at_labels, mask=kept)
    return loss


@triton.jit
def coefficients_tile(query, q_row, q_d, table, t_row, t_d, bias, starts, ends, answers, rows, counted, weights, most,
                      log_total, g, g_row, row_tile, origin, offset, end, batch, dim, share, floor,
                      HAS_BIAS: tl.constexpr, OBJECTIVE, SIMILARITY: tl.constexpr, SUM: tl.constexpr,
                      PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                      DEPTH: tl.constexpr):  # fmt: skip
    """dL/dscore of COLUMNS columns from origin + offset on, below `end`, relative to the largest weight.

    `table` and g hold columns [origin, end).

    For L2 divided by the score. Relative, because 1/batch of a probability is no number of float16.
    """
    place = row_tile * ROWS + tl.arange(0, ROWS)
    row = tl.load(rows + tl.minimum(place, counted - 1)).to(tl.int64)
    start, stop = tl.load(starts + row), tl.load(ends + row)
    own = tl.zeros((ROWS,), SUM) + share
    if OBJECTIVE == SOFTMAX:
        own = share / (stop - start).to(SUM)
    columns = tl.arange(0, COLUMNS)
    first = origin + offset
    here = tl.minimum(end - first, COLUMNS)
    scores = score_columns(query, q_row, q_d, place, counted, table, t_row, t_d, bias, origin, offset, here, dim,
                           HAS_BIAS, SIMILARITY, SUM, PRECISION, ROWS, COLUMNS, DEPTH)  # fmt: skip
    if OBJECTIVE == SOFTMAX:
        read = tl.minimum(place, counted - 1)
        value = tl.exp(scores - tl.load(log_total + read)[:, None] - tl.load(log_total + batch + read)[:, None]) - floor
    else:
        value = 1.0 / (1.0 + tl.exp(-scores)) - floor
    cursor = first_at_least(answers, start, stop, first)
    value = subtract_at_answers(value, own, columns, first, here, answers, cursor, stop)
    value *= (tl.load(weights + row).to(SUM) / most)[:, None]
    if SIMILARITY == L2:
        value = tl.where(scores < 0, value / scores, 0.0)
    value = tl.where((columns < here)[None, :], value, 0.0)  # zeros in the padding
    target = g + offset + place[:, None] * g_row + columns[None, :]
    tl.store(
        target, value.to(g.dtype.element_ty), mask=(place < counted)[:, None] & (columns < g_row - offset)[None, :]
    )


# ---- kernels: which tile is whose ----------------------------------------------------------------------------


@triton.jit(do_not_specialize=["batch"])
def compact(weights, starts, ends, rows, counted, largest, batch, OBJECTIVE: tl.constexpr, SUM: tl.constexpr,
            BLOCK: tl.constexpr):  # fmt: skip
    compact_rows(weights, starts, ends, rows, counted, largest, batch, OBJECTIVE, SUM, BLOCK)


@triton.jit(do_not_specialize=["batch"])
def gather_listed(query, rows, counted, listed, batch, dim, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """listed[i] = query[rows[i]], and zeros from `counted` on."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    kept, inside = (place < tl.load(counted))[:, None], (d < dim)[None, :]
    row = tl.load(rows + place, mask=place < batch, other=0).to(tl.int64)
    found = tl.load(query + row[:, None] * dim + d[None, :], mask=kept & inside, other=0.0)
    out = listed + place[:, None].to(tl.int64) * dim + d[None, :]
    tl.store(out, found, mask=(place < batch)[:, None] & inside)


@triton.jit(do_not_specialize=["origin", "end", "batch"])
def statistics(query, q_row, q_d, table, t_row, t_d, bias, starts, ends, answers, rows, counted, largest, total, right,
               origin, end, batch, dim, share: tl.int64, floor: tl.int64, HAS_BIAS: tl.constexpr,
               OBJECTIVE: tl.constexpr, SMOOTH: tl.constexpr, SIMILARITY: tl.constexpr, SUM: tl.constexpr,
               PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
               GROUP: tl.constexpr):  # fmt: skip
    row_tile, tile = place_of(tl.program_id(0), tl.cdiv(batch, ROWS), tl.cdiv(end - origin, COLUMNS), GROUP)
    here = tl.load(counted)
    if row_tile * ROWS < here:
        part = (tile + 1) * batch
        statistics_tile(query, q_row, q_d, table, t_row, t_d, bias, starts, ends, answers, rows, here, largest + part,
                        total + part, right + part, row_tile, origin, tile * COLUMNS, end, dim,
                        number(share, SUM), number(floor, SUM), HAS_BIAS, OBJECTIVE, SMOOTH, SIMILARITY, SUM, PRECISION,
                        ROWS, COLUMNS, DEPTH)  # fmt: skip


@triton.jit(do_not_specialize=["splits", "batch", "count"])
def losses(weights, rows, counted, largest, total, right, losses, log_total, splits, batch, count, BEGIN: tl.constexpr,
           LAST: tl.constexpr, OBJECTIVE: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    losses_block(weights, rows, tl.load(counted), largest, total, right, losses, log_total, tl.program_id(0), splits,
                 batch, count, BEGIN, LAST, OBJECTIVE, SUM, BLOCK)  # fmt: skip


@triton.jit(do_not_specialize=["origin", "end", "batch"])
def coefficients(query, q_row, q_d, table, t_row, t_d, bias, starts, ends, answers, rows, counted, weights, largest,
                 log_total, g, g_row, origin, end, batch, dim, share: tl.int64, floor: tl.int64, HAS_BIAS: tl.constexpr,
                 OBJECTIVE: tl.constexpr, SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
                 ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    row_tile, column_tile = place_of(tl.program_id(0), tl.cdiv(batch, ROWS), tl.cdiv(end - origin, COLUMNS), GROUP)
    here = tl.load(counted)
    if row_tile * ROWS < here:
        coefficients_tile(query, q_row, q_d, table, t_row, t_d, bias, starts, ends, answers, rows, here, weights,
                          tl.load(largest), log_total, g, g_row, row_tile, origin, column_tile * COLUMNS, end,
                          batch, dim, number(share, SUM), number(floor, SUM), HAS_BIAS, OBJECTIVE, SIMILARITY, SUM,
                          PRECISION, ROWS, COLUMNS, DEPTH)  # fmt: skip


# ---- launches ------------------------------------------------------------------------------------------------


def list_queries(query, rows, counted, listed) -> None:
    """Fills `listed` [B, D] with the queries that count, then zeros: kernels then read rows that lie together."""
    (batch, dim), width = query.shape, 64
    gather_listed[(ceil_div(batch, 16), ceil_div(dim, width))](query, rows, counted, listed, batch, dim, 16, width)


def candidate_loss(query, table, bias, starts, ends, answers, weights, similarity: int, objective: int,
                   smoothing: float, gradient: bool, allocate=None):  # fmt: skip
    """losses [B] (weighted) and, with gradient, d_query, d_table [C, D], d_bias [C]. Rows of weight 0 cost nothing.

    losses have the dtype of the sums: float32 for 16-bit tables. Ids are not checked. Memory: the gradients,
    `workspace_bytes`, listed queries [B, D] (16-bit dots: in the memory of d_query), float32 sums [B, D] where d_query
    is 16-bit and there are several panels; distances, and float32 dots on Hopper: transposed queries and a panel of
    transposed rows. Reads nothing back from the device.
    """
    allocate = allocate or fresh(query.device)
    (batch, dim), count, dtype, device = query.shape, len(table), query.dtype, query.device
    wide = sum_dtype(dtype)
    zeros = lambda name, shape, kind: allocate(name, shape, kind).zero_()  # noqa: E731
    out = zeros("losses", (batch,), wide)
    d_query = zeros("d_query", (batch if gradient else 0, dim), dtype)
    d_table = allocate("d_table", (count if gradient else 0, dim), dtype)
    d_bias = allocate("d_bias", (len(bias) if gradient else 0,), dtype)
    if batch == 0 or count == 0:
        return out, d_query, d_table.zero_(), d_bias.zero_()
    kind = arithmetic(dtype, similarity)
    softmax = OBJECTIVES[objective] == "softmax"
    labels = dict(
        share=bits(1.0 - smoothing), floor=bits(smoothing / count), HAS_BIAS=len(bias) > 0, OBJECTIVE=objective
    )
    rows, counted = zeros("rows", (batch,), torch.int32), allocate("counted", (1,), torch.int32)
    most = allocate("largest_weight", (1,), wide)
    compact[(1,)](weights, starts, ends, rows, counted, most, batch, objective, kind["SUM"], COMPACT_BLOCK)

    spare = gradient and similarity == DOT and wide != dtype  # d_query is written last there
    listed = d_query if spare else allocate("listed", (batch, dim), dtype)
    list_queries(query, rows, counted, listed)

    sizes = tiles("scores", dtype, similarity, device, batch)
    budget = workspace_bytes(batch, count, dim)
    each = 3 * batch * wide.itemsize / sizes.columns + (dim * dtype.itemsize if similarity != DOT else 0)
    parts = panels(count, each, budget, sizes.columns)
    splits = 1 + ceil_div(parts[0][1], sizes.columns)
    kept = dtype if similarity == DOT else wide  # of coefficients
    transposed = transposes(table, similarity)
    each = batch * kept.itemsize + (dim * dtype.itemsize if similarity != DOT or transposed else 0)
    slices = panels(count, each, budget, max(sizes.columns, 16)) if gradient else []
    width = ceil_div(slices[0][1], 16) * 16 if gradient else 0
    workspace = allocate(
        "workspace", (max(3 * splits * batch * wide.itemsize, batch * width * kept.itemsize),), torch.uint8
    )
    largest, total, right = part_of(workspace, (3 * splits, batch), wide).split(splits)
    turned = readable(listed, similarity, sizes.rows)
    csr = (bias, starts, ends, answers, rows, counted)
    log_total = allocate("log_total", (2, batch), wide)
    for begin, end in parts:
        columns = ceil_div(end - begin, sizes.columns)
        statistics[(ceil_div(batch, sizes.rows) * columns,)](
            *turned, *readable(table[begin:end], similarity, sizes.columns), *csr, largest, total, right, begin,
            end, batch, dim, SMOOTH=smoothing != 0, **labels, **kind, **block(sizes), GROUP=GROUP,
        )  # fmt: skip
        losses[(ceil_div(batch, 32),)](weights, rows, counted, largest, total, right, out, log_total, columns, batch,
                                       count, int(begin == 0), end == count, objective, kind["SUM"], 32,
                                       num_warps=1)  # fmt: skip
    if not gradient:
        return out, d_query, d_table, d_bias

    sums = d_query
    if wide != dtype and len(slices) > 1:
        sums = zeros("d_query_sums", (batch, dim), wide)
    g = part_of(workspace, (batch, width), kept)
    factor = bits(1.0 if softmax else 1.0 / count)
    listing = rows, counted, most, factor
    queries = laid_for_slopes(listed, similarity)
    length = dim // 2 if similarity == MODULUS else dim

    def sum_slopes(x: int, *inputs):
        tile = tiles("slopes", dtype, similarity, device, x)
        slopes[(ceil_div(x, tile.rows) * ceil_div(length, tile.columns),)](
            *inputs, transposed, False, **kind, GROUP=GROUP, **block(tile, ("ROWS", "WIDTH", "DEPTH"))
        )

    for begin, end in slices:
        columns = end - begin
        coefficients[(ceil_div(batch, sizes.rows) * ceil_div(columns, sizes.columns),)](
            *turned, *readable(table[begin:end], similarity, sizes.columns), *csr, weights, most, log_total, g,
            width, begin, end, batch, dim, **labels, **kind, **block(sizes), GROUP=GROUP,
        )  # fmt: skip
        panel = table[begin:end]
        sum_slopes(columns, g, 1, width, panel, columns, *queries, batch, *listing, *(d_table[begin:end],) * 2, dim,
                   False, True, False, True)  # fmt: skip
        if spare and len(slices) == 1:
            d_query.zero_()  # of the listed queries, which nobody reads any more
        other_side = laid_for_slopes(panel, similarity)
        sum_slopes(batch, g, width, 1, listed, batch, *other_side, columns, *listing, sums, d_query, dim, begin > 0,
                   len(slices) == 1, True, False)  # fmt: skip
        if len(bias):
            bias_gradient[(ceil_div(columns, 128),)](g, width, counted, most, factor, d_bias[begin:end], columns,
                                                     kind["SUM"], 32, 128)  # fmt: skip
    if len(slices) > 1:
        torch.mul(sums, most if softmax else most / count, out=d_query)
    return out, d_query, d_table, d_bias
