"""The compiled CPU kernels: tensors in, addresses handed to kgfast._C, new tensors out.

Ids are checked here, where compiled graphs pass too: no kernel touches memory before. Outputs are made by
`allocate(name, shape, dtype)`; training hands in a workspace so that a step allocates nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.errors import KgfastError

# The module shares torch's OpenMP runtime, so torch must come first.
from kgfast import _C  # isort: skip

DTYPES = {torch.float32: 0, torch.float64: 1}
SCORES = {name: (code, operator, similarity) for code, (name, operator, similarity) in enumerate(_C.scores())}
SIMILARITIES = ("dot", "l1", "l2", "modulus")
OBJECTIVES = ("logistic", "softmax", "bce", "margin")
SIDES = {"tail": 0, "head": 1}
UPDATES = {"dense": 0, "sparse": 1, "sgd": 2, "adagrad": 3, "row_adagrad": 4, "adam": 5}
REGULARIZERS = {None: 0, "n3": 1, "l2": 2}
WORKSPACE_BYTES = 20 << 20  # the most that a loss over all candidates keeps of scores, and of gradients to be summed


def fresh(name: str, shape, dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


class Workspace:
    """Buffers kept between steps, by name; a view of the right shape is handed out each time."""

    def __init__(self, device=None):
        self.buffers: dict[str, Tensor] = {}
        self.device = device

    def __call__(self, name: str, shape, dtype) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < count or buffer.dtype != dtype:
            buffer = self.buffers[name] = torch.empty(count, dtype=dtype, device=self.device)
        return buffer[:count].view(shape)


def check_ids(name: str, ids: Tensor, count: int, lowest: int = 0) -> None:
    """Raises unless all ids are in [lowest, count); names the argument, the value and its place."""
    if ids.numel() == 0:
        return
    low, high = torch.aminmax(ids)
    if int(low) < lowest or int(high) >= count:
        wrong = ((ids < lowest) | (ids >= count)).nonzero()[0].tolist()
        place = ", ".join(map(str, wrong))
        allowed = f"[0, {count})" + (" or -1 for a masked one" if lowest < 0 else "")
        raise KgfastError(f"{name}[{place}] is {int(ids[tuple(wrong)])}; ids must be in {allowed}")


def check_triples(triples: Tensor, entities: int, relations: int) -> None:
    for column, count, what in ((0, entities, "heads"), (1, relations, "relations"), (2, entities, "tails")):
        check_ids(f"triples (column of {what})", triples[:, column], count)


def check_csr(name: str, starts: Tensor, ends: Tensor, ids: Tensor, count: int) -> None:
    if starts.numel() == 0:
        return
    if int(starts.min()) < 0 or int(ends.max()) > ids.numel() or bool((ends < starts).any()):
        raise KgfastError(f"{name}: ranges of ids must lie in [0, {ids.numel()}]")
    check_ids(f"{name}.ids", ids, count)


def check_scores(scores: Tensor) -> None:
    """Raises where a score is NaN, which has no place in an order."""
    if scores.isnan().any():
        row = int(scores.isnan().nonzero()[0, 0])
        raise KgfastError(f"triples[{row}]: a score is NaN, so a parameter of its query or of a candidate is NaN")


def total(losses: Tensor) -> Tensor:
    """The sum of losses [B] in an order that the number of threads can't change; torch's own can, for long B."""
    if losses.numel() <= 4096:
        return losses.sum()
    return torch.nn.functional.pad(losses, (0, -losses.numel() % 4096)).view(-1, 4096).sum(1).sum()


def threads() -> int:
    return torch.get_num_threads()


def pointer(tensor: Tensor) -> int:
    if not tensor.is_contiguous():
        raise KgfastError(f"a tensor of shape {list(tensor.shape)} and strides {tensor.stride()} must be contiguous")
    return tensor.data_ptr() if tensor.numel() else 0


def bf16_reason() -> str | None:
    """None if the CPU can multiply bfloat16 numbers, else why not."""
    return None if _C.bf16_supported() else f"it needs AVX-512 BF16, which CPU level {_C.cpu_level()!r} here lacks"


def use_huge_pages(tensor: Tensor) -> bool:
    """Puts a large tensor's memory on huge pages where the system can; its contents and address stay."""
    return _C.use_huge_pages(pointer(tensor), tensor.numel() * tensor.element_size())


