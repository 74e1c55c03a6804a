"""The Triton kernels behind the functions of `cpu.py`: GPUs, and with TRITON_INTERPRET=1 the CPU, for checks.

Public ops check their ids with one wait for the device. Steps don't wait (`check=False` and the assert_ functions):
there a bad id is a device-side assertion. Sums, gradients and coefficients are float32 for tables of 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kgfast.backends.cpu import (
    REGULARIZERS,
    SCORES,
    UPDATES,
    Workspace,
    check_csr,
    check_ids,
    check_scores,
    check_triples,
    total,
)
from kgfast.core import checks
from kgfast.core.csr import as_csr
from kgfast.errors import KgfastError
from kgfast.kernels.triton import all_scores as scan
from kgfast.kernels.triton import candidates, multitask, pairs, ranking, rows, sampled, sampling, shared, updates
from kgfast.kernels.triton import queries as operators
from kgfast.kernels.triton.configurations import sum_dtype

__all__ = ["Workspace", "total"]  # and the functions below
OPERATORS = {code: operator for code, operator, _ in SCORES.values()}
ROUNDED = (torch.bfloat16,)  # tables of 16 bits that can be trained: rounded stochastically


def fresh(device):
    """allocate(name, shape, dtype) of new memory."""
    return lambda name, shape, dtype: torch.empty(shape, dtype=dtype, device=device)


def bf16_reason() -> str:
    """Why steps take no bf16=True here."""
    return "on a GPU the tables' own dtype says it: make the model with dtype=torch.bfloat16"


def use_huge_pages(tensor: Tensor) -> bool:
    """Nothing to do: the device's pages are large."""
    return False


# ---- what steps check without waiting ------------------------------------------------------------------------


def assert_triples(triples: Tensor, entities: int, relations: int) -> None:
    head, relation, tail = triples.unbind(1)
    inside = (triples >= 0).all() & (torch.maximum(head, tail) < entities).all() & (relation < relations).all()
    torch._assert_async(inside, f"triples: an id is outside of {entities} entities and {relations} relations")


def assert_weights(weights: Tensor, count: int) -> Tensor:
    if not isinstance(weights, Tensor) or weights.shape != (count,):
        raise KgfastError(f"weights must be a tensor with one for each of {count} triples")
    torch._assert_async(((weights >= 0) & weights.isfinite()).all(), "weights must be finite numbers of at least 0")
    return weights


def assert_answers(starts, ends, ids, targets):
    """The known answers of a step's queries, which must hold the targets: a graph's own training triples do."""
    held = sampling.held(starts, ends, ids, targets)
    torch._assert_async(held.all(), "answers: a triple of the batch is not among the known answers")
    return starts, ends, ids


# ---- queries and pairs ---------------------------------------------------------------------------------------


def queries(entities, relations, triples, score: int, side: int, allocate=None, check=True):
    if check:
        check_triples(triples, len(entities), len(relations))
    out = (allocate or fresh(entities.device))("query", (len(triples), entities.shape[1]), entities.dtype)
    operators.make_queries(entities, relations, triples, OPERATORS[score], side, out)
    return out


def queries_adjoint(d_query, entities, relations, triples, score: int, side: int, allocate=None):
    allocate, wide = allocate or fresh(entities.device), sum_dtype(entities.dtype)
    d_anchor = allocate("d_anchor", (len(triples), entities.shape[1]), wide)
    d_relation = allocate("d_relation", (len(triples), relations.shape[1]), wide)
    operators.adjoint(d_query, entities, relations, triples, OPERATORS[score], side, d_anchor, d_relation)
    return d_anchor, d_relation


def pair_scores(query, table, ids, similarity: int):
    check_ids("candidates", ids, len(table))
    scores = query.new_empty(ids.shape, dtype=sum_dtype(table.dtype))
    pairs.score(query, table, ids, similarity, scores)
    return scores


def pair_query_gradient(g, scores, query, table, ids, similarity: int):
    coefficients, d_query = torch.empty_like(scores), query.new_zeros(query.shape, dtype=scores.dtype)
    pairs.query_gradient(g, scores, query, table, ids, similarity, coefficients, d_query)
    return coefficients, d_query


# ---- sampled negatives ---------------------------------------------------------------------------------------


