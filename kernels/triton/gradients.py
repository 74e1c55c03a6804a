"""Gradients from coefficients g = dL/dscore: out[x] = sum over y of g[x, y] times the slope of similarity(x, y).

Similarities are symmetric, so one kernel serves the queries' gradient and, on transposed coefficients, the table's.
"""

import triton
import triton.language as tl

from kgfast.kernels.triton.scores import MODULUS
from kgfast.kernels.triton.tiles import number, place_of, slope_tile


@triton.jit
def slopes_block(g, g_x, g_y, x, x_count, y, y_k, y_d, y_count, rows, scale, sums, out, tile, dim, ADD, ONLY,
                 X_LISTED: tl.constexpr, Y_LISTED: tl.constexpr, Y_TURNED: tl.constexpr, SIMILARITY: tl.constexpr,
                 SUM: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
                 DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """sums[x] (+)= sum_y g[x, y] d similarity(x, y)/dx, one tile. ADD: to the sums of the panels before. ONLY: there is
    one panel, so that scale * sum goes to `out`. X_LISTED: x are listed rows, and row i's sum is that of rows[i]."""
    length = dim // 2 if SIMILARITY == MODULUS else dim
    row_tile, d_tile = place_of(tile, tl.cdiv(x_count, ROWS), tl.cdiv(length, WIDTH), GROUP)
    place = row_tile * ROWS + tl.arange(0, ROWS)
    read = tl.minimum(place, x_count - 1).to(tl.int64)
    row = read
    if X_LISTED:
        row = tl.load(rows + read).to(tl.int64)
    first_d = d_tile * WIDTH
    coordinates = tl.arange(0, WIDTH)
    kept = (place < x_count)[:, None] & (coordinates < length - first_d)[None, :]
    target = row[:, None] * dim + (first_d + coordinates)[None, :]
    a = tl.zeros((ROWS, WIDTH), SUM)
    b = a
    if ADD:  # before the loop: after it two tiles would have to be in registers
        a = tl.load(sums + target, mask=kept, other=0.0)
        if SIMILARITY == MODULUS:
            b = tl.load(sums + length + target, mask=kept, other=0.0)
    g += tl.cast(row_tile * ROWS, tl.int64) * g_x
    here_x, here_y, y_here = x_count, y_count, y_count
    if X_LISTED:  # where one side is listed, g is a workspace, which holds zeros up to the next multiple of 16
        here_y = tl.cdiv(y_count, 16) * 16
    if Y_LISTED:
        here_x = tl.cdiv(x_count, 16) * 16
    if Y_TURNED:
        y_here = tl.cdiv(y_count, 16) * 16
    a, b = slope_tile(a, b, g, g_x, g_y, here_x - row_tile * ROWS, here_y, x, read, y, y_k, y_d, y_here, y_count, dim,
                      first_d, SIMILARITY, SUM, PRECISION, ROWS, WIDTH, DEPTH)  # fmt: skip
    if ONLY:
        tl.store(out + target, (a * scale).to(out.dtype.element_ty), mask=kept)
        if SIMILARITY == MODULUS:
            tl.store(out + length + target, (b * scale).to(out.dtype.element_ty), mask=kept)
    else:
        tl.store(sums + target, a, mask=kept)
        if SIMILARITY == MODULUS:
            tl.store(sums + length + target, b, mask=kept)


@triton.jit(do_not_specialize=["x_count", "y_count", "factor"])
def slopes(g, g_x, g_y, x, x_count, y, y_k, y_d, y_count, rows, counted, largest, factor: tl.int64, sums, out, dim,
           ADD: tl.constexpr, ONLY: tl.constexpr, X_LISTED: tl.constexpr, Y_LISTED: tl.constexpr,
           Y_TURNED: tl.constexpr, FAR: tl.constexpr, SIMILARITY: tl.constexpr, SUM: tl.constexpr,
           PRECISION: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
           GROUP: tl.constexpr):  # fmt: skip
    """The side that is listed (X_LISTED, Y_LISTED) has `counted` rows, read on the device. Y_TURNED: y is transposed,
    with zeros up to the next multiple of 16 rows: Hopper's tensor cores take TF32 that way alone. FAR: numbers of a
    tile may lie more than 2^31 apart."""
    if FAR:
        g_x, y_d = tl.cast(g_x, tl.int64), tl.cast(y_d, tl.int64)
    scale = number(factor, SUM)
    if X_LISTED:
        x_count = tl.load(counted)
    if Y_LISTED:
        y_count = tl.load(counted)
    if X_LISTED or Y_LISTED:
        scale *= tl.load(largest)
    length = dim // 2 if SIMILARITY == MODULUS else dim
    if tl.program_id(0) < tl.cdiv(x_count, ROWS) * tl.cdiv(length, WIDTH):
        slopes_block(g, g_x, g_y, x, x_count, y, y_k, y_d, y_count, rows, scale, sums, out, tl.program_id(0), dim, ADD,
                     ONLY, X_LISTED, Y_LISTED, Y_TURNED, SIMILARITY, SUM, PRECISION, ROWS, WIDTH, DEPTH,
                     GROUP)  # fmt: skip


@triton.jit(do_not_specialize=["columns", "factor"])
def bias_gradient(g, g_row, counted, largest, factor: tl.int64, out, columns, SUM: tl.constexpr, ROWS: tl.constexpr,
                  COLUMNS: tl.constexpr):  # fmt: skip
    """out[c] = scale * sum_b g[b, c]: a panel's part of the bias' gradient."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    sum = tl.zeros((COLUMNS,), SUM)
    here = tl.load(counted)
    for first in range(0, here, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < here)[:, None] & (column < columns)[None, :]
        part = tl.load(g + row[:, None].to(tl.int64) * g_row + column[None, :], mask=inside, other=0.0)
        sum += tl.sum(part.to(SUM), 0)
    sum *= number(factor, SUM) * tl.load(largest)
    tl.store(out + column, sum.to(out.dtype.element_ty), mask=column < columns)
