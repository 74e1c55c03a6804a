"""Gradients of the fused ops: one autograd.Function per loss, outside the ops (cheaper than register_autograd).

Forward computes the loss and, where a gradient is wanted, its coefficients and the query's gradient in the same visit;
backward is the pass over touched rows. Gradients of tables are dense, or sparse with `sparse_grad`. `backend` names
whose ops are called. What forward leaves for backward it returns too, as torch.func wants it; callers take the first
output. Gradients of gradients don't exist: who asks for one gets an error when it is used, never a zero.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.autograd import Function

from kgfast import ops
from kgfast.core.sums import HALF, total
from kgfast.registry import Side

TWICE = "a fused loss of kgfast has no gradient of its gradient (create_graph=True): use impl='reference' for that"


def first_order_only(backward):
    """Marks a backward whose results have no gradient; with create_graph=True they raise where one is asked of them."""

    @wraps(backward)
    def refusing(ctx, *gradients):
        if gradients[0] is None:  # nothing depends on what forward made
            return (None,) * len(ctx.needs_input_grad)
        if torch.compiler.is_compiling():
            return backward(ctx, *gradients)
        if any(wrapped_twice(one) for one in gradients if isinstance(one, Tensor)):
            raise RuntimeError(f"{TWICE}; nor is it made by torch.vmap")
        with torch.no_grad():
            found = backward(ctx, *gradients)
        if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return found
        return OnceOnly.apply(len(found), *found, *gradients, *ctx.saved_tensors)

    return refusing


class OnceOnly(Function):
    """The first `count` values, as they are; they depend on all others, and a gradient of them is an error."""

    @staticmethod
    def forward(ctx, count, *values):
        return tuple(one.detach() if isinstance(one, Tensor) else one for one in values[:count])

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError(TWICE)


def wrapped_twice(tensor: Tensor) -> bool:
    """Whether two transforms of torch.func are at work: the gradient of a gradient, or a batch of gradients."""
    return is_functorch_wrapped_tensor(tensor) and is_functorch_wrapped_tensor(get_unwrapped(tensor))


def as_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` itself where it has the dtype: what changes nothing returns an alias, whose gradient torch 2.11 loses."""
    return value if value.dtype == dtype else value.to(dtype)


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


def candidate_loss(backend: str, tensors, options, gradient: bool):
    """The op; options: similarity, objective, smoothing, memory. It reads the device's ids, which are checked."""
    *formula, memory = options
    return ops.of(backend).candidate_loss(*tensors, *formula, gradient, memory, True)


def scaled(gradients, g: Tensor) -> list[Tensor]:
    """Gradients that nobody else has, times dL/dloss: in their own memory, as a table's may be large."""
    if torch._C._are_functorch_transforms_active():
        return [one * g for one in gradients]
    return [one.mul_(g) for one in gradients]


def wants_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(one.requires_grad for one in tensors)


def column(triples, place: int) -> Tensor:
    return triples[:, place].contiguous()


def relation_gradient(relations, triples, d_relation, sparse, backend):
    query, table, ids, coefficients = no_pairs(relations)
    return rows_gradient(query, table, ids, coefficients, column(triples, 1), d_relation, 0, sparse, backend)


def apply(function: type[Function], *arguments: Any) -> Any:
    """function.apply(*arguments), without torch's binding of names and defaults, which takes longer than a small loss.

    Where torch traces or transforms it must see the call itself; but of a traced call that needs no gradient the
    forward alone, as torch would hand it a context.
    """
    tracing = torch.compiler.is_compiling()
    if tracing and not wants_gradient(*(one for one in arguments if isinstance(one, Tensor))):
        return function.forward(*arguments)
    if tracing or torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(Function, function).apply(*arguments)  # type: ignore[misc]


class Widened(Function):
    """A table of 16 bits in float32; its gradient, a sparse one too, comes back in the table's dtype."""

    @staticmethod
    def forward(table):
        return table.float()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx, g):
        return g.to(ctx.dtype)


def as_read(backend: str, *tables: Tensor) -> tuple[Tensor, ...]:
    """Tables as a backend reads them. On a CPU there are no kernels of 16 bits (but Triton's in its interpreter), so
    such tables are copied to float32."""
    if backend in ("triton", "cuda"):
        return tables
    return tuple(apply(Widened, one) if one.dtype in HALF and one.device.type == "cpu" else one for one in tables)


