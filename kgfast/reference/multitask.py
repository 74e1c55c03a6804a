"""The multitask loss: a list of (query, table, targets, weight), softmax or BCE over a table's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kgfast.core import checks

from .losses import weighted_mean
from .objectives import ALL_OBJECTIVES
from .scores import SIMILARITIES


def csr_mask(lists: tuple[Tensor, Tensor], num_columns: int) -> Tensor:
    """mask[b, c] = c in ids[offsets[b] : offsets[b + 1]], lists = (offsets, ids): bool [B, num_columns]."""
    offsets, ids = lists
    rows = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=ids.device), offsets.diff())
    mask = torch.zeros(len(offsets) - 1, num_columns, dtype=torch.bool, device=ids.device)
    mask[rows, ids] = True
    return mask


def target_mask(targets: Tensor | tuple[Tensor, Tensor], ignore_index: int, num_columns: int) -> Tensor:
    """The right answers of each query: bool [B, num_columns]; a row with `ignore_index` has none."""
    given = targets[targets != ignore_index] if isinstance(targets, Tensor) else targets[1]
    checks.id_range("targets", given, num_columns)
    if not isinstance(targets, Tensor):
        return csr_mask(targets, num_columns)
    return (targets.unsqueeze(1) == torch.arange(num_columns, device=targets.device)) & (
        targets != ignore_index
    ).unsqueeze(1)


def term_loss(term: Any) -> Tensor:
    """Mean, over queries with an answer, of objective(similarity(query_b, table) + bias, answers): a scalar.

    query [B, D], table [C, D], bias [C]; targets int64 [B] with `ignore_index`, or CSR (offsets [B + 1],
    ids): softmax is then the mean log-likelihood over the answers. Rows of `known` (CSR) that are no targets
    do not compete, nor do, with `candidates` int64 [K], the rows that are neither candidates nor targets. No
    answer at all: 0.
    """
    similarity = checks.pick("similarity", term.similarity, SIMILARITIES)
    loss = checks.pick("objective", term.objective, ALL_OBJECTIVES)
    num_rows = len(term.table)
    answers = target_mask(term.targets, term.ignore_index, num_rows)
    compete = torch.ones(num_rows, dtype=torch.bool, device=answers.device)
    if term.candidates is not None:
        compete = torch.zeros_like(compete).index_fill(0, term.candidates, True)
    compete = compete.expand_as(answers)
    if term.known is not None:
        compete = compete & ~csr_mask(term.known, num_rows)
    compete = compete | answers
    logits = similarity(term.query.unsqueeze(1), term.table)
    if term.bias is not None:
        logits = logits + term.bias
    losses = [  # row by row over the rows that compete: no infinities to reason about
        loss(row[rivals][None], right[rivals][None].to(row.dtype), 0.0)
        for row, rivals, right in zip(logits, compete, answers, strict=True)
        if right.any()
    ]
    return weighted_mean(torch.cat(losses)) if losses else logits.sum() * 0


def multitask_loss(terms: Sequence[Any], weights: Sequence[float] | Tensor | None = None) -> tuple[Tensor, Tensor]:
    """total = sum_i weights_i * term_i.weight * per_task_i, per_task [T] = each term's own mean loss.

    Returns (total, per_task). weights: None (all 1), a sequence of T numbers or a tensor [T], through which
    gradients flow. Memory O(B C D).
    """
    per_task = torch.stack([term_loss(term) for term in terms])
    own = torch.tensor([float(term.weight) for term in terms], dtype=per_task.dtype, device=per_task.device)
    outer = 1.0 if weights is None else torch.as_tensor(weights, dtype=per_task.dtype, device=per_task.device)
    return (outer * own * per_task).sum(), per_task
