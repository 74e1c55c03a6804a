"""Sampled negatives: their ids, and the losses over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kgfast import backends, ops, reference
from kgfast.core import checks
from kgfast.core.checks import REDUCTIONS, Table
from kgfast.core.known import KnownTriples
from kgfast.core.sums import sum_dtype
from kgfast.errors import KgfastError
from kgfast.functional.answers import known_answers, row_weights
from kgfast.ops import autograd
from kgfast.registry import Objective, Side

SIDES = (*Side.words(), "both")  # of losses


@dataclass(frozen=True)
class NegativeSampler:
    """Negatives to be drawn for the triples of a batch, as `kgfast.sample_negatives` would with the same fields.

    Handed to a loss as `negatives`: ids are functions of (seed, step, row, column) and are drawn where they are used.

    Args:
        num_negatives: how many for each triple.
        seed: the key of the draws.
        step: counts the batches: another one gives other ids.
        weights: [E], entities are drawn in proportion; None: uniformly.
        known: triples whose answers are redrawn, or masked where lists are shared; None: any entity is drawn.
        shared: how many triples share a list; 0: every triple has its own.
    """

    num_negatives: int
    seed: int = 0
    step: int = 0
    weights: Tensor | None = None
    known: KnownTriples | None = None
    shared: int = 0

    def draw(self, triples: Tensor, num_entities: int, side: str, impl: str | None = None) -> Tensor:
        """The ids, as `sample_negatives` returns them."""
        return sample_negatives(
            triples, self.num_negatives, num_entities, side=side, seed=self.seed, step=self.step, weights=self.weights,
            known=self.known, shared=self.shared, impl=impl,
        )  # fmt: skip


def sample_negatives(  # long: every argument is described
    triples: Tensor,
    num_negatives: int,
    num_entities: int,
    *,
    side: str,
    seed: int,
    step: int = 0,
    weights: Tensor | None = None,
    known: KnownTriples | None = None,
    shared: int = 0,
    impl: str | None = None,
) -> Tensor:
    """ids[b, n] = floor(x num_entities / 2^32), x a word of Philox-4x32-10 keyed by seed, counted by (n, b, step).

    The same ids on every backend and for any number of threads. Source: Salmon et al. 2011.

    Args:
        triples: ids [B, 3] of (head, relation, tail), int64 or int32, on the device where the ids are to be.
        num_negatives: N, how many for each triple.
        num_entities: E, the ids are below it.
        side: which column they are to replace: "tail", "head", or "both".
        seed: the key of the draws, 64 bits.
        step: counts the batches: another one gives other ids.
        weights: [E], entities are drawn in proportion (alias table); None: uniformly.
        known: triples whose answers are redrawn exactly: uniformly among the others, or by their weights; -1 where none
            is left (that has a weight above 0). None: any entity is drawn.
        shared: c, how many triples share a list, in which known ids stay; 0: every triple has its own.
        impl: the backend, "cpu", "triton", "cuda" or "reference"; None: that of the triples' device.

    Returns:
        int64 [B, N], or [ceil(B / c), N] where lists are shared; [2, .., N] for both sides, tails first.
    """
    triples = checks.triples(triples)
    checks.choose("side", side, SIDES)
    options: dict[str, Any] = dict(
        seed=checks.seed(seed),
        step=checks.integer("step", step, 0, 2**64),
        weights=None if weights is None else checks.real("weights", weights),
        known=known,
        shared=checks.integer("shared", shared, 0),
    )
    num_negatives = checks.integer("num_negatives", num_negatives, 0, 2**25)
    num_entities = checks.integer("num_entities", num_entities, 1, 2**31)
    if weights is not None and weights.shape != (num_entities,):
        raise KgfastError(
            f"weights have shape {list(weights.shape)}; one for each of {num_entities} entities is needed"
        )
    sizes = (num_negatives, num_entities)
    if side == "both":
        return torch.stack([sample_negatives(triples, *sizes, side=one, impl=impl, **options) for one in Side.words()])
    asked = Side.of(side, "side")
    known_lists = known_answers(None if options["shared"] else known, triples, asked, num_entities)
    backend = backends.choose(impl, triples.device)
    if backend == "reference":
        return reference.sample_negatives(triples, *sizes, side=side, **options)
    drawn = triples.new_empty((0,)) if weights is None else reference.draw_table(weights).to(triples.device)
    lists = -(-len(triples) // options["shared"]) if options["shared"] else len(triples)
    return ops.of(backend).sample_negatives(
        triples, lists, *sizes, int(asked), options["seed"], signed(options["step"]), drawn, *known_lists
    )


def signed(value: int) -> int:
    """The 64 bits of a number, as the integer that ops take."""
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value


def negative_sampling_loss(  # long: every argument is described
    entities: Table,
    relations: Table,
    triples: Tensor,
    negatives: Tensor | NegativeSampler | int,
    *,
    score: str,
    side: str,
    objective: str = "logistic",
    margin: float = 0.0,
    adversarial_temperature: float = 0.0,
    weights: Tensor | None = None,
    known: KnownTriples | None = None,
    reduction: str = "mean",
    sparse_grad: bool = False,
    impl: str | None = None,
) -> Tensor:
    """f(s+, s_1 .. s_N) of each triple and the scores s_n of its negatives, and their mean; w = softmax(a s_n).

    f = logistic: (-log sigma(margin + s+) - sum_n w_n log sigma(-margin - s_n)) / 2        (Sun et al. 2019, eq. 5, 6)
        softmax:  -s+ + log(e^{s+} + sum_n e^{s_n})
        bce:      mean of softplus(-s+), softplus(s_1), .. over the 1 + N labels
        margin:   sum_n w_n max(0, margin - s+ + s_n)                                       (Bordes et al. 2013, eq. 1)
    a = `adversarial_temperature`; w_n = 1/N where a = 0, and no gradient flows through it. A negative that is -1, the
    target, or a known answer has no part in any sum. Memory O(B D + B N) and the touched rows ([E, D] unless sparse).

    Args:
        entities: table [E, D], a tensor or an nn.Embedding.
        relations: table [R, W] of the same dtype and device, W as the score asks.
        triples: ids [B, 3] of (head, relation, tail), int64 or int32.
        negatives: ids [B, N], or [G, N] with G < B, of which row b uses list b G // B; [2, .., N] for both sides, tails
            first. Or a `NegativeSampler`; or N, for one with a seed from torch's generator (`torch.manual_seed`), other
            ones in each call (torch.compile needs two graphs for that).
        score: the name of a score, one of `kgfast.SCORES`.
        side: which column negatives replace: "tail", "head", or "both", the mean of both sides' losses.
        objective: "logistic", "softmax", "bce" or "margin".
        margin: of logistic and margin.
        adversarial_temperature: a, of logistic and margin: above 0, negatives that score high count more.
        weights: [B], what each triple counts for; no gradient flows to them. None: all alike.
        known: triples whose answers are masked; None: those of the sampler, if there is one.
        reduction: "mean", weighted; "sum" of weight times loss; or "none", that of each triple, whose gradient makes
            the loss once more.
        sparse_grad: whether gradients are sparse, over the touched rows alone; embeddings with sparse=True say it too.
        impl: the backend, "cpu", "triton", "cuda" or "reference"; None: that of the tables' device.

    Returns:
        A scalar in the tables' dtype, 0 for no triples; or [B].
    """
    checks.choose("reduction", reduction, REDUCTIONS)
    sparse_grad = checks.sparse_gradient(sparse_grad, entities=entities, relations=relations)
    entities, relations, spec = checks.tables(entities, relations, score)
    triples, dtype = checks.triples(triples, entities), entities.dtype
    checks.choose("side", side, SIDES)
    code = Objective.of(objective, "objective")
    margin, temperature = checks.weighting(margin, adversarial_temperature, sum_dtype(dtype))
    ids, checked, known = ids_of(negatives, known, triples, entities, side, impl)
    if weights is not None:
        weights = checks.weights(weights, len(triples), sum_dtype(dtype))
    sides = [Side.of(one, "side") for one in (Side.words() if side == "both" else (side,))]
    known_lists = [known_answers(known, triples, one, len(entities), len(relations)) for one in sides]
    backend = backends.choose(impl, entities.device)
    entities, relations = autograd.as_read(backend, entities, relations)
    if backend == "reference":
        losses = reference.negative_sampling_loss(
            entities, relations, triples, ids, side=side, score=score, objective=objective, margin=margin,
            adversarial_temperature=temperature, weights=weights, known=known, reduction=reduction,
        )  # fmt: skip
        return autograd.as_dtype(losses, dtype)
    shares = row_weights(weights, len(triples), entities, reduction)
    options = (int(spec.similarity_code), int(code), margin, temperature)
    how = checked, sparse_grad, backend
    found = []
    for one, own, ranges in zip(sides, ids if side == "both" else ids[None], known_lists, strict=True):
        inputs = entities, relations, triples, own, *ranges, shares, spec.code, int(one), options
        if reduction == "none":
            found.append(autograd.apply(autograd.SampledLosses, *inputs, *how))
        else:
            gradient = autograd.wants_gradient(entities, relations)
            found.append(autograd.apply(autograd.SampledLoss, *inputs, gradient, *how)[0])
    return autograd.as_dtype(found[0] if len(found) == 1 else (found[0] + found[1]) / 2, dtype)


def ids_of(
    negatives: Any, known: KnownTriples | None, triples: Tensor, entities: Tensor, side: str, impl: str | None
) -> tuple[Tensor, bool, KnownTriples | None]:
    """(ids, whether all are known to be right, known triples) of what a loss is given as negatives."""
    count = negatives if isinstance(negatives, Tensor) else checks.as_integer(negatives)
    if isinstance(count, int) and not isinstance(count, bool):
        count = checks.integer("negatives", count, 1, 2**25)
        negatives = NegativeSampler(count, seed=int(torch.randint(2**63 - 1, ())))
    if not isinstance(negatives, NegativeSampler):
        return *lists_of(negatives, False, side, len(triples), entities), known
    known = negatives.known if known is None else known
    ids = negatives.draw(triples, len(entities), side, impl)
    return *lists_of(ids, True, side, len(triples), entities), known


def lists_of(negatives: Tensor, drawn: bool, side: str, batch: int, entities: Tensor) -> tuple[Tensor, bool]:
    """(lists of ids that fit the batch, whether all ids are known to be right): those drawn here are, and others are
    looked at unless they are being traced."""
    negatives = checks.ids("negatives", negatives, 3 if side == "both" else 2, entities, copy=not drawn)
    if side == "both" and len(negatives) != 2:
        raise KgfastError(f"negatives for both sides must have shape [2, .., N], not {list(negatives.shape)}")
    lists = negatives.shape[-2]
    if lists > batch or (lists == 0 and batch > 0):
        raise KgfastError(f"negatives have {lists} lists for {batch} triples; 1 to {batch} are possible")
    if drawn or torch.compiler.is_compiling():
        return negatives, drawn
    checks.id_range("negatives", negatives, len(entities), lowest=-1)
    return negatives, True
