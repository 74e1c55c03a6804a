"""The mathematics of every score for Triton kernels, with the names of csrc/include/kgfast/scores.h.

A similarity is one class, a score's query operator is one class; formulae.py says how kernels get them.
"""

import triton
import triton.language as tl

from kgfast.registry import Side, Similarity

from .formulae import Formulae

TAIL, HEAD = tl.constexpr(int(Side.TAIL)), tl.constexpr(int(Side.HEAD))

# ---- similarities ----------------------------------------------------------------------------------------


class SimilarityFormulae(Formulae, file="scores.py"):
    """accumulate() adds one coordinate, score() turns the sum into the score, add_gradient() is sum + c * ds/dx at
    (x, y), c = dL/ds.

    All are symmetric in (x, y), so one gradient serves query and row. Where it does not exist (x = y) it is 0. An
    operand comes as the halves (a, b) of a row, which differ for complex rows alone.
    """

    MATRIX_PRODUCT = False  # all scores of many queries are one: tensor cores make them
    COMPLEX = False  # a coordinate is a complex number, real parts in the first half of a row
    DIVIDES_BY_SCORE = False  # c is dL/ds divided by the score


class Dot(SimilarityFormulae, of=Similarity.DOT):
    """s = sum_d x_d y_d."""

    MATRIX_PRODUCT = True

    @triton.jit
    def accumulate(sum, x_a, x_b, y_a, y_b):
        return sum + x_a * y_a

    @triton.jit
    def score(sum):
        return sum

    @triton.jit
    def add_gradient(sum_a, sum_b, c, x_a, x_b, y_a, y_b):
        return sum_a + c * y_a, sum_b


class L1(SimilarityFormulae, of=Similarity.L1):
    """s = -sum_d |x_d - y_d|."""

    @triton.jit
    def accumulate(sum, x_a, x_b, y_a, y_b):
        return sum + tl.abs(x_a - y_a)

    @triton.jit
    def score(sum):
        return -sum

    @triton.jit
    def add_gradient(sum_a, sum_b, c, x_a, x_b, y_a, y_b):
        return sum_a + tl.where(y_a > x_a, c, tl.where(y_a < x_a, -c, 0.0)), sum_b


class L2(SimilarityFormulae, of=Similarity.L2):
    """s = -sqrt(sum_d (x_d - y_d)^2), so ds/dx = (x - y) / s."""

    DIVIDES_BY_SCORE = True

    @triton.jit
    def accumulate(sum, x_a, x_b, y_a, y_b):
        return sum + (x_a - y_a) * (x_a - y_a)

    @triton.jit
    def score(sum):
        return -tl.sqrt(sum)

    @triton.jit
    def add_gradient(sum_a, sum_b, c, x_a, x_b, y_a, y_b):
        return sum_a + c * (x_a - y_a), sum_b


class Modulus(SimilarityFormulae, of=Similarity.MODULUS):
    """s = -sum_k |x_k - y_k| over complex numbers."""

    COMPLEX = True

    @triton.jit
    def accumulate(sum, x_a, x_b, y_a, y_b):
        a = x_a - y_a
        b = x_b - y_b
        return sum + tl.sqrt(a * a + b * b)

    @triton.jit
    def score(sum):
        return -sum

    @triton.jit
    def add_gradient(sum_a, sum_b, c, x_a, x_b, y_a, y_b):
        a = y_a - x_a
        b = y_b - x_b
        square = a * a + b * b
        scale = tl.where(square > 0, c * tl.rsqrt(tl.where(square > 0, square, 1.0)), 0.0)
        return sum_a + a * scale, sum_b + b * scale


@triton.jit
def coefficient(grad_score, score, SIMILARITY: tl.constexpr):
    """c of add_gradient(): dL/ds and the part of ds/dx that all coordinates share."""
    if SIMILARITY.value.DIVIDES_BY_SCORE:
        return tl.where(score < 0, grad_score / score, 0.0)
    else:
        return grad_score


# ---- query operators -------------------------------------------------------------------------------------


class Operator(Formulae, file="scores.py"):
    """tail(h, r) and head(t, r) make the query; *_adjoint map g = dL/dq to (dL/d entity, dL/d relation).

    An operand is the two halves (a, b) of a row; operators of rows that are one piece read a alone and return it twice.
    RESCAL is no elementwise operator: queries.py has it.
    """

    ENTITY_HALVES = False  # entity rows are two halves
    RELATION_HALVES = False  # and relation rows
    PHASES = False  # the relation comes as (cos, sin) of its phase, and its gradient is the phase's


class TransE(Operator, of="TransE"):
    """h + r; t - r."""

    @triton.jit
    def tail(h_a, h_b, r_a, r_b):
        return h_a + r_a, h_a + r_a

    @triton.jit
    def head(t_a, t_b, r_a, r_b):
        return t_a - r_a, t_a - r_a

    @triton.jit
    def tail_adjoint(g_a, g_b, h_a, h_b, r_a, r_b):
        return g_a, g_a, g_a, g_a

    @triton.jit
    def head_adjoint(g_a, g_b, t_a, t_b, r_a, r_b):
        return g_a, g_a, -g_a, -g_a


