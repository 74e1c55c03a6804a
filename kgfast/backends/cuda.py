"""The CUDA kernels for irregular rows: sampling, queries, sampled losses, pairs, the pass over touched rows.

float32, on the current stream of the tensors' device; nothing here waits for the device unless `check` is set or an
output's shape is not known before. Tiles for tensor cores (all candidates, ranking, top-k) are the Triton backend's
functions, by name: FROM_TRITON. With KGFAST_CUDA_HOST=1 the same kernels run on the CPU, thread by thread, for tests.
"""

from __future__ import annotations

import os
from ctypes import c_float
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kgfast import backends
from kgfast.backends import cpu
from kgfast.backends.cpu import _C, OBJECTIVES, REGULARIZERS, SCORES, SIDES, SIMILARITIES, UPDATES, pointer, total
from kgfast.errors import KgfastError

__all__ = ["OBJECTIVES", "SCORES", "SIDES", "SIMILARITIES", "total"]  # of cpu.py, as all backends have them

ON_HOST = os.environ.get("KGFAST_CUDA_HOST") == "1" and _C.cuda.on_host
DTYPES = {torch.float32: 0}
WIDEST = 4096  # numbers of an entity row; relation rows may be wider
OWN = (
    "queries", "queries_adjoint", "pair_scores", "pair_query_gradient", "sampled_loss", "reduce_rows", "table_gradient",
    "table_gradient_rows", "update_all_rows", "add_regularizer", "sample_negatives",
)  # fmt: skip
FROM_TRITON = (
    "all_scores", "all_scores_gradient", "candidate_loss", "rank", "topk", "answers", "assert_answers",
    "assert_triples", "assert_weights", "dropout_mask",
)  # fmt: skip


