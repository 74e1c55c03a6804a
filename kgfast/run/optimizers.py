"""Optimizers by the names that settings have for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from kgfast import optim

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)

# Their kernels update touched rows in the pass that makes the gradient.
ROW_OPTIMIZERS = optim.BY_RULE
TABLE_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    **ROW_OPTIMIZERS,
    "adamw": partial(torch.optim.AdamW, weight_decay=0.0, fused=True),
}


def with_state(optimizer: Kind) -> Kind:
    """The optimizer with the state of its tables, which a checkpoint may fill; torch's own make theirs as they load."""
    if isinstance(optimizer, optim.RowOptimizer):
        optimizer.ensure_state()
    return optimizer
