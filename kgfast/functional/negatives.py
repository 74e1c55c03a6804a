"""Sampled negatives: their ids, and the losses over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kgfast import backends, reference
from kgfast.backends.cpu import OBJECTIVES, SCORES, SIDES
from kgfast.core import checks
from kgfast.errors import KgfastError
from kgfast.functional.answers import known_answers, share_weights
from kgfast.ops import autograd, library


@dataclass(frozen=True)
class NegativeSampler:
    """Negatives to be drawn for the triples of a batch, as `kgfast.sample_negatives` would with the same fields.

    Handed to a loss as `negatives`: ids are functions of (seed, step, row, column) and are drawn where they are used.
    """

    num_negatives: int
    seed: int = 0
    step: int = 0
    weights: Tensor | None = None  # [num_entities], draw in proportion; None: uniformly
    known: object | None = None  # KnownTriples: known answers are redrawn, or masked where lists are shared
    shared: int = 0  # triples that share a list; 0: every triple has its own


def sample_negatives(
    triples: Tensor,
    num_negatives: int,
    num_entities: int,
    *,
    side: str,
    seed: int,
    step: int = 0,
    weights: Tensor | None = None,
    known=None,
    shared: int = 0,
    impl=None,
) -> Tensor:
    """ids[b, n] = floor(x num_entities / 2^32), x a word of Philox-4x32-10 keyed by seed, counted by (n, b, step).

    The same ids on every backend and for any number of threads. `weights` [num_entities]: drawn in proportion (alias
    table). `known`: known answers of the query are redrawn exactly (uniformly among the others; -1 where none is left).
    shared = c: c triples share a list, in which known ids stay. Returns int64 [B, N]; [ceil(B / c), N] where shared;
    side="both" stacks tail and head: [2, .., N]. Source: Salmon et al. 2011.
    """
    triples = checks.triples(triples, triples)
    checks.choose("side", side, (*SIDES, "both"))
    seed = checks.seed(seed)
    for name, value, lowest in (("num_negatives", num_negatives, 0), ("num_entities", num_entities, 1),
                                ("shared", shared, 0), ("step", step, 0)):  # fmt: skip
        if not isinstance(value, int | torch.SymInt) or value < lowest:
            raise KgfastError(f"{name}={value!r} must be an integer of at least {lowest}")
    if weights is not None and getattr(weights, "shape", None) != (num_entities,):
        raise KgfastError(
            f"weights have shape {list(weights.shape)}; one for each of {num_entities} entities is needed"
        )
    if num_negatives >= 2**25 or num_entities >= 2**31:
        raise KgfastError(f"num_negatives={num_negatives} must be below 2^25, num_entities={num_entities} below 2^31")
    options = dict(seed=seed, step=step, weights=weights, known=known, shared=shared)
    if side == "both":
        parts = [
            sample_negatives(triples, num_negatives, num_entities, side=one, impl=impl, **options) for one in SIDES
        ]
        return torch.stack(parts)
    starts, ends, known_ids = known_answers(None if shared else known, triples, side, num_entities)
    backend = backends.choose(impl, triples.device)
    if backend == "reference":
        return reference.sample_negatives(triples, num_negatives, num_entities, side=side, **options)
    thresholds, aliases = triples.new_empty((0,)), triples.new_empty((0,))
    if weights is not None:
        thresholds, aliases = (part.to(triples.device) for part in reference.alias_table(weights))
    lists = -(-len(triples) // shared) if shared else len(triples)
    return library.of(backend).sample_negatives(
        triples,
        lists,
        num_negatives,
        num_entities,
        SIDES[side],
        seed,
        step,
        thresholds,
        aliases,
        starts,
        ends,
        known_ids,
    )


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
    known=None,
    sparse_grad=False,
    impl=None,
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
    entities, relations, _ = checks.tables(entities, relations, score)
    triples = checks.triples(triples, entities)
    checks.choose("side", side, (*SIDES, "both"))
    checks.choose("objective", objective, OBJECTIVES)
    margin = checks.finite("margin", margin)
    temperature = checks.finite("adversarial_temperature", adversarial_temperature, lowest=0.0)
    if isinstance(negatives, NegativeSampler):
        sampler = negatives
        known = sampler.known if known is None else known
        negatives = sample_negatives(
            triples, sampler.num_negatives, len(entities), side=side, seed=sampler.seed, step=sampler.step,
            weights=sampler.weights, known=sampler.known, shared=sampler.shared, impl=impl,
        )  # fmt: skip
    negatives = checks.ids("negatives", negatives, 3 if side == "both" else 2, entities)
    options = dict(score=score, objective=objective, margin=margin, adversarial_temperature=temperature,
                   weights=weights, known=known, impl=impl)  # fmt: skip
    if side == "both":
        if len(negatives) != 2:
            raise KgfastError(f"negatives for both sides must have shape [2, .., N], not {list(negatives.shape)}")
        losses = [
            negative_sampling_loss(entities, relations, triples, ids, side=one, sparse_grad=sparse_grad, **options)
            for one, ids in zip(SIDES, negatives, strict=True)
        ]
        return (losses[0] + losses[1]) / 2
    batch, groups = len(triples), len(negatives)
    if groups > batch or (groups == 0 and batch > 0):
        raise KgfastError(f"negatives have {groups} lists for {batch} triples; 1 to {batch} are possible")
    if weights is not None:
        weights = checks.weights(weights, batch)
    starts, ends, known_ids = known_answers(known, triples, side, len(entities), len(relations))
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        options.pop("impl")
        return reference.negative_sampling_loss(entities, relations, triples, negatives, side=side, **options)
    code, _, similarity = SCORES[score]
    return autograd.SampledLoss.apply(
        entities, relations, triples, negatives, starts, ends, known_ids, share_weights(weights, batch, entities),
        code, SIDES[side], (similarity, OBJECTIVES.index(objective), margin, temperature), sparse_grad, backend,
    )  # fmt: skip
