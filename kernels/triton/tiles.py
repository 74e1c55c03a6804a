"""Tiles of many queries against many rows, which all-candidates kernels share: scores, slopes, answers within a tile.

A dot tile runs on the tensor cores (`tl.dot`, sums in float32, or float64 for float64 tables). Distances have no such
unit: their tiles walk the coordinates one by one with every sum in registers, so callers hand in transposed tables,
of which a coordinate of neighbouring rows is one load. Offsets are 64-bit: tables may pass 2^31 elements.
"""

import triton
import triton.language as tl

from .scores import DOT, MODULUS, accumulate, accumulate_modulus, add_slope, add_slope_modulus, finish

BEYOND = tl.constexpr(2**31 - 1)  # no column of a tile


@triton.jit
def number(bits, SUM: tl.constexpr):
    """The real number whose float64 bits these are: as a plain argument it would be rounded to float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(SUM)


@triton.jit
def multiply(x, y, sum, PRECISION: tl.constexpr):
    """sum + x @ y. "widened": for the interpreter, which keeps bfloat16 as 16-bit integers and would multiply those."""
    if PRECISION == "widened":
        return tl.dot(x.to(tl.float32), y.to(tl.float32), sum, input_precision="ieee", out_dtype=sum.dtype)
    else:
        return tl.dot(x, y, sum, input_precision=PRECISION, out_dtype=sum.dtype)


@triton.jit
def place_of(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    """(row tile, column tile): GROUP row tiles share the columns that they read while these are in L2."""
    first = tile // (GROUP * column_tiles) * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    inside = tile % (GROUP * column_tiles)
    return first + inside % height, inside // height


@triton.jit
def score_tile(sum, query, q_row, q_d, rows, table, t_row, t_d, columns, dim, SIMILARITY: tl.constexpr,
               SUM: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
               DEPTH: tl.constexpr):  # fmt: skip
    """Scores [ROWS, COLUMNS] of queries `rows` and rows `columns` (int32) of `table`, all within memory.

    `sum`: zeros, or for dot products what they are added to.
    """
    if SIMILARITY == DOT:
        steps = tl.arange(0, DEPTH)
        x = query + rows[:, None] * q_row + steps[None, :] * q_d
        y = columns[None, :] * t_row + steps[:, None] * t_d
        for d in range(0, dim, DEPTH):
            inside = steps < dim - d
            left = tl.load(x, mask=inside[None, :], other=0.0)
            right = tl.load(table + y, mask=inside[:, None], other=0.0)
            sum = multiply(left, right, sum, PRECISION)
            x += DEPTH * q_d
            table += DEPTH * t_d
    else:
        x = rows[:, None] * q_row
        y = columns[None, :] * t_row
        if SIMILARITY == MODULUS:
            half = dim // 2
            for _ in range(0, half):
                x_a, x_b = tl.load(query + x).to(SUM), tl.load(query + half * q_d + x).to(SUM)
                y_a, y_b = tl.load(table + y).to(SUM), tl.load(table + half * t_d + y).to(SUM)
                sum = accumulate_modulus(sum, x_a, x_b, y_a, y_b)
                query += q_d
                table += t_d
        else:
            for _ in tl.range(0, dim, loop_unroll_factor=2):
                sum = accumulate(sum, tl.load(query + x).to(SUM), tl.load(table + y).to(SUM), SIMILARITY)
                query += q_d
                table += t_d
    return finish(sum, SIMILARITY)


@triton.jit
def slope_tile(sum, sum_b, g, g_x, g_y, here_x, here_y, x, rows, y, y_k, y_d, y_here, count, dim, first_d,
               SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
               WIDTH: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """sum + sum_k g[i, k] * d similarity(x[rows[i]], y_k) / dx at WIDTH coordinates from first_d: [ROWS, WIDTH].

    k runs over the rows [0, count) of y, whose numbers lie y_k and y_d apart. g may be read at [0, here_x) x
    [0, here_y) and y's rows below y_here: where there are more of these than rows, they hold zeros, and limits known to
    be multiples of 16 let memory be read 16 bytes at a time. For the modulus a coordinate is a complex number: sum_b
    is the gradient of the second half, else it is of no meaning.
    """
    places = tl.arange(0, ROWS)
    steps_d = tl.arange(0, WIDTH)
    length = dim // 2 if SIMILARITY == MODULUS else dim
    here = (steps_d < length - first_d)[None, :]
    if SIMILARITY == DOT:
        steps = tl.arange(0, DEPTH)
        left = places[:, None] * g_x + steps[None, :] * g_y
        y += tl.cast(first_d, tl.int64) * y_d
        right = steps[:, None] * y_k + steps_d[None, :] * y_d
        for k in range(0, count, DEPTH):
            c = tl.load(g + left, mask=(places < here_x)[:, None] & (steps < here_y - k)[None, :], other=0.0)
            rows_y = tl.load(y + right, mask=(steps < y_here - k)[:, None] & here, other=0.0)
            sum = multiply(c, rows_y, sum, PRECISION)
            g += DEPTH * g_y
            y += DEPTH * y_k
    else:
        own = x + first_d + rows[:, None] * dim + steps_d[None, :]
        x_a = tl.load(own, mask=here, other=0.0).to(SUM)
        x_b = x_a
        if SIMILARITY == MODULUS:
            x_b = tl.load(own + length, mask=here, other=0.0).to(SUM)
        y += first_d
        weights = places[:, None] * g_x
        for _ in range(0, count):
            c = tl.load(g + weights, mask=(places < here_x)[:, None], other=0.0).to(SUM)
            y_a = tl.load(y + steps_d[None, :], mask=here, other=0.0).to(SUM)
            if SIMILARITY == MODULUS:
                y_b = tl.load(y + length + steps_d[None, :], mask=here, other=0.0).to(SUM)
                sum, sum_b = add_slope_modulus(sum, sum_b, c, x_a, x_b, y_a, y_b)
            else:
                sum = add_slope(sum, c, x_a, y_a, SIMILARITY)
            g += g_y
            y += y_k
    return sum, sum_b


# Answers of a query: ids[cursor : end], ascending. A kernel that walks columns upwards carries `cursor` along.
# Within a tile an answer is named by its column, 0 .. COLUMNS - 1: 32-bit numbers that the compiler folds.


@triton.jit
def first_at_least(ids, starts, ends, value):
    """Per query: the first place in [start, end) whose id is >= value, else end."""
    low, high = starts, ends
    while tl.max(high - low, 0) > 0:
        middle = (low + high) // 2
        undecided = low < high
        smaller = undecided & (tl.load(ids + middle, mask=undecided, other=0) < value)
        low = tl.where(smaller, middle + 1, low)
        high = tl.where(undecided & (smaller == 0), middle, high)
    return low


@triton.jit
def next_column(ids, cursor, ends, first):
    """The column of the answer under the cursor, counted from `first`; a number beyond all where none is left."""
    id = tl.load(ids + cursor, mask=cursor < ends, other=BEYOND)
    return tl.minimum(id - first, BEYOND).to(tl.int32)


@triton.jit
def sum_at_answers(scores, columns, first, count, ids, cursor, ends, SUM: tl.constexpr):
    """(sum of the scores at answers among the tile's `count` columns from `first`, cursor past them)."""
    sum = tl.zeros_like(cursor).to(SUM)
    at = next_column(ids, cursor, ends, first)
    while tl.min(at, 0) < count:
        sum += tl.sum(tl.where(columns[None, :] == at[:, None], scores, 0.0), 1)
        cursor += (at < count).to(tl.int64)
        at = next_column(ids, cursor, ends, first)
    return sum, cursor


@triton.jit
def subtract_at_answers(tile, own, columns, first, count, ids, cursor, ends):
    """The tile with own[row] subtracted at answers among its `count` columns from `first`."""
    at = next_column(ids, cursor, ends, first)
    while tl.min(at, 0) < count:
        tile -= tl.where(columns[None, :] == at[:, None], own[:, None], 0.0)
        cursor += (at < count).to(tl.int64)
        at = next_column(ids, cursor, ends, first)
    return tile


@triton.jit
def replace_at_answers(tile, value, columns, first, count, ids, cursor, ends):
    """(the tile with `value` at answers among its `count` columns from `first`, cursor past them)."""
    at = next_column(ids, cursor, ends, first)
    while tl.min(at, 0) < count:
        tile = tl.where(columns[None, :] == at[:, None], value, tile)
        cursor += (at < count).to(tl.int64)
        at = next_column(ids, cursor, ends, first)
    return tile, cursor
