"""Losses over all candidates: every entity, or every token of a vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast import backends, reference
from kgfast.core import checks
from kgfast.core.checks import REDUCTIONS, Table
from kgfast.core.known import KnownTriples
from kgfast.errors import KgfastError
from kgfast.functional.answers import check_known, no_answers, right_answers, row_weights, single_answers
from kgfast.ops import autograd
from kgfast.registry import ALL_OBJECTIVES, Memory, Objective, Side, Similarity

FEW_LOGITS = 1 << 19  # the most that are ever stored
FEW_CLASSES, FEW_PRODUCTS = 32, 8_000_000  # below which torch is faster than tiles


def one_vs_all_loss(  # long: every argument is described
    entities: Table,
    relations: Table,
    triples: Tensor,
    *,
    score: str,
    side: str,
    objective: str = "softmax",
    label_smoothing: float = 0.0,
    known: KnownTriples | None = None,
    reduction: str = "mean",
    memory: str = "fast",
    impl: str | None = None,
) -> Tensor:
    """f(scores of all entities, right answers) of each triple, and their mean.

    f = softmax: -sum_c y_c log softmax(s)_c, y = (1 - e) / (number of answers) at each + e / E  (Lacroix et al. 2018)
        bce:     mean_c of -y_c log sigma(s_c) - (1 - y_c) log sigma(-s_c), y = (1 - e) at each answer + e / E
    e = `label_smoothing`. Memory O(B D) and 20 MB of scores at most, whatever B and E. The gradient of the entities is
    dense [E, D], as every row has one.

    Args:
        entities: table [E, D], a tensor or an nn.Embedding.
        relations: table [R, W] of the same dtype and device, W as the score asks.
        triples: ids [B, 3] of (head, relation, tail), int64 or int32.
        score: the name of a score, one of `kgfast.SCORES`.
        side: which column is asked for: "tail", "head", or "both", the mean of both sides' losses.
        objective: "softmax" or "bce".
        label_smoothing: e, from 0 to 1.
        known: triples whose answers are all right, beside the triple's own (KvsAll); None: that alone (1vsAll).
        reduction: "mean", "sum", or "none": a loss for each triple, whose gradient makes the scores once more.
        memory: what dot products keep on a GPU: "fast" chunks of the scores (see `linear_cross_entropy`), "low" 64 MB,
            for a fourth product. Distances always keep 64 MB.
        impl: the backend, "cpu", "triton", "cuda" or "reference"; None: that of the tables' device.

    Returns:
        A scalar, 0 for no triples; or [B].
    """
    kept = Memory.of(memory, "memory")
    checks.choose("reduction", reduction, REDUCTIONS)
    entities, relations, spec = checks.tables(entities, relations, score)
    triples, dtype = checks.triples(triples, entities), entities.dtype
    checks.choose("side", side, (*Side.words(), "both"))
    code = candidate_objective("objective", objective)
    smoothing = checks.finite("label_smoothing", label_smoothing, lowest=0.0, highest=1.0)
    if known is not None:
        check_known(known, len(entities), len(relations))
    backend = backends.choose(impl, entities.device)
    entities, relations = autograd.as_read(backend, entities, relations)
    if backend == "reference":
        losses = reference.one_vs_all_loss(
            entities, relations, triples, side=side, score=score, objective=objective, label_smoothing=smoothing,
            known=known, reduction=reduction,
        )  # fmt: skip
        return autograd.as_dtype(losses, dtype)
    options = (int(spec.similarity_code), int(code), smoothing, int(kept))
    sides = [Side.of(one, "side") for one in (Side.words() if side == "both" else (side,))]
    inputs = entities, relations, triples, spec.code
    found = [loss_of_side(*inputs, one, known, options, reduction, backend) for one in sides]
    return autograd.as_dtype(found[0] if len(found) == 1 else (found[0] + found[1]) / 2, dtype)


def loss_of_side(
    entities: Tensor, relations: Tensor, triples: Tensor, score: int, side: Side, known: KnownTriples | None,
    options: tuple[int, int, float, int], reduction: str, backend: str,
) -> Tensor:  # fmt: skip
    """The loss of the triples as one side asks for them."""
    query = autograd.apply(autograd.Queries, entities, relations, triples, score, int(side), False, backend)
    answers = right_answers(known, triples, side, len(entities), len(relations), backend)
    lists = (*answers, row_weights(None, len(triples), entities, reduction), *no_answers(triples))
    inputs = query, entities, entities.new_empty((0,)), options
    if reduction == "none":
        return autograd.apply(autograd.CandidateLosses, *inputs, backend, *lists)
    gradient = autograd.wants_gradient(entities, relations)
    return autograd.apply(autograd.CandidateLoss, *inputs, gradient, backend, *lists)[0]


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


def linear_cross_entropy(  # long: every argument is described
    hidden: Tensor,
    weight: Table,
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

    Memory: 20 MB of logits at most, and the gradients. On CPUs, unless `impl` is given, torch's own product and
    cross_entropy serve where they are faster: with half a million logits at most, for fewer than 32 classes or fewer
    than 8 million multiplications (64 rows, 1,000 classes, 124 numbers).

    Args:
        hidden: states [.., D].
        weight: table [C, D] of the same dtype and device, a row a class; a tensor or an nn.Embedding.
        targets: ids [..] of the right classes, int64 or int32.
        bias: [C], added to the logits of every row; None: none.
        ignore_index: the target that marks a row to skip. Such rows are not masked: they cost nothing.
        label_smoothing: the part of the label that all classes share, from 0 to 1.
        reduction: "mean" over the rows that are not skipped (0 where there are none), "sum", or "none": a loss a row.
        memory: what is kept of the logits on a GPU: "fast" some 2,048 rows in the dtype of the weight (of 16 bits: a
            quarter of the rows, or 4,096 and the weight's gradient in float32), never more than [B, C]; "low" 64 MB,
            for a fourth product.
        impl: the backend, "cpu", "triton", "cuda" or "reference"; None: that of the weight's device.

    Returns:
        A scalar, or [..], in the weight's dtype. Gradients flow to hidden, weight and bias.
    """
    checks.choose("reduction", reduction, REDUCTIONS)
    kept = Memory.of(memory, "memory")
    hidden, weight, targets, shape = flat_inputs(hidden, weight, targets)
    dtype, backend = weight.dtype, backends.choose(impl, weight.device)
    bias = bias_of("bias", bias, weight)
    hidden, weight, bias = autograd.as_read(backend, hidden, weight, bias)
    ignore_index = checks.integer("ignore_index", ignore_index, -(2**63), 2**63)
    smoothing = checks.finite("label_smoothing", label_smoothing, lowest=0.0, highest=1.0)
    if impl is None and backend == "cpu" and few_logits(len(hidden), *weight.shape):
        backend = "torch" if all_counted(targets, ignore_index, len(weight)) else "reference"
    if backend in ("torch", "reference"):
        losses = stored_logits_loss(hidden, weight, targets, bias, ignore_index, smoothing, reduction, backend)
    else:
        options = (int(Similarity.DOT), int(Objective.SOFTMAX), smoothing, int(kept))
        losses = fused_cross_entropy(hidden, weight, targets, bias, ignore_index, options, reduction, backend)
    return autograd.as_dtype(losses.reshape(shape) if reduction == "none" else losses, dtype)


