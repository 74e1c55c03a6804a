"""The CUDA kernels for irregular rows: sampling, queries, sampled losses, pairs, the pass over touched rows.

float32, on the current stream of the tensors' device; nothing here waits for the device unless `check` is set or an
output's shape is not known before. Tiles for tensor cores (all candidates, ranking, top-k) are the Triton backend's, of
which this is a subclass. With KGFAST_CUDA_HOST=1 the same kernels run on the CPU, thread by thread, for tests.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kgfast.backends import order
from kgfast.backends.cpu import _C, compiled, pointer, pointers
from kgfast.backends.devices import on_one_device
from kgfast.backends.operands import Allocate, Constants, RowPass, RowUpdate, Sampled
from kgfast.backends.triton import TritonBackend, device_row_update, missing_gpu
from kgfast.core.environment import CUDA_ON_HOST
from kgfast.errors import KgfastError
from kgfast.registry import Regularizer, Score, Side, Update

ON_HOST = CUDA_ON_HOST and _C.cuda.on_host
WIDEST = 4096  # numbers of an entity row; relation rows may be wider


def launch(kernel, like: Tensor, *arguments) -> None:
    """kernel(target, ..) on the current stream of the device of `like`, which devices.py has made the current one."""
    if like.device.type == "cpu":
        if not ON_HOST:
            raise KgfastError("impl='cuda' needs tensors on a GPU (or KGFAST_CUDA_HOST=1, for tests)")
        kernel((True, 0), *arguments)
        return
    order.launch(kernel, like, *arguments)


@on_one_device
class CudaBackend(TritonBackend):
    """Kernels in CUDA C++ for rows, in Triton for tiles."""

    name = "cuda"

    def why_not(self, device: str | None) -> str | None:
        reason = None if _C.cuda.built or ON_HOST else f"the CUDA kernels are not built: {_C.cuda.about}"
        if reason or device == "cuda" or (device in (None, "cpu") and ON_HOST):
            return reason
        return missing_gpu(device)

    def assert_triples(self, triples: Tensor, entities: int, relations: int, inverse: int) -> Tensor:
        """In torch: Triton's kernel for it does not run beside these on the host."""
        head, relation, tail = triples.unbind(1)
        inside = (triples >= 0).all() & (torch.maximum(head, tail) < entities).all() & (relation < relations).all()
        torch._assert_async(inside, f"triples: an id is outside of {entities} entities and {relations} relations")
        return torch.stack([head, tail, head, relation, relation + inverse])

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

    def _sort(self, like: Tensor) -> order.Sort:
        return partial(order.sort_by_cub, launch)

    def _reduce_sorted(self, one: RowPass, ordered: order.Order, allocate=None, ranks=None) -> None:
        """The same bits every time."""
        query, table, ids, coefficients, extras, similarity, update = one
        entries, *first = ordered
        check_rows("table", table, WIDEST if ids.numel() else None)
        if not entries.numel():
            return
        dim, tiles = table.shape[1], -(-entries.numel() // _C.cuda.tile_pairs)
        partial_sums = torch.empty((2, tiles if dim <= WIDEST else 0, dim), dtype=table.dtype, device=table.device)
        sources = [(pointer(rows), len(rows_ids)) for rows_ids, rows in extras]
        launch(_C.cuda.reduce_rows, table, similarity, pointer(entries), 0 if ranks is None else pointer(ranks),
               entries.numel(), tuple(first), *pointers(query, table, coefficients), ids.numel(), ids.shape[1], dim,
               sources, pointer(partial_sums), arguments(update))  # fmt: skip

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