def assert_triples(triples: Tensor, entities: int, relations: int) -> None:
    """What a step checks of its triples; on a GPU a step may not wait for the answer."""
    check_triples(triples, entities, relations)


def assert_weights(weights: Tensor, count: int) -> Tensor:
    return checks.weights(weights, count)


def dropout_mask(shape, rate: float, seed: int, index: int, dtype, device) -> Tensor:
    """0, or 1 / (1 - rate), of step `index`."""
    generator = torch.Generator().manual_seed((seed * 0x9E3779B1 + index) % 2**63)
    return torch.empty(shape, dtype=dtype).bernoulli_(1 - rate, generator=generator).div_(1 - rate)


def queries(entities, relations, triples, score: int, side: int, allocate=fresh, check=True):
    if check:
        check_triples(triples, len(entities), len(relations))
    dim = entities.shape[1]
    out = allocate("query", (len(triples), dim), entities.dtype)
    _C.queries(DTYPES[entities.dtype], score, side, pointer(entities), pointer(relations), pointer(triples),
               len(triples), dim, relations.shape[1], threads(), pointer(out))  # fmt: skip
    return out


def queries_adjoint(d_query, entities, relations, triples, score: int, side: int, allocate=fresh):
    dim, width = entities.shape[1], relations.shape[1]
    d_anchor = allocate("d_anchor", (len(triples), dim), entities.dtype)
    d_relation = allocate("d_relation", (len(triples), width), entities.dtype)
    _C.queries_adjoint(DTYPES[entities.dtype], score, side, pointer(entities), pointer(relations),
                       pointer(triples), len(triples), dim, width, threads(), pointer(d_query),
                       pointer(d_anchor), pointer(d_relation))  # fmt: skip
    return d_anchor, d_relation


def pair_scores(query, table, ids, similarity: int):
    check_ids("candidates", ids, len(table))
    scores = fresh("scores", ids.shape, query.dtype)
    _C.pair_scores(DTYPES[query.dtype], similarity, pointer(query), pointer(table), pointer(ids), ids.shape[0],
                   ids.shape[1], table.shape[1], threads(), pointer(scores))  # fmt: skip
    return scores


def pair_query_gradient(g, scores, query, table, ids, similarity: int):
    coefficients = fresh("coefficients", ids.shape, query.dtype)
    d_query = fresh("d_query", query.shape, query.dtype)
    _C.pair_query_gradient(DTYPES[query.dtype], similarity, pointer(query), pointer(table), pointer(ids),
                           pointer(scores), pointer(g), ids.shape[0], ids.shape[1], table.shape[1], threads(),
                           pointer(coefficients), pointer(d_query))  # fmt: skip
    return coefficients, d_query


def all_scores(query, table, similarity: int):
    scores = fresh("scores", (len(query), len(table)), query.dtype)
    _C.all_scores(DTYPES[query.dtype], similarity, pointer(query), pointer(table), len(query), len(table),
                  table.shape[1], threads(), pointer(scores))  # fmt: skip
    return scores


def all_scores_gradient(g, scores, query, table, similarity: int):
    d_query, d_table = torch.zeros_like(query), torch.zeros_like(table)
    _C.all_scores_gradient(DTYPES[query.dtype], similarity, pointer(query), pointer(table), pointer(scores),
                           pointer(g), len(query), len(table), table.shape[1], threads(), pointer(d_query),
                           pointer(d_table))  # fmt: skip
    return d_query, d_table


