"""Losses that are no softmax over a table, as terms of the multitask loss."""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast.functional.multitask import Term

LEAST = 1e-6  # below it a loss has no gradient: 1 - e^{-loss} is lost to rounding


def likelihood_term(losses: Tensor, *, weight: float = 1.0, name: str | None = None) -> Term:
    """A term whose loss is the mean of `losses` [n], each at least 0, exactly: value and gradient.

    e^{-loss} is read as the probability p of yes. The query is (log p, log (1 - p)), the table the rows yes and no; the
    cross-entropy of yes is -log p, as both logits are normalised already.
    """
    losses = losses.clamp(min=LEAST)
    query = torch.stack([-losses, torch.log(-torch.expm1(-losses))], 1)
    table = torch.eye(2, dtype=losses.dtype, device=losses.device)
    targets = torch.zeros(len(losses), dtype=torch.int64, device=losses.device)
    return Term(query, table, targets, weight=weight, name=name)


def cubed(rows: Tensor, complex_rows: bool) -> Tensor:
    """sum_k |row_k|^3 of each row [n, D], over complex numbers if rows hold them, real parts first: [n].

    The N3 regulariser is the mean of this over the rows that a batch uses (Lacroix et al. 2018).
    """
    if not complex_rows:
        return rows.abs().pow(3).sum(1)
    real, imaginary = rows.chunk(2, 1)
    return torch.linalg.vector_norm(torch.stack([real, imaginary], -1), dim=-1).pow(3).sum(1)
