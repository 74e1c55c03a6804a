"""The compiled CPU kernels: addresses and sizes of tensors go to kgfast._C."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kgfast.backends.base import Backend
from kgfast.backends.operands import Allocate, Constants, Ranges, RowUpdate, Sampled, Workspace
from kgfast.core import checks
from kgfast.errors import KgfastError
from kgfast.registry import Memory, Regularizer, Score, Side, Update

# The module shares torch's OpenMP runtime, so torch must come first.
from kgfast import _C  # isort: skip

DTYPES = {torch.float32: 0, torch.float64: 1}
SCORES = {name: code for code, (name, _, _) in enumerate(_C.scores())}  # as compiled


class Pairs(NamedTuple):
    """The pairs of a step and all its row ids in ascending order: entries (id << 32 | position), of unique row u from
    starts[u] on. Positions count the pairs first, then the extra rows. single[position]: that pair is all that the step
    has of its row, which the loss has updated already; empty where it has not."""

    ids: Tensor
    entries: Tensor
    starts: Tensor
    unique: int
    single: Tensor

    def unique_ids(self) -> Tensor:
        return self.entries[self.starts[: self.unique]] >> 32


def threads() -> int:
    return torch.get_num_threads()


def pointer(tensor: Tensor) -> int:
    if not tensor.is_contiguous():
        raise KgfastError(f"a tensor of shape {list(tensor.shape)} and strides {tensor.stride()} must be contiguous")
    return tensor.data_ptr() if tensor.numel() else 0


def pointers(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(map(pointer, tensors))


def set_cpu_level(name: str) -> None:
    """Has the kernels run with another instruction set.

    Args:
        name: one of `kgfast.cpu_levels()`.
    """
    checks.choose("name", name, _C.cpu_levels())
    _C.set_cpu_level(name)


def compiled(score: Score) -> int:
    """The code of a score in the compiled module."""
    if score.name not in SCORES:
        raise KgfastError(
            f"score {score.name!r} is not in the compiled module: its operator {score.operator!r} belongs into "
            "csrc/include/kgfast/scores.h, then build again"
        )
    return SCORES[score.name]


def arguments(update: RowUpdate) -> tuple:
    """A row update as the kernels take it."""
    states = [*pointers(*update.states), 0, 0][:2]
    constants = update.constants
    return (update.rule, pointer(update.rows), *states, constants.lr, constants.eps, constants.beta1, constants.beta2,
            constants.adam_rate)  # fmt: skip


def pair_ids(targets: Tensor, negatives: Tensor, out: Tensor) -> Tensor:
    """[B, 1 + N]: each row's target, then its negatives; the target again in place of a masked one (-1)."""
    _C.pair_ids(*pointers(targets, negatives), *negatives.shape, threads(), pointer(out))
    return out


def order_rows(ids: Tensor, extra_ids, rows: int, allocate: Allocate, single: bool = False) -> Pairs:
    """The order of the ids of pairs (any shape) and of extra rows ([M] each), all below `rows`."""
    sources = [ids, *extra_ids]
    count = sum(source.numel() for source in sources)
    entries = allocate("order_entries", (count,), torch.int64)
    starts = allocate("order_starts", (count + 1,), torch.int64)
    flags = allocate("order_single", (ids.numel() if single else 0,), torch.uint8)
    addresses = [(pointer(source), source.numel()) for source in sources]
    unique = _C.order_rows(addresses, rows, threads(), *pointers(entries, starts, flags))
    return Pairs(ids, entries, starts, unique, flags)