class Pairs(NamedTuple):
    """The pairs of a step and all its row ids in ascending order: entries (id << 32 | position), of unique row u from
    starts[u] on. Positions count the pairs first, then the ready rows. single[position]: that pair is all that the step
    has of its row, which the loss has updated already; empty where it has not."""

    ids: Tensor
    entries: Tensor
    starts: Tensor
    unique: int
    single: Tensor

    def unique_ids(self) -> Tensor:
        return self.entries[self.starts[: self.unique]] >> 32


def pair_ids(targets, negatives, allocate=fresh) -> Tensor:
    """[B, 1 + N]: each row's target, then its negatives; the target again in place of a masked one (-1)."""
    batch, count = negatives.shape
    ids = allocate("ids", (batch, 1 + count), torch.int64)
    _C.pair_ids(pointer(targets), pointer(negatives), batch, count, threads(), pointer(ids))
    return ids


def order_rows(ids, ready, rows: int, single: bool = False, allocate=fresh) -> Pairs:
    """The order of the ids of pairs (any shape) and of ready rows ([M] each), all below `rows`."""
    sources = [ids, *ready]
    total = sum(source.numel() for source in sources)
    entries = allocate("order_entries", (total,), torch.int64)
    starts = allocate("order_starts", (total + 1,), torch.int64)
    flags = allocate("order_single", (ids.numel() if single else 0,), torch.uint8)
    addresses = [(pointer(source), source.numel()) for source in sources]
    unique = _C.order_rows(addresses, rows, threads(), pointer(entries), pointer(starts), pointer(flags))
    return Pairs(ids, entries, starts, unique, flags)


def sampled_loss(query, table, targets, negatives, starts, ends, known, weights, similarity: int, objective: int,
                 margin: float, temperature: float, gradient: bool, allocate=fresh, check=True, ready=None,
                 into=None):  # fmt: skip
    """losses [B] (weighted), d_query, and where the rows' gradients come from: pairs (ids, coefficients) [B, K] and
    d_negatives [G, N, D] (shared lists only). Without gradient only losses are filled.

    A step says which `ready` rows (ids) and what sink (`into`) the row pass will get: ids are then sorted here, and
    where rows rarely have a second pair, those with one only are updated at once, while they are in the cache.
    """
    batch, dim = query.shape
    groups, count = negatives.shape
    if check:
        check_ids("negatives", negatives, len(table), lowest=-1)
        check_csr("known", starts, ends, known, len(table))
    width = 1 + count if groups == batch else 1
    losses = allocate("losses", (batch,), query.dtype)
    if groups == batch:
        pairs = ids = pair_ids(targets, negatives, allocate)
    else:
        pairs = ids = allocate("ids", (batch, width), torch.int64).copy_(targets[:, None])
    coefficients = allocate("coefficients", (batch, width), query.dtype)
    d_query = allocate("d_query", (batch if gradient else 0, dim), query.dtype)
    lists = (groups, count) if gradient and groups != batch else (0, 0)
    d_negatives = allocate("d_negatives", (*lists, dim), query.dtype)
    single, finish = 0, None
    if ready is not None and groups == batch:
        pairs = order_rows(ids, ready, len(table), ids.numel() < len(table), allocate)
        single, finish = pointer(pairs.single), into
    _C.sampled_loss(DTYPES[query.dtype], similarity, objective, margin, temperature, pointer(query), pointer(table),
                    pointer(targets), pointer(negatives), pointer(starts), pointer(ends), pointer(known),
                    pointer(weights), batch, groups, count, dim, threads(), pointer(ids), single, finish,
                    pointer(losses), pointer(d_query) if gradient else 0, pointer(coefficients),
                    pointer(d_negatives))  # fmt: skip
    return losses, d_query, pairs, coefficients, d_negatives