def few_logits(rows: int, classes: int, dim: int) -> bool:
    """Whether torch, which stores the logits, is faster; a traced graph has the fused op, whatever the sizes."""
    few = rows * classes <= FEW_LOGITS and (classes < FEW_CLASSES or rows * classes * dim < FEW_PRODUCTS)
    return few and not torch.compiler.is_compiling()


def stored_logits_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor, ignore_index: int, smoothing: float, reduction: str,
    how: str,
) -> Tensor:  # fmt: skip
    """By torch's own functions, which want every target counted, or as the reference has it."""
    own = bias if len(bias) else None
    with torch.autocast(weight.device.type, enabled=False):  # what is handed in is computed with, whoever serves
        if how == "torch":
            logits = torch.nn.functional.linear(hidden, weight, own)
            return torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction=reduction)
        return reference.linear_cross_entropy(
            hidden, weight, targets, bias=own, ignore_index=ignore_index, label_smoothing=smoothing, reduction=reduction
        )


def fused_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor, ignore_index: int,
    options: tuple[int, int, float, int], reduction: str, backend: str,
) -> Tensor:  # fmt: skip
    """By a backend's kernels."""
    ranges, share = single_answers(targets, ignore_index, weight)
    if reduction != "mean":
        share = (share != 0).to(share.dtype)
    lists = (*ranges, share, *no_answers(targets))
    if reduction == "none":
        return autograd.apply(autograd.CandidateLosses, hidden, weight, bias, options, backend, *lists)
    gradient = autograd.wants_gradient(hidden, weight, bias)
    return autograd.apply(autograd.CandidateLoss, hidden, weight, bias, options, gradient, backend, *lists)[0]


def flat_inputs(hidden: Tensor, weight: Table, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, torch.Size]:
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