class CpuBackend(Backend):
    """Kernels in C++ with the widest vectors that the processor has."""

    name = "cpu"
    # the most that a loss over all candidates keeps of scores, and of gradients to be summed
    workspace_bytes = 20 << 20

    def why_not(self, device: str | None) -> str | None:
        return None if device in (None, "cpu") else f"it needs tensors on the CPU, not on {device}"

    def workspace(self, device: torch.device) -> Workspace:
        return Workspace("cpu")

    def bf16_reason(self) -> str | None:
        supported = _C.bf16_supported()
        return None if supported else f"it needs AVX-512 BF16, which CPU level {_C.cpu_level()!r} here lacks"

    def use_huge_pages(self, tensor: Tensor) -> bool:
        return _C.use_huge_pages(pointer(tensor), tensor.numel() * tensor.element_size())

    def check_table(self, name: str, table: Tensor) -> None:
        if table.dtype not in DTYPES:
            raise KgfastError(f"{name} has dtype {table.dtype}; impl='cpu' takes float32 and float64")

    def assert_triples(self, triples: Tensor, entities: int, relations: int, inverse: int) -> Tensor:
        checks.triple_range(triples, entities, relations)
        head, relation, tail = triples.unbind(1)
        return torch.stack([head, tail, head, relation, relation + inverse])

    def assert_weights(self, weights: Tensor, count: int, like: torch.dtype) -> Tensor:
        return checks.weights(weights, count, like)

    def assert_answers(self, starts, ends, ids, targets):
        return self.answers(starts, ends, ids, targets)

    def _queries(self, entities, relations, triples, score: Score, side: Side, out) -> None:
        _C.queries(DTYPES[entities.dtype], compiled(score), side, *pointers(entities, relations, triples),
                   len(triples), entities.shape[1], relations.shape[1], threads(), pointer(out))  # fmt: skip

    def _queries_adjoint(self, d_query, entities, relations, triples, score: Score, side: Side, d_anchor, d_relation):
        _C.queries_adjoint(DTYPES[entities.dtype], compiled(score), side, *pointers(entities, relations, triples),
                           len(triples), entities.shape[1], relations.shape[1], threads(),
                           *pointers(d_query, d_anchor, d_relation))  # fmt: skip

    def _pair_scores(self, query, table, ids, similarity: int, scores) -> None:
        _C.pair_scores(DTYPES[query.dtype], similarity, *pointers(query, table, ids), *ids.shape, table.shape[1],
                       threads(), pointer(scores))  # fmt: skip

    def _pair_query_gradient(self, g, scores, query, table, ids, similarity: int, coefficients, d_query) -> None:
        _C.pair_query_gradient(DTYPES[query.dtype], similarity, *pointers(query, table, ids, scores, g), *ids.shape,
                               table.shape[1], threads(), *pointers(coefficients, d_query))  # fmt: skip

    def all_scores(self, query, table, similarity: int) -> Tensor:
        scores = torch.empty((len(query), len(table)), dtype=query.dtype)
        _C.all_scores(DTYPES[query.dtype], similarity, *pointers(query, table), len(query), *table.shape, threads(),
                      pointer(scores))  # fmt: skip
        return scores

    def all_scores_gradient(self, g, scores, query, table, similarity: int) -> tuple[Tensor, Tensor]:
        d_query, d_table = torch.zeros_like(query), torch.zeros_like(table)
        _C.all_scores_gradient(DTYPES[query.dtype], similarity, *pointers(query, table, scores, g), len(query),
                               *table.shape, threads(), *pointers(d_query, d_table))  # fmt: skip
        return d_query, d_table

    def _sampled_loss(self, inputs, options, out: Sampled, allocate: Allocate, extra_ids, update):
        """Where rows rarely have a second pair, those with one are updated at once, while they are in the cache."""
        query, table, targets, negatives, *_ = inputs
        similarity, objective, margin, temperature, gradient = options
        own, ids = len(negatives) == len(query), out.pairs
        pairs, single, update_now = ids, 0, None
        if own:
            pair_ids(targets, negatives, ids)
        else:
            ids.copy_(targets[:, None])
        if extra_ids is not None and own:
            pairs = order_rows(ids, extra_ids, len(table), allocate, single=ids.numel() < len(table))
            single, update_now = pointer(pairs.single), arguments(update)
        _C.sampled_loss(DTYPES[query.dtype], similarity, objective, margin, temperature, *pointers(*inputs), len(query),
                        *negatives.shape, query.shape[1], threads(), pointer(ids), single, update_now,
                        pointer(out.losses), pointer(out.d_query) if gradient else 0,
                        *pointers(out.coefficients, out.d_negatives))  # fmt: skip
        return pairs

    def _candidate_loss(
        self, inputs, options, known: Ranges | None, allocate: Allocate | None, *, bf16: bool, memory: Memory,
        wait: bool,
    ):  # fmt: skip
        query, table, bias, starts, ends, answers, weights = inputs
        similarity, objective, smoothing, gradient = options
        self.check_table("table", table)
        if allocate is None:  # a step has no rows of weight 0
            counted = weights.nonzero()[:, 0]
            if len(counted) < len(query):
                return self._counted_loss(counted, inputs, options, known, bf16=bf16, memory=memory, wait=wait)
        allocate, rows = self.allocator(allocate, query), len(query) if gradient else 0
        losses = allocate("losses", (len(query),), query.dtype)
        d_query = allocate("d_query", (rows, query.shape[1]), query.dtype).zero_()
        d_table = allocate("d_table", (len(table) if gradient else 0, table.shape[1]), query.dtype).zero_()
        d_bias = allocate("d_bias", (len(bias) if gradient else 0,), query.dtype).zero_()
        _C.candidate_loss(DTYPES[query.dtype], similarity, objective, smoothing, *pointers(*inputs), len(query),
                          *table.shape, self.workspace_bytes, threads(), bf16,
                          *pointers(losses, d_query, d_table, d_bias),
                          *(pointers(*known) if known else (0, 0, 0)))  # fmt: skip
        return losses, d_query, d_table, d_bias

    def _counted_loss(self, counted, inputs, options, known: Ranges | None, **how):
        """The loss of the rows that count, in the place of all."""
        query, table, bias, starts, ends, answers, weights = inputs
        some = (query[counted], table, bias, starts[counted], ends[counted], answers, weights[counted])
        known = (known[0][counted], known[1][counted], known[2]) if known else None
        losses, d_query, *rest = self._candidate_loss(some, options, known, self.allocator(None, query), **how)
        gradient = options[-1]
        every = query.new_zeros(query.shape if gradient else (0, query.shape[1]))
        if gradient:
            every.index_copy_(0, counted, d_query)
        return query.new_zeros(len(query)).index_copy_(0, counted, losses), every, *rest

    def answers(self, starts, ends, ids, targets):
        low, high = starts.clone(), ends.clone()  # binary search for the target among its query's answers
        last = max(len(ids) - 1, 0)
        padded = ids if len(ids) else targets.new_zeros(1)
        for _ in range(len(ids).bit_length()):
            middle = (low + high) // 2
            smaller = (low < high) & (padded[middle.clamp(max=last)] < targets)
            low, high = torch.where(smaller, middle + 1, low), torch.where(smaller, high, torch.minimum(high, middle))
        if bool(((low < ends) & (padded[low.clamp(max=last)] == targets)).all()):
            return starts, ends, ids
        lists = [ids[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        lists = [torch.unique(torch.cat([one, target[None]])) for one, target in zip(lists, targets, strict=True)]
        stops = torch.tensor([0, *map(len, lists)]).cumsum(0)
        return stops[:-1].clone(), stops[1:].clone(), torch.cat(lists)

    def _row_update(self, rule: Update, rows: Tensor, states: tuple, constants: Constants, last) -> RowUpdate:
        return RowUpdate(rule, rows, states, constants)

    def reduce_rows(self, query, table, pairs, coefficients, extras, similarity: int, update, *, allocate=None) -> None:
        if not isinstance(pairs, Pairs):
            allocate = self.allocator(allocate, table)
            pairs = order_rows(pairs, [ids for ids, _ in extras], len(table), allocate)
        _C.reduce_rows(DTYPES[table.dtype], similarity, *pointers(query, table, coefficients), *pairs.ids.shape,
                       table.shape[1], [(pointer(rows), len(rows)) for _, rows in extras], threads(),
                       (*pointers(pairs.entries, pairs.starts), pairs.unique), pointer(pairs.single),
                       arguments(update))  # fmt: skip

    def table_gradient_rows(self, query, table, ids, coefficients, extra_ids, extra_rows, similarity: int):
        pairs = order_rows(ids, [extra_ids], len(table), self.allocator(None, table))
        rows = table.new_zeros((pairs.unique, table.shape[1]))
        update = self.row_update(Update.SPARSE, rows)
        self.reduce_rows(query, table, pairs, coefficients, [(extra_ids, extra_rows)], similarity, update)
        return pairs.unique_ids(), rows

    def update_all_rows(self, gradients, update: RowUpdate) -> None:
        _C.update_all_rows(DTYPES[gradients.dtype], *gradients.shape, pointer(gradients), arguments(update), threads())

    def _add_regularizer(self, kind: Regularizer, parts: int, weight: float, table, ids, gradients) -> None:
        _C.regularizer(DTYPES[table.dtype], kind, parts, weight, *pointers(table, ids), len(ids), table.shape[1],
                       threads(), pointer(gradients))  # fmt: skip

    def _sample_negatives(self, ids, entities, side, seed, step, weights, starts, ends, known) -> None:
        _C.sample(seed % 2**64, step % 2**64, side, *ids.shape, entities,
                  *pointers(weights, starts, ends, known), threads(), pointer(ids))  # fmt: skip

    def dropout_mask(self, shape, rate: float, seed: int, index: int, dtype, device) -> Tensor:
        generator = torch.Generator().manual_seed((seed * 0x9E3779B1 + index) % 2**63)
        return torch.empty(shape, dtype=dtype).bernoulli_(1 - rate, generator=generator).div_(1 - rate)

    def _rank(self, query, table, targets, starts, ends, known, similarity: int):
        greater, equal = torch.empty_like(targets), torch.empty_like(targets)
        scores = torch.empty((len(query),), dtype=query.dtype)
        _C.rank(DTYPES[query.dtype], similarity, *pointers(query, table, targets, starts, ends, known), len(query),
                *table.shape, threads(), *pointers(greater, equal, scores))  # fmt: skip
        return greater, equal, scores

    def _topk(self, query, table, starts, ends, excluded, k: int, similarity: int):
        scores = torch.empty((len(query), k), dtype=query.dtype)
        ids = torch.empty((len(query), k), dtype=torch.int64)
        _C.topk(DTYPES[query.dtype], similarity, *pointers(query, table, starts, ends, excluded), len(query),
                *table.shape, k, threads(), *pointers(scores, ids))  # fmt: skip
        return scores, ids
