"""Penalties on rows, as functions that autograd sees through; training steps add the same in their kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def cubed(rows: Tensor, complex_rows: bool) -> Tensor:
    """sum_k |row_k|^3 of each row [n, D], over complex numbers if rows hold them, real parts first: [n].

    The N3 regulariser is the mean of this over the rows that a batch uses (Lacroix et al. 2018).
    """
    if not complex_rows:
        return rows.abs().pow(3).sum(1)
    real, imaginary = rows.chunk(2, 1)
    return torch.linalg.vector_norm(torch.stack([real, imaginary], -1), dim=-1).pow(3).sum(1)
