"""What happens to a row under its gradient, with the names of csrc/include/kgfast/updates.h; regularizers.

A rule is one class; formulae.py says how kernels get it. An optimizer's constants lie on the device, so that a captured
graph follows a schedule. Rows of bfloat16 are rounded stochastically: an update smaller than half a step of the row's
numbers would else never be seen.
"""

import triton
import triton.language as tl

from kgfast.core.sums import sum_dtype
from kgfast.registry import Regularizer, Update

from .configurations import TYPES, bits
from .formulae import Formulae
from .tiles import number, split_program

CONSTANTS = ("lr", "eps", "beta1", "beta2", "adam_rate", "step")  # float64, in this order
LR, EPS, BETA1, BETA2, ADAM_RATE, STEP = (tl.constexpr(place) for place in range(len(CONSTANTS)))
ROUNDING_KEY = tl.constexpr(0x6B6766617374)  # Philox' key of stochastic rounding
N3 = tl.constexpr(int(Regularizer.N3))

# ---- rules ---------------------------------------------------------------------------------------------------


class UpdateRule(Formulae, file="updates.py"):
    """update(): numbers x of a row under their gradient, in which `state1_ptrs` and `state2_ptrs` are the numbers'
    own. A rule with ONE_STEP_PER_ROW has row_step(), which is given the row's sum of squares and makes `step_size`.
    """

    IS_OPTIMIZER = True  # else gradients are added up
    COMPACT_OUTPUT = False  # the output has one row for each distinct id
    ONE_STEP_PER_ROW = False


class Dense(UpdateRule, of=Update.DENSE):
    IS_OPTIMIZER = False

    @triton.jit
    def update(x, g, step_size, state1_ptrs, state2_ptrs, constants_ptr, lr, eps, inside, ACC: tl.constexpr):
        return x + g


class Sparse(UpdateRule, of=Update.SPARSE):
    IS_OPTIMIZER = False
    COMPACT_OUTPUT = True

    @triton.jit
    def update(x, g, step_size, state1_ptrs, state2_ptrs, constants_ptr, lr, eps, inside, ACC: tl.constexpr):
        return x + g


class SGD(UpdateRule, of=Update.SGD):
    """x -= lr g."""

    @triton.jit
    def update(x, g, step_size, state1_ptrs, state2_ptrs, constants_ptr, lr, eps, inside, ACC: tl.constexpr):
        return x - lr * g


class Adagrad(UpdateRule, of=Update.ADAGRAD):
    """v += g^2, x -= lr g / (sqrt(v) + eps)."""

    @triton.jit
    def update(x, g, step_size, state1_ptrs, state2_ptrs, constants_ptr, lr, eps, inside, ACC: tl.constexpr):
        sum = tl.load(state1_ptrs, mask=inside, other=1.0).to(ACC) + g * g
        tl.store(state1_ptrs, sum, mask=inside)
        return x - lr * g / (tl.sqrt(sum) + eps)


class RowAdagrad(UpdateRule, of=Update.ROW_ADAGRAD):
    """v += mean of g^2 over the row, x -= lr g / (sqrt(v) + eps)."""

    ONE_STEP_PER_ROW = True

    @triton.jit
    def row_step(state1_ptr, constants_ptr, row, squares, dim, ACC: tl.constexpr):
        sum = tl.load(state1_ptr + row).to(ACC) + squares / dim
        tl.debug_barrier()  # every warp has read the state that one of them writes
        tl.store(state1_ptr + row, sum)
        return tl.load(constants_ptr + LR).to(ACC) / (tl.sqrt(sum) + tl.load(constants_ptr + EPS).to(ACC))

    @triton.jit
    def update(x, g, step_size, state1_ptrs, state2_ptrs, constants_ptr, lr, eps, inside, ACC: tl.constexpr):
        return x - step_size * g


