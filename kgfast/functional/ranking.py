"""Filtered ranks and the best candidates."""

from __future__ import annotations

from torch import Tensor

from kgfast import backends, ops, reference
from kgfast.core import checks
from kgfast.core.known import KnownTriples
from kgfast.functional.answers import known_answers
from kgfast.reference.ranking import TIE_SHARES
from kgfast.registry import Side

TIES = ("optimistic", "pessimistic", "realistic")


def rank(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    *,
    score: str,
    side: str,
    known: KnownTriples | None = None,
    ties: str = "realistic",
    impl: str | None = None,
) -> Tensor:
    """rank[b] = 1 + #{c : s_c > s_target}, c over all entities that are no other known answer: float64 [B].

    ties: optimistic as written; pessimistic adds #{c : s_c = s_target}; realistic is the mean of both. The target is
    compared with its own entry of the same tile, so rounding can't make it differ from itself. Nothing of size [B, C]
    is kept. A NaN score of a target raises; a NaN candidate counts as better. No gradient.
    """
    checks.choose("ties", ties, TIES)
    entities, relations, spec = checks.tables(entities, relations, score)
    entities, relations = entities.detach(), relations.detach()
    triples = checks.triples(triples, entities)
    asked = Side.of(side, "side")
    starts, ends, known_ids = known_answers(known, triples, asked, len(entities), len(relations))
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.rank(entities, relations, triples, score=score, side=side, known=known, ties=ties)
    query = ops.of(backend).queries(entities, relations, triples, spec.code, int(asked))
    targets = triples[:, asked.answer].contiguous()
    greater, equal, _ = ops.of(backend).rank(
        query, entities, targets, starts, ends, known_ids, int(spec.similarity_code)
    )
    return 1.0 + greater.double() + TIE_SHARES[ties] * equal.double()


def topk(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    k: int,
    *,
    score: str,
    side: str,
    exclude: KnownTriples | None = None,
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """(scores, ids) [B, k] of the k best candidates, best first, ties by lower id; no gradient.

    exclude: KnownTriples whose answers are left out. Where fewer than k remain: score -inf, id -1. Nothing of size
    [B, C] is kept.
    """
    entities, relations, spec = checks.tables(entities, relations, score)
    entities, relations = entities.detach(), relations.detach()
    triples = checks.triples(triples, entities)
    asked = Side.of(side, "side")
    k = checks.integer("k", k, 1, 2**31)
    starts, ends, excluded = known_answers(exclude, triples, asked, len(entities), len(relations), "exclude")
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.topk(entities, relations, triples, k, score=score, side=side, exclude=exclude)
    query = ops.of(backend).queries(entities, relations, triples, spec.code, int(asked))
    return ops.of(backend).topk(query, entities, starts, ends, excluded, k, int(spec.similarity_code))
