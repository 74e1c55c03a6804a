"""Losses over queries and tables, written out with every intermediate; the fused kernels are held to them.

Means over an empty set are 0 with zero gradients, so that an empty batch (or a text without a masked token)
is no NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, relu

from kgfast.core import checks
from kgfast.core.known import KnownTriples

from .sampling import known_mask, sample_negatives
from .scores import COLUMN, score_candidates, score_triples


def weighted_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum_b w_b x_b / sum_b w_b, w = 1 if None; 0 where there is nothing to average."""
    if weights is None:
        return values.sum() / max(len(values), 1)
    total = weights.sum()
    return (values * weights).sum() / torch.where(total == 0, 1.0, total)


# Objectives of one positive against its negatives: positive [B], negative [B, N], keep bool [B, N] (False:
# masked), share [B, N] = w_n (0 where masked), margin -> loss [B].


def logistic(positive: Tensor, negative: Tensor, keep: Tensor, share: Tensor, margin: float) -> Tensor:
    """(-log sigma(margin + s+) - sum_n w_n log sigma(-margin - s_n)) / 2."""
    return -(logsigmoid(margin + positive) + (share * logsigmoid(-margin - negative)).sum(1)) / 2


def softmax(positive: Tensor, negative: Tensor, keep: Tensor, share: Tensor, margin: float) -> Tensor:
    """log(e^{s+} + sum_n e^{s_n}) - s+; neither margin nor w_n have a part in it."""
    rivals = negative.masked_fill(~keep, -torch.inf)
    return torch.cat([positive.unsqueeze(1), rivals], dim=1).logsumexp(1) - positive


def bce(positive: Tensor, negative: Tensor, keep: Tensor, share: Tensor, margin: float) -> Tensor:
    """(-log sigma(s+) - sum_n log sigma(-s_n)) / (1 + number of n), over the n that are not masked."""
    rivals = torch.where(keep, -logsigmoid(-negative), 0.0)  # softplus drops terms below e^-20
    return (rivals.sum(1) - logsigmoid(positive)) / (1 + keep.sum(1))


def margin_ranking(positive: Tensor, negative: Tensor, keep: Tensor, share: Tensor, margin: float) -> Tensor:
    """sum_n w_n max(0, margin - s+ + s_n)."""
    return (share * relu(margin - positive.unsqueeze(1) + negative)).sum(1)


NEGATIVE_OBJECTIVES = {"logistic": logistic, "softmax": softmax, "bce": bce, "margin": margin_ranking}


def negative_shares(negative: Tensor, keep: Tensor, temperature: float) -> Tensor:
    """w_n = softmax_n(temperature * s_n), no gradient; 1 / (number of n) where temperature = 0; masked: 0."""
    if temperature == 0:
        return keep / keep.sum(1, keepdim=True).clamp(min=1).to(negative.dtype)
    logits = (temperature * negative.detach()).masked_fill(~keep, -torch.inf)
    return torch.where(keep, logits.softmax(1), 0.0)  # where: a row without negatives is 0, not NaN


def negative_sampling_loss(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    negatives: Any,  # ids, or a NegativeSampler, which stands above this
    *,
    score: str,
    side: str,
    objective: str = "logistic",
    margin: float = 0.0,
    adversarial_temperature: float = 0.0,
    weights: Tensor | None = None,
    known: KnownTriples | None = None,
) -> Tensor:
    """Mean over triples (weighted by `weights` [B]) of objective(s+, s_1 .. s_N): a scalar.

    negatives: int64 ids [B, N]; [G, N] with G < B, of which row b uses list b*G // B; or a NegativeSampler.
    side="both" is the mean of the two sides' losses, its ids are [2, .., N], tail side first.
    An id that is -1, the target, or a known answer of `known` is masked: it has no part in any sum.
    A row whose negatives are all masked keeps its positive part. Memory O(B N D).
    """
    checks.pick("objective", objective, NEGATIVE_OBJECTIVES)
    checks.choose("side", side, (*COLUMN, "both"))
    if hasattr(negatives, "num_negatives"):
        sampler = negatives
        known = sampler.known if known is None else known
        negatives = sample_negatives(
            triples,
            sampler.num_negatives,
            len(entities),
            side=side,
            seed=sampler.seed,
            step=sampler.step,
            weights=sampler.weights,
            known=sampler.known,
            shared=sampler.shared,
        )
    if side == "both":
        options: dict[str, Any] = dict(
            score=score,
            objective=objective,
            margin=margin,
            weights=weights,
            known=known,
            adversarial_temperature=adversarial_temperature,
        )
        tables = (entities, relations, triples)
        losses = [
            negative_sampling_loss(*tables, ids, side=one, **options)
            for one, ids in zip(("tail", "head"), negatives, strict=True)
        ]
        return (losses[0] + losses[1]) / 2
    checks.id_range("negatives", negatives, len(entities), lowest=-1)
    lists = torch.arange(len(triples), device=triples.device) * len(negatives) // max(len(triples), 1)
    ids = negatives[lists]  # [B, N]
    masked = (ids < 0) | (ids == triples[:, COLUMN[side], None])
    ids = ids.clamp(min=0)
    if known is not None:
        masked |= known_mask(known, triples, side, len(entities)).gather(1, ids)
    keep = ~masked
    positive = score_triples(entities, relations, triples, score=score)
    negative = score_candidates(entities, relations, triples, ids, score=score, side=side)
    share = negative_shares(negative, keep, adversarial_temperature)
    return weighted_mean(NEGATIVE_OBJECTIVES[objective](positive, negative, keep, share, margin), weights)


