"""Tiles of many queries against many rows, which all-candidates kernels share: scores, gradients, answers in a tile.

A tile of dot products runs on the tensor cores (`tl.dot`, sums in float32, or float64 for float64 tables). Distances
have no such unit: their tiles walk the coordinates one by one with every sum in registers, so callers hand in
transposed tables, of which a coordinate of neighbouring rows is one load. Offsets are 64-bit: tables may pass 2^31
elements.
"""

import triton
import triton.language as tl

BEYOND = tl.constexpr(2**31 - 1)  # no column of a tile


@triton.jit
def number(bits, ACC: tl.constexpr):
    """The real number whose float64 bits these are: as a plain argument it would be rounded to float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(ACC)


@triton.jit
def load_halves(row_ptr, d, length, inside, HALVES: tl.constexpr, ACC: tl.constexpr):
    """The numbers d of a row's two halves; of a row that is one piece, the same twice."""
    a = tl.load(row_ptr + d, mask=inside, other=0.0).to(ACC)
    if HALVES:
        return a, tl.load(row_ptr + length + d, mask=inside, other=0.0).to(ACC)
    else:
        return a, a


@triton.jit
def store_halves(row_ptr, d, length, inside, a, b, HALVES: tl.constexpr):
    tl.store(row_ptr + d, a.to(row_ptr.dtype.element_ty), mask=inside)
    if HALVES:
        tl.store(row_ptr + length + d, b.to(row_ptr.dtype.element_ty), mask=inside)


@triton.jit
def multiply(x, y, sum, INPUT_PRECISION: tl.constexpr):
    """sum + x @ y. "widened": for the interpreter, which keeps bfloat16 as 16-bit integers and would multiply those."""
    if INPUT_PRECISION == "widened":
        return tl.dot(x.to(tl.float32), y.to(tl.float32), sum, input_precision="ieee", out_dtype=sum.dtype)
    else:
        return tl.dot(x, y, sum, input_precision=INPUT_PRECISION, out_dtype=sum.dtype)


@triton.jit
def split_program(program, parts):
    """(row, its part) of a program, `parts` for each row, one after the other: a grid's y and z end at 65,535."""
    return program // parts, program % parts


@triton.jit
def tile_of(program, row_tiles, column_tiles, GROUP_ROWS: tl.constexpr = 8):
    """(row tile, column tile): GROUP_ROWS row tiles in turn share the columns that they read while these are in L2."""
    first = program // (GROUP_ROWS * column_tiles) * GROUP_ROWS
    height = tl.minimum(row_tiles - first, GROUP_ROWS)
    inside = program % (GROUP_ROWS * column_tiles)
    return first + inside % height, inside // height


