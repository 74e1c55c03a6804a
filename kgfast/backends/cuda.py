"""The CUDA kernels for irregular rows: sampling, queries, sampled losses, pairs, the pass over touched rows.

float32, on the current stream of the tensors' device; nothing here waits for the device unless `check` is set or an
output's shape is not known before. Tiles for tensor cores (all candidates, ranking, top-k) are the Triton backend's, of
which this is a subclass. With KGFAST_CUDA_HOST=1 the same kernels run on the CPU, thread by thread, for tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast.backends.base import Allocate, Constants, RowUpdate, Sampled
from kgfast.backends.cpu import _C, compiled, pointer, pointers
from kgfast.backends.triton import TritonBackend, device_row_update, missing_gpu
from kgfast.core.environment import CUDA_ON_HOST
from kgfast.errors import KgfastError
from kgfast.registry import Regularizer, Score, Side, Update

ON_HOST = CUDA_ON_HOST and _C.cuda.on_host
WIDEST = 4096  # numbers of an entity row; relation rows may be wider


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


class CudaBackend(TritonBackend):
    """Kernels in CUDA C++ for rows, in Triton for tiles."""

    name = "cuda"

    def why_not(self, device: str | None) -> str | None:
        reason = None if _C.cuda.built or ON_HOST else f"the CUDA kernels are not built: {_C.cuda.about}"
        if reason or device == "cuda" or (device in (None, "cpu") and ON_HOST):
            return reason
        return missing_gpu(device)

    def check_table(self, name: str, table: Tensor) -> None:
        check_rows(name, table, WIDEST)

    def _queries(self, entities, relations, triples, score: Score, side: Side, out) -> None:
        launch(_C.cuda.queries, entities, compiled(score), side, *pointers(entities, relations, triples), len(triples),
               entities.shape[1], relations.shape[1], pointer(out))  # fmt: skip

    def _queries_adjoint(self, d_query, entities, relations, triples, score: Score, side: Side, d_anchor, d_relation):
        launch(_C.cuda.queries_adjoint, entities, compiled(score), side, *pointers(entities, relations, triples),
               len(triples), entities.shape[1], relations.shape[1],
               *pointers(d_query, d_anchor, d_relation))  # fmt: skip

    def _pair_scores(self, query, table, ids, similarity: int, scores) -> None:
        launch(_C.cuda.pair_scores, table, similarity, *pointers(query, table, ids), *ids.shape, table.shape[1],
               pointer(scores))  # fmt: skip

    def _pair_query_gradient(self, g, scores, query, table, ids, similarity: int, coefficients, d_query) -> None:
        launch(_C.cuda.pair_query_gradient, table, similarity, *pointers(query, table, ids, scores, g), *ids.shape,
               table.shape[1], *pointers(coefficients, d_query))  # fmt: skip

    def _sampled_loss(self, inputs, options, out: Sampled, allocate: Allocate, extra_ids, update):
        """Shared lists also take [B, N] of scores, in which the coefficients are left; the row pass sorts by itself."""
        query, table, targets, negatives, *_ = inputs
        similarity, objective, margin, temperature, _ = options
        shared = len(negatives) != len(query)
        scores = allocate("shared_scores", (len(query) if shared else 0, negatives.shape[1]), query.dtype)
        if shared:
            out.pairs.copy_(targets[:, None])
        launch(_C.cuda.sampled_loss, table, similarity, objective, margin, temperature, *pointers(*inputs), len(query),
               *negatives.shape, query.shape[1],
               *pointers(out.losses, out.d_query, out.pairs, out.coefficients, scores, out.d_negatives))  # fmt: skip
        return out.pairs

    def _row_update(self, rule: Update, rows: Tensor, states: tuple, constants: Constants, last) -> RowUpdate:
        check_rows("the table to update", rows, None)
        return device_row_update(rule, rows, states, constants._replace(step=0.0), last)

    def reduce_rows(self, query, table, pairs, coefficients, extras, similarity: int, update, *, allocate=None) -> None:
        reduce_sorted(query, table, pairs, coefficients, extras, similarity, update,
                      sorted_rows([pairs, *(ids for ids, _ in extras)], len(table)))  # fmt: skip

    def table_gradient_rows(self, query, table, ids, coefficients, extra_ids, extra_rows, similarity: int):
        entries = sorted_rows([ids, extra_ids], len(table))
        if not entries.numel():
            return extra_ids.new_empty((0,)), table.new_zeros((0, table.shape[1]))
        found = entries >> 32
        first = torch.cat([torch.ones_like(found[:1], dtype=torch.bool), found[1:] != found[:-1]])
        unique, places = found[first], first.cumsum(0) - 1
        rows = table.new_zeros((len(unique), table.shape[1]))
        update = self.row_update(Update.SPARSE, rows)
        extras = [(extra_ids, extra_rows)]
        reduce_sorted(query, table, ids, coefficients, extras, similarity, update, entries, places)
        return unique, rows

    def update_all_rows(self, gradients, update: RowUpdate) -> None:
        launch(_C.cuda.update_all_rows, gradients, *gradients.shape, pointer(gradients), arguments(update))

    def _add_regularizer(self, kind: Regularizer, parts: int, weight: float, table, ids, gradients) -> None:
        check_rows("table", table, None)
        launch(_C.cuda.regularizer, table, kind, parts, weight, *pointers(table, ids), len(ids), table.shape[1],
               pointer(gradients))  # fmt: skip

    def _sample_negatives(self, ids, entities, side, seed, step, weights, starts, ends, known) -> None:
        number, place = (0, pointer(step)) if isinstance(step, Tensor) else (step % 2**64, 0)
        launch(_C.cuda.sample, ids, seed % 2**64, number, place, side, *ids.shape, entities,
               *pointers(weights, starts, ends, known, ids))  # fmt: skip


def check_rows(name: str, rows: Tensor, widest: int | None) -> None:
    if rows.dtype != torch.float32:
        raise KgfastError(f"impl='cuda' needs float32 rows; {name} is {rows.dtype}: use impl='triton'")
    if widest is not None and rows.shape[1] > widest:
        raise KgfastError(f"impl='cuda' takes rows of at most {widest} numbers; {name} has {rows.shape[1]}")


def arguments(update: RowUpdate) -> tuple[int, ...]:
    """A row update as the kernels take it: rule, rows, two states, constants."""
    rule, rows, *states, constants = update.address()  # type: ignore[attr-defined]
    return (int(rule), rows, *[*states, 0, 0][:2], constants)


def sorted_rows(sources: list[Tensor], bound: int) -> Tensor:
    """int64 [M]: id << 32 | position of every id of the sources, by id, then by position."""
    like, count = sources[0], sum(ids.numel() for ids in sources)
    if count >= 2**32:
        raise KgfastError(f"a step of {count} rows; below 2^32 are possible")
    entries, other = (torch.empty(count, dtype=torch.int64, device=like.device) for _ in range(2))
    needed: list[int] = []
    launch(lambda target, rows: needed.append(_C.cuda.sort_bytes(target, rows)), like, count)
    workspace = torch.empty(needed[0], dtype=torch.uint8, device=like.device)
    places = [(pointer(ids), ids.numel()) for ids in sources]
    launch(_C.cuda.sort_rows, like, places, bound, *pointers(entries, other, workspace), needed[0])
    return entries


def reduce_sorted(query, table, ids, coefficients, extras, similarity: int, update, entries, places=None) -> None:
    """The row pass over sorted entries; places: the row of a sparse gradient for each. The same bits every time."""
    check_rows("table", table, WIDEST if ids.numel() else None)
    if not entries.numel():
        return
    dim, tiles = table.shape[1], -(-entries.numel() // _C.cuda.tile_pairs)
    partial_sums = torch.empty((2, tiles if dim <= WIDEST else 0, dim), dtype=table.dtype, device=table.device)
    sources = [(pointer(rows), len(rows_ids)) for rows_ids, rows in extras]
    launch(_C.cuda.reduce_rows, table, similarity, pointer(entries), 0 if places is None else pointer(places),
           entries.numel(), *pointers(query, table, coefficients), ids.numel(), ids.shape[1], dim, sources,
           pointer(partial_sums), arguments(update))  # fmt: skip
