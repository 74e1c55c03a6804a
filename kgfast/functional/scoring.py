"""Scores of triples, and of candidates for one of their sides."""

from __future__ import annotations

from torch import Tensor

from kgfast import backends, reference
from kgfast.core import checks
from kgfast.core.checks import Table
from kgfast.errors import KgfastError
from kgfast.ops import autograd
from kgfast.registry import Side


def score_triples(
    entities: Table,
    relations: Table,
    triples: Tensor,
    *,
    score: str = "transe_l1",
    sparse_grad: bool = False,
    impl: str | None = None,
) -> Tensor:
    """scores[b] = s(head_b, relation_b, tail_b). Memory O(B D).

    Args:
        entities: table [E, D], a tensor or an nn.Embedding.
        relations: table [R, W] of the same dtype and device, W as the score asks.
        triples: ids [B, 3] of (head, relation, tail), int64 or int32.
        score: the name of a score, one of `kgfast.SCORES`.
        sparse_grad: whether gradients are sparse, over the touched rows alone; embeddings with sparse=True say it too.
        impl: the backend, "cpu", "triton", "cuda" or "reference"; None: that of the tables' device.

    Returns:
        [B], in the tables' dtype. Gradients flow to both tables.
    """
    sparse_grad = checks.sparse_gradient(sparse_grad, entities=entities, relations=relations)
    entities, relations, spec = checks.tables(entities, relations, score)
    triples, dtype = checks.triples(triples, entities), entities.dtype
    backend = backends.choose(impl, entities.device)
    entities, relations = autograd.as_read(backend, entities, relations)
    if backend == "reference":
        scores = reference.score_triples(entities, relations, triples, score=score)
        return autograd.as_dtype(scores, dtype)
    query = autograd.apply(
        autograd.Queries, entities, relations, triples, spec.code, int(Side.TAIL), sparse_grad, backend
    )
    targets, similarity = triples[:, 2:].contiguous(), int(spec.similarity_code)
    scores = autograd.apply(autograd.PairScores, query, entities, targets, similarity, sparse_grad, backend)[0][:, 0]
    return autograd.as_dtype(scores, dtype)


def score_candidates(
    entities: Table,
    relations: Table,
    triples: Tensor,
    candidates: Tensor | None = None,
    *,
    score: str,
    side: str = "tail",
    sparse_grad: bool = False,
    impl: str | None = None,
) -> Tensor:
    """scores[b, k] = s with the tail (or head) of triple b replaced by candidate k. Memory: the result, and O(B D).

    Args:
        entities: table [E, D], a tensor or an nn.Embedding.
        relations: table [R, W] of the same dtype and device, W as the score asks.
        triples: ids [B, 3], int64 or int32. The column that is replaced must be ids too.
        candidates: ids [B, K], or [K] for all triples alike; None: every row of the entities.
        score: the name of a score, one of `kgfast.SCORES`.
        side: which column the candidates replace, "tail" or "head".
        sparse_grad: whether gradients are sparse, over the touched rows alone; embeddings with sparse=True say it too.
            With all candidates that of the entities is dense.
        impl: the backend, "cpu", "triton", "cuda" or "reference"; None: that of the tables' device.

    Returns:
        [B, K], or [B, E], in the tables' dtype. Gradients flow to both tables.
    """
    sparse_grad = checks.sparse_gradient(sparse_grad, entities=entities, relations=relations)
    entities, relations, spec = checks.tables(entities, relations, score)
    triples, dtype = checks.triples(triples, entities), entities.dtype
    asked = Side.of(side, "side")
    if candidates is not None:
        flat = isinstance(candidates, Tensor) and candidates.dim() == 1
        candidates = checks.ids("candidates", candidates, 1 if flat else 2, entities)
        if candidates.dim() == 1:
            candidates = candidates.expand(len(triples), -1).contiguous()
        elif len(candidates) != len(triples):
            raise KgfastError(f"candidates have {len(candidates)} rows for {len(triples)} triples")
    backend = backends.choose(impl, entities.device)
    entities, relations = autograd.as_read(backend, entities, relations)
    if backend == "reference":
        scores = reference.score_candidates(entities, relations, triples, candidates, score=score, side=side)
        return autograd.as_dtype(scores, dtype)
    query = autograd.apply(autograd.Queries, entities, relations, triples, spec.code, int(asked), sparse_grad, backend)
    similarity = int(spec.similarity_code)
    if candidates is None:
        scores = autograd.apply(autograd.AllScores, query, entities, similarity, backend)
    else:
        scores = autograd.apply(autograd.PairScores, query, entities, candidates, similarity, sparse_grad, backend)[0]
    return autograd.as_dtype(scores, dtype)
