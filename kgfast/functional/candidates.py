"""Losses over all candidates: every entity, or every token of a vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast import backends, reference
from kgfast.backends.cpu import OBJECTIVES, SCORES, SIDES
from kgfast.core import checks
from kgfast.errors import KgfastError
from kgfast.functional.answers import right_answers, share_weights, single_answers
from kgfast.ops import autograd

CANDIDATE_OBJECTIVES = ("softmax", "bce")
FEW_LOGITS = 1 << 19  # the most that are ever stored
FEW_CLASSES, FEW_PRODUCTS = 32, 8_000_000  # below which torch is faster than tiles


def one_vs_all_loss(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    *,
    score: str,
    side: str,
    objective: str = "softmax",
    label_smoothing: float = 0.0,
    known=None,
    impl=None,
) -> Tensor:
    """Mean over the batch of f(scores of all entities, right answers).

    f = softmax: -sum_c y_c log softmax(s)_c, y = (1 - e) / (number of answers) at each + e / C  (Lacroix et al. 2018)
        bce:     mean_c of -y_c log sigma(s_c) - (1 - y_c) log sigma(-s_c), y = (1 - e) at each answer + e / C
    e = `label_smoothing`. The target is the answer (1vsAll); with `known` all known answers of the query are (KvsAll).
    side="both" is the mean of both sides. Memory O(B D) and 20 MB of scores at most, whatever B and C; the gradient of
    the entities is dense [E, D], as every row has one.
    """
    entities, relations, _ = checks.tables(entities, relations, score)
    triples = checks.triples(triples, entities)
    checks.choose("side", side, (*SIDES, "both"))
    checks.choose("objective", objective, CANDIDATE_OBJECTIVES)
    smoothing = checks.finite("label_smoothing", label_smoothing, lowest=0.0, highest=1.0)
    options = dict(score=score, objective=objective, label_smoothing=smoothing, known=known)
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.one_vs_all_loss(entities, relations, triples, side=side, **options)
    if side == "both":
        losses = [one_vs_all_loss(entities, relations, triples, side=one, impl=impl, **options) for one in SIDES]
        return (losses[0] + losses[1]) / 2
    code, _, similarity = SCORES[score]
    query = autograd.Queries.apply(entities, relations, triples, code, SIDES[side], False, backend)
    return autograd.CandidateLoss.apply(
        query, entities, entities.new_empty((0,)),
        *right_answers(known, triples, side, len(entities), len(relations), backend),
        share_weights(None, len(triples), entities), (similarity, OBJECTIVES.index(objective), smoothing), backend,
    )  # fmt: skip


def all_counted(targets: Tensor, ignore_index: int, count: int) -> bool:
    """Whether every target is one of `count` classes, and none is ignored."""
    if targets.numel() == 0:
        return False
    low, high = (int(end) for end in torch.aminmax(targets))
    return 0 <= low and high < count and not low <= ignore_index <= high


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    impl=None,
) -> Tensor:
    """cross_entropy(hidden @ weight.T + bias, targets), without storing the logits where they are many.

    hidden [.., D], weight [C, D], targets int64 [..], bias [C]. Rows whose target is `ignore_index` are skipped, not
    masked: they cost nothing. reduction: mean over the others (0 where there are none), sum, or none ([..]).
    Memory: 20 MB of logits at most, and the gradients. On CPUs, unless `impl` is given, torch's own product and
    cross_entropy serve where they are faster: with half a million logits at most, for fewer than 32 classes or fewer
    than 8 million multiplications (64 rows, 1,000 classes, 124 numbers).
    """
    checks.choose("reduction", reduction, ("mean", "sum", "none"))
    weight = checks.table("weight", weight)
    if not isinstance(hidden, Tensor) or not isinstance(targets, Tensor) or hidden.shape[:-1] != targets.shape:
        shapes = [list(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in (hidden, targets)]
        raise KgfastError(f"hidden is {shapes[0]}, targets {shapes[1]}: hidden must be [.., D] where targets are [..]")
    shape = targets.shape
    hidden = checks.table("hidden", hidden.reshape(-1, hidden.shape[-1]))
    targets = checks.ids("targets", targets.reshape(-1), 1, weight)
    if len(hidden) != len(targets) or hidden.shape[1] != weight.shape[1] or hidden.dtype != weight.dtype:
        raise KgfastError(
            f"hidden {list(hidden.shape)} {hidden.dtype}, weight {list(weight.shape)} {weight.dtype} and targets "
            f"{list(shape)} don't fit together"
        )
    if bias is not None and bias.shape != (len(weight),):
        raise KgfastError(f"bias has shape {list(bias.shape)}; one for each of {len(weight)} rows is needed")
    smoothing = checks.finite("label_smoothing", label_smoothing, lowest=0.0, highest=1.0)
    backend = backends.choose(impl, weight.device)
    count = len(hidden) * len(weight)
    small = len(weight) < FEW_CLASSES or count * weight.shape[1] < FEW_PRODUCTS
    few = impl is None and backend == "cpu" and count <= FEW_LOGITS and small
    if few and not torch.compiler.is_compiling():
        if all_counted(targets, ignore_index, len(weight)):
            options = dict(label_smoothing=smoothing, reduction=reduction)
            with torch.autocast("cpu", enabled=False):  # what is handed in is computed with, whoever serves
                logits = torch.nn.functional.linear(hidden, weight, bias)
            losses = torch.nn.functional.cross_entropy(logits, targets, **options)
            return losses.view(shape) if reduction == "none" else losses
        backend = "reference"
    if backend == "reference":
        options = dict(bias=bias, ignore_index=ignore_index, label_smoothing=smoothing, reduction=reduction)
        with torch.autocast(weight.device.type, enabled=False):
            losses = reference.linear_cross_entropy(hidden, weight, targets, **options)
        return losses.reshape(shape if reduction == "none" else ())
    bias = weight.new_empty((0,)) if bias is None else bias.to(weight.dtype).contiguous()
    ranges, share = single_answers(targets, ignore_index, weight)
    if reduction != "mean":
        share = (share != 0).to(share.dtype)
    inputs = (hidden, weight, bias, *ranges, share, (0, OBJECTIVES.index("softmax"), smoothing), backend)
    if reduction != "none":
        return autograd.CandidateLoss.apply(*inputs)
    return autograd.CandidateLosses.apply(*inputs).reshape(shape)
