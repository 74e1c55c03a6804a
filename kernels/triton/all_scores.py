"""Scores of all candidates as a matrix, for who asks for one, and their gradients."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kgfast.kernels.triton.gradients import slopes

from .configurations import GROUP, WORKSPACE_BYTES, arithmetic, bits, tiles
from .launching import block, ceil_div, laid_for_slopes, panels, readable, transposes
from .scores import DOT, L2, MODULUS
from .tiles import place_of, score_tile


@triton.jit(do_not_specialize=["batch", "count"])
def score_matrix(query, q_row, q_d, table, t_row, t_d, out, out_row, batch, count, dim, SIMILARITY: tl.constexpr,
                 SUM: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                 DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    row_tile, column_tile = place_of(tl.program_id(0), tl.cdiv(batch, ROWS), tl.cdiv(count, COLUMNS), GROUP)
    place = row_tile * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    first = column_tile * COLUMNS
    here = tl.minimum(count - first, COLUMNS)
    read, row = columns, place
    if SIMILARITY == DOT:
        read, row = tl.minimum(columns, here - 1), tl.minimum(place, batch - 1).to(tl.int64)
    table += tl.cast(first, tl.int64) * t_row
    zeros = tl.zeros((ROWS, COLUMNS), SUM)
    scores = score_tile(zeros, query, q_row, q_d, row, table, t_row, t_d, read, dim, SIMILARITY, SUM, PRECISION, ROWS,
                        COLUMNS, DEPTH)  # fmt: skip
    target = out + first + place[:, None].to(tl.int64) * out_row + columns[None, :]
    tl.store(target, scores.to(out.dtype.element_ty), mask=(place < batch)[:, None] & (columns < here)[None, :])


def all_scores(query, table, similarity: int):
    """scores [B, C], rounded once to the dtype of the queries. Memory: for distances 64 MiB of transposed copies."""
    batch, dim = query.shape
    out = torch.empty((batch, len(table)), dtype=query.dtype, device=query.device)
    if batch == 0 or len(table) == 0:
        return out
    sizes = tiles("scores", query.dtype, similarity, query.device, batch)
    turned = readable(query, similarity, sizes.rows)
    each = dim * query.element_size() if similarity != DOT else WORKSPACE_BYTES / (len(table) + sizes.columns)
    for begin, end in panels(len(table), each, WORKSPACE_BYTES, sizes.columns):
        score_matrix[(ceil_div(batch, sizes.rows) * ceil_div(end - begin, sizes.columns),)](
            *turned, *readable(table[begin:end], similarity, sizes.columns), out[:, begin:], len(table), batch,
            end - begin, dim, **arithmetic(query.dtype, similarity), **block(sizes), GROUP=GROUP,
        )  # fmt: skip
    return out


def all_scores_gradient(g, scores, query, table, similarity: int):
    """(d_query [B, D], d_table [C, D]) of g = dL/dscores [B, C]. Memory: for L2 a matrix like g; on Hopper, for
    float32, transposed copies of queries and table."""
    (batch, dim), count = query.shape, len(table)
    d_query, d_table = torch.zeros_like(query), torch.zeros_like(table)
    if batch == 0 or count == 0:
        return d_query, d_table
    if similarity == L2:
        g = torch.where(scores < 0, g / scores, 0.0)
    g = g.contiguous()
    length = dim // 2 if similarity == MODULUS else dim
    far = 256 * max(batch, count) >= 2**31  # a tile has up to 256 rows and columns
    for x, y, strides, out in ((query, table, (count, 1), d_query), (table, query, (1, count), d_table)):
        # at most 64 rows: addresses of a g without zeros around it need registers
        tile = tiles("slopes", query.dtype, similarity, query.device, min(len(x), 64))
        slopes[(ceil_div(len(x), tile.rows) * ceil_div(length, tile.columns),)](
            g, *strides, x, len(x), *laid_for_slopes(y, similarity), len(y), *[None] * 3, bits(1.0), out, out, dim,
            False, True, False, False, transposes(y, similarity), far, **arithmetic(query.dtype, similarity),
            **block(tile, ("ROWS", "WIDTH", "DEPTH")), GROUP=GROUP,
        )  # fmt: skip
    return d_query, d_table
