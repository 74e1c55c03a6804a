"""Objectives, with the names of csrc/include/kgfast/objectives.h; formulae.py says how kernels get them.

Over a query's own or shared negatives an objective is one class. Negatives come in tiles: sums are relative to the
largest score so far, so that each negative's row is visited once.
"""

import triton
import triton.language as tl

from kgfast.registry import Objective

from .formulae import Formulae

LOWEST, LOWEST_DOUBLE = tl.constexpr(-3.4028234663852886e38), tl.constexpr(-1.7976931348623157e308)
INFINITY = tl.constexpr(float("inf"))


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
        # without rivals, were it infinite; at -inf among such rivals nothing is known
        alone = (weight == 0) & (target == target) & ((number == 0) | (target != -INFINITY))
        total = tl.where(alone, 1.0, tl.exp(target - largest) + weight)
        loss = largest - target + tl.log(total)
        return tl.where(alone, 0.0, loss), -weight / total, 1.0 / total


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
        out = (gap <= 0) | (score == -INFINITY)  # -inf is below an infinite margin too; NaN goes through
        return tl.where(out, 0.0, gap), tl.where(out, 0.0, 1.0)

    @triton.jit
    def loss(target, largest, weight, value, gradient, number, margin, WEIGHTED: tl.constexpr):
        total = weight if WEIGHTED else number
        share = reciprocal(total)
        # where target and negatives are all at -inf nothing is known, least of all that the loss is 0
        unknown = (target == -INFINITY) & (number > 0) & (value == 0)
        return tl.where(unknown, float("nan"), share * value), -share * gradient, share


@triton.jit
def part_of(value, weight):
    """value * weight, and 0 of a weight of 0, were the value infinite."""
    return tl.where(weight == 0, 0.0, value * weight)


# ---- what they share: the weights of negatives ---------------------------------------------------------------


@triton.jit
def lowest(like):
    """The lowest finite number."""
    if like.dtype == tl.float64:
        return LOWEST_DOUBLE
    else:
        return LOWEST


@triton.jit
def first_largest(target, OBJECTIVE: tl.constexpr):
    """The largest score before any negative was seen."""
    if OBJECTIVE.value.IS_SOFTMAX:
        return target
    else:
        return tl.zeros_like(target) + lowest(target)


@triton.jit
def exponential(difference, temperature, OBJECTIVE: tl.constexpr):
    """e^(temperature * difference of two scores), of softmax e^difference: the difference comes first, as it is exact
    where it matters, whatever the temperature."""
    if OBJECTIVE.value.IS_SOFTMAX:
        return tl.exp(difference)
    else:
        return tl.exp(difference * temperature)


@triton.jit
def negative_weights(score, keep, largest, temperature, OBJECTIVE: tl.constexpr, WEIGHTED: tl.constexpr):
    """p_n = e^(temperature * (s_n - largest)) of kept negatives, 0 of others; all 1 unless WEIGHTED."""
    if WEIGHTED:
        return tl.where(keep, exponential(score - largest, temperature, OBJECTIVE), 0.0)
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
        now = tl.maximum(largest, tl.max(tl.where(keep, score, lowest(score)), 0))
        # where both are infinite too
        scale = tl.where(largest == now, 1.0, exponential(largest - now, temperature, OBJECTIVE))
        largest = now
    p = negative_weights(score, keep, largest, temperature, OBJECTIVE, WEIGHTED)
    term, term_gradient = OBJECTIVE.value.negative(target, score, margin)
    pull = tl.where(keep, p * term_gradient, 0.0)
    weight = weight * scale + tl.sum(p, 0)
    value = value * scale + tl.sum(tl.where(keep, p * term, 0.0), 0)
    gradient = gradient * scale + tl.sum(pull, 0)
    kept += tl.sum(tl.where(keep, 1.0, 0.0).to(ACC), 0)
    return largest, weight, value, gradient, kept, scale, pull
