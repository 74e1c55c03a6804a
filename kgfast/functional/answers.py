"""The answers of a batch's queries as ranges of a list: (starts [B], ends [B], ids), as the kernels read them."""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast import ops
from kgfast.backends.operands import Ranges
from kgfast.core.csr import as_csr
from kgfast.core.known import KnownTriples
from kgfast.core.sums import sum_dtype, total
from kgfast.errors import KgfastError
from kgfast.registry import Side


def no_answers(like: Tensor) -> Ranges:
    """What stands for no ranges at all; like: int64 of the same device."""
    return like.new_empty((0,)), like.new_empty((0,)), like.new_empty((0,))


def known_answers(
    known: KnownTriples | None,
    triples: Tensor,
    side: Side,
    count: int,
    relations: int | None = None,
    name: str = "known",
) -> Ranges:
    """Ranges and ids of the known answers of each query; empty tensors where there are none."""
    if known is None:
        return no_answers(triples)
    check_known(known, count, relations, name)
    starts, ends = known.lookup(triples, side.word)
    return starts, ends, known.ids(side.word)


def check_known(known: object, count: int, relations: int | None = None, name: str = "known") -> None:
    """Known triples must be of the graph of the tables; relations: how many rows they have for those."""
    if not isinstance(known, KnownTriples):
        raise KgfastError(f"{name} must be a kgfast.KnownTriples, not {type(known).__name__}")
    if known.num_entities != count:
        raise KgfastError(f"{name} was built for {known.num_entities} entities, the table has {count}")
    # half as many relations: the table also holds reciprocal rows, which this asks nothing of
    if relations is not None and relations not in (known.num_relations, 2 * known.num_relations):
        raise KgfastError(f"{name} was built for {known.num_relations} relations, the table has {relations}")


def right_answers(
    known: KnownTriples | None, triples: Tensor, side: Side, count: int, relations: int, backend: str
) -> Ranges:
    """CSR of the right answers: the target, and all known answers of the query."""
    targets = triples[:, side.answer].contiguous()
    places = torch.arange(len(triples), device=triples.device)
    if known is None:
        return places, places + 1, targets
    return ops.of(backend).answers(*known_answers(known, triples, side, count, relations), targets)


def answers_of_both_sides(known: KnownTriples, triples: Tensor) -> tuple[Tensor, Tensor]:
    """CSR (offsets [2B + 1], ids) of the known tails of all `triples` [B, 3], then of their known heads."""
    (tails, tail_ids), (heads, head_ids) = (
        as_csr(*known.lookup(triples, side), known.ids(side)) for side in ("tail", "head")
    )
    return torch.cat([tails, tails[-1] + heads[1:]]), torch.cat([tail_ids, head_ids])


def single_answers(targets: Tensor, ignore_index: int, like: Tensor) -> tuple[Ranges, Tensor]:
    """((starts, ends, ids), share [B]) of one target a row; a row with `ignore_index` has none, and a share of 0."""
    counted = targets != ignore_index
    starts = torch.arange(targets.shape[0], device=targets.device)
    share = counted.to(sum_dtype(like.dtype)) / counted.sum().clamp(min=1)
    return (starts, starts + counted, torch.where(counted, targets, 0)), share


def row_weights(weights: Tensor | None, batch: int, like: Tensor, reduction: str) -> Tensor:
    """What each row's loss counts for: its weight, or its part of all weights where the mean is asked for."""
    dtype = sum_dtype(like.dtype)
    if weights is None:
        return like.new_full((batch,), 1.0 / max(batch, 1) if reduction == "mean" else 1.0, dtype=dtype)
    weights = weights.detach().to(like.device, dtype)
    if reduction != "mean":
        return weights
    sum = total(weights)
    return weights / torch.where(sum == 0, 1.0, sum)