def candidate_loss(query, table, bias, starts, ends, answers, weights, similarity: int, objective: int,
                   smoothing: float, gradient: bool, allocate=fresh, check=True, bf16=False, known=None):  # fmt: skip
    """losses [B] (weighted) and, with gradient, d_query, d_table [C, D], d_bias [C]. Rows of weight 0 cost nothing.

    bf16: the operands of dot products are rounded to bfloat16 (sums stay float32), where `bf16_reason()` is None.
    known: (starts, ends, ids) of rows that do not compete unless they are answers; ids ascend within a query.
    """
    known = known or (answers[:0],) * 3
    if check:
        check_csr("targets", starts, ends, answers, len(table))
        check_csr("known", *known, len(table))
        counted = weights.nonzero()[:, 0]
        if len(counted) < len(query):
            inputs = (query[counted], table, bias, starts[counted], ends[counted], answers, weights[counted])
            some_known = (known[0][counted], known[1][counted], known[2]) if known[0].numel() else known
            options = dict(check=False, bf16=bf16, known=some_known)
            some, d_some, *rest = candidate_loss(*inputs, similarity, objective, smoothing, gradient, **options)
            losses = query.new_zeros(len(query)).index_copy_(0, counted, some)
            d_query = query.new_zeros(query.shape if gradient else (0, query.shape[1]))
            return losses, d_query.index_copy_(0, counted, d_some) if gradient else d_query, *rest
    rows = len(query) if gradient else 0
    losses = allocate("losses", (len(query),), query.dtype)
    d_query = allocate("d_query", (rows, query.shape[1]), query.dtype).zero_()
    d_table = allocate("d_table", (len(table) if gradient else 0, table.shape[1]), query.dtype).zero_()
    d_bias = allocate("d_bias", (len(bias) if gradient else 0,), query.dtype).zero_()
    _C.candidate_loss(DTYPES[query.dtype], similarity, objective, smoothing, pointer(query), pointer(table),
                      pointer(bias), pointer(starts), pointer(ends), pointer(answers), pointer(weights), len(query),
                      len(table), table.shape[1], WORKSPACE_BYTES, threads(), bf16, pointer(losses), pointer(d_query),
                      pointer(d_table), pointer(d_bias), *map(pointer, known))  # fmt: skip
    return losses, d_query, d_table, d_bias