# Objectives of all rows: logits [B, C], answers [B, C] (rows sum to 1 for softmax, 0/1 labels for bce) ->
# loss [B].


def softmax_over_all(logits: Tensor, answers: Tensor, label_smoothing: float) -> Tensor:
    """-sum_c y_c log softmax(s)_c, y = (1 - e) * (1 / number of answers at each answer) + e / C."""
    shares = answers / answers.sum(1, keepdim=True).clamp(min=1)
    labels = (1 - label_smoothing) * shares + label_smoothing / logits.shape[1]
    return -(labels * logits.log_softmax(1)).sum(1)


def bce_over_all(logits: Tensor, answers: Tensor, label_smoothing: float) -> Tensor:
    """mean_c of -y_c log sigma(s_c) - (1 - y_c) log sigma(-s_c), y = (1 - e) * (1 at each answer) + e / C."""
    labels = (1 - label_smoothing) * answers + label_smoothing / logits.shape[1]
    return -(labels * logsigmoid(logits) + (1 - labels) * logsigmoid(-logits)).mean(1)


ALL_OBJECTIVES = {"softmax": softmax_over_all, "bce": bce_over_all}


def one_vs_all_loss(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    *,
    score: str,
    side: str,
    objective: str = "softmax",
    label_smoothing: float = 0.0,
    known: KnownTriples | None = None,
) -> Tensor:
    """Mean over the batch of objective(scores of all C rows, right answers): a scalar.

    The target is right, and with `known` so is every known answer of the query. softmax: cross-entropy, the
    mean log-likelihood over the right answers; bce: binary cross-entropy, mean over all B*C entries; labels
    are (1 - e) y + e / C. side="both" is the mean of the two sides' losses. Memory O(B C D).
    """
    checks.choose("side", side, (*COLUMN, "both"))
    if side == "both":
        options: dict[str, Any] = dict(score=score, objective=objective, label_smoothing=label_smoothing, known=known)
        losses = [one_vs_all_loss(entities, relations, triples, side=s, **options) for s in ("tail", "head")]
        return (losses[0] + losses[1]) / 2
    loss = checks.pick("objective", objective, ALL_OBJECTIVES)
    logits = score_candidates(entities, relations, triples, score=score, side=side)
    answers = torch.zeros_like(logits, dtype=torch.bool)
    if known is not None:
        answers |= known_mask(known, triples, side, logits.shape[1])
    answers.scatter_(1, triples[:, COLUMN[side], None], True)
    return weighted_mean(loss(logits, answers.to(logits.dtype), label_smoothing))


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """torch.nn.functional.cross_entropy(hidden @ weight.T + bias, targets), stored logits and all.

    hidden [.., D], weight [C, D], targets int64 [..], bias [C]. mean: over the targets that are not
    `ignore_index`, 0 where there are none; sum; none: [..]. Memory O(B C).
    """
    checks.id_range("targets", targets[targets != ignore_index], len(weight))
    logits = torch.nn.functional.linear(hidden, weight, bias).flatten(0, -2)
    losses = cross_entropy(
        logits,
        targets.flatten(),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    counted = (targets != ignore_index).sum().clamp(min=1)
    reductions = {"mean": losses.sum() / counted, "sum": losses.sum(), "none": losses.view(targets.shape)}
    return checks.pick("reduction", reduction, reductions)
