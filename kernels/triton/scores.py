"""The mathematics of every score for Triton kernels, with the names of csrc/include/kgfast/scores.h."""

import triton
import triton.language as tl

# ---- similarities ----------------------------------------------------------------------------------------
# accumulate() adds one coordinate, finish() turns the sum into the score, add_slope() is sum + c * d score / d x at
# (x, y). All are symmetric in (x, y), so one slope serves the query's and the row's gradient. Where a slope does not
# exist (x = y) it is 0. For L2 the chain through the root is in the coefficient: kernels pass g / score. Coordinates
# of the modulus are complex numbers (a, b), so it has functions of its own. SIMILARITY is the code of backends/cpu.py.
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
    scale = tl.where(square > 0, c * tl.rsqrt(tl.where(square > 0, square, 1.0)), 0.0)
    return sum_a + a * scale, sum_b + b * scale


# ---- query operators -------------------------------------------------------------------------------------
# tail(h, r) and head(t, r) make the query; *_adjoint map g = dL/dq to (d entity, d relation). An operand is the two
# halves (a, b) of a row; operators of one part read a alone and return it twice. RotatE's relation comes as (cos, sin)
# of its phase, and the gradient of its relation is the phase's. RESCAL is no elementwise operator: queries.py has it.
TRANSE, DISTMULT, COMPLEX, ROTATE, SIMPLE, CP, RESCAL = (tl.constexpr(code) for code in range(7))
OPERATORS = {"TransE": 0, "DistMult": 1, "ComplEx": 2, "RotatE": 3, "SimplE": 4, "CP": 5, "Rescal": 6}
PARTS = (1, 1, 2, 2, 2, 2, 0)  # halves of an entity row
RELATION_PARTS = (1, 1, 2, 1, 2, 1, 0)  # the same for relation rows, in units of dim / PARTS


@triton.jit
def product(x_a, x_b, y_a, y_b):
    """x y of complex numbers."""
    return x_a * y_a - x_b * y_b, x_a * y_b + x_b * y_a


@triton.jit
def conjugate_product(x_a, x_b, y_a, y_b):
    """x conj(y)."""
    return x_a * y_a + x_b * y_b, x_b * y_a - x_a * y_b


@triton.jit
def tail(h_a, h_b, r_a, r_b, OPERATOR: tl.constexpr):
    if OPERATOR == TRANSE:
        return h_a + r_a, h_a + r_a
    elif OPERATOR == DISTMULT:
        return h_a * r_a, h_a * r_a
    elif OPERATOR == SIMPLE:
        return r_b * h_b * 0.5, r_a * h_a * 0.5
    elif OPERATOR == CP:
        return tl.zeros_like(h_a), r_a * h_a
    else:
        return product(h_a, h_b, r_a, r_b)


@triton.jit
def head(t_a, t_b, r_a, r_b, OPERATOR: tl.constexpr):
    if OPERATOR == TRANSE:
        return t_a - r_a, t_a - r_a
    elif OPERATOR == DISTMULT:
        return t_a * r_a, t_a * r_a
    elif OPERATOR == SIMPLE:
        return r_a * t_b * 0.5, r_b * t_a * 0.5
    elif OPERATOR == CP:
        return r_a * t_b, tl.zeros_like(t_a)
    else:
        return conjugate_product(t_a, t_b, r_a, r_b)


@triton.jit
def tail_adjoint(g_a, g_b, h_a, h_b, r_a, r_b, OPERATOR: tl.constexpr):
    """(d head a, b, d relation a, b)."""
    if OPERATOR == TRANSE:
        return g_a, g_a, g_a, g_a
    elif OPERATOR == DISTMULT:
        return g_a * r_a, g_a * r_a, g_a * h_a, g_a * h_a
    elif OPERATOR == SIMPLE:
        return g_b * r_a * 0.5, g_a * r_b * 0.5, g_b * h_a * 0.5, g_a * h_b * 0.5
    elif OPERATOR == CP:
        return g_b * r_a, tl.zeros_like(g_b), g_b * h_a, g_b * h_a
    else:
        d_a, d_b = conjugate_product(g_a, g_b, r_a, r_b)
        if OPERATOR == ROTATE:
            q_a, q_b = product(h_a, h_b, r_a, r_b)
            phase = g_b * q_a - g_a * q_b
            return d_a, d_b, phase, phase
        else:
            e_a, e_b = conjugate_product(g_a, g_b, h_a, h_b)
            return d_a, d_b, e_a, e_b


@triton.jit
def head_adjoint(g_a, g_b, t_a, t_b, r_a, r_b, OPERATOR: tl.constexpr):
    """(d tail a, b, d relation a, b)."""
    if OPERATOR == TRANSE:
        return g_a, g_a, -g_a, -g_a
    elif OPERATOR == DISTMULT:
        return g_a * r_a, g_a * r_a, g_a * t_a, g_a * t_a
    elif OPERATOR == SIMPLE:
        return g_b * r_b * 0.5, g_a * r_a * 0.5, g_a * t_b * 0.5, g_b * t_a * 0.5
    elif OPERATOR == CP:
        return tl.zeros_like(g_a), g_a * r_a, g_a * t_b, g_a * t_b
    else:
        d_a, d_b = product(g_a, g_b, r_a, r_b)
        if OPERATOR == ROTATE:
            q_a, q_b = conjugate_product(t_a, t_b, r_a, r_b)
            phase = g_a * q_b - g_b * q_a
            return d_a, d_b, phase, phase
        else:
            e_a, e_b = conjugate_product(t_a, t_b, g_a, g_b)
            return d_a, d_b, e_a, e_b
