"""Losses over queries and tables, written out with every intermediate; the fused kernels are held to them.

Means over an empty set are 0 with zero gradients, so that an empty batch (or a text without a masked token)
is no NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kgfast.core import checks
from kgfast.core.known import KnownTriples

from .objectives import ALL_OBJECTIVES, NEGATIVE_OBJECTIVES
from .sampling import known_mask, sample_negatives
from .scores import COLUMN, score_candidates, score_triples


def weighted_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum_b w_b x_b / sum_b w_b, w = 1 if None, over the w_b > 0; 0 where there is nothing to average."""
    if weights is None:
        return (values / max(len(values), 1)).sum()
    total = weights.sum()
    return torch.where(weights == 0, 0.0, values * (weights / torch.where(total == 0, 1.0, total))).sum()


def reduced(losses: Tensor, reduction: str, weights: Tensor | None = None) -> Tensor:
    """The weighted mean, or the losses times their weights: summed, or as they are."""
    if reduction == "mean":
        return weighted_mean(losses, weights)
    losses = losses if weights is None else torch.where(weights == 0, 0.0, losses * weights)
    return checks.pick("reduction", reduction, {"sum": losses.sum(), "none": losses})


def negative_shares(negative: Tensor, keep: Tensor, temperature: float) -> Tensor:
    """w_n = softmax_n(temperature * s_n), no gradient; 1 / (number of n) where temperature = 0; masked: 0."""
    if temperature == 0:
        return keep / keep.sum(1, keepdim=True).clamp(min=1).to(negative.dtype)
    scores = negative.detach().masked_fill(~keep, -torch.inf)
    floor = scores.new_full((len(scores), 1), torch.finfo(scores.dtype).min)  # -inf weighs 0, also where all are
    # the difference comes first: it is exact where it matters, whatever the temperature
    weights = (temperature * (scores - torch.cat([scores, floor], 1).amax(1, keepdim=True))).exp()
    weights = torch.where(keep, weights, 0.0)
    total = weights.sum(1, keepdim=True)
    return weights / torch.where(total == 0, 1.0, total)


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
    reduction: str = "mean",
) -> Tensor:
    """Mean over triples (weighted by `weights` [B]) of objective(s+, s_1 .. s_N): a scalar. reduction: sum and none are
    of weight times loss.

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
            triples, sampler.num_negatives, len(entities), side=side, seed=sampler.seed, step=sampler.step,
            weights=sampler.weights, known=sampler.known, shared=sampler.shared,
        )  # fmt: skip
    if side == "both":
        tail, head = (
            negative_sampling_loss(
                entities, relations, triples, ids, side=one, score=score, objective=objective, margin=margin,
                weights=weights, known=known, adversarial_temperature=adversarial_temperature, reduction=reduction,
            )
            for one, ids in zip(("tail", "head"), negatives, strict=True)
        )  # fmt: skip
        return (tail + head) / 2
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
    negative = torch.where(keep, negative, 0.0)  # no NaN of a masked one
    share = negative_shares(negative, keep, adversarial_temperature)
    return reduced(NEGATIVE_OBJECTIVES[objective](positive, negative, keep, share, margin), reduction, weights)


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
    reduction: str = "mean",
) -> Tensor:
    """Mean over the batch of objective(scores of all C rows, right answers): a scalar; or their sum, or none [B].

    The target is right, and with `known` so is every known answer of the query. softmax: cross-entropy, the
    mean log-likelihood over the right answers; bce: binary cross-entropy, mean over all B*C entries; labels
    are (1 - e) y + e / C. side="both" is the mean of the two sides' losses. Memory O(B C D).
    """
    checks.choose("side", side, (*COLUMN, "both"))
    if side == "both":
        options: dict[str, Any] = dict(
            score=score, objective=objective, label_smoothing=label_smoothing, known=known, reduction=reduction
        )
        losses = [one_vs_all_loss(entities, relations, triples, side=s, **options) for s in ("tail", "head")]
        return (losses[0] + losses[1]) / 2
    loss = checks.pick("objective", objective, ALL_OBJECTIVES)
    logits = score_candidates(entities, relations, triples, score=score, side=side)
    answers = torch.zeros_like(logits, dtype=torch.bool)
    if known is not None:
        answers |= known_mask(known, triples, side, logits.shape[1])
    answers.scatter_(1, triples[:, COLUMN[side], None], True)
    return reduced(loss(logits, answers.to(logits.dtype), label_smoothing), reduction)


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
