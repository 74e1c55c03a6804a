"""Sampled negatives: their ids, and the losses over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kgfast import backends, ops, reference
from kgfast.core import checks
from kgfast.core.known import KnownTriples
from kgfast.core.sums import sum_dtype
from kgfast.errors import KgfastError
from kgfast.functional.answers import known_answers, share_weights
from kgfast.ops import autograd
from kgfast.registry import Objective, Side

SIDES = (*Side.words(), "both")  # of losses


@dataclass(frozen=True)
class NegativeSampler:
    """Negatives to be drawn for the triples of a batch, as `kgfast.sample_negatives` would with the same fields.

    Handed to a loss as `negatives`: ids are functions of (seed, step, row, column) and are drawn where they are used.
    """

    num_negatives: int
    seed: int = 0
    step: int = 0
    weights: Tensor | None = None  # [num_entities], draw in proportion; None: uniformly
    known: KnownTriples | None = None  # KnownTriples: known answers are redrawn, or masked where lists are shared
    shared: int = 0  # triples that share a list; 0: every triple has its own

    def draw(self, triples: Tensor, num_entities: int, side: str, impl: str | None = None) -> Tensor:
        """The ids, as `sample_negatives` returns them."""
        return sample_negatives(
            triples, self.num_negatives, num_entities, side=side, seed=self.seed, step=self.step, weights=self.weights,
            known=self.known, shared=self.shared, impl=impl,
        )  # fmt: skip


def sample_negatives(
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

    The same ids on every backend and for any number of threads. `weights` [num_entities]: drawn in proportion (alias
    table). `known`: known answers of the query are redrawn exactly: uniformly among the others, or by their weights; -1
    where none is left (that has a weight above 0).
    shared = c: c triples share a list, in which known ids stay. Returns int64 [B, N]; [ceil(B / c), N] where shared;
    side="both" stacks tail and head: [2, .., N]. Source: Salmon et al. 2011.
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


def negative_sampling_loss(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    negatives: Tensor | NegativeSampler,
    *,
    score: str,
    side: str,
    objective: str = "logistic",
    margin: float = 0.0,
    adversarial_temperature: float = 0.0,
    weights: Tensor | None = None,
    known: KnownTriples | None = None,
    sparse_grad: bool = False,
    impl: str | None = None,
) -> Tensor:
    """Weighted mean over triples of f(s+, s_1 .. s_N), s_n the negatives' scores, w = softmax(a s_n) without gradient.

    f = logistic: (-log sigma(margin + s+) - sum_n w_n log sigma(-margin - s_n)) / 2        (Sun et al. 2019, eq. 5, 6)
        softmax:  -s+ + log(e^{s+} + sum_n e^{s_n})
        bce:      mean of softplus(-s+), softplus(s_1), .. over the 1 + N labels
        margin:   sum_n w_n max(0, margin - s+ + s_n)                                       (Bordes et al. 2013, eq. 1)
    a = `adversarial_temperature`; w_n = 1/N where a = 0. No gradient flows to `weights`.
    negatives: int64 ids [B, N], or [G, N] with G < B, of which row b uses list b G // B, or a `NegativeSampler`. An
    id that is -1, the target, or a known answer (`known`) has no part in any sum. side="both" is the mean of both
    sides' losses (ids [2, .., N], tails first).
    Returns a scalar; 0 for an empty batch. Memory O(B D + B N) and the touched rows ([E, D] unless `sparse_grad`).
    """
    entities, relations, spec = checks.tables(entities, relations, score)
    triples = checks.triples(triples, entities)
    checks.choose("side", side, SIDES)
    code = Objective.of(objective, "objective")
    sparse_grad = checks.flag("sparse_grad", sparse_grad)
    margin, temperature = checks.weighting(margin, adversarial_temperature, sum_dtype(entities.dtype))
    drawn = isinstance(negatives, NegativeSampler)
    if isinstance(negatives, NegativeSampler):
        known = negatives.known if known is None else known
        negatives = negatives.draw(triples, len(entities), side, impl)
    negatives, checked = lists_of(negatives, drawn, side, len(triples), entities)
    if weights is not None:
        weights = checks.weights(weights, len(triples), sum_dtype(entities.dtype))
    sides = [Side.of(one, "side") for one in (Side.words() if side == "both" else (side,))]
    known_lists = [known_answers(known, triples, one, len(entities), len(relations)) for one in sides]
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.negative_sampling_loss(
            entities, relations, triples, negatives, side=side, score=score, objective=objective, margin=margin,
            adversarial_temperature=temperature, weights=weights, known=known,
        )  # fmt: skip
    shares = share_weights(weights, len(triples), entities)
    options = (int(spec.similarity_code), int(code), margin, temperature)
    last = options, autograd.wants_gradient(entities, relations), checked, sparse_grad, backend
    ids_of_sides = negatives if side == "both" else negatives[None]
    losses = [
        autograd.apply(
            autograd.SampledLoss, entities, relations, triples, ids, *ranges, shares, spec.code, int(one), *last
        )[0]
        for one, ids, ranges in zip(sides, ids_of_sides, known_lists, strict=True)
    ]
    return losses[0] if side != "both" else (losses[0] + losses[1]) / 2


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
