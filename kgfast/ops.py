"""torch.library registration: schemas, CPU implementations, shapes for torch.compile. No other file says torch.library.

Codes (score, side, similarity, objective) are those of `backends/cpu.py`; an absent tensor is an empty one. Gradients
are not registered here: the autograd.Functions of autograd.py call these ops.
"""

from __future__ import annotations

import torch

from kgfast.backends import cpu

LIBRARY = torch.library.Library("kgfast", "DEF")


def register(schema: str, implementation, fake) -> None:
    name = schema.split("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, implementation, "CPU")
    torch.library.register_fake(f"kgfast::{name}", fake, lib=LIBRARY)


register(
    "queries(Tensor entities, Tensor relations, Tensor triples, int score, int side) -> Tensor",
    cpu.queries,
    lambda entities, relations, triples, score, side: entities.new_empty((triples.shape[0], entities.shape[1])),
)
register(
    "queries_adjoint(Tensor d_query, Tensor entities, Tensor relations, Tensor triples, int score, int side)"
    " -> (Tensor, Tensor)",
    cpu.queries_adjoint,
    lambda d_query, entities, relations, triples, score, side: (
        entities.new_empty((triples.shape[0], entities.shape[1])),
        entities.new_empty((triples.shape[0], relations.shape[1])),
    ),
)
register(
    "pair_scores(Tensor query, Tensor table, Tensor ids, int similarity) -> Tensor",
    cpu.pair_scores,
    lambda query, table, ids, similarity: query.new_empty(ids.shape),
)
register(
    "pair_query_gradient(Tensor g, Tensor scores, Tensor query, Tensor table, Tensor ids, int similarity)"
    " -> (Tensor, Tensor)",
    cpu.pair_query_gradient,
    lambda g, scores, query, table, ids, similarity: (query.new_empty(ids.shape), torch.empty_like(query)),
)
register(
    "all_scores(Tensor query, Tensor table, int similarity) -> Tensor",
    cpu.all_scores,
    lambda query, table, similarity: query.new_empty((query.shape[0], table.shape[0])),
)
register(
    "all_scores_gradient(Tensor g, Tensor scores, Tensor query, Tensor table, int similarity) -> (Tensor, Tensor)",
    cpu.all_scores_gradient,
    lambda g, scores, query, table, similarity: (torch.empty_like(query), torch.empty_like(table)),
)


def sampled_loss_fake(
    query,
    table,
    targets,
    negatives,
    starts,
    ends,
    known,
    weights,
    similarity,
    objective,
    margin,
    temperature,
    gradient,
):
    batch, dim = query.shape
    groups, count = negatives.shape
    width = 1 + count if groups == batch else 1
    shared = gradient and groups != batch
    return (
        query.new_empty((batch,)),
        query.new_empty((batch if gradient else 0, dim)),
        targets.new_empty((batch, width)),
        query.new_empty((batch, width)),
        query.new_empty((groups if shared else 0, count if shared else 0, dim)),
    )


register(
    "sampled_loss(Tensor query, Tensor table, Tensor targets, Tensor negatives, Tensor starts, Tensor ends,"
    " Tensor known, Tensor weights, int similarity, int objective, float margin, float temperature, bool gradient)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu.sampled_loss,
    sampled_loss_fake,
)


def candidate_loss_fake(query, table, bias, starts, ends, answers, weights, similarity, objective, smoothing, gradient):
    rows = [tensor.shape[0] if gradient else 0 for tensor in (query, table, bias)]
    return (
        query.new_empty((query.shape[0],)),
        query.new_empty((rows[0], query.shape[1])),
        query.new_empty((rows[1], query.shape[1])),
        query.new_empty((rows[2],)),
    )


register(
    "candidate_loss(Tensor query, Tensor table, Tensor bias, Tensor starts, Tensor ends, Tensor answers,"
    " Tensor weights, int similarity, int objective, float smoothing, bool gradient)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    cpu.candidate_loss,
    candidate_loss_fake,
)
register(
    "table_gradient(Tensor query, Tensor table, Tensor ids, Tensor coefficients, Tensor extra_ids, Tensor extra_rows,"
    " int similarity) -> Tensor",
    cpu.table_gradient,
    lambda query, table, ids, coefficients, extra_ids, extra_rows, similarity: torch.empty_like(table),
)


def table_gradient_rows_fake(query, table, ids, coefficients, extra_ids, extra_rows, similarity):
    distinct = torch.library.get_ctx().new_dynamic_size()
    return ids.new_empty((distinct,)), table.new_empty((distinct, table.shape[1]))


register(
    "table_gradient_rows(Tensor query, Tensor table, Tensor ids, Tensor coefficients, Tensor extra_ids,"
    " Tensor extra_rows, int similarity) -> (Tensor, Tensor)",
    cpu.table_gradient_rows,
    table_gradient_rows_fake,
)
register(
    "rank(Tensor query, Tensor table, Tensor targets, Tensor starts, Tensor ends, Tensor known, int similarity)"
    " -> (Tensor, Tensor, Tensor)",
    cpu.rank,
    lambda query, table, targets, starts, ends, known, similarity: (
        torch.empty_like(targets),
        torch.empty_like(targets),
        query.new_empty((query.shape[0],)),
    ),
)
register(
    "topk(Tensor query, Tensor table, Tensor starts, Tensor ends, Tensor excluded, int k, int similarity)"
    " -> (Tensor, Tensor)",
    cpu.topk,
    lambda query, table, starts, ends, excluded, k, similarity: (
        query.new_empty((query.shape[0], k)),
        query.new_empty((query.shape[0], k), dtype=torch.int64),
    ),
)


def own_answers(starts, ends, ids, targets):
    """An op may not return its inputs."""
    found = cpu.answers(starts, ends, ids, targets)
    return tuple(one.clone() if one is given else one for one, given in zip(found, (starts, ends, ids), strict=True))


def answers_fake(starts, ends, ids, targets):
    count = torch.library.get_ctx().new_dynamic_size()
    return torch.empty_like(starts), torch.empty_like(ends), ids.new_empty((count,))


register(
    "answers(Tensor starts, Tensor ends, Tensor ids, Tensor targets) -> (Tensor, Tensor, Tensor)",
    own_answers,
    answers_fake,
)


def sample_like(like, lists, count, entities, side, seed, step, thresholds, aliases, starts, ends, known):
    """`like` (any int64 tensor on the device) gives the op its device."""
    return cpu.sample_negatives(lists, count, entities, side, seed, step, thresholds, aliases, starts, ends, known)


register(
    "sample_negatives(Tensor like, SymInt lists, SymInt count, SymInt entities, int side, int seed, int step,"
    " Tensor thresholds, Tensor aliases, Tensor starts, Tensor ends, Tensor known) -> Tensor",
    sample_like,
    lambda like, lists, count, *_: like.new_empty((lists, count)),
)

queries = torch.ops.kgfast.queries.default
queries_adjoint = torch.ops.kgfast.queries_adjoint.default
pair_scores = torch.ops.kgfast.pair_scores.default
pair_query_gradient = torch.ops.kgfast.pair_query_gradient.default
all_scores = torch.ops.kgfast.all_scores.default
all_scores_gradient = torch.ops.kgfast.all_scores_gradient.default
sampled_loss = torch.ops.kgfast.sampled_loss.default
candidate_loss = torch.ops.kgfast.candidate_loss.default
answers = torch.ops.kgfast.answers.default
table_gradient = torch.ops.kgfast.table_gradient.default
table_gradient_rows = torch.ops.kgfast.table_gradient_rows.default
rank = torch.ops.kgfast.rank.default
topk = torch.ops.kgfast.topk.default
sample_negatives = torch.ops.kgfast.sample_negatives.default