def __getattr__(name: str):
    if name in FROM_TRITON:
        return getattr(backends.module("triton"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def why_not() -> str | None:
    """None if the kernels are there, else the reason why not."""
    return None if _C.cuda.built or ON_HOST else f"the CUDA kernels are not built: {_C.cuda.about}"


def launch(kernel, like: Tensor, *arguments) -> None:
    """kernel(target, ..) on the current stream of the device of `like`."""
    if like.device.type == "cpu":
        if not ON_HOST:
            raise KgfastError("impl='cuda' needs tensors on a GPU (or KGFAST_CUDA_HOST=1, for tests)")
        kernel((True, 0), *arguments)
        return
    target = (False, torch.cuda.current_stream(like.device).cuda_stream)
    if torch.cuda.current_device() == like.device.index:
        kernel(target, *arguments)
        return
    with torch.cuda.device(like.device):
        kernel(target, *arguments)


def check_rows(name: str, rows: Tensor, widest: int | None = WIDEST) -> None:
    if rows.dtype not in DTYPES:
        raise KgfastError(f"impl='cuda' needs float32 rows; {name} is {rows.dtype}: use impl='triton'")
    if widest is not None and rows.shape[1] > widest:
        raise KgfastError(f"impl='cuda' takes rows of at most {widest} numbers; {name} has {rows.shape[1]}")


def fresh(name: str, shape, dtype, device=None) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def allocator(allocate, like: Tensor):
    return allocate or partial(fresh, device=like.device)


class Workspace(cpu.Workspace):
    """Buffers on a device, kept between steps."""


def bf16_reason() -> str:
    """Why steps take no bf16=True here."""
    return "on a GPU the tables' own dtype says it: make the model with dtype=torch.bfloat16"


def use_huge_pages(tensor: Tensor) -> bool:
    return False  # a GPU's memory has large pages of its own


def queries(entities, relations, triples, score: int, side: int, allocate=None, check=True):
    check_rows("entities", entities)
    if check:
        cpu.check_triples(triples, len(entities), len(relations))
    dim = entities.shape[1]
    out = allocator(allocate, entities)("query", (len(triples), dim), entities.dtype)
    launch(_C.cuda.queries, entities, score, side, pointer(entities), pointer(relations), pointer(triples),
           len(triples), dim, relations.shape[1], pointer(out))  # fmt: skip
    return out


def queries_adjoint(d_query, entities, relations, triples, score: int, side: int, allocate=None):
    check_rows("entities", entities)
    dim, width = entities.shape[1], relations.shape[1]
    allocate = allocator(allocate, entities)
    d_anchor = allocate("d_anchor", (len(triples), dim), entities.dtype)
    d_relation = allocate("d_relation", (len(triples), width), entities.dtype)
    launch(_C.cuda.queries_adjoint, entities, score, side, pointer(entities), pointer(relations), pointer(triples),
           len(triples), dim, width, pointer(d_query), pointer(d_anchor), pointer(d_relation))  # fmt: skip
    return d_anchor, d_relation


def pair_scores(query, table, ids, similarity: int):
    check_rows("table", table)
    cpu.check_ids("candidates", ids, len(table))
    scores = torch.empty(ids.shape, dtype=query.dtype, device=query.device)
    launch(_C.cuda.pair_scores, table, similarity, pointer(query), pointer(table), pointer(ids), *ids.shape,
           table.shape[1], pointer(scores))  # fmt: skip
    return scores


def pair_query_gradient(g, scores, query, table, ids, similarity: int):
    check_rows("table", table)
    coefficients = torch.empty(ids.shape, dtype=query.dtype, device=query.device)
    d_query = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    launch(_C.cuda.pair_query_gradient, table, similarity, pointer(query), pointer(table), pointer(ids),
           pointer(scores), pointer(g), *ids.shape, table.shape[1], pointer(coefficients),
           pointer(d_query))  # fmt: skip
    return coefficients, d_query


def sampled_loss(query, table, targets, negatives, starts, ends, known, weights, similarity: int, objective: int,
                 margin: float, temperature: float, gradient: bool, allocate=None, check=True, ready=None,
                 into=None):  # fmt: skip
    """As backends/cpu.py; `ready` and `into` are not needed here. Shared lists also take [B, N] of scores, in which
    the coefficients are left."""
    check_rows("table", table)
    batch, dim = query.shape
    groups, count = negatives.shape
    if check:
        cpu.check_ids("negatives", negatives, len(table), lowest=-1)
        cpu.check_csr("known", starts, ends, known, len(table))
    allocate, shared = allocator(allocate, query), groups != batch
    width = 1 if shared else 1 + count
    losses = allocate("losses", (batch,), query.dtype)
    ids = allocate("ids", (batch, width), torch.int64)
    coefficients = allocate("coefficients", (batch, width), query.dtype)
    d_query = allocate("d_query", (batch if gradient else 0, dim), query.dtype)
    scores = allocate("shared_scores", (batch if shared else 0, count), query.dtype)
    lists = (groups, count) if gradient and shared else (0, 0)
    d_negatives = allocate("d_negatives", (*lists, dim), query.dtype)
    if shared:
        ids.copy_(targets[:, None])
    launch(_C.cuda.sampled_loss, table, similarity, objective, margin, temperature, pointer(query), pointer(table),
           pointer(targets), pointer(negatives), pointer(starts), pointer(ends), pointer(known), pointer(weights),
           batch, groups, count, dim, pointer(losses), pointer(d_query), pointer(ids), pointer(coefficients),
           pointer(scores), pointer(d_negatives))  # fmt: skip
    return losses, d_query, ids, coefficients, d_negatives


@dataclass
class Sink:
    """Where gradients go, and an optimizer's constants on the device, written when they change."""

    update: int
    tensors: tuple  # rows and two states, or None
    constants: Tensor  # float64: lr, eps, beta1, beta2, Adam's rate
    written: list

    def address(self):
        return (self.update, *(0 if one is None else pointer(one) for one in self.tensors), pointer(self.constants))

    def write(self, values) -> None:
        for place, (value, before) in enumerate(zip(values, self.written, strict=True)):
            if value != before:
                self.constants[place].fill_(value)
                self.written[place] = value


def sink(update: str, rows, state1=None, state2=None, lr=0.0, eps=0.0, beta1=0.0, beta2=0.0, step=0, last=None):
    """last: what this returned for the step before; its memory is used again: a captured graph follows a schedule."""
    check_rows("the table to update", rows, None)
    same = last is not None and last.update == UPDATES[update] and last.tensors[0].data_ptr() == rows.data_ptr()
    if not same:
        last = Sink(UPDATES[update], (rows, state1, state2), rows.new_zeros(5, dtype=torch.float64), [0.0] * 5)
    last.tensors = rows, state1, state2
    # the corrections must be of the same rounded betas that the moments are made with
    beta1, beta2 = c_float(beta1).value, c_float(beta2).value
    rate = lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step) if update == "adam" else 0.0
    last.write([lr, eps, beta1, beta2, rate])
    return last


def sorted_rows(sources: list[Tensor], bound: int) -> Tensor:
    """int64 [M]: id << 32 | position of every id of the sources, by id, then by position."""
    like, count = sources[0], sum(ids.numel() for ids in sources)
    if count >= 2**32:
        raise KgfastError(f"a step of {count} rows; below 2^32 are possible")
    entries, other = (torch.empty(count, dtype=torch.int64, device=like.device) for _ in range(2))
    needed = []
    launch(lambda target, rows: needed.append(_C.cuda.sort_bytes(target, rows)), like, count)
    workspace = torch.empty(needed[0], dtype=torch.uint8, device=like.device)
    places = [(pointer(ids), ids.numel()) for ids in sources]
    launch(_C.cuda.sort_rows, like, places, bound, pointer(entries), pointer(other), pointer(workspace), needed[0])
    return entries


def reduce_rows(query, table, ids, coefficients, extras, similarity: int, into, entries=None, places=None) -> None:
    """The pass over touched rows; `extras` are (ids [M], rows [M, D]); `into` is a sink. The same bits every time."""
    check_rows("table", table, WIDEST if ids.numel() else None)
    if entries is None:
        entries = sorted_rows([ids, *(rows_ids for rows_ids, _ in extras)], len(table))
    if not entries.numel():
        return
    dim, tiles = table.shape[1], -(-entries.numel() // _C.cuda.tile_pairs)
    partial_sums = torch.empty((2, tiles if dim <= WIDEST else 0, dim), dtype=table.dtype, device=table.device)
    sources = [(pointer(rows), len(rows_ids)) for rows_ids, rows in extras]
    launch(_C.cuda.reduce_rows, table, similarity, pointer(entries), 0 if places is None else pointer(places),
           entries.numel(), pointer(query), pointer(table), pointer(coefficients), ids.numel(), ids.shape[1], dim,
           sources, pointer(partial_sums), into.address())  # fmt: skip


def table_gradient(query, table, ids, coefficients, extra_ids, extra_rows, similarity: int):
    d_table = torch.zeros_like(table)
    extras = [(extra_ids, extra_rows)]
    reduce_rows(query, table, ids, coefficients, extras, similarity, sink("dense", d_table))
    return d_table


def table_gradient_rows(query, table, ids, coefficients, extra_ids, extra_rows, similarity: int):
    """(unique ids, rows). How many there are is a shape, so this waits for the device."""
    entries = sorted_rows([ids, extra_ids], len(table))
    if not entries.numel():
        return extra_ids.new_empty((0,)), table.new_zeros((0, table.shape[1]))
    found = entries >> 32
    first = torch.cat([torch.ones_like(found[:1], dtype=torch.bool), found[1:] != found[:-1]])
    places = first.cumsum(0) - 1
    unique = found[first]
    rows = table.new_zeros((len(unique), table.shape[1]))
    extras = [(extra_ids, extra_rows)]
    reduce_rows(query, table, ids, coefficients, extras, similarity, sink("sparse", rows), entries, places)
    return unique, rows


def update_all_rows(gradients, into) -> None:
    launch(_C.cuda.update_all_rows, gradients, *gradients.shape, pointer(gradients), into.address())


def add_regularizer(kind, parts: int, weight: float, table, ids, gradients) -> None:
    check_rows("table", table, None)
    launch(_C.cuda.regularizer, table, REGULARIZERS[kind], parts, weight, pointer(table), pointer(ids), len(ids),
           table.shape[1], pointer(gradients))  # fmt: skip


def sample_negatives(lists: int, count: int, entities: int, side: int, seed: int, step, thresholds, aliases,
                     starts, ends, known, allocate=None, check=True):  # fmt: skip
    """step: a number, or an int64 tensor [1] on the device, which a captured graph reads each time."""
    if check:
        cpu.check_csr("known", starts, ends, known, entities)
    ids = allocator(allocate, thresholds)("negatives", (lists, count), torch.int64)
    number, place = (0, pointer(step)) if isinstance(step, Tensor) else (step % 2**64, 0)
    if ids.numel():
        launch(_C.cuda.sample, ids, seed % 2**64, number, place, side, lists, count, entities, pointer(thresholds),
               pointer(aliases), pointer(starts), pointer(ends), pointer(known), pointer(ids))  # fmt: skip
    return ids
