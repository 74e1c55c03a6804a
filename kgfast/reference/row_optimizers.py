"""Row optimizers: the update of the touched rows of a table, as plain functions of (rows, grads, state).

rows, grads: [U, D], the unique touched rows and their summed gradients. Each returns the new rows and the new
state; rows that were not touched, and their state, do not change.
"""

from __future__ import annotations

from torch import Tensor


def sgd(rows: Tensor, grads: Tensor, state: None = None, *, lr: float) -> tuple[Tensor, None]:
    """x <- x - lr g; no state."""
    return rows - lr * grads, None


def adagrad(rows: Tensor, grads: Tensor, state: Tensor, *, lr: float, eps: float = 1e-10) -> tuple[Tensor, Tensor]:
    """s <- s + g^2;  x <- x - lr g / (sqrt(s) + eps).  state s: [U, D], as torch.optim.Adagrad."""
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
    """m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  x <- x - a m / (sqrt(v) + eps).

    a = lr sqrt(1 - b2^t) / (1 - b1^t). Lazy, as torch.optim.SparseAdam: the moments of untouched rows rest; t
    = `step` >= 1 counts all steps of the table. state (m, v): [U, D] each.
    """
    first, second = state
    first = betas[0] * first + (1 - betas[0]) * grads
    second = betas[1] * second + (1 - betas[1]) * grads * grads
    size = lr * (1 - betas[1] ** step) ** 0.5 / (1 - betas[0] ** step)
    return rows - size * first / (second.sqrt() + eps), (first, second)


ROW_OPTIMIZERS = {"sgd": sgd, "adagrad": adagrad, "row_adagrad": row_adagrad, "adam": adam}
