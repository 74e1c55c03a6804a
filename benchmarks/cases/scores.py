"""Scores and sampled ids."""

from __future__ import annotations

import torch

import kgfast
from benchmarks import cost, eager
from benchmarks.cases.registry import ALL_SCORES, LIBRARY_SCORES, Work, distinct, hold, register
from benchmarks.cost import ID, REAL, Cost
from benchmarks.inputs import Inputs
from kgfast import reference
from kgfast.reference import SCORES


@register("score_triples", ALL_SCORES)
def score_triples(given: Inputs, variant: str) -> Work:
    options = dict(score=given.score)
    tables, triples, dim = (given.entities, given.relations), given.triples, given.size.dim
    ours = lambda: kgfast.score_triples(*tables, triples, **options)  # noqa: E731
    count = distinct(triples[:, 0], triples[:, 2])
    width = given.relations.shape[1]
    moved = cost.rows(count, dim) + cost.rows(distinct(triples[:, 1]), width) + len(triples) * (REAL + 3 * ID)
    return Work(
        {"kgfast": ours, "reference": lambda: kgfast.score_triples(*tables, triples, impl="reference", **options)},
        lambda: hold([ours()], lambda dtype: [reference.score_triples(*given.tables(dtype), triples, **options)]),
        Cost(moved, cost.pairs(len(triples), dim, SCORES[given.score].similarity), "random"),
        len(triples),
    )


@register("score_candidates", LIBRARY_SCORES + ("rotate",), ("all", "by id"))
def score_candidates(given: Inputs, variant: str) -> Work:
    size, score, everything = given.size, given.score, variant == "all"
    tables, triples, similarity = (given.entities, given.relations), given.triples, SCORES[score].similarity
    ids = None if everything else given.negatives()
    per_triple = size.entities if everything else size.negatives
    head = given.slice(per_triple)
    ours = lambda: kgfast.score_candidates(*tables, triples, ids, score=score)  # noqa: E731

    def torch_way():
        query = reference.make_queries(*tables, triples, score, "tail")
        if everything:
            return eager.one_to_all(query, tables[0], similarity)
        return eager.one_to_own(query, tables[0][ids], similarity)

    def compute(dtype):
        part = None if everything else ids[:head]
        return [reference.score_candidates(*given.tables(dtype), triples[:head], part, score=score)]

    count = size.entities if everything else distinct(ids)
    moved = cost.rows(count + size.batch, size.dim) + size.batch * per_triple * (REAL + (0 if everything else ID))
    providers = {"kgfast": ours}
    if not everything or score in LIBRARY_SCORES:
        providers["eager"] = torch_way
    return Work(
        providers,
        lambda: hold([ours()[:head]], compute),
        Cost(moved, cost.pairs(size.batch * per_triple, size.dim, similarity), "stream" if everything else "random"),
        size.batch * per_triple, "scores",
    )  # fmt: skip


@register("sample_negatives", variants=("uniform", "weighted", "known"))
def sample_negatives(given: Inputs, variant: str) -> Work:
    size, options = given.size, dict(side="tail", seed=7, step=3)
    if variant == "weighted":
        options["weights"] = torch.bincount(given.graph[:, 2], minlength=size.entities).double() ** 0.75
    if variant == "known":
        options["known"] = given.known

    def draw(count=size.batch, **more):
        return kgfast.sample_negatives(given.triples[:count], size.negatives, size.entities, **options, **more)

    def check():
        assert torch.equal(draw()[:16], draw(16, impl="reference")), "ids differ from the reference"

    ids = size.batch * size.negatives
    return Work({"kgfast": draw, "reference": lambda: draw(impl="reference"),
                 "eager": lambda: torch.randint(size.entities, (size.batch, size.negatives))}
                if variant == "uniform" else {"kgfast": draw, "reference": lambda: draw(impl="reference")},
                check, Cost(ids * ID, 0), ids, "ids")  # fmt: skip
