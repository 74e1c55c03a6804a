"""Objectives, with the names of csrc/include/kgfast/objectives.h; formulae.py says how kernels get them.

Over a query's own or shared negatives an objective is one class. Negatives come in tiles: sums are relative to the
largest exponent so far, so that each negative's row is visited once.
"""

import triton
import triton.language as tl

from kgfast.registry import Objective

from .formulae import Formulae

LOWEST = tl.constexpr(-3.4e38)


@triton.jit
def log_one_plus(u):
    """log(1 + u) of u in [0, 1], as exact as u: log(1 + u) corrected by what 1 + u has lost (Kahan)."""
    w = 1.0 + u
    return tl.where(w == 1.0, u, tl.log(w) * (u / tl.where(w == 1.0, 1.0, w - 1.0)))


@triton.jit
def softplus(x):
    """(log(1 + e^x), its derivative), without overflow."""
    u = tl.exp(-tl.abs(x))
    return tl.where(x < 0, 0.0, x) + log_one_plus(u), tl.where(x >= 0, 1.0, u) / (1.0 + u)


@triton.jit
def reciprocal(x):
    """1 / x, and 0 of 0."""
    return tl.where(x == 0, 0.0, 1.0 / tl.where(x == 0, 1.0, x))


class ObjectiveFormulae(Formulae, file="objectives.py"):
    """negative(): (value, gradient) of a negative before weighting. loss(): from the sums over all negatives of the
    weights p_n, of p_n * value and p_n * gradient, and their number: (loss, dL/d target, what p_n * gradient must be
    multiplied by to be dL/d s_n).
    """

    IS_SOFTMAX = False  # the target competes with the negatives: exponents are the scores
    HAS_TEMPERATURE = True  # negatives weigh e^(temperature * score), all alike where it is 0
    NEEDS_TARGET = False  # negative() reads the target's score

    @classmethod
    def weighs(cls, temperature: float) -> bool:
        """Whether negatives weigh differently."""
        return cls.IS_SOFTMAX or (cls.HAS_TEMPERATURE and temperature != 0)


class Logistic(ObjectiveFormulae, of=Objective.LOGISTIC):
    """(-log sigma(margin + s+) - sum_n w_n log sigma(-margin - s_n)) / 2."""

    @triton.jit
    def negative(target, score, margin):
        return softplus(score + margin)

    @triton.jit
    def loss(target, largest, weight, value, gradient, number, margin, WEIGHTED: tl.constexpr):
        total = weight if WEIGHTED else number
        share = reciprocal(total)
        own, own_gradient = softplus(-(margin + target))
        return (own + share * value) / 2, -own_gradient / 2, share / 2


class Softmax(ObjectiveFormulae, of=Objective.SOFTMAX):
    """log(e^(s+) + sum_n e^(s_n)) - s+."""

    IS_SOFTMAX = True
    HAS_TEMPERATURE = False

    @triton.jit
    def negative(target, score, margin):
        return tl.zeros_like(score), tl.zeros_like(score) + 1.0

    @triton.jit
    def loss(target, largest, weight, value, gradient, number, margin, WEIGHTED: tl.constexpr):
        total = tl.exp(target - largest) + weight
        return largest - target + tl.log(total), -weight / total, 1.0 / total


class BinaryCrossEntropy(ObjectiveFormulae, of=Objective.BCE):
    """(-log sigma(s+) - sum_n log sigma(-s_n)) / (1 + number of n)."""

    HAS_TEMPERATURE = False

    @triton.jit
    def negative(target, score, margin):
        return softplus(score)

    @triton.jit
    def loss(target, largest, weight, value, gradient, number, margin, WEIGHTED: tl.constexpr):
        share = 1.0 / (1.0 + number)
        own, own_gradient = softplus(-target)
        return (own + value) * share, -own_gradient * share, share


class Margin(ObjectiveFormulae, of=Objective.MARGIN):
    """sum_n w_n max(0, margin - s+ + s_n)."""

    NEEDS_TARGET = True

    @triton.jit
    def negative(target, score, margin):
        gap = score + (margin - target)
        return tl.where(gap <= 0, 0.0, gap), tl.where(gap <= 0, 0.0, 1.0)  # NaN goes through

    @triton.jit
    def loss(target, largest, weight, value, gradient, number, margin, WEIGHTED: tl.constexpr):
        total = weight if WEIGHTED else number
        share = reciprocal(total)
        return share * value, -share * gradient, share


# ---- what they share: the weights of negatives ---------------------------------------------------------------


@triton.jit
def first_largest(target, OBJECTIVE: tl.constexpr):
    """The largest exponent before any negative was seen."""
    if OBJECTIVE.value.IS_SOFTMAX:
        return target
    else:
        return tl.zeros_like(target) + LOWEST


@triton.jit
def exponents(score, temperature, OBJECTIVE: tl.constexpr):
    if OBJECTIVE.value.IS_SOFTMAX:
        return score
    else:
        return score * temperature


@triton.jit
def negative_weights(score, keep, largest, temperature, OBJECTIVE: tl.constexpr, WEIGHTED: tl.constexpr):
    """p_n = e^(exponent of s_n - largest) of kept negatives, 0 of others; all 1 unless WEIGHTED."""
    if WEIGHTED:
        return tl.where(keep, tl.exp(exponents(score, temperature, OBJECTIVE) - largest), 0.0)
    else:
        return tl.where(keep, 1.0, 0.0).to(score.dtype)


@triton.jit
def visit_negatives(
    largest, weight, value, gradient, kept,  # of the negatives before
    target, score, keep, margin, temperature, OBJECTIVE: tl.constexpr, WEIGHTED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """(the running sums with these negatives, what the sums before were multiplied by, p_n * gradient of each)."""
    scale = tl.full((), 1.0, ACC)
    if WEIGHTED:
        exponent = tl.where(keep, exponents(score, temperature, OBJECTIVE), LOWEST)
        now = tl.maximum(largest, tl.max(exponent, 0))
        scale = tl.exp(largest - now)
        largest = now
    p = negative_weights(score, keep, largest, temperature, OBJECTIVE, WEIGHTED)
    term, term_gradient = OBJECTIVE.value.negative(target, score, margin)
    pull = tl.where(keep, p * term_gradient, 0.0)
    weight = weight * scale + tl.sum(p, 0)
    value = value * scale + tl.sum(tl.where(keep, p * term, 0.0), 0)
    gradient = gradient * scale + tl.sum(pull, 0)
    kept += tl.sum(tl.where(keep, 1.0, 0.0).to(ACC), 0)
    return largest, weight, value, gradient, kept, scale, pull