def answers(starts, ends, ids, targets):
    """CSR of the known answers of each query and its target: (starts, ends, ids), ids ascending within a query."""
    low, high = starts.clone(), ends.clone()  # binary search for the target among its query's answers
    last = max(len(ids) - 1, 0)
    padded = ids if len(ids) else targets.new_zeros(1)
    for _ in range(len(ids).bit_length()):
        middle = (low + high) // 2
        smaller = (low < high) & (padded[middle.clamp(max=last)] < targets)
        low, high = (
            torch.where(smaller, middle + 1, low),
            torch.where(smaller, high, torch.minimum(high, middle)),
        )
    if bool(((low < ends) & (padded[low.clamp(max=last)] == targets)).all()):
        return starts, ends, ids
    lists = [ids[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    lists = [torch.unique(torch.cat([one, target[None]])) for one, target in zip(lists, targets, strict=True)]
    stops = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return stops[:-1].clone(), stops[1:].clone(), torch.cat(lists)


assert_answers = answers  # what a step calls; on a GPU it may not wait to learn whether all targets are among them


def sink(update: str, rows: Tensor, state1=None, state2=None, lr=0.0, eps=0.0, beta1=0.0, beta2=0.0, step=0, last=None):
    states = [0 if state is None else pointer(state) for state in (state1, state2)]
    rate = 0.0
    if update == "adam":  # the corrections must be of the same rounded betas that the moments are made with
        one, two = torch.tensor([beta1, beta2], dtype=rows.dtype).tolist()
        rate = lr * math.sqrt(1 - two**step) / (1 - one**step)
    return (UPDATES[update], pointer(rows), *states, lr, eps, beta1, beta2, rate)


def reduce_rows(query, table, pairs, coefficients, extras, similarity: int, into) -> None:
    """The pass over touched rows: those of `pairs` (ids [B, K], or Pairs whose `ready` were the ids of `extras`), and
    of `extras`, (ids [M], rows [M, D]) each; `into` is a sink."""
    if not isinstance(pairs, Pairs):
        pairs = order_rows(pairs, [ids for ids, _ in extras], len(table))
    queries_count, width = pairs.ids.shape
    _C.reduce_rows(DTYPES[table.dtype], similarity, pointer(query), pointer(table), pointer(coefficients),
                   queries_count, width, table.shape[1], [(pointer(rows), len(rows)) for _, rows in extras], threads(),
                   (pointer(pairs.entries), pointer(pairs.starts), pairs.unique), pointer(pairs.single),
                   into)  # fmt: skip


def table_gradient(query, table, ids, coefficients, extra_ids, extra_rows, similarity: int):
    d_table = torch.zeros_like(table)
    reduce_rows(query, table, ids, coefficients, [(extra_ids, extra_rows)], similarity, sink("dense", d_table))
    return d_table


def table_gradient_rows(query, table, ids, coefficients, extra_ids, extra_rows, similarity: int):
    pairs = order_rows(ids, [extra_ids], len(table))
    rows = table.new_zeros((pairs.unique, table.shape[1]))
    reduce_rows(query, table, pairs, coefficients, [(extra_ids, extra_rows)], similarity, sink("sparse", rows))
    return pairs.unique_ids(), rows


def update_all_rows(gradients, into) -> None:
    _C.update_all_rows(DTYPES[gradients.dtype], *gradients.shape, pointer(gradients), into, threads())


def add_regularizer(kind, parts: int, weight: float, table, ids, gradients) -> None:
    _C.regularizer(DTYPES[table.dtype], REGULARIZERS[kind], parts, weight, pointer(table), pointer(ids), len(ids),
                   table.shape[1], threads(), pointer(gradients))  # fmt: skip


def rank(query, table, targets, starts, ends, known, similarity: int):
    check_ids("targets", targets, len(table))
    check_csr("known", starts, ends, known, len(table))
    greater, equal = torch.empty_like(targets), torch.empty_like(targets)
    scores = fresh("scores", (len(query),), query.dtype)
    _C.rank(DTYPES[query.dtype], similarity, pointer(query), pointer(table), pointer(targets), pointer(starts),
            pointer(ends), pointer(known), len(query), len(table), table.shape[1], threads(), pointer(greater),
            pointer(equal), pointer(scores))  # fmt: skip
    check_scores(scores)
    return greater, equal, scores


def topk(query, table, starts, ends, excluded, k: int, similarity: int):
    check_csr("exclude", starts, ends, excluded, len(table))
    scores = fresh("scores", (len(query), k), query.dtype)
    ids = torch.empty((len(query), k), dtype=torch.int64)
    _C.topk(DTYPES[query.dtype], similarity, pointer(query), pointer(table), pointer(starts), pointer(ends),
            pointer(excluded), len(query), len(table), table.shape[1], k, threads(), pointer(scores),
            pointer(ids))  # fmt: skip
    check_scores(scores)
    return scores, ids


def sample_negatives(lists: int, count: int, entities: int, side: int, seed: int, step: int, thresholds, aliases,
                     starts, ends, known, allocate=fresh, check=True):  # fmt: skip
    if check:
        check_csr("known", starts, ends, known, entities)
    ids = allocate("negatives", (lists, count), torch.int64)
    _C.sample(seed % 2**64, step % 2**64, side, lists, count, entities, pointer(thresholds), pointer(aliases),
              pointer(starts), pointer(ends), pointer(known), threads(), pointer(ids))  # fmt: skip
    return ids
