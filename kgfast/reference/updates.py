"""Row updates: what happens to the touched rows of a table under their gradients, as plain functions.

A rule is its code, its formula, the state it keeps and its settings: one entry of RULES. rows, grads: [U, D], the
distinct touched rows and their summed gradients; a formula returns the new rows and the new state. Rows that were not
touched, and their state, do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from kgfast.core.codes import Code, listed


@listed
class Update(Code):
    """What happens to a row under its gradient: added up (dense, or one row a distinct id), or an optimizer's rule."""

    DENSE = 0
    SPARSE = 1
    SGD = 2
    ADAGRAD = 3
    ROW_ADAGRAD = 4
    ADAM = 5


def sgd(rows: Tensor, grads: Tensor, state: None = None, *, lr: float) -> tuple[Tensor, None]:
    """x <- x - lr g; no state."""
    return rows - lr * grads, None


def adagrad(rows: Tensor, grads: Tensor, state: Tensor, *, lr: float, eps: float = 1e-10) -> tuple[Tensor, Tensor]:
    """s <- s + g^2;  x <- x - lr g / (sqrt(s) + eps).  state s: [U, D], as torch.optim.Adagrad (Duchi et al. 2011)."""
    state = state + grads * grads
    return rows - lr * grads / (state.sqrt() + eps), state


def row_adagrad(rows: Tensor, grads: Tensor, state: Tensor, *, lr: float, eps: float = 1e-10) -> tuple[Tensor, Tensor]:
    """s <- s + mean_d g_d^2;  x <- x - lr g / (sqrt(s) + eps).  state s: [U], one number a row."""
    state = state + (grads * grads).mean(-1)
    return rows - lr * grads / (state.sqrt() + eps).unsqueeze(-1), state


def adam(
    rows: Tensor,
    grads: Tensor,
    state: tuple[Tensor, Tensor],
    *,
    lr: float,
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  x <- x - a m / (sqrt(v) + eps)  (Kingma and Ba 2015).

    a = lr sqrt(1 - b2^t) / (1 - b1^t). Lazy, as torch.optim.SparseAdam: the moments of untouched rows rest; t
    = `step` >= 1 counts all steps of the table. state (m, v): [U, D] each.
    """
    first, second = state
    first = betas[0] * first + (1 - betas[0]) * grads
    second = betas[1] * second + (1 - betas[1]) * grads * grads
    size = lr * (1 - betas[1] ** step) ** 0.5 / (1 - betas[0] ** step)
    return rows - size * first / (second.sqrt() + eps), (first, second)


@dataclass(frozen=True)
class Rule:
    """An optimizer's rule.

    formula: (rows, grads, state, **settings) -> (rows, state), the state as the formula reads it. settings: with their
    defaults; lr, eps and betas reach the kernels, `initial` is the first value of the state. states: names of the state
    tensors in the kernels' order, each with a number for every number of a row, or, where True, for every row.
    """

    update: Update
    formula: Callable[..., tuple[Tensor, Any]]
    settings: Mapping[str, Any]
    states: Mapping[str, bool] = field(default_factory=dict)


RULES: dict[str, Rule] = {
    rule.update.word: rule
    for rule in (
        Rule(Update.SGD, sgd, {"lr": 0.1}),
        Rule(Update.ADAGRAD, adagrad, {"lr": 0.1, "eps": 1e-10, "initial": 0.0}, {"sum": False}),
        Rule(Update.ROW_ADAGRAD, row_adagrad, {"lr": 0.1, "eps": 1e-10, "initial": 0.0}, {"sum": True}),
        Rule(
            Update.ADAM,
            adam,
            {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8},
            {"exp_avg": False, "exp_avg_sq": False},
        ),
    )
}