def sample_negatives(lists: int, count: int, entities: int, side: int, seed: int, step, thresholds, aliases, starts,
                     ends, known, allocate=None, check=True):  # fmt: skip
    """step: a number, or an int64 tensor [1] on the device."""
    if check:
        check_csr("known", starts, ends, known, entities)
    ids = (allocate or fresh(known.device))("negatives", (lists, count), torch.int64)
    sampling.sample(ids, seed, step, entities, side, thresholds, aliases, starts, ends, known)
    return ids


def dropout_mask(shape, rate: float, seed: int, index, dtype, device) -> Tensor:
    """0, or 1 / (1 - rate), of step `index` (a number, or where the device reads it); other ones than the CPU draws."""
    out = torch.empty(shape, dtype=dtype, device=device)
    sampling.dropout_mask(out, rate, seed, index)
    return out


def sampled_loss(query, table, targets, negatives, starts, ends, known, weights, similarity: int, objective: int,
                 margin: float, temperature: float, gradient: bool, allocate=None, check=True, ready=None,
                 into=None):  # fmt: skip
    """As `cpu.sampled_loss`; shared lists keep [B, N] scores. `ready` and `into` say what the row pass will get: here
    it sorts by itself."""
    allocate, wide = allocate or fresh(query.device), sum_dtype(table.dtype)
    (batch, dim), (groups, count) = query.shape, negatives.shape
    if check:
        check_ids("negatives", negatives, len(table), lowest=-1)
        check_csr("known", starts, ends, known, len(table))
    own = groups == batch
    width = 1 + count if own else 1
    losses = allocate("losses", (batch,), wide)
    ids = allocate("ids", (batch, width), torch.int64)
    coefficients = allocate("coefficients", (batch, width), wide)
    d_query = allocate("d_query", (batch if gradient else 0, dim), wide)
    lists = (groups, count) if gradient and not own else (0, 0)
    d_negatives = allocate("d_negatives", (*lists, dim), wide)
    inputs = (query, table, targets, negatives, starts, ends, known, weights)
    options = (similarity, objective, margin, temperature)
    if own:
        reason = sampled.check_dim(dim)
        if reason:
            raise KgfastError(reason)
        tops, shares = allocate("tops", (2, batch), wide), allocate("row_shares", (batch,), wide)
        sampled.loss(*inputs, *options, losses, d_query, ids, coefficients, tops, shares)
    else:
        if table.dtype == torch.float16:
            raise KgfastError("shared negatives: tables of float16 lack the range of the coefficients; use bfloat16")
        ids.copy_(targets[:, None])
        shared.loss(*inputs, *options, losses, d_query, coefficients, d_negatives, allocate)
    return losses, d_query, ids, coefficients, d_negatives


# ---- all candidates ------------------------------------------------------------------------------------------

all_scores, all_scores_gradient = scan.all_scores, scan.all_scores_gradient


def candidate_loss(query, table, bias, starts, ends, answers, weights, similarity: int, objective: int,
                   smoothing: float, gradient: bool, allocate=None, check=True):  # fmt: skip
    if check:
        check_csr("targets", starts, ends, answers, len(table))
    inputs = (query, table, bias, starts, ends, answers, weights)
    return candidates.candidate_loss(*inputs, similarity, objective, smoothing, gradient, allocate)


def task_losses(tasks):
    """Losses [T] of several tasks in shared launches, and what `task_gradients` needs; a task is the arguments of
    `candidate_loss` up to the weights, objective and smoothing, for dot products, all of one dtype."""
    for place, (_, table, _, starts, ends, answers, *_) in enumerate(tasks):
        check_csr(f"tasks[{place}].targets", starts, ends, answers, len(table))
    return multitask.task_losses([multitask.Task(*task) for task in tasks])


task_gradients = multitask.task_gradients


def answers(starts, ends, ids, targets):
    """CSR of the known answers of each query and its target: (starts, ends, ids), ids ascending within a query."""
    held = sampling.held(starts, ends, ids, targets)
    if bool(held.all()):
        return starts, ends, ids
    lengths = ends - starts
    places = torch.arange(len(targets), device=ids.device)
    queries = torch.repeat_interleave(places, lengths)
    keys = torch.cat([queries << 32 | as_csr(starts, ends, ids)[1], (places << 32 | targets)[~held]]).sort()[0]
    stops = (lengths + (~held).long()).cumsum(0)
    return stops - (lengths + (~held).long()), stops, keys & 0xFFFFFFFF


