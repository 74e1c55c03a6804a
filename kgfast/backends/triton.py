"""The Triton kernels: GPUs, and with TRITON_INTERPRET=1 the CPU, for checks.

Public ops check their ids with one wait for the device. Steps don't wait (`check=False` and the assert_ methods): there
a bad id is a device-side assertion. Sums, gradients and coefficients are float32 for tables of 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from kgfast.backends.base import Backend
from kgfast.backends.cpu import _C
from kgfast.backends.devices import aligned, on_one_device
from kgfast.backends.operands import Allocate, Constants, DeviceRowUpdate, Ranges, RowPass, RowUpdate, Sampled
from kgfast.backends.order import Order, Sort, launch, order_tables, sort_by_cub, sort_by_torch
from kgfast.core import checks
from kgfast.core.csr import as_csr
from kgfast.core.environment import TRITON_INTERPRETED
from kgfast.core.sums import HALF
from kgfast.errors import KgfastError
from kgfast.kernels.triton import (
    all_scores,
    batches,
    candidates,
    multitask,
    pairs,
    products,
    ranking,
    rows,
    sampled,
    sampling,
    shared,
)
from kgfast.kernels.triton import queries as operators
from kgfast.kernels.triton import updates as rules
from kgfast.kernels.triton.scores import Operator
from kgfast.registry import Memory, Objective, Regularizer, Score, Side, Similarity, Update

OVER_CANDIDATES = (Objective.SOFTMAX, Objective.BCE)  # what candidate_tiles.py has
ROUNDED = (torch.bfloat16,)  # tables of 16 bits that can be trained: rounded stochastically


@on_one_device
class TritonBackend(Backend):
    """Kernels in Triton."""

    name = "triton"
    shares_launches = True

    def why_not(self, device: str | None) -> str | None:
        return None if device == "cuda" or (TRITON_INTERPRETED and device in (None, "cpu")) else missing_gpu(device)

    # ---- what steps check without waiting --------------------------------------------------------------------

    def assert_triples(self, triples: Tensor, entities: int, relations: int, inverse: int) -> Tensor:
        columns, inside = batches.columns_of(triples, entities, relations, inverse)
        inside = inside if len(inside) == 1 else inside.all()
        torch._assert_async(inside, f"triples: an id is outside of {entities} entities and {relations} relations")
        return columns

    def assert_weights(self, weights: Tensor, count: int, like: torch.dtype) -> Tensor:
        if not isinstance(weights, Tensor) or weights.shape != (count,):
            raise KgfastError(f"weights must be a tensor with one for each of {count} triples")
        right = ((weights >= 0) & weights.isfinite()).all() & weights.to(like).sum().isfinite()
        torch._assert_async(right, "weights must be finite numbers of at least 0, and so must their sum")
        return weights

    def assert_answers(self, starts, ends, ids, targets):
        held = sampling.held(starts, ends, ids, targets)
        torch._assert_async(held.all(), "answers: a triple of the batch is not among the known answers")
        return starts, ends, ids

    # ---- queries, pairs, all scores --------------------------------------------------------------------------

    def _queries(self, entities, relations, triples, score: Score, side: Side, out) -> None:
        operators.make_queries(entities, relations, triples, operator_of(score), side, out)

    def _queries_adjoint(self, d_query, entities, relations, triples, score: Score, side: Side, d_anchor, d_relation):
        operators.adjoint(d_query, entities, relations, triples, operator_of(score), side, d_anchor, d_relation)

    def _pair_scores(self, query, table, ids, similarity: int, scores) -> None:
        pairs.score(query, table, ids, similarity, scores)

    def _pair_query_gradient(self, g, scores, query, table, ids, similarity: int, coefficients, d_query) -> None:
        pairs.query_gradient(g, scores, query, table, ids, similarity, coefficients, d_query)

    def all_scores(self, query, table, similarity: int) -> Tensor:
        return all_scores.all_scores(query, table, similarity)

    def all_scores_gradient(self, g, scores, query, table, similarity: int) -> tuple[Tensor, Tensor]:
        return all_scores.all_scores_gradient(g, scores, query, table, similarity)

    # ---- losses ----------------------------------------------------------------------------------------------

    def _sampled_loss(self, inputs, options, out: Sampled, allocate: Allocate, extra_ids, update):
        """Shared lists keep [B, N] scores; the row pass sorts by itself."""
        query, table, targets, negatives, *_ = inputs
        *options, _ = options
        batch, wide = len(query), out.losses.dtype
        if len(negatives) == batch:
            reason = sampled.check_dim(query.shape[1])
            if reason:
                raise KgfastError(reason)
            tops, shares = allocate("tops", (2, batch), wide), allocate("row_shares", (batch,), wide)
            sampled.loss(*inputs, *options, out.losses, out.d_query, out.pairs, out.coefficients, tops, shares)
            return out.pairs
        if table.dtype == torch.float16:
            raise KgfastError("shared negatives: tables of float16 lack the range of the coefficients; use bfloat16")
        out.pairs.copy_(targets[:, None])
        shared.loss(*inputs, *options, out.losses, out.d_query, out.coefficients, out.d_negatives, allocate)
        return out.pairs

    def _candidate_loss(
        self, inputs, options, known: Ranges | None, allocate: Allocate | None, *, bf16: bool, memory: Memory,
        wait: bool,
    ):  # fmt: skip
        """Dot products by the library's matrix products unless memory is low; float16, which lacks the range of
        dL/dscore, and distances by own tiles."""
        if options[1] not in OVER_CANDIDATES:
            word = Objective(options[1]).word
            raise KgfastError(f"objective {word!r} over all candidates is not in kernels/triton/candidate_tiles.py")
        similarity, *others = options
        if memory is Memory.FAST and similarity == Similarity.DOT and inputs[1].dtype != torch.float16:
            return products.candidate_loss(*inputs, *others, allocate, known, wait)
        return candidates.candidate_loss(*inputs, *options, allocate, known)

    def task_losses(self, tasks):
        for place, (_, table, _, starts, ends, answers, _, _, _, known) in enumerate(tasks):
            checks.csr_range(f"tasks[{place}].targets", starts, ends, answers, len(table))
            if known is not None:
                checks.csr_range(f"tasks[{place}].known", *known, len(table))
        return multitask.task_losses([multitask.Task(query, aligned(table), *rest) for query, table, *rest in tasks])

    def task_gradients(self, group, g: Tensor):
        return multitask.task_gradients(group, g)

    def answers(self, starts, ends, ids, targets):
        held = sampling.held(starts, ends, ids, targets)
        if bool(held.all()):
            return starts, ends, ids
        lengths = ends - starts
        places = torch.arange(len(targets), device=ids.device)
        queries = torch.repeat_interleave(places, lengths)
        keys = torch.cat([queries << 32 | as_csr(starts, ends, ids)[1], (places << 32 | targets)[~held]]).sort()[0]
        stops = (lengths + (~held).long()).cumsum(0)
        return stops - (lengths + (~held).long()), stops, keys & 0xFFFFFFFF

    # ---- rows ------------------------------------------------------------------------------------------------

    def _row_update(self, rule: Update, rows: Tensor, states: tuple, constants: Constants, last) -> RowUpdate:
        optimizes = rule not in (Update.DENSE, Update.SPARSE)
        if optimizes and rows.dtype in HALF and rows.dtype not in ROUNDED:
            raise KgfastError(
                f"a table of {rows.dtype} can't be trained: use bfloat16 (rounded stochastically) or float32"
            )
        # the count of steps is needed where rounding draws random bits
        counted = constants.step if rows.dtype in ROUNDED and optimizes else 0.0
        return device_row_update(rule, rows, states, constants._replace(step=counted), last)

    def reduce_rows(self, query, table, pairs, coefficients, extras, similarity: int, update, *, allocate=None) -> None:
        one = RowPass(query, table, pairs, coefficients, extras, similarity, update)
        self._reduce_sorted(one, *self._orders([one]), allocate)

    def reduce_tables(self, passes: Sequence[RowPass]) -> None:
        for one, order in zip(passes, self._orders(passes), strict=True):
            self._reduce_sorted(one, order)

    def _orders(self, passes: Sequence[RowPass]) -> list[Order]:
        sources = [[one.pairs, *(ids for ids, _ in one.extras)] for one in passes]
        return order_tables(sources, [len(one.table) for one in passes], self._sort(passes[0].table))

    def _sort(self, like: Tensor) -> Sort:
        """By cub where kgfast was built with it: the order is the same."""
        by_cub = _C.cuda.built and like.device.type == "cuda"
        return partial(sort_by_cub, launch) if by_cub else sort_by_torch

    def _reduce_sorted(self, one: RowPass, order: Order, allocate=None, ranks=None) -> None:
        rows.reduce_rows(*one[:-1], *arguments(one.update), self.allocator(allocate, one.table), *order, ranks)

    def table_gradient_rows(self, query, table, ids, coefficients, extra_ids, extra_rows, similarity: int):
        if ids.numel() + len(extra_ids) == 0:
            return ids.new_empty((0,)), table.new_empty((0, table.shape[1]))
        (order,) = order_tables([[ids, extra_ids]], [len(table)], self._sort(table))
        unique, ranks = torch.unique_consecutive(order.ids(), return_inverse=True)
        out = table.new_zeros((len(unique), table.shape[1]))
        extras = [(extra_ids, extra_rows)]
        update = self.row_update(Update.SPARSE, out)
        self._reduce_sorted(RowPass(query, table, ids, coefficients, extras, similarity, update), order, ranks=ranks)
        return unique, out

    def update_all_rows(self, gradients, update: RowUpdate) -> None:
        rules.update_all_rows(gradients, *arguments(update))

    def _add_regularizer(self, kind: Regularizer, parts: int, weight: float, table, ids, gradients) -> None:
        rules.add_regularizer(kind, parts, weight, table, ids, gradients)

    # ---- draws, ranks ----------------------------------------------------------------------------------------

    def _sample_negatives(self, ids, entities, side, seed, step, weights, starts, ends, known) -> None:
        sampling.sample(ids, seed, step, entities, side, weights, starts, ends, known)

    def dropout_mask(self, shape, rate: float, seed: int, index, dtype, device) -> Tensor:
        """Other ones than the CPU draws."""
        out = torch.empty(shape, dtype=dtype, device=device)
        sampling.dropout_mask(out, rate, seed, index)
        return out

    def _rank(self, query, table, targets, starts, ends, known, similarity: int):
        return ranking.rank(query, table, targets, starts, ends, known, similarity)

    def _topk(self, query, table, starts, ends, excluded, k: int, similarity: int):
        return ranking.topk(query, table, starts, ends, excluded, k, similarity)


def missing_gpu(device: str | None) -> str | None:
    """Why a backend of GPUs can't serve tensors on `device`."""
    if device is not None:
        return f"it needs tensors on a GPU, not on {device}"
    return None if torch.cuda.is_available() else "no CUDA device was found"


def operator_of(score: Score) -> str:
    """The operator that makes the queries of a score."""
    if score.operator is None or score.operator not in (*Operator.members, operators.RESCAL):
        raise KgfastError(
            f"score {score.name!r}: its operator {score.operator!r} is not in kernels/triton/scores.py; add it there"
        )
    return score.operator


def device_row_update(rule: Update, rows: Tensor, states: tuple, constants: Constants, last) -> DeviceRowUpdate:
    """`last` with new constants where it is of the same memory, else a new one."""
    same = isinstance(last, DeviceRowUpdate) and last.rule == rule and len(last.states) == len(states)
    if not same or any(a.data_ptr() != b.data_ptr() for a, b in zip(last.tensors(), (rows, *states), strict=True)):
        last = DeviceRowUpdate(rule, rows, states)
    last.write(constants)
    return last


def arguments(update: RowUpdate) -> tuple:
    """A row update as the kernels take it: rule, rows, two states (the rows where there is none), constants."""
    assert isinstance(update, DeviceRowUpdate)
    states = [*update.states, update.rows, update.rows][:2]
    return int(update.rule), update.rows, *states, update.on_device