class Adam(UpdateRule, of=Update.ADAM):
    """m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, x -= rate m / (sqrt(v) + eps), rate = lr with its corrections."""

    @triton.jit
    def update(x, g, step_size, state1_ptrs, state2_ptrs, constants_ptr, lr, eps, inside, ACC: tl.constexpr):
        beta1, beta2 = tl.load(constants_ptr + BETA1).to(ACC), tl.load(constants_ptr + BETA2).to(ACC)
        m = beta1 * tl.load(state1_ptrs, mask=inside, other=0.0).to(ACC) + (1 - beta1) * g
        v = beta2 * tl.load(state2_ptrs, mask=inside, other=0.0).to(ACC) + (1 - beta2) * g * g
        tl.store(state1_ptrs, m, mask=inside)
        tl.store(state2_ptrs, v, mask=inside)
        return x - tl.load(constants_ptr + ADAM_RATE).to(ACC) * m / (tl.sqrt(v) + eps)


# ---- rows in memory ------------------------------------------------------------------------------------------


@triton.jit
def random_halves(row, first, step, BLOCK_D: tl.constexpr):
    """BLOCK_D 16-bit words for the numbers from `first` of a row; eight of one Philox block."""
    block = first // 8 + tl.arange(0, BLOCK_D // 8)
    c0 = block.to(tl.uint32)
    zero = tl.zeros_like(c0)
    x0, x1, x2, x3 = tl.philox(ROUNDING_KEY, c0, zero + row.to(tl.uint32), zero + step.to(tl.uint32), zero)
    words = tl.join(tl.join(x0, x1), tl.join(x2, x3)).reshape(BLOCK_D // 2)
    return tl.join(words & 0xFFFF, words >> 16).reshape(BLOCK_D)


@triton.jit
def round_stochastically(x, random):
    """float32 -> bfloat16, up with the probability of what is cut off; infinities and NaN stay."""
    bits = x.to(tl.uint32, bitcast=True)
    finite = (bits & 0x7F800000) != 0x7F800000
    bits = tl.where(finite, bits + random, bits)
    return (bits & 0xFFFF0000).to(tl.float32, bitcast=True).to(tl.bfloat16)


@triton.jit
def update_numbers(rows_ptr, state1_ptr, state2_ptr, constants_ptr, row, first, dim, g, step_size,
                   UPDATE: tl.constexpr, ACC: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """Numbers [first, first + BLOCK_D) of row `row` (of the table, or of the output of a sparse gradient) under g."""
    d = first + tl.arange(0, BLOCK_D)
    inside = d < dim
    at = row * dim
    x = tl.load(rows_ptr + at + d, mask=inside, other=0.0).to(ACC)
    lr, eps = step_size, step_size
    step = tl.zeros((), tl.int64)
    if UPDATE.value.IS_OPTIMIZER:
        lr, eps = tl.load(constants_ptr + LR).to(ACC), tl.load(constants_ptr + EPS).to(ACC)
        step = tl.load(constants_ptr + STEP).to(tl.int64)
    state1_ptrs, state2_ptrs = state1_ptr + at + d, state2_ptr + at + d
    x = UPDATE.value.update(x, g, step_size, state1_ptrs, state2_ptrs, constants_ptr, lr, eps, inside, ACC)
    IS_ROUNDED: tl.constexpr = UPDATE.value.IS_OPTIMIZER
    if IS_ROUNDED and rows_ptr.dtype.element_ty == tl.bfloat16:
        value = round_stochastically(x, random_halves(row, first, step, BLOCK_D))
    else:
        value = x.to(rows_ptr.dtype.element_ty)
    tl.store(rows_ptr + at + d, value, mask=inside)


@triton.jit
def update_every_row(
    gradients_ptr,  # [C, D]
    rows_ptr,  # [C, D]
    state1_ptr,  # [C, D] or [C], where the rule has it
    state2_ptr,  # [C, D]
    constants_ptr,  # CONSTANTS
    dim, UPDATE: tl.constexpr, ACC: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Every row of a table under its row of a dense gradient; one program a row."""
    row = tl.program_id(0).to(tl.int64)
    step_size = tl.zeros((), ACC)
    if UPDATE.value.ONE_STEP_PER_ROW:
        sum = tl.zeros((BLOCK_D,), ACC)
        for first in range(0, dim, BLOCK_D):
            d = first + tl.arange(0, BLOCK_D)
            g = tl.load(gradients_ptr + row * dim + d, mask=d < dim, other=0.0).to(ACC)
            sum += g * g
        step_size = UPDATE.value.row_step(state1_ptr, constants_ptr, row, tl.sum(sum, 0), dim, ACC)
    for first in range(0, dim, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        g = tl.load(gradients_ptr + row * dim + d, mask=d < dim, other=0.0).to(ACC)
        update_numbers(
            rows_ptr=rows_ptr, state1_ptr=state1_ptr, state2_ptr=state2_ptr, constants_ptr=constants_ptr, row=row,
            first=first, dim=dim, g=g, step_size=step_size, UPDATE=UPDATE, ACC=ACC, BLOCK_D=BLOCK_D,
        )  # fmt: skip


@triton.jit(do_not_specialize=["weight_bits"])
def add_penalty_gradient(
    table_ptr,  # [C, D]
    ids_ptr,  # [M]
    gradients_ptr,  # [M, D]
    dim, weight_bits: tl.int64, REGULARIZER: tl.constexpr, COMPLEX: tl.constexpr, ACC: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """gradients[i] += d/dx of weight * sum |x|^3 (N3; of moduli where COMPLEX) or of sum x^2, x = table[ids[i]]."""
    row, part = split_program(tl.program_id(0), tl.cdiv(dim, BLOCK_D))
    i, d = row.to(tl.int64), part * BLOCK_D + tl.arange(0, BLOCK_D)
    weight = number(weight_bits, ACC)
    inside = d < dim
    row_ptr = table_ptr + tl.load(ids_ptr + i) * dim
    out_ptrs = gradients_ptr + i * dim + d
    x = tl.load(row_ptr + d, mask=inside, other=0.0).to(ACC)
    g = tl.load(out_ptrs, mask=inside, other=0.0).to(ACC)
    if REGULARIZER == N3:
        size = tl.abs(x)
        if COMPLEX:  # the other half of the same complex number
            half = dim // 2
            other = tl.load(row_ptr + tl.where(d < half, d + half, d - half), mask=inside, other=0.0).to(ACC)
            size = tl.sqrt(x * x + other * other)
        g += 3 * weight * size * x
    else:
        g += 2 * weight * x
    tl.store(out_ptrs, g, mask=inside)


# ---- launches ------------------------------------------------------------------------------------------------


def block_of(dim: int) -> int:
    return min(2048, max(32, triton.next_power_of_2(dim)))


def update_all_rows(gradients, update: int, rows, state1, state2, constants) -> None:
    if gradients.numel():
        count, dim = gradients.shape
        block = block_of(dim)
        update_every_row[(count,)](
            gradients_ptr=gradients,
            rows_ptr=rows,
            state1_ptr=state1,
            state2_ptr=state2,
            constants_ptr=constants,
            dim=dim,
            UPDATE=UpdateRule.find(update),
            ACC=TYPES[sum_dtype(rows.dtype)],
            BLOCK_D=block,
            num_warps=max(1, block // 512),
        )


def add_regularizer(regularizer: int, parts: int, weight: float, table, ids, gradients) -> None:
    """parts: 2 where rows are complex, else 1."""
    if gradients.numel():
        count, dim = gradients.shape
        block = block_of(dim)
        add_penalty_gradient[(count * triton.cdiv(dim, block),)](
            table_ptr=table,
            ids_ptr=ids,
            gradients_ptr=gradients,
            dim=dim,
            weight_bits=bits(weight),
            REGULARIZER=int(regularizer),
            COMPLEX=parts == 2,
            ACC=TYPES[sum_dtype(table.dtype)],
            BLOCK_D=block,
            num_warps=max(1, block // 512),
        )