class Queries(Function):
    """(entities, relations) -> queries [B, D]."""

    @staticmethod
    def forward(entities, relations, triples, score, side, sparse, backend):
        return ops.of(backend).queries(entities, relations, triples, score, side)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, score, side, sparse, backend = inputs
        ctx.save_for_backward(*tensors)
        ctx.options = score, side, sparse, backend

    @staticmethod
    @first_order_only
    def backward(ctx, d_query):
        entities, relations, triples = ctx.saved_tensors
        score, side, sparse, backend = ctx.options
        d_anchor, d_relation = ops.of(backend).queries_adjoint(
            d_query.contiguous(), entities, relations, triples, score, side
        )
        anchors = column(triples, Side(side).anchor)
        query, table, ids, coefficients = no_pairs(entities)
        return (
            rows_gradient(query, table, ids, coefficients, anchors, d_anchor, 0, sparse, backend),
            relation_gradient(relations, triples, d_relation, sparse, backend),
            *[None] * 5,
        )


class PairScores(Function):
    """(query [B, D], table [C, D]) -> scores [B, K] of the rows `ids` [B, K]; for tables of 16 bits also as summed."""

    @staticmethod
    def forward(query, table, ids, similarity, sparse, backend):
        scores = ops.of(backend).pair_scores(query, table, ids, similarity)
        return (scores,) if scores.dtype == query.dtype else (scores.to(query.dtype), scores)

    @staticmethod
    def setup_context(ctx, inputs, output):
        query, table, ids, *ctx.options = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(query, table, ids, output[-1])

    @staticmethod
    @first_order_only
    def backward(ctx, g, *_):
        query, table, ids, scores = ctx.saved_tensors
        similarity, sparse, backend = ctx.options
        coefficients, d_query = ops.of(backend).pair_query_gradient(
            as_dtype(g, scores.dtype).resolve_neg().contiguous(), scores, query, table, ids, similarity
        )
        extra_ids, extra_rows = ids.new_empty((0,)), table.new_empty((0, table.shape[1]))
        d_table = rows_gradient(query, table, ids, coefficients, extra_ids, extra_rows, similarity, sparse, backend)
        return d_query, d_table, *[None] * 4


class AllScores(Function):
    """(query [B, D], table [C, D]) -> scores [B, C]."""

    @staticmethod
    def forward(query, table, similarity, backend):
        return ops.of(backend).all_scores(query, table, similarity)

    @staticmethod
    def setup_context(ctx, inputs, output):
        query, table, *ctx.options = inputs
        ctx.save_for_backward(query, table, output)

    @staticmethod
    @first_order_only
    def backward(ctx, g):
        query, table, scores = ctx.saved_tensors
        similarity, backend = ctx.options
        return (
            *ops.of(backend).all_scores_gradient(g.resolve_neg().contiguous(), scores, query, table, similarity),
            None,
            None,
        )


