"""Filtered ranks and the best candidates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kgfast import backends, ops, reference
from kgfast.core import checks
from kgfast.core.checks import Table
from kgfast.core.known import KnownTriples
from kgfast.functional.answers import known_answers
from kgfast.ops import autograd
from kgfast.reference.ranking import TIE_SHARES
from kgfast.registry import Side

TIES = ("optimistic", "pessimistic", "realistic")
AT_ONCE = 2**33  # numbers of rows, for each query once: about a second of a core, after which Python sees a signal
FEWEST = 256  # queries for which rows are read, whatever their number


def rank(
    entities: Table,
    relations: Table,
    triples: Tensor,
    *,
    score: str,
    side: str,
    known: KnownTriples | None = None,
    ties: str = "realistic",
    impl: str | None = None,
) -> Tensor:
    """rank[b] = 1 + #{c : s_c > s_target}, c over all entities that are no other known answer.

    The target is compared with its own entry of the same tile, so rounding can't make it differ from itself. Nothing of
    size [B, E] is kept. A NaN score of a target raises; a NaN candidate counts as better. No gradient.

    Args:
        entities: table [E, D], a tensor or an nn.Embedding.
        relations: table [R, W] of the same dtype and device, W as the score asks.
        triples: ids [B, 3] of (head, relation, tail), int64 or int32.
        score: the name of a score, one of `kgfast.SCORES`.
        side: which column is asked for, "tail" or "head".
        known: the graph's triples, whose other answers are left out (filtered ranks); None: none are.
        ties: "optimistic" as written; "pessimistic" adds #{c : s_c = s_target}; "realistic" is the mean of both.
        impl: the backend, "cpu", "triton", "cuda" or "reference"; None: that of the tables' device.

    Returns:
        float64 [B].
    """
    checks.choose("ties", ties, TIES)
    entities, relations, spec = checks.tables(entities, relations, score)
    entities, relations = entities.detach(), relations.detach()
    triples = checks.triples(triples, entities)
    asked = Side.of(side, "side")
    starts, ends, known_ids = known_answers(known, triples, asked, len(entities), len(relations))
    backend = backends.choose(impl, entities.device)
    entities, relations = autograd.as_read(backend, entities, relations)
    if backend == "reference":
        return reference.rank(entities, relations, triples, score=score, side=side, known=known, ties=ties)
    query = ops.of(backend).queries(entities, relations, triples, spec.code, int(asked))
    targets = triples[:, asked.answer].contiguous()
    own, similarity = ops.of(backend), int(spec.similarity_code)
    counts = [
        own.rank(query[part], entities, targets[part], starts[part], ends[part], known_ids, similarity)[:2]
        for part in parts(backend, query, entities)
    ]
    greater, equal = counts[0] if len(counts) == 1 else map(torch.cat, zip(*counts, strict=True))
    return 1.0 + greater.double() + TIE_SHARES[ties] * equal.double()


def topk(
    entities: Table,
    relations: Table,
    triples: Tensor,
    k: int,
    *,
    score: str,
    side: str,
    exclude: KnownTriples | None = None,
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best candidates of each query, best first, ties by lower id. Nothing of size [B, E] is kept. No gradient.

    Args:
        entities: table [E, D], a tensor or an nn.Embedding.
        relations: table [R, W] of the same dtype and device, W as the score asks.
        triples: ids [B, 3], int64 or int32; the column that is asked for must be ids too.
        k: how many.
        score: the name of a score, one of `kgfast.SCORES`.
        side: which column is asked for, "tail" or "head".
        exclude: triples whose answers are left out; None: none are.
        impl: the backend, "cpu", "triton", "cuda" or "reference"; None: that of the tables' device.

    Returns:
        (scores [B, k] in the tables' dtype, ids int64 [B, k]). Where fewer than k remain: score -inf, id -1.
    """
    entities, relations, spec = checks.tables(entities, relations, score)
    entities, relations = entities.detach(), relations.detach()
    triples, dtype = checks.triples(triples, entities), entities.dtype
    asked = Side.of(side, "side")
    k = checks.integer("k", k, 1, 2**31)
    starts, ends, excluded = known_answers(exclude, triples, asked, len(entities), len(relations), "exclude")
    backend = backends.choose(impl, entities.device)
    entities, relations = autograd.as_read(backend, entities, relations)
    if backend == "reference":
        scores, ids = reference.topk(entities, relations, triples, k, score=score, side=side, exclude=exclude)
    else:
        query = ops.of(backend).queries(entities, relations, triples, spec.code, int(asked))
        own, similarity = ops.of(backend), int(spec.similarity_code)
        found = [
            own.topk(query[part], entities, starts[part], ends[part], excluded, k, similarity)
            for part in parts(backend, query, entities)
        ]
        scores, ids = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
    return autograd.as_dtype(scores, dtype), ids


def parts(backend: str, query: Tensor, table: Tensor) -> Iterator[slice]:
    """Queries that a CPU's kernel ranks at a time: in the middle of a kernel nobody hears Ctrl-C."""
    if backend != "cpu" or torch.compiler.is_compiling():
        yield slice(None)
        return
    size = max(FEWEST, AT_ONCE // max(table.numel(), 1) // FEWEST * FEWEST)
    for start in range(0, max(len(query), 1), size):
        yield slice(start, start + size)