@triton.jit
def score_tile(
    sum,  # [BLOCK_B, BLOCK_C]: zeros, or for dot products what they are added to
    query_ptr,  # [B, D]
    query_stride_row, query_stride_dim,
    rows,  # [BLOCK_B]
    table_ptr,  # [C, D]
    table_stride_row, table_stride_dim,
    columns,  # [BLOCK_C], int32
    dim, SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """s[b, c] = similarity(query[rows[b]], table[columns[c]]), all within memory."""
    if SIMILARITY.value.MATRIX_PRODUCT:
        steps = tl.arange(0, BLOCK_D)
        x_ptrs = query_ptr + rows[:, None] * query_stride_row + steps[None, :] * query_stride_dim
        y = columns[None, :] * table_stride_row + steps[:, None] * table_stride_dim
        for d in range(0, dim, BLOCK_D):
            inside = steps < dim - d
            left = tl.load(x_ptrs, mask=inside[None, :], other=0.0)
            right = tl.load(table_ptr + y, mask=inside[:, None], other=0.0)
            sum = multiply(left, right, sum, INPUT_PRECISION)
            x_ptrs += BLOCK_D * query_stride_dim
            table_ptr += BLOCK_D * table_stride_dim
    else:
        x = rows[:, None] * query_stride_row
        y = columns[None, :] * table_stride_row
        if SIMILARITY.value.COMPLEX:
            half = tl.cast(dim // 2, tl.int64)  # times the stride of transposed rows beyond 2^31
            for _ in range(0, dim // 2):
                x_a, x_b = tl.load(query_ptr + x).to(ACC), tl.load(query_ptr + half * query_stride_dim + x).to(ACC)
                y_a, y_b = tl.load(table_ptr + y).to(ACC), tl.load(table_ptr + half * table_stride_dim + y).to(ACC)
                sum = SIMILARITY.value.accumulate(sum, x_a, x_b, y_a, y_b)
                query_ptr += query_stride_dim
                table_ptr += table_stride_dim
        else:
            for _ in tl.range(0, dim, loop_unroll_factor=2):
                x_a, y_a = tl.load(query_ptr + x).to(ACC), tl.load(table_ptr + y).to(ACC)
                sum = SIMILARITY.value.accumulate(sum, x_a, x_a, y_a, y_a)
                query_ptr += query_stride_dim
                table_ptr += table_stride_dim
    return SIMILARITY.value.score(sum)


@triton.jit
def panel_scores(
    program,
    query_ptr,  # [B, D]
    query_stride_row, query_stride_dim,
    table_ptr,  # [count, D]
    table_stride_row, table_stride_dim, batch, count, dim, SIMILARITY: tl.constexpr, ACC: tl.constexpr,
    INPUT_PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """(scores of a tile, its rows, its first column, how many columns it has, number of the column tile)."""
    row_tile, tile = tile_of(program, tl.cdiv(batch, BLOCK_B), tl.cdiv(count, BLOCK_C))
    row = row_tile * BLOCK_B + tl.arange(0, BLOCK_B)
    columns = tl.arange(0, BLOCK_C)
    first = tile * BLOCK_C
    width = tl.minimum(count - first, BLOCK_C)
    read_row, read_column = row, columns
    if SIMILARITY.value.MATRIX_PRODUCT:
        read_row, read_column = tl.minimum(row, batch - 1).to(tl.int64), tl.minimum(columns, width - 1)
    table_ptr += tl.cast(first, tl.int64) * table_stride_row
    scores = score_tile(
        sum=tl.zeros((BLOCK_B, BLOCK_C), ACC), query_ptr=query_ptr, query_stride_row=query_stride_row,
        query_stride_dim=query_stride_dim, rows=read_row, table_ptr=table_ptr, table_stride_row=table_stride_row,
        table_stride_dim=table_stride_dim, columns=read_column, dim=dim, SIMILARITY=SIMILARITY, ACC=ACC,
        INPUT_PRECISION=INPUT_PRECISION, BLOCK_D=BLOCK_D,
    )  # fmt: skip
    return scores, row, first, width, tile


@triton.jit
def gradient_tile(
    sum_a,  # [BLOCK_X, BLOCK_D]: what is added to
    sum_b,  # the same of complex coordinates' second half, else of no meaning
    grad_ptr,  # [X, Y]: coefficients c
    grad_stride_x, grad_stride_y,
    grad_x,  # grad may be read at [0, grad_x) x [0, grad_y)
    grad_y,
    x_ptr,  # [.., D]
    rows,  # [BLOCK_X]
    y_ptr,  # [Y, D]
    y_stride_row, y_stride_dim,
    y_rows,  # and y at rows [0, y_rows)
    count,  # Y
    dim, first_d, SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr, BLOCK_X: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    """sum[i, d] + sum_k c[i, k] ds(x[rows[i]], y[k]) / dx at BLOCK_D coordinates from first_d; for dot products a
    matrix product, c @ y.

    Where grad or y may be read beyond their rows, they hold zeros there: limits known to be multiples of 16 let memory
    be read 16 bytes at a time.
    """
    places = tl.arange(0, BLOCK_X)
    d = tl.arange(0, BLOCK_D)
    length = dim // 2 if SIMILARITY.value.COMPLEX else dim
    inside = (d < length - first_d)[None, :]
    if SIMILARITY.value.MATRIX_PRODUCT:
        steps = tl.arange(0, BLOCK_Y)
        left = places[:, None] * grad_stride_x + steps[None, :] * grad_stride_y
        y_ptr += tl.cast(first_d, tl.int64) * y_stride_dim
        right = steps[:, None] * y_stride_row + d[None, :] * y_stride_dim
        for k in range(0, count, BLOCK_Y):
            c = tl.load(grad_ptr + left, mask=(places < grad_x)[:, None] & (steps < grad_y - k)[None, :], other=0.0)
            y = tl.load(y_ptr + right, mask=(steps < y_rows - k)[:, None] & inside, other=0.0)
            sum_a = multiply(c, y, sum_a, INPUT_PRECISION)
            grad_ptr += BLOCK_Y * grad_stride_y
            y_ptr += BLOCK_Y * y_stride_row
    else:
        x_ptrs = x_ptr + first_d + rows[:, None] * dim
        x_a, x_b = load_halves(x_ptrs, d[None, :], length, inside, SIMILARITY.value.COMPLEX, ACC)
        y_ptr += first_d
        left = places[:, None] * grad_stride_x
        for _ in range(0, count):
            c = tl.load(grad_ptr + left, mask=(places < grad_x)[:, None], other=0.0).to(ACC)
            y_a, y_b = load_halves(y_ptr, d[None, :], length, inside, SIMILARITY.value.COMPLEX, ACC)
            sum_a, sum_b = SIMILARITY.value.add_gradient(sum_a, sum_b, c, x_a, x_b, y_a, y_b)
            grad_ptr += grad_stride_y
            y_ptr += y_stride_row
    return sum_a, sum_b


# A list of ids for each query, say of its answers: ids[cursor : end], ascending. A kernel that walks columns upwards
# carries `cursor` along. Within a tile an id is named by its column, 0 .. BLOCK_C - 1: 32-bit numbers that the compiler
# folds.


@triton.jit
def first_at_least(ids_ptr, starts, ends, value):
    """Per query: the first place in [start, end) whose id is >= value, else end."""
    low, high = starts, ends
    while tl.max(high - low, 0) > 0:
        middle = (low + high) // 2
        undecided = low < high
        smaller = undecided & (tl.load(ids_ptr + middle, mask=undecided, other=0) < value)
        low = tl.where(smaller, middle + 1, low)
        high = tl.where(undecided & (smaller == 0), middle, high)
    return low


@triton.jit
def next_column(ids_ptr, cursor, ends, first):
    """The column of the id under the cursor, counted from `first`; a number beyond all where none is left."""
    id = tl.load(ids_ptr + cursor, mask=cursor < ends, other=BEYOND)
    return tl.minimum(id - first, BEYOND).to(tl.int32)


@triton.jit
def sum_at_ids(scores, columns, first, count, ids_ptr, cursor, ends, ACC: tl.constexpr):
    """(sum of the scores at ids among the tile's `count` columns from `first`, cursor past them)."""
    sum = tl.zeros_like(cursor).to(ACC)
    at = next_column(ids_ptr, cursor, ends, first)
    while tl.min(at, 0) < count:
        sum += tl.sum(tl.where(columns[None, :] == at[:, None], scores, 0.0), 1)
        cursor += (at < count).to(tl.int64)
        at = next_column(ids_ptr, cursor, ends, first)
    return sum, cursor


@triton.jit
def subtract_at_ids(tile, own, columns, first, count, ids_ptr, cursor, ends):
    """The tile with own[row] subtracted at answers among its `count` columns from `first`."""
    at = next_column(ids_ptr, cursor, ends, first)
    while tl.min(at, 0) < count:
        tile -= tl.where(columns[None, :] == at[:, None], own[:, None], 0.0)
        cursor += (at < count).to(tl.int64)
        at = next_column(ids_ptr, cursor, ends, first)
    return tile


@triton.jit
def replace_at_ids(tile, value, columns, first, count, ids_ptr, cursor, ends):
    """(the tile with `value` at answers among its `count` columns from `first`, cursor past them)."""
    at = next_column(ids_ptr, cursor, ends, first)
    while tl.min(at, 0) < count:
        tile = tl.where(columns[None, :] == at[:, None], value, tile)
        cursor += (at < count).to(tl.int64)
        at = next_column(ids_ptr, cursor, ends, first)
    return tile, cursor