def rank(query, table, targets, starts, ends, known, similarity: int):
    check_ids("targets", targets, len(table))
    check_csr("known", starts, ends, known, len(table))
    greater, equal, scores = ranking.rank(query, table, targets, starts, ends, known, similarity)
    check_scores(scores)
    return greater, equal, scores


def topk(query, table, starts, ends, excluded, k: int, similarity: int):
    check_csr("exclude", starts, ends, excluded, len(table))
    scores, ids = ranking.topk(query, table, starts, ends, excluded, k, similarity)
    check_scores(scores)
    return scores, ids


# ---- rows ----------------------------------------------------------------------------------------------------


@dataclass
class Sink:
    """Where rows' gradients go. The constants lie on the device; only those that change are written."""

    update: int
    rows: Tensor
    state1: Tensor
    state2: Tensor
    constants: Tensor  # float64, in the order of updates.CONSTANTS
    written: list

    def address(self):
        """What a captured graph holds on to."""
        return self.update, *(one.data_ptr() for one in (self.rows, self.state1, self.state2, self.constants))

    def arguments(self):
        return self.update, self.rows, self.state1, self.state2, self.constants

    def holds(self, update: int, tensors) -> bool:
        own = self.rows, self.state1, self.state2
        return self.update == update and all(a.data_ptr() == b.data_ptr() for a, b in zip(own, tensors, strict=True))

    def write(self, values) -> None:
        for place, (value, before) in enumerate(zip(values, self.written, strict=True)):
            if value != before:
                self.constants[place].fill_(value)
                self.written[place] = value


def sink(update: str, rows: Tensor, state1=None, state2=None, lr=0.0, eps=0.0, beta1=0.0, beta2=0.0, step=0, last=None):
    """last: what this returned for the step before; its memory is used again."""
    optimizes = update not in ("dense", "sparse")
    if optimizes and rows.dtype in checks.HALF and rows.dtype not in ROUNDED:
        raise KgfastError(f"a table of {rows.dtype} can't be trained: use bfloat16 (rounded stochastically) or float32")
    tensors = [rows, *(rows if state is None else state for state in (state1, state2))]
    if last is None or not last.holds(UPDATES[update], tensors):
        constants = torch.zeros(len(updates.CONSTANTS), dtype=torch.float64, device=rows.device)
        last = Sink(UPDATES[update], *tensors, constants, [0.0] * len(updates.CONSTANTS))
    rate = lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step) if update == "adam" else 0.0
    # the count of steps is needed where rounding draws random bits
    last.write([lr, eps, beta1, beta2, rate, float(step) if rows.dtype in ROUNDED and optimizes else 0.0])
    return last


def reduce_rows(query, table, ids, coefficients, extras, similarity: int, into: Sink, allocate=None) -> None:
    """The pass over touched rows; `extras` are (ids [M], rows [M, D]); `into` is a sink."""
    rows.reduce_rows(query, table, ids, coefficients, extras, similarity, *into.arguments(),
                     allocate or fresh(table.device))  # fmt: skip


def table_gradient(query, table, ids, coefficients, extra_ids, extra_rows, similarity: int):
    d_table = torch.zeros_like(table)
    extras = [(extra_ids, extra_rows)]
    reduce_rows(query, table, ids, coefficients, extras, similarity, sink("dense", d_table))
    return d_table


def table_gradient_rows(query, table, ids, coefficients, extra_ids, extra_rows, similarity: int):
    """(unique ids, their gradient rows): as many as there are, so this waits for the device."""
    if ids.numel() + len(extra_ids) == 0:
        return ids.new_empty((0,)), table.new_empty((0, table.shape[1]))
    order = rows.sort([ids, extra_ids])
    unique, ranks = torch.unique_consecutive(order[0], return_inverse=True)
    out = table.new_zeros((len(unique), table.shape[1]))
    into = sink("sparse", out).arguments()
    extras = [(extra_ids, extra_rows)]
    rows.reduce_rows(query, table, ids, coefficients, extras, similarity, *into, fresh(table.device), order, ranks)
    return unique.long(), out


def update_all_rows(gradients, into: Sink) -> None:
    updates.update_all_rows(gradients, *into.arguments())


def add_regularizer(kind, parts: int, weight: float, table, ids, gradients) -> None:
    updates.add_regularizer(REGULARIZERS[kind] == REGULARIZERS["n3"], parts, weight, table, ids, gradients)