class DistMult(Operator, of="DistMult"):
    """h r; t r."""

    @triton.jit
    def tail(h_a, h_b, r_a, r_b):
        return h_a * r_a, h_a * r_a

    @triton.jit
    def head(t_a, t_b, r_a, r_b):
        return t_a * r_a, t_a * r_a

    @triton.jit
    def tail_adjoint(g_a, g_b, h_a, h_b, r_a, r_b):
        return g_a * r_a, g_a * r_a, g_a * h_a, g_a * h_a

    @triton.jit
    def head_adjoint(g_a, g_b, t_a, t_b, r_a, r_b):
        return g_a * r_a, g_a * r_a, g_a * t_a, g_a * t_a


@triton.jit
def product(x_a, x_b, y_a, y_b):
    """x y of complex numbers."""
    return x_a * y_a - x_b * y_b, x_a * y_b + x_b * y_a


@triton.jit
def conjugate_product(x_a, x_b, y_a, y_b):
    """x conj(y)."""
    return x_a * y_a + x_b * y_b, x_b * y_a - x_a * y_b


class ComplEx(Operator, of="ComplEx"):
    """h r; t conj(r)."""

    ENTITY_HALVES = True
    RELATION_HALVES = True

    @triton.jit
    def tail(h_a, h_b, r_a, r_b):
        return product(h_a, h_b, r_a, r_b)

    @triton.jit
    def head(t_a, t_b, r_a, r_b):
        return conjugate_product(t_a, t_b, r_a, r_b)

    @triton.jit
    def tail_adjoint(g_a, g_b, h_a, h_b, r_a, r_b):
        d_a, d_b = conjugate_product(g_a, g_b, r_a, r_b)
        e_a, e_b = conjugate_product(g_a, g_b, h_a, h_b)
        return d_a, d_b, e_a, e_b

    @triton.jit
    def head_adjoint(g_a, g_b, t_a, t_b, r_a, r_b):
        d_a, d_b = product(g_a, g_b, r_a, r_b)
        e_a, e_b = conjugate_product(t_a, t_b, g_a, g_b)
        return d_a, d_b, e_a, e_b


class RotatE(Operator, of="RotatE"):
    """h e^(i theta); t e^(-i theta)."""

    ENTITY_HALVES = True
    PHASES = True

    @triton.jit
    def tail(h_a, h_b, r_a, r_b):
        return product(h_a, h_b, r_a, r_b)

    @triton.jit
    def head(t_a, t_b, r_a, r_b):
        return conjugate_product(t_a, t_b, r_a, r_b)

    @triton.jit
    def tail_adjoint(g_a, g_b, h_a, h_b, r_a, r_b):
        d_a, d_b = conjugate_product(g_a, g_b, r_a, r_b)
        q_a, q_b = product(h_a, h_b, r_a, r_b)
        phase = g_b * q_a - g_a * q_b
        return d_a, d_b, phase, phase

    @triton.jit
    def head_adjoint(g_a, g_b, t_a, t_b, r_a, r_b):
        d_a, d_b = product(g_a, g_b, r_a, r_b)
        q_a, q_b = conjugate_product(t_a, t_b, r_a, r_b)
        phase = g_a * q_b - g_b * q_a
        return d_a, d_b, phase, phase


class SimplE(Operator, of="SimplE"):
    """[r' h_b, r h_a] / 2; [r t_b, r' t_a] / 2."""

    ENTITY_HALVES = True
    RELATION_HALVES = True

    @triton.jit
    def tail(h_a, h_b, r_a, r_b):
        return r_b * h_b * 0.5, r_a * h_a * 0.5

    @triton.jit
    def head(t_a, t_b, r_a, r_b):
        return r_a * t_b * 0.5, r_b * t_a * 0.5

    @triton.jit
    def tail_adjoint(g_a, g_b, h_a, h_b, r_a, r_b):
        return g_b * r_a * 0.5, g_a * r_b * 0.5, g_b * h_a * 0.5, g_a * h_b * 0.5

    @triton.jit
    def head_adjoint(g_a, g_b, t_a, t_b, r_a, r_b):
        return g_b * r_b * 0.5, g_a * r_a * 0.5, g_a * t_b * 0.5, g_b * t_a * 0.5


class CP(Operator, of="CP"):
    """[0, r h_a]; [r t_b, 0]."""

    ENTITY_HALVES = True

    @triton.jit
    def tail(h_a, h_b, r_a, r_b):
        return tl.zeros_like(h_a), r_a * h_a

    @triton.jit
    def head(t_a, t_b, r_a, r_b):
        return r_a * t_b, tl.zeros_like(t_a)

    @triton.jit
    def tail_adjoint(g_a, g_b, h_a, h_b, r_a, r_b):
        return g_b * r_a, tl.zeros_like(g_b), g_b * h_a, g_b * h_a

    @triton.jit
    def head_adjoint(g_a, g_b, t_a, t_b, r_a, r_b):
        return tl.zeros_like(g_a), g_a * r_a, g_a * t_b, g_a * t_b
