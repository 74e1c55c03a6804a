"""Gradients of the fused ops: one autograd.Function per loss, outside the ops (cheaper than register_autograd).

Forward computes the loss and, where a gradient is wanted, its coefficients and the query's gradient in the same visit;
backward is the pass over touched rows. Gradients of tables are dense, or sparse with `sparse_grad`. `backend` names
whose ops are called.
"""

from __future__ import annotations

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from kgfast.backends.cpu import total
from kgfast.ops import library as ops


def rows_gradient(query, table, ids, coefficients, extra_ids, extra_rows, similarity: int, sparse: bool, backend: str):
    """Gradient of a table from pairs (query, id, coefficient) and ready rows: dense, or sparse."""
    arguments = (query, table, ids, coefficients, extra_ids, extra_rows, similarity)
    if not sparse:
        return ops.of(backend).table_gradient(*arguments)
    unique, rows = ops.of(backend).table_gradient_rows(*arguments)
    return torch.sparse_coo_tensor(unique[None], rows, table.shape, is_coalesced=True, check_invariants=False)


def no_pairs(table):
    """Arguments of rows_gradient that stand for no pairs: query, table, ids, coefficients."""
    empty = table.new_empty((0, 0))
    return table.new_empty((0, table.shape[1])), table, empty.long(), empty


class Queries(Function):
    """(entities, relations) -> queries [B, D]."""

    @staticmethod
    def forward(ctx, entities, relations, triples, score, side, sparse, backend):
        ctx.save_for_backward(entities, relations, triples)
        ctx.options = score, side, sparse, backend
        return ops.of(backend).queries(entities, relations, triples, score, side)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_query):
        entities, relations, triples = ctx.saved_tensors
        score, side, sparse, backend = ctx.options
        anchors = triples[:, 0 if side == 0 else 2].contiguous()
        d_anchor, d_relation = ops.of(backend).queries_adjoint(
            d_query.contiguous(), entities, relations, triples, score, side
        )
        return (
            rows_gradient(*no_pairs(entities), anchors, d_anchor, 0, sparse, backend),
            relation_gradient(relations, triples, d_relation, sparse, backend),
            *[None] * 5,
        )


def relation_gradient(relations, triples, d_relation, sparse, backend):
    return rows_gradient(*no_pairs(relations), triples[:, 1].contiguous(), d_relation, 0, sparse, backend)


class PairScores(Function):
    """(query [B, D], table [C, D]) -> scores [B, K] of the rows `ids` [B, K]."""

    @staticmethod
    def forward(ctx, query, table, ids, similarity, sparse, backend):
        scores = ops.of(backend).pair_scores(query, table, ids, similarity)
        ctx.save_for_backward(query, table, ids, scores)
        ctx.options = similarity, sparse, backend
        return scores.to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        query, table, ids, scores = ctx.saved_tensors
        similarity, sparse, backend = ctx.options
        coefficients, d_query = ops.of(backend).pair_query_gradient(
            g.to(scores.dtype).contiguous(), scores, query, table, ids, similarity
        )
        extra_ids, extra_rows = ids.new_empty((0,)), table.new_empty((0, table.shape[1]))
        d_table = rows_gradient(query, table, ids, coefficients, extra_ids, extra_rows, similarity, sparse, backend)
        return d_query, d_table, *[None] * 4


class AllScores(Function):
    """(query [B, D], table [C, D]) -> scores [B, C]."""

    @staticmethod
    def forward(ctx, query, table, similarity, backend):
        scores = ops.of(backend).all_scores(query, table, similarity)
        ctx.save_for_backward(query, table, scores)
        ctx.options = similarity, backend
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        query, table, scores = ctx.saved_tensors
        similarity, backend = ctx.options
        return *ops.of(backend).all_scores_gradient(g.contiguous(), scores, query, table, similarity), None, None


class SampledLoss(Function):
    """(entities, relations) -> weighted mean loss of the triples of one side against sampled negatives."""

    @staticmethod
    def forward(
        ctx,
        entities,
        relations,
        triples,
        negatives,
        starts,
        ends,
        known,
        weights,
        score,
        side,
        options,
        sparse,
        backend,
    ):
        own = ops.of(backend)
        gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        targets = triples[:, 2 if side == 0 else 0].contiguous()
        query = own.queries(entities, relations, triples, score, side)
        losses, d_query, ids, coefficients, d_negatives = own.sampled_loss(
            query, entities, targets, negatives, starts, ends, known, weights, *options, gradient
        )
        if gradient:
            ctx.save_for_backward(
                entities, relations, triples, negatives, query, d_query, ids, coefficients, d_negatives
            )
            ctx.options = score, side, options[0], sparse, backend
        return total(losses).to(entities.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        entities, relations, triples, negatives, query, d_query, ids, coefficients, d_negatives = ctx.saved_tensors
        score, side, similarity, sparse, backend = ctx.options
        anchors = triples[:, 0 if side == 0 else 2]
        d_anchor, d_relation = ops.of(backend).queries_adjoint(d_query * g, entities, relations, triples, score, side)
        extra_ids, extra_rows = anchors.contiguous(), d_anchor
        if negatives.shape[0] != triples.shape[0]:  # shared lists; a masked id has gradient 0, row 0 stands in for it
            extra_ids = torch.cat([anchors, negatives.clamp(min=0).flatten()])
            extra_rows = torch.cat([d_anchor, d_negatives.view(-1, entities.shape[1]) * g])
        pairs = query, entities, ids, coefficients * g
        d_entities = rows_gradient(*pairs, extra_ids, extra_rows, similarity, sparse, backend)
        return d_entities, relation_gradient(relations, triples, d_relation, sparse, backend), *[None] * 11


class CandidateLoss(Function):
    """(query, table, bias) -> weighted mean loss of the answers against all rows; gradients are made going forward."""

    @staticmethod
    def forward(ctx, query, table, bias, starts, ends, answers, weights, options, backend):
        gradient = any(ctx.needs_input_grad[:3])
        inputs = query, table, bias, starts, ends, answers, weights
        losses, *gradients = ops.of(backend).candidate_loss(*inputs, *options, gradient)
        if gradient:
            ctx.save_for_backward(*gradients)
        return total(losses).to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        gradients = ctx.saved_tensors
        if g.device.type != "cpu" or torch.compiler.is_compiling() or float(g) != 1:  # a large table costs a pass
            gradients = (gradient * g for gradient in gradients)
        return *gradients, *[None] * 6


class CandidateLosses(Function):
    """(query, table, bias) -> losses [B], weighted; the gradient needs dL/dloss per row, so scores are made again."""

    @staticmethod
    def forward(ctx, query, table, bias, starts, ends, answers, weights, options, backend):
        inputs = query, table, bias, starts, ends, answers, weights
        ctx.save_for_backward(*inputs)
        ctx.options = options, backend
        return ops.of(backend).candidate_loss(*inputs, *options, False)[0].to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        *inputs, weights = ctx.saved_tensors
        options, backend = ctx.options
        return *ops.of(backend).candidate_loss(*inputs, weights * g, *options, True)[1:], *[None] * 6
