"""Scores of triples, and of candidates for one of their sides."""

from __future__ import annotations

from torch import Tensor

from kgfast import backends, reference
from kgfast.core import checks
from kgfast.errors import KgfastError
from kgfast.ops import autograd
from kgfast.registry import Side


def score_triples(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    *,
    score: str = "transe_l1",
    sparse_grad: bool = False,
    impl: str | None = None,
) -> Tensor:
    """scores[b] = s(head_b, relation_b, tail_b): [B].

    Gradients of both tables; dense [E, D], or sparse over the touched rows with `sparse_grad`. Memory O(B D).
    """
    entities, relations, spec = checks.tables(entities, relations, score)
    triples, sparse_grad = checks.triples(triples, entities), checks.flag("sparse_grad", sparse_grad)
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.score_triples(entities, relations, triples, score=score)
    query = autograd.apply(
        autograd.Queries, entities, relations, triples, spec.code, int(Side.TAIL), sparse_grad, backend
    )
    targets, similarity = triples[:, 2:].contiguous(), int(spec.similarity_code)
    return autograd.apply(autograd.PairScores, query, entities, targets, similarity, sparse_grad, backend)[0][:, 0]


def score_candidates(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    candidates: Tensor | None = None,
    *,
    score: str,
    side: str = "tail",
    sparse_grad: bool = False,
    impl: str | None = None,
) -> Tensor:
    """scores[b, k] = s with the tail (or head) of triple b replaced by candidate k: [B, C], or [B, K].

    candidates: None for all rows of the table; ids [K] for all queries, or [B, K]. The replaced column must be ids too.
    Memory: the result, and O(B D). With all candidates the gradient of the entities is dense.
    """
    entities, relations, spec = checks.tables(entities, relations, score)
    triples, sparse_grad = checks.triples(triples, entities), checks.flag("sparse_grad", sparse_grad)
    asked = Side.of(side, "side")
    if candidates is not None:
        flat = isinstance(candidates, Tensor) and candidates.dim() == 1
        candidates = checks.ids("candidates", candidates, 1 if flat else 2, entities)
        if candidates.dim() == 1:
            candidates = candidates.expand(len(triples), -1).contiguous()
        elif len(candidates) != len(triples):
            raise KgfastError(f"candidates have {len(candidates)} rows for {len(triples)} triples")
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.score_candidates(entities, relations, triples, candidates, score=score, side=side)
    query = autograd.apply(autograd.Queries, entities, relations, triples, spec.code, int(asked), sparse_grad, backend)
    similarity = int(spec.similarity_code)
    if candidates is None:
        return autograd.apply(autograd.AllScores, query, entities, similarity, backend)
    return autograd.apply(autograd.PairScores, query, entities, candidates, similarity, sparse_grad, backend)[0]
