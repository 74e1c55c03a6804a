"""What happens to a row under its gradient, with the names of csrc/include/kgfast/updates.h; regularizers.

An optimizer's constants lie on the device, so that a captured graph follows a schedule. Rows of bfloat16 are rounded
stochastically: an update smaller than half a step of the row's numbers would else never be seen.
"""

import triton
import triton.language as tl

from .configurations import TYPES, bits, sum_dtype
from .tiles import number

DENSE, SPARSE, SGD, ADAGRAD, ROW_ADAGRAD, ADAM = (tl.constexpr(code) for code in range(6))
CONSTANTS = ("lr", "eps", "beta1", "beta2", "adam_rate", "step")  # float64, in this order
ROUNDING_KEY = tl.constexpr(0x6B6766617374)  # Philox' key of stochastic rounding


@triton.jit
def random_halves(row, first, step, BLOCK: tl.constexpr):
    """BLOCK 16-bit words for the numbers from `first` of a row; eight of one Philox block."""
    block = first // 8 + tl.arange(0, BLOCK // 8)
    c0 = block.to(tl.uint32)
    zero = tl.zeros_like(c0)
    x0, x1, x2, x3 = tl.philox(ROUNDING_KEY, c0, zero + row.to(tl.uint32), zero + step.to(tl.uint32), zero)
    words = tl.join(tl.join(x0, x1), tl.join(x2, x3)).reshape(BLOCK // 2)
    return tl.join(words & 0xFFFF, words >> 16).reshape(BLOCK)


@triton.jit
def round_stochastically(x, random):
    """float32 -> bfloat16, up with the probability of what is cut off; infinities and NaN stay."""
    bits = x.to(tl.uint32, bitcast=True)
    finite = (bits & 0x7F800000) != 0x7F800000
    bits = tl.where(finite, bits + random, bits)
    return (bits & 0xFFFF0000).to(tl.float32, bitcast=True).to(tl.bfloat16)


@triton.jit
def store_row(rows, at, d, inside, x, row, first, step, BLOCK: tl.constexpr, OPTIMIZER: tl.constexpr):
    if OPTIMIZER and rows.dtype.element_ty == tl.bfloat16:
        value = round_stochastically(x, random_halves(row, first, step, BLOCK))
    else:
        value = x.to(rows.dtype.element_ty)
    tl.store(rows + at + d, value, mask=inside)


@triton.jit
def row_rate(state1, constants, row, squares, dim, SUM: tl.constexpr):
    """Row-wise Adagrad: adds the mean square to the row's sum; the row's step size."""
    sum = tl.load(state1 + row).to(SUM) + squares / dim
    tl.debug_barrier()  # every warp has read the state that one of them writes
    tl.store(state1 + row, sum)
    return tl.load(constants).to(SUM) / (tl.sqrt(sum) + tl.load(constants + 1).to(SUM))


@triton.jit
def update_part(rows, state1, state2, constants, row, first, dim, g, rate, UPDATE: tl.constexpr, SUM: tl.constexpr,
                BLOCK: tl.constexpr):  # fmt: skip
    """Numbers [first, first + BLOCK) of row `row` (of the table, or of the output of a sparse gradient) under g."""
    d = first + tl.arange(0, BLOCK)
    inside = d < dim
    at = row * dim
    x = tl.load(rows + at + d, mask=inside, other=0.0).to(SUM)
    lr, eps = rate, rate
    step = tl.zeros((), tl.int64)
    if UPDATE == SGD or UPDATE == ADAGRAD or UPDATE == ROW_ADAGRAD or UPDATE == ADAM:
        lr, eps = tl.load(constants).to(SUM), tl.load(constants + 1).to(SUM)
        step = tl.load(constants + 5).to(tl.int64)
    if UPDATE == DENSE or UPDATE == SPARSE:
        x += g
    elif UPDATE == SGD:
        x -= lr * g
    elif UPDATE == ROW_ADAGRAD:
        x -= rate * g
    elif UPDATE == ADAGRAD:
        sum = tl.load(state1 + at + d, mask=inside, other=1.0).to(SUM) + g * g
        tl.store(state1 + at + d, sum, mask=inside)
        x -= lr * g / (tl.sqrt(sum) + eps)
    else:
        beta1, beta2 = tl.load(constants + 2).to(SUM), tl.load(constants + 3).to(SUM)
        m = beta1 * tl.load(state1 + at + d, mask=inside, other=0.0).to(SUM) + (1 - beta1) * g
        v = beta2 * tl.load(state2 + at + d, mask=inside, other=0.0).to(SUM) + (1 - beta2) * g * g
        tl.store(state1 + at + d, m, mask=inside)
        tl.store(state2 + at + d, v, mask=inside)
        x -= tl.load(constants + 4).to(SUM) * m / (tl.sqrt(v) + eps)
    store_row(rows, at, d, inside, x, row, first, step, BLOCK, UPDATE != DENSE and UPDATE != SPARSE)


@triton.jit
def update_all(gradients, rows, state1, state2, constants, dim, UPDATE: tl.constexpr, SUM: tl.constexpr,
               BLOCK: tl.constexpr):  # fmt: skip
    """Every row of a table under its row of a dense gradient; one program a row."""
    row = tl.program_id(0).to(tl.int64)
    rate = tl.zeros((), SUM)
    if UPDATE == ROW_ADAGRAD:
        sum = tl.zeros((BLOCK,), SUM)
        for first in range(0, dim, BLOCK):
            d = first + tl.arange(0, BLOCK)
            g = tl.load(gradients + row * dim + d, mask=d < dim, other=0.0).to(SUM)
            sum += g * g
        rate = row_rate(state1, constants, row, tl.sum(sum, 0), dim, SUM)
    for first in range(0, dim, BLOCK):
        d = first + tl.arange(0, BLOCK)
        g = tl.load(gradients + row * dim + d, mask=d < dim, other=0.0).to(SUM)
        update_part(rows, state1, state2, constants, row, first, dim, g, rate, UPDATE, SUM, BLOCK)


@triton.jit(do_not_specialize=["weight"])
def regularize(table, ids, gradients, dim, weight: tl.int64, N3: tl.constexpr, PARTS: tl.constexpr, SUM: tl.constexpr,
               BLOCK: tl.constexpr):  # fmt: skip
    """gradients[i] += d/dx of weight * sum |x|^3 (moduli where rows are complex) or of sum x^2, x = table[ids[i]]."""
    i = tl.program_id(0).to(tl.int64)
    weight = number(weight, SUM)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < dim
    row = table + tl.load(ids + i) * dim
    out = gradients + i * dim + d
    x = tl.load(row + d, mask=inside, other=0.0).to(SUM)
    g = tl.load(out, mask=inside, other=0.0).to(SUM)
    if N3:
        size = tl.abs(x)
        if PARTS == 2:  # the other half of the same complex number
            half = dim // 2
            other = tl.load(row + tl.where(d < half, d + half, d - half), mask=inside, other=0.0).to(SUM)
            size = tl.sqrt(x * x + other * other)
        g += 3 * weight * size * x
    else:
        g += 2 * weight * x
    tl.store(out, g, mask=inside)


def block_of(dim: int) -> int:
    return min(2048, max(32, triton.next_power_of_2(dim)))


def update_all_rows(gradients, update: int, rows, state1, state2, constants) -> None:
    if gradients.numel():
        count, dim = gradients.shape
        block = block_of(dim)
        update_all[(count,)](gradients, rows, state1, state2, constants, dim, update, TYPES[sum_dtype(rows.dtype)],
                             block, num_warps=max(1, block // 512))  # fmt: skip


def add_regularizer(n3: bool, parts: int, weight: float, table, ids, gradients) -> None:
    if gradients.numel():
        count, dim = gradients.shape
        block = block_of(dim)
        regularize[(count, triton.cdiv(dim, block))](
            table, ids, gradients, dim, bits(weight), n3, parts, TYPES[sum_dtype(table.dtype)], block,
            num_warps=max(1, block // 512),
        )  # fmt: skip
