"""Row optimizers: only touched rows of a table move, and only their state. torch.optim classes, one kernel each.

With sparse gradients (`sparse_grad=True`, nn.Embedding(sparse=True)) the touched rows are those of the gradient; with a
dense gradient every row is. Training applies the same kernels inside the pass that makes the gradients (steps/).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from kgfast import backends
from kgfast.backends.base import Backend, RowUpdate
from kgfast.core import checks
from kgfast.core.registry import Update
from kgfast.core.sums import sum_dtype
from kgfast.errors import KgfastError

# settings that torch's optimizers have and these may not
OTHERS = {"weight_decay", "momentum", "dampening", "nesterov", "maximize", "amsgrad", "lr_decay", "betas", "eps"}


def positive(name: str, value: float) -> float:
    """A finite number above 0: what keeps 0 / 0 out of a table."""
    if checks.finite(name, value, 0.0) == 0:
        raise KgfastError(f"{name}=0 must be above 0")
    return float(value)


class RowOptimizer(Optimizer):
    """Base: tables [rows, dim] as parameters. Subclasses say which kernel updates a row, and with what state."""

    rule: Update

    def __init__(self, params: ParamsT, defaults: dict[str, Any]):
        super().__init__(params, defaults)
        for group in self.param_groups:
            for param in group["params"]:
                if param.dim() != 2:
                    raise KgfastError(f"params must be tables [rows, dim], not of shape {list(param.shape)}")

    def add_param_group(self, param_group: dict) -> None:
        """As torch's; settings of other optimizers, which would have no effect here, are refused."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for name in OTHERS - self.defaults.keys():
            if group.get(name):
                raise KgfastError(f"{name}={group[name]!r}: {type(self).__name__} has no such setting")
        self.constants(group)

    def new_state(self, param: Tensor, group: dict, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """The state tensors of a parameter, in the order of the kernel's arguments; device "meta" for shapes alone."""
        raise NotImplementedError

    def constants(self, group: dict) -> dict[str, float]:
        """lr, eps, beta1, beta2 of a group, as the kernel wants them."""
        return {"lr": checks.finite("lr", group["lr"], 0.0)}

    def rule_of(self, group: dict) -> Update:
        """What the kernel does to a row of a group."""
        return self.rule

    def ensure_state(self) -> None:
        """Makes the state of every parameter, so that it can be saved and loaded before the first step."""
        for group in self.param_groups:
            for param in group["params"]:
                if not self.state[param]:
                    self.state[param].update(step=torch.zeros((), dtype=torch.float64), **self.new_state(param, group))

    def row_update(self, param: Tensor, backend: Backend) -> RowUpdate:
        """Advances the parameter's step and returns what the row pass of a backend needs to update it in place."""
        group = self.group_of(param)
        state = self.state[param]
        if not state:
            state.update(step=torch.zeros((), dtype=torch.float64), **self.new_state(param, group))
        states = tuple(
            self.state_tensor(param, name, like, state) for name, like in self.new_state(param, group, "meta").items()
        )
        state["step"] += 1
        held = self.__dict__.setdefault("row_updates", {})  # a copy of an optimizer starts without
        held[param] = backend.row_update(
            self.rule_of(group), param.detach(), states, **self.constants(group), step=int(state["step"]),
            last=held.get(param),
        )  # fmt: skip
        return held[param]

    def group_of(self, param: Tensor) -> dict:
        for group in self.param_groups:
            if any(param is one for one in group["params"]):
                return group
        raise KgfastError(f"optimizer: it has no parameter of shape {list(param.shape)} that is the table to update")

    @staticmethod
    def state_tensor(param: Tensor, name: str, like: Tensor, state: dict) -> Tensor:
        """The state `name`, which must fit its table: a kernel writes to it."""
        value = state.get(name)
        if value is None or value.shape != like.shape or value.dtype != like.dtype or not value.is_contiguous():
            found = "missing" if value is None else f"{list(value.shape)} {value.dtype}"
            raise KgfastError(
                f"optimizer state {name!r} of a table {list(param.shape)} must be a contiguous {list(like.shape)} "
                f"{like.dtype}; it is {found}"
            )
        return value

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                table = checks.table("params", param.detach())
                if table.data_ptr() != param.data_ptr():
                    raise KgfastError("params must be contiguous tables")
                gradient = param.grad
                if gradient.shape != table.shape or gradient.dtype != table.dtype or gradient.device != table.device:
                    raise KgfastError(
                        f"gradient {list(gradient.shape)} {gradient.dtype} on {gradient.device} is not of its table, "
                        f"{list(table.shape)} {table.dtype} on {table.device}: that was replaced since backward"
                    )
                backend = backends.get(backends.choose(None, table.device))
                if gradient.is_sparse:
                    self.update_sparse(param, table, gradient, backend)
                else:
                    backend.update_all_rows(gradient.contiguous(), self.row_update(param, backend))
        return loss

    def update_sparse(self, param: Tensor, table: Tensor, gradient: Tensor, backend: Backend) -> None:
        if gradient.sparse_dim() != 1:
            raise KgfastError(f"gradient: a sparse one needs sparse_dim 1, not {gradient.sparse_dim()}")
        ids, rows = gradient._indices()[0].contiguous(), gradient._values().contiguous()
        checks.id_range("gradient", ids, len(table))
        none = table.new_empty((0, 0))
        # the row pass sums what stands twice in an uncoalesced gradient
        backend.reduce_rows(table, table, none.long(), none, [(ids, rows)], 0, self.row_update(param, backend))


class RowSGD(RowOptimizer):
    """x -= lr g."""

    rule = Update.SGD

    def __init__(self, params: ParamsT, lr: float = 0.1):
        super().__init__(params, {"lr": lr})

    def new_state(self, param: Tensor, group: dict, device: torch.device | str | None = None) -> dict[str, Tensor]:
        return {}


class RowAdagrad(RowOptimizer):
    """x -= lr g / (sqrt(sum) + eps), with sum += mean(g^2) a row; `full`: sum += g^2 (Duchi et al. 2011).

    `initial` is the first value of sum.
    """

    def __init__(self, params: ParamsT, lr: float = 0.1, full: bool = False, eps: float = 1e-10, initial: float = 0.0):
        defaults = {"lr": lr, "full": full, "eps": eps}
        defaults["initial"] = checks.finite("initial", initial, 0.0)
        super().__init__(params, defaults)

    def rule_of(self, group: dict) -> Update:
        return Update.ADAGRAD if group["full"] else Update.ROW_ADAGRAD

    def new_state(self, param: Tensor, group: dict, device: torch.device | str | None = None) -> dict[str, Tensor]:
        shape, dtype = param.shape if group["full"] else param.shape[:1], sum_dtype(param.dtype)
        return {"sum": torch.full(shape, group["initial"], dtype=dtype, device=device or param.device)}

    def constants(self, group: dict) -> dict[str, float]:
        return {**super().constants(group), "eps": positive("eps", group["eps"])}


class RowAdam(RowOptimizer):
    """Lazy Adam: moments of touched rows only; bias corrected by the step count (Kingma and Ba 2015; SparseAdam)."""

    rule = Update.ADAM

    def __init__(self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def new_state(self, param: Tensor, group: dict, device: torch.device | str | None = None) -> dict[str, Tensor]:
        like, dtype = param.detach(), sum_dtype(param.dtype)
        return {name: torch.zeros_like(like, dtype=dtype, device=device) for name in ("exp_avg", "exp_avg_sq")}

    def constants(self, group: dict) -> dict[str, float]:
        betas = group["betas"]
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise KgfastError(f"betas={betas!r} must be two numbers in [0, 1)")
        beta1, beta2 = (checks.finite("betas", beta, 0.0) for beta in betas)
        if max(beta1, beta2) >= 1:
            raise KgfastError(f"betas={betas!r} must be two numbers in [0, 1)")
        return {**super().constants(group), "eps": positive("eps", group["eps"]), "beta1": beta1, "beta2": beta2}
