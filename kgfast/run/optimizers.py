"""Optimizers by the names that settings have for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from kgfast import optim

# Their kernels update touched rows in the pass that makes the gradient.
ROW_OPTIMIZERS: dict[str, Callable[..., optim.RowOptimizer]] = {
    "row_adagrad": optim.RowAdagrad,
    "adagrad": partial(optim.RowAdagrad, full=True),
    "adam": optim.RowAdam,
    "sgd": optim.RowSGD,
}
TABLE_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    **ROW_OPTIMIZERS,
    "adamw": partial(torch.optim.AdamW, weight_decay=0.0, fused=True),
}


def table_optimizer(name: str, tables: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """The optimizer over tables of entities and relations, with its state, which a checkpoint may fill."""
    optimizer = TABLE_OPTIMIZERS[name](tables, lr=lr)
    if isinstance(optimizer, optim.RowOptimizer):
        optimizer.ensure_state()
    return optimizer
