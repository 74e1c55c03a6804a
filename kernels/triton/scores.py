"""The mathematics of every score for Triton kernels, with the names of csrc/include/kgfast/scores.h."""

import triton
import triton.language as tl

# ---- similarities ----------------------------------------------------------------------------------------
# accumulate() adds one coordinate, finish() turns the sum into the score, add_slope() is sum + c * d score / d x at (x, y).
# All are symmetric in (x, y), so one slope serves the query's and the row's gradient. Where a slope does not exist
# (x = y) it is 0. For L2 the chain through the root is in the coefficient: kernels pass g / score. Coordinates of the
# modulus are complex numbers (a, b), so it has functions of its own. SIMILARITY is the code of backends/cpu.py.
DOT, L1, L2, MODULUS = (tl.constexpr(code) for code in range(4))


@triton.jit
def accumulate(sum, x, y, SIMILARITY: tl.constexpr):
    if SIMILARITY == DOT:
        return sum + x * y
    elif SIMILARITY == L1:
        return sum + tl.abs(x - y)
    else:
        return sum + (x - y) * (x - y)


@triton.jit
def accumulate_modulus(sum, x_a, x_b, y_a, y_b):
    a = x_a - y_a
    b = x_b - y_b
    return sum + tl.sqrt(a * a + b * b)


@triton.jit
def finish(sum, SIMILARITY: tl.constexpr):
    if SIMILARITY == DOT:
        return sum
    elif SIMILARITY == L2:
        return -tl.sqrt(sum)
    else:
        return -sum


@triton.jit
def add_slope(sum, c, x, y, SIMILARITY: tl.constexpr):
    if SIMILARITY == DOT:
        return sum + c * y
    elif SIMILARITY == L1:
        return sum + tl.where(y > x, c, tl.where(y < x, -c, 0.0))
    else:
        return sum + c * (x - y)


@triton.jit
def add_slope_modulus(sum_a, sum_b, c, x_a, x_b, y_a, y_b):
    a = y_a - x_a
    b = y_b - x_b
    square = a * a + b * b
    scale = tl.where(square > 0, c * tl.rsqrt(square), 0.0)
    return sum_a + a * scale, sum_b + b * scale
