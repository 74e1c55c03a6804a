"""Objectives: what is made of a query's scores, as plain functions of them.

An objective is its code and its formulae: over sampled negatives (NEGATIVE_OBJECTIVES), over all candidates
(ALL_OBJECTIVES), or both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from kgfast.core.codes import Code, listed


@listed
class Objective(Code):
    """What is made of the scores of a query."""

    LOGISTIC = 0
    SOFTMAX = 1
    BCE = 2
    MARGIN = 3


# Of one positive against its negatives: positive [B], negative [B, N], keep bool [B, N] (False: masked), share [B, N] =
# w_n (0 where masked), margin -> loss [B].


def logistic(positive: Tensor, negative: Tensor, keep: Tensor, share: Tensor, margin: float) -> Tensor:
    """(-log sigma(margin + s+) - sum_n w_n log sigma(-margin - s_n)) / 2."""
    return -(logsigmoid(margin + positive) + (share * logsigmoid(-margin - negative)).sum(1)) / 2


def softmax(positive: Tensor, negative: Tensor, keep: Tensor, share: Tensor, margin: float) -> Tensor:
    """log(e^{s+} + sum_n e^{s_n}) - s+; neither margin nor w_n have a part in it."""
    rivals = negative.masked_fill(~keep, -torch.inf)
    losses = torch.cat([positive.unsqueeze(1), rivals], dim=1).logsumexp(1) - positive
    return torch.where(keep.any(1) | positive.isnan(), losses, 0.0)  # without rivals, were the score infinite


def bce(positive: Tensor, negative: Tensor, keep: Tensor, share: Tensor, margin: float) -> Tensor:
    """(-log sigma(s+) - sum_n log sigma(-s_n)) / (1 + number of n), over the n that are not masked."""
    rivals = torch.where(keep, -logsigmoid(-negative), 0.0)  # softplus drops terms below e^-20
    return (rivals.sum(1) - logsigmoid(positive)) / (1 + keep.sum(1))


def margin_ranking(positive: Tensor, negative: Tensor, keep: Tensor, share: Tensor, margin: float) -> Tensor:
    """sum_n w_n max(0, margin - s+ + s_n)."""
    return (share * relu(margin - positive.unsqueeze(1) + negative)).sum(1)


NEGATIVE_OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    Objective.LOGISTIC.word: logistic,
    Objective.SOFTMAX.word: softmax,
    Objective.BCE.word: bce,
    Objective.MARGIN.word: margin_ranking,
}

# Of all rows: logits [B, C], answers [B, C] (0 and 1), label_smoothing -> loss [B].


def weighed(labels: Tensor, values: Tensor) -> Tensor:
    """labels * values, and 0 of a label of 0, were the value infinite."""
    return torch.where(labels == 0, 0.0, labels * values)


def softmax_over_all(logits: Tensor, answers: Tensor, label_smoothing: float) -> Tensor:
    """-sum_c y_c log softmax(s)_c, y = (1 - e) * (1 / number of answers at each answer) + e / C."""
    shares = answers / answers.sum(1, keepdim=True).clamp(min=1)
    labels = (1 - label_smoothing) * shares + label_smoothing / logits.shape[1]
    return -weighed(labels, logits.log_softmax(1)).sum(1)


def bce_over_all(logits: Tensor, answers: Tensor, label_smoothing: float) -> Tensor:
    """mean_c of -y_c log sigma(s_c) - (1 - y_c) log sigma(-s_c), y = (1 - e) * (1 at each answer) + e / C."""
    labels = (1 - label_smoothing) * answers + label_smoothing / logits.shape[1]
    return -(weighed(labels, logsigmoid(logits)) + weighed(1 - labels, logsigmoid(-logits))).mean(1)


ALL_OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    Objective.SOFTMAX.word: softmax_over_all,
    Objective.BCE.word: bce_over_all,
}
