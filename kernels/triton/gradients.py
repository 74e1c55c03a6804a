"""Gradients from coefficients c = dL/dscore: out[x] = sum over y of c[x, y] times the gradient of similarity(x, y).

Similarities are symmetric, so one kernel serves the queries' gradient and, on transposed coefficients, the table's.
"""

import triton
import triton.language as tl

from .tiles import gradient_tile, number, tile_of


@triton.jit
def gradient_program(
    grad_ptr,  # [X, Y]
    grad_stride_x, grad_stride_y,
    x_ptr,  # [X, D]
    x_count,
    y_ptr,  # [Y, D]
    y_stride_row, y_stride_dim, y_count,
    active_rows_ptr,  # [B]
    scale,
    sums_ptr,  # [.., D]
    out_ptr,  # [.., D]
    program, dim, ADD: tl.constexpr, LAST: tl.constexpr, X_ACTIVE: tl.constexpr, Y_ACTIVE: tl.constexpr,
    Y_TRANSPOSED: tl.constexpr, SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    """sums[x] (+)= sum_y c[x, y] d similarity(x, y)/dx, one tile. ADD: to the sums of the panels before. LAST: there is
    one panel, so that scale * sum goes to `out`. X_ACTIVE: row i's sum is that of active_rows[i]."""
    length = dim // 2 if SIMILARITY.value.COMPLEX else dim
    row_tile, d_tile = tile_of(program, tl.cdiv(x_count, BLOCK_X), tl.cdiv(length, BLOCK_D))
    place = row_tile * BLOCK_X + tl.arange(0, BLOCK_X)
    read = tl.minimum(place, x_count - 1).to(tl.int64)
    row = read
    if X_ACTIVE:
        row = tl.load(active_rows_ptr + read).to(tl.int64)
    first_d = d_tile * BLOCK_D
    d = tl.arange(0, BLOCK_D)
    kept = (place < x_count)[:, None] & (d < length - first_d)[None, :]
    target = row[:, None] * dim + (first_d + d)[None, :]
    sum_a = tl.zeros((BLOCK_X, BLOCK_D), ACC)
    sum_b = sum_a
    if ADD:  # before the loop: after it two tiles would have to be in registers
        sum_a = tl.load(sums_ptr + target, mask=kept, other=0.0)
        if SIMILARITY.value.COMPLEX:
            sum_b = tl.load(sums_ptr + length + target, mask=kept, other=0.0)
    grad_ptr += tl.cast(row_tile * BLOCK_X, tl.int64) * grad_stride_x
    grad_x, grad_y, y_rows = x_count, y_count, y_count
    if X_ACTIVE:  # then c is a workspace, which holds zeros up to the next multiple of 16
        grad_y = tl.cdiv(y_count, 16) * 16
    if Y_ACTIVE:
        grad_x = tl.cdiv(x_count, 16) * 16
    if Y_TRANSPOSED:
        y_rows = tl.cdiv(y_count, 16) * 16
    sum_a, sum_b = gradient_tile(
        sum_a=sum_a, sum_b=sum_b, grad_ptr=grad_ptr, grad_stride_x=grad_stride_x, grad_stride_y=grad_stride_y,
        grad_x=grad_x - row_tile * BLOCK_X, grad_y=grad_y, x_ptr=x_ptr, rows=read, y_ptr=y_ptr,
        y_stride_row=y_stride_row, y_stride_dim=y_stride_dim, y_rows=y_rows, count=y_count, dim=dim, first_d=first_d,
        SIMILARITY=SIMILARITY, ACC=ACC, INPUT_PRECISION=INPUT_PRECISION, BLOCK_X=BLOCK_X, BLOCK_D=BLOCK_D,
        BLOCK_Y=BLOCK_Y,
    )  # fmt: skip
    if LAST:
        tl.store(out_ptr + target, (sum_a * scale).to(out_ptr.dtype.element_ty), mask=kept)
        if SIMILARITY.value.COMPLEX:
            tl.store(out_ptr + length + target, (sum_b * scale).to(out_ptr.dtype.element_ty), mask=kept)
    else:
        tl.store(sums_ptr + target, sum_a, mask=kept)
        if SIMILARITY.value.COMPLEX:
            tl.store(sums_ptr + length + target, sum_b, mask=kept)


@triton.jit(do_not_specialize=["x_count", "y_count", "factor_bits"])
def row_gradients(
    grad_ptr,  # [X, Y]: coefficients c
    grad_stride_x, grad_stride_y,
    x_ptr,  # [X, D]: whose gradient is made
    x_count,
    y_ptr,  # [Y, D]: what is summed over
    y_stride_row, y_stride_dim, y_count,
    active_rows_ptr,  # [B], with X_ACTIVE or Y_ACTIVE, as the next two
    num_active_ptr,  # [1]
    max_weight_ptr,  # [1]
    factor_bits: tl.int64,
    sums_ptr,  # [.., D]
    out_ptr,  # [.., D]
    dim, ADD: tl.constexpr, LAST: tl.constexpr, X_ACTIVE: tl.constexpr, Y_ACTIVE: tl.constexpr,
    Y_TRANSPOSED: tl.constexpr, FAR: tl.constexpr, SIMILARITY: tl.constexpr, ACC: tl.constexpr,
    INPUT_PRECISION: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    """`gradient_program` for each tile. The side of the active rows (X_ACTIVE, Y_ACTIVE) has num_active of them, read
    on the device. Y_TRANSPOSED: y is, with zeros up to the next multiple of 16 rows: Hopper's tensor cores take TF32
    that way alone. FAR: numbers of a tile may lie more than 2^31 apart."""
    if FAR:
        grad_stride_x, grad_stride_y = tl.cast(grad_stride_x, tl.int64), tl.cast(grad_stride_y, tl.int64)
        y_stride_row, y_stride_dim = tl.cast(y_stride_row, tl.int64), tl.cast(y_stride_dim, tl.int64)
    scale = number(factor_bits, ACC)
    if X_ACTIVE:
        x_count = tl.load(num_active_ptr)
    if Y_ACTIVE:
        y_count = tl.load(num_active_ptr)
    if X_ACTIVE or Y_ACTIVE:
        scale *= tl.load(max_weight_ptr)
    length = dim // 2 if SIMILARITY.value.COMPLEX else dim
    if tl.program_id(0) < tl.cdiv(x_count, BLOCK_X) * tl.cdiv(length, BLOCK_D):
        gradient_program(
            grad_ptr=grad_ptr, grad_stride_x=grad_stride_x, grad_stride_y=grad_stride_y, x_ptr=x_ptr, x_count=x_count,
            y_ptr=y_ptr, y_stride_row=y_stride_row, y_stride_dim=y_stride_dim, y_count=y_count,
            active_rows_ptr=active_rows_ptr, scale=scale, sums_ptr=sums_ptr, out_ptr=out_ptr, program=tl.program_id(0),
            dim=dim, ADD=ADD, LAST=LAST, X_ACTIVE=X_ACTIVE, Y_ACTIVE=Y_ACTIVE, Y_TRANSPOSED=Y_TRANSPOSED,
            SIMILARITY=SIMILARITY, ACC=ACC, INPUT_PRECISION=INPUT_PRECISION, BLOCK_X=BLOCK_X, BLOCK_D=BLOCK_D,
            BLOCK_Y=BLOCK_Y,
        )  # fmt: skip


@triton.jit(do_not_specialize=["columns", "factor_bits"])
def bias_gradient(
    grad_ptr,  # [B, columns]
    grad_stride_row,
    num_active_ptr,  # [1]
    max_weight_ptr,  # [1]
    factor_bits: tl.int64,
    out_ptr,  # [columns]
    columns, ACC: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out[c] = scale * sum_b dL/dscore[b, c]: a panel's part of the bias' gradient."""
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    sum = tl.zeros((BLOCK_C,), ACC)
    num_active = tl.load(num_active_ptr)
    for first in range(0, num_active, BLOCK_B):
        row = first + tl.arange(0, BLOCK_B)
        inside = (row < num_active)[:, None] & (column < columns)[None, :]
        part_ptrs = grad_ptr + row[:, None].to(tl.int64) * grad_stride_row + column[None, :]
        sum += tl.sum(tl.load(part_ptrs, mask=inside, other=0.0).to(ACC), 0)
    sum *= number(factor_bits, ACC) * tl.load(max_weight_ptr)
    tl.store(out_ptr + column, sum.to(out_ptr.dtype.element_ty), mask=column < columns)
