"""Losses over all candidates: every entity, or every token of a vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kgfast import backends, reference
from kgfast.core import checks
from kgfast.core.known import KnownTriples
from kgfast.errors import KgfastError
from kgfast.functional.answers import check_known, no_answers, right_answers, share_weights, single_answers
from kgfast.ops import autograd
from kgfast.registry import ALL_OBJECTIVES, Memory, Objective, Side, Similarity

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
    known: KnownTriples | None = None,
    memory: str = "fast",
    impl: str | None = None,
) -> Tensor:
    """Mean over the batch of f(scores of all entities, right answers).

    f = softmax: -sum_c y_c log softmax(s)_c, y = (1 - e) / (number of answers) at each + e / C  (Lacroix et al. 2018)
        bce:     mean_c of -y_c log sigma(s_c) - (1 - y_c) log sigma(-s_c), y = (1 - e) at each answer + e / C
    e = `label_smoothing`. The target is the answer (1vsAll); with `known` all known answers of the query are (KvsAll).
    side="both" is the mean of both sides. Memory O(B D) and 20 MB of scores at most, whatever B and C; the gradient of
    the entities is dense [E, D], as every row has one. On a GPU `memory` says what dot products keep: "fast" chunks of
    the scores (see `linear_cross_entropy`), "low" 64 MB, for a fourth product; distances always keep 64 MB.
    """
    kept = Memory.of(memory, "memory")
    entities, relations, spec = checks.tables(entities, relations, score)
    triples = checks.triples(triples, entities)
    checks.choose("side", side, (*Side.words(), "both"))
    code = candidate_objective("objective", objective)
    smoothing = checks.finite("label_smoothing", label_smoothing, lowest=0.0, highest=1.0)
    if known is not None:
        check_known(known, len(entities), len(relations))
    options: dict[str, Any] = dict(score=score, objective=objective, label_smoothing=smoothing, known=known)
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.one_vs_all_loss(entities, relations, triples, side=side, **options)
    if side == "both":
        both = dict(impl=impl, memory=memory, **options)
        losses = [one_vs_all_loss(entities, relations, triples, side=one, **both) for one in Side.words()]
        return (losses[0] + losses[1]) / 2
    asked = Side.of(side, "side")
    query = autograd.apply(autograd.Queries, entities, relations, triples, spec.code, int(asked), False, backend)
    answers = right_answers(known, triples, asked, len(entities), len(relations), backend)
    codes = (int(spec.similarity_code), int(code), smoothing, int(kept))
    gradient = autograd.wants_gradient(entities, relations)
    lists = (*answers, share_weights(None, len(triples), entities), *no_answers(triples))
    no_bias = entities.new_empty((0,))
    return autograd.apply(autograd.CandidateLoss, query, entities, no_bias, codes, gradient, backend, *lists)[0]


def candidate_objective(argument: str, word: str) -> Objective:
    """An objective that losses over all candidates have."""
    checks.choose(argument, word, ALL_OBJECTIVES)
    return Objective.of(word, argument)


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
    memory: str = "fast",
    impl: str | None = None,
) -> Tensor:
    """cross_entropy(hidden @ weight.T + bias, targets), without storing the logits where they are many.

    hidden [.., D], weight [C, D], targets int64 [..], bias [C]. Rows whose target is `ignore_index` are skipped, not
    masked: they cost nothing. reduction: mean over the others (0 where there are none), sum, or none ([..]).
    Memory: 20 MB of logits at most, and the gradients. On a GPU `memory` says what is kept of the logits: "fast" some
    2,048 rows in the dtype of the weight (of 16 bits: a quarter of the rows, or 4,096 and the weight's gradient in
    float32), never more than [B, C]; "low" 64 MB, for a fourth product. On CPUs, unless `impl` is given, torch's own
    product and cross_entropy serve where they are faster: with half a million logits at most, for fewer than 32 classes
    or fewer than 8 million multiplications (64 rows, 1,000 classes, 124 numbers).
    """
    checks.choose("reduction", reduction, ("mean", "sum", "none"))
    kept = Memory.of(memory, "memory")
    hidden, weight, targets, shape = flat_inputs(hidden, weight, targets)
    bias = bias_of("bias", bias, weight)
    ignore_index = checks.integer("ignore_index", ignore_index, -(2**63), 2**63)
    smoothing = checks.finite("label_smoothing", label_smoothing, lowest=0.0, highest=1.0)
    backend = backends.choose(impl, weight.device)
    count = len(hidden) * len(weight)
    small = len(weight) < FEW_CLASSES or count * weight.shape[1] < FEW_PRODUCTS
    few = impl is None and backend == "cpu" and count <= FEW_LOGITS and small
    own = bias if len(bias) else None
    if few and not torch.compiler.is_compiling():
        if all_counted(targets, ignore_index, len(weight)):
            with torch.autocast("cpu", enabled=False):  # what is handed in is computed with, whoever serves
                logits = torch.nn.functional.linear(hidden, weight, own)
            losses = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction=reduction)
            return losses.view(shape) if reduction == "none" else losses
        backend = "reference"
    if backend == "reference":
        with torch.autocast(weight.device.type, enabled=False):
            losses = reference.linear_cross_entropy(
                hidden, weight, targets, bias=own, ignore_index=ignore_index, label_smoothing=smoothing,
                reduction=reduction,
            )  # fmt: skip
        return losses.reshape(shape if reduction == "none" else ())
    ranges, share = single_answers(targets, ignore_index, weight)
    if reduction != "mean":
        share = (share != 0).to(share.dtype)
    inputs = (hidden, weight, bias, (int(Similarity.DOT), int(Objective.SOFTMAX), smoothing, int(kept)))
    lists = (*ranges, share, *no_answers(targets))
    if reduction == "none":
        return autograd.apply(autograd.CandidateLosses, *inputs, backend, *lists).reshape(shape)
    return autograd.apply(
        autograd.CandidateLoss, *inputs, autograd.wants_gradient(hidden, weight, bias), backend, *lists
    )[0]


def flat_inputs(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, torch.Size]:
    """hidden [B, D], weight [C, D], targets [B], and the shape that the targets had."""
    weight = checks.table("weight", weight)
    hidden, targets = checks.tensor("hidden", hidden), checks.tensor("targets", targets)
    shape = targets.shape
    if hidden.shape[:-1] != shape or hidden.dim() == 0:
        shapes = f"hidden is {list(hidden.shape)}, targets {list(shape)}"
        raise KgfastError(f"{shapes}: hidden must be [.., D] where targets are [..]")
    hidden = checks.table("hidden", hidden.reshape(shape.numel(), hidden.shape[-1]))
    targets = checks.ids("targets", targets.reshape(shape.numel()), 1, weight)
    if hidden.shape[1] != weight.shape[1] or hidden.dtype != weight.dtype:
        raise KgfastError(
            f"hidden {list(hidden.shape)} {hidden.dtype}, weight {list(weight.shape)} {weight.dtype} and targets "
            f"{list(shape)} don't fit together"
        )
    return hidden, weight, targets, shape


def bias_of(argument: str, value: Tensor | None, table: Tensor) -> Tensor:
    """A bias [C] in the table's dtype; empty for none."""
    if value is None:
        return table.new_empty((0,))
    value = checks.tensor(argument, value)
    if value.shape != (len(table),):
        raise KgfastError(f"{argument} has shape {list(value.shape)}; one for each of {len(table)} rows is needed")
    if value.dtype not in checks.FLOATS or value.device != table.device:
        raise KgfastError(f"{argument} is {value.dtype} on {value.device}; {table.dtype} on {table.device} is needed")
    return value.to(table.dtype).contiguous()