class SampledLoss(Function):
    """(entities, relations) -> weighted mean loss of the triples of one side against sampled negatives.

    gradient: whether one will be asked for. checked: the ids of the negatives are known to be right.
    """

    @staticmethod
    def forward(
        entities, relations, triples, negatives, starts, ends, known, weights, score, side, options, gradient, checked,
        sparse, backend,
    ):  # fmt: skip
        own = ops.of(backend)
        query = own.queries(entities, relations, triples, score, side)
        losses, *left = own.sampled_loss(
            query, entities, column(triples, Side(side).answer), negatives, starts, ends, known, weights, *options,
            gradient, not checked,
        )  # fmt: skip
        return as_dtype(total(losses), entities.dtype), query, *left

    @staticmethod
    def setup_context(ctx, inputs, output):
        entities, relations, triples, negatives, *_ = inputs
        score, side, options, _, _, sparse, backend = inputs[8:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(entities, relations, triples, negatives, *output[1:])
        ctx.options = score, side, options[0], sparse, backend

    @staticmethod
    @first_order_only
    def backward(ctx, g, *_):
        return *sampled_gradients(g, ctx.saved_tensors, ctx.options), *[None] * 13


def sampled_gradients(g, tensors, options):
    """Gradients of (entities, relations) from what a loss over sampled negatives left, times dL/dloss."""
    entities, relations, triples, negatives, query, d_query, ids, coefficients, d_negatives = tensors
    score, side, similarity, sparse, backend = options
    anchors = column(triples, Side(side).anchor)
    d_anchor, d_relation = ops.of(backend).queries_adjoint(d_query * g, entities, relations, triples, score, side)
    extra_ids, extra_rows = anchors, d_anchor
    if negatives.shape[0] != triples.shape[0]:  # shared lists; a masked id has gradient 0, row 0 stands in for it
        extra_ids = torch.cat([anchors, negatives.clamp(min=0).flatten()])
        extra_rows = torch.cat([d_anchor, d_negatives.view(-1, entities.shape[1]) * g])
    pairs = query, entities, ids, coefficients * g
    d_entities = rows_gradient(*pairs, extra_ids, extra_rows, similarity, sparse, backend)
    return d_entities, relation_gradient(relations, triples, d_relation, sparse, backend)


class SampledLosses(Function):
    """(entities, relations) -> losses [B], weighted; arguments as of SampledLoss. The gradient needs dL/dloss per row,
    and lists that rows share keep no row apart: the loss is made again, with weights that have it."""

    @staticmethod
    def forward(
        entities, relations, triples, negatives, starts, ends, known, weights, score, side, options, checked, sparse,
        backend,
    ):  # fmt: skip
        own = ops.of(backend)
        query = own.queries(entities, relations, triples, score, side)
        lists = negatives, starts, ends, known, weights
        losses = own.sampled_loss(
            query, entities, column(triples, Side(side).answer), *lists, *options, False, not checked
        )[0]
        return as_dtype(losses, entities.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:8])
        score, side, options, _, sparse, backend = inputs[8:]
        ctx.options = score, side, options, sparse, backend

    @staticmethod
    @first_order_only
    def backward(ctx, g):
        *tensors, weights = ctx.saved_tensors
        score, side, options, sparse, backend = ctx.options
        again = *tensors, weights * g, score, side, options, True, True, sparse, backend
        left = *tensors[:4], *SampledLoss.forward(*again)[1:]
        found = sampled_gradients(g.new_ones(()), left, (score, side, options[0], sparse, backend))
        return *found, *[None] * 12


class CandidateLoss(Function):
    """(query, table, bias) -> weighted mean loss of the answers against all rows; gradients are made going forward.

    lists: the CSR of the answers, the weights, the CSR of known rows (empty for none). Gradients are handed out once,
    as they are: a large table costs a pass. Who goes backward again has them made again.
    """

    @staticmethod
    def forward(query, table, bias, options, gradient, backend, *lists):
        losses, *gradients = candidate_loss(backend, (query, table, bias, *lists), options, gradient)
        return as_dtype(total(losses), query.dtype), *gradients

    @staticmethod
    def setup_context(ctx, inputs, output):
        query, table, bias, options, _, backend, *lists = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        if torch.compiler.is_compiling():  # a compiled graph goes backward once
            ctx.save_for_backward(*output[1:])
            return
        ctx.save_for_backward(query, table, bias, *lists)
        ctx.gradients, ctx.options = output[1:], (options, backend)

    @staticmethod
    @first_order_only
    def backward(ctx, g, *_):
        inputs = ctx.saved_tensors
        nothing = [None] * (len(ctx.needs_input_grad) - 3)
        if torch.compiler.is_compiling():
            return *(gradient * g for gradient in inputs), *nothing
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            options, backend = ctx.options
            gradients = candidate_loss(backend, inputs, options, True)[1:]
        if g.device.type != "cpu" or float(g) != 1:
            gradients = scaled(gradients, g)
        return *gradients, *nothing


class CandidateLosses(Function):
    """(query, table, bias) -> losses [B], weighted; the gradient needs dL/dloss per row, so scores are made again."""

    @staticmethod
    def forward(query, table, bias, options, backend, *lists):
        losses = candidate_loss(backend, (query, table, bias, *lists), options, False)[0]
        return as_dtype(losses, query.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        query, table, bias, options, backend, *lists = inputs
        ctx.save_for_backward(query, table, bias, *lists)
        ctx.options = options, backend

    @staticmethod
    @first_order_only
    def backward(ctx, g):
        query, table, bias, starts, ends, answers, weights, *known = ctx.saved_tensors
        options, backend = ctx.options
        lists = starts, ends, answers, weights * g, *known
        gradients = candidate_loss(backend, (query, table, bias, *lists), options, True)[1:]
        return *gradients, *[None] * (len(ctx.needs_input_grad) - 3)
