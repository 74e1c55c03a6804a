"""What sums are made in, and sums whose order nothing can change."""

from __future__ import annotations

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)  # dtypes of 16 bits: tables only; sums are in float32


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of losses, weights and gradients of rows for tables of `dtype`."""
    return torch.float32 if dtype in HALF else dtype


def total(losses: Tensor) -> Tensor:
    """The sum of losses [B] in an order that the number of threads can't change; torch's own can, for long B."""
    if losses.numel() <= 4096:
        return losses.sum()
    return torch.nn.functional.pad(losses, (0, -losses.numel() % 4096)).view(-1, 4096).sum(1).sum()
