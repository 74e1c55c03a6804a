"""Objectives of one row over negatives that come in tiles, with the names of csrc/include/kgfast/objectives.h.

Running sums relative to the largest exponent so far, so that each negative's row is visited once. Negatives weigh
e^(exponent * score): exponent 1 for softmax, the temperature for logistic and margin, none (all alike) where that is 0.
"""

import triton
import triton.language as tl

LOGISTIC, SOFTMAX, BCE, MARGIN = (tl.constexpr(code) for code in range(4))
LOWEST = tl.constexpr(-3.4e38)


@triton.jit
def log_one_plus(u):
    """log(1 + u) of u in [0, 1], as exact as u: log(1 + u) corrected by what 1 + u has lost (Kahan)."""
    w = 1.0 + u
    return tl.where(w == 1.0, u, tl.log(w) * (u / tl.where(w == 1.0, 1.0, w - 1.0)))


@triton.jit
def softplus(x):
    """(log(1 + e^x), its slope), without overflow."""
    u = tl.exp(-tl.abs(x))
    return tl.where(x < 0, 0.0, x) + log_one_plus(u), tl.where(x >= 0, 1.0, u) / (1.0 + u)


@triton.jit
def negative_term(target, score, margin, OBJECTIVE: tl.constexpr):
    """(value, slope) of a negative before weighting."""
    if OBJECTIVE == LOGISTIC:
        return softplus(score + margin)
    elif OBJECTIVE == BCE:
        return softplus(score)
    elif OBJECTIVE == SOFTMAX:
        return tl.zeros_like(score), tl.zeros_like(score) + 1.0
    else:
        gap = score + (margin - target)
        return tl.where(gap <= 0, 0.0, gap), tl.where(gap <= 0, 0.0, 1.0)  # NaN goes through


@triton.jit
def first_top(target, OBJECTIVE: tl.constexpr):
    if OBJECTIVE == SOFTMAX:
        return target
    else:
        return tl.zeros_like(target) + LOWEST


@triton.jit
def exponents(score, temperature, OBJECTIVE: tl.constexpr):
    if OBJECTIVE == SOFTMAX:
        return score
    else:
        return score * temperature


@triton.jit
def weights_of(score, keep, top, temperature, OBJECTIVE: tl.constexpr, WEIGHED: tl.constexpr):
    """p_n = e^(exponent * s_n - top) of kept negatives, 0 of others."""
    if WEIGHED:
        return tl.where(keep, tl.exp(exponents(score, temperature, OBJECTIVE) - top), 0.0)
    else:
        return tl.where(keep, 1.0, 0.0).to(score.dtype)


@triton.jit
def outcome(target, top, weight, value, slope, valid, margin, OBJECTIVE: tl.constexpr, WEIGHED: tl.constexpr):
    """(loss, dL/d target, what p_n * slope_n must be multiplied by to be dL/d s_n)."""
    if OBJECTIVE == SOFTMAX:
        total = tl.exp(target - top) + weight
        return top - target + tl.log(total), -weight / total, 1.0 / total
    elif OBJECTIVE == BCE:
        share = 1.0 / (1.0 + valid)
        own, own_slope = softplus(-target)
        return (own + value) * share, -own_slope * share, share
    else:
        total = weight if WEIGHED else valid
        share = tl.where(total == 0, 0.0, 1.0 / tl.where(total == 0, 1.0, total))
        if OBJECTIVE == MARGIN:
            return share * value, -share * slope, share
        else:
            own, own_slope = softplus(-(margin + target))
            return (own + share * value) / 2, -own_slope / 2, share / 2
