"""Filtered ranks and the best answers."""

from __future__ import annotations

import torch

import kgfast
from benchmarks import cost, eager
from benchmarks.cases.registry import ALL_SCORES, LIBRARY_SCORES, Work, hold, register
from benchmarks.cost import Cost
from benchmarks.inputs import Inputs
from kgfast import reference
from kgfast.reference import SCORES


@register("rank", ALL_SCORES, ("filtered",))
def rank(given: Inputs, variant: str) -> Work:
    size, score, triples, known = given.size, given.score, given.triples, given.known
    tables, options = (given.entities, given.relations), dict(score=score, side="tail", known=known)
    ours = lambda: kgfast.rank(*tables, triples, **options)  # noqa: E731
    head = given.slice(size.entities)

    def check():
        truth = reference.rank(*given.tables(torch.float64), triples[:head], **options)
        single = reference.rank(*tables, triples[:head], **options)
        # scores closer than rounding may change places: as far as eager's do, and three places
        off = (ours()[:head] - truth).abs().max()
        assert off <= 2 * (single - truth).abs().max() + 3, f"ranks differ from the reference by {off}"

    providers = {"kgfast": ours}
    if score in LIBRARY_SCORES:
        providers["eager"] = lambda: eager.ranks(*tables, triples, **options)
    operations = cost.pairs(size.batch * size.entities, size.dim, SCORES[score].similarity)
    return Work(providers, check, Cost(cost.rows(size.entities, size.dim), operations), size.batch)


@register("topk", ("transe_l1", "complex"), ("10 best",))
def topk(given: Inputs, variant: str) -> Work:
    size, score, triples, k = given.size, given.score, given.triples, 10
    tables, options = (given.entities, given.relations), dict(score=score, side="tail")
    ours = lambda: kgfast.topk(*tables, triples, k, **options)  # noqa: E731
    head = given.slice(size.entities)

    @torch.no_grad()
    def eager_way():
        query = reference.make_queries(*tables, triples, score, "tail")
        return eager.one_to_all(query, tables[0], SCORES[score].similarity).topk(k)

    compute = lambda dtype: [reference.topk(*given.tables(dtype), triples[:head], k, **options)[0]]  # noqa: E731
    operations = cost.pairs(size.batch * size.entities, size.dim, SCORES[score].similarity)
    return Work(
        {"kgfast": ours, "eager": eager_way}, lambda: hold([ours()[0][:head]], compute),
        Cost(cost.rows(size.entities, size.dim), operations), size.batch,
    )  # fmt: skip
