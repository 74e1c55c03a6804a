"""Row optimizers: only touched rows of a table move, and only their state. torch.optim classes, one kernel each.

With sparse gradients (`sparse_grad=True`, nn.Embedding(sparse=True)) the touched rows are those of the gradient; with a
dense gradient every row is. Training applies the same kernels inside the pass that makes the gradients (fused.py).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from kgfast import checks
from kgfast.backends import cpu
from kgfast.errors import KgfastError


class RowOptimizer(Optimizer):
    """Base: tables [rows, dim] as parameters. Subclasses say which kernel updates a row, and with what state."""

    update: str

    def __init__(self, params, defaults):
        super().__init__(params, defaults)
        for group in self.param_groups:
            for param in group["params"]:
                if param.dim() != 2:
                    raise KgfastError(f"params must be tables [rows, dim], not of shape {list(param.shape)}")

    def new_state(self, param: Tensor, group: dict) -> dict[str, Tensor]:
        """The state tensors of a parameter, in the order of the kernel's arguments."""
        raise NotImplementedError

    def constants(self, group: dict) -> dict[str, float]:
        """lr, eps, beta1, beta2 of a group, as the kernel wants them."""
        return {"lr": group["lr"]}

    def kernel(self, group: dict) -> str:
        return self.update

    def ensure_state(self) -> None:
        """Makes the state of every parameter, so that it can be saved and loaded before the first step."""
        for group in self.param_groups:
            for param in group["params"]:
                if not self.state[param]:
                    self.state[param].update(step=torch.zeros((), dtype=torch.float64), **self.new_state(param, group))

    def sink(self, param: Tensor):
        """Advances the parameter's step and returns what the row pass needs to update it in place."""
        group = next(group for group in self.param_groups if any(param is p for p in group["params"]))
        state = self.state[param]
        if not state:
            state.update(step=torch.zeros((), dtype=torch.float64), **self.new_state(param, group))
        state["step"] += 1
        tensors = [value for name, value in state.items() if name != "step"]
        return cpu.sink(self.kernel(group), param.detach(), *tensors, **self.constants(group), step=int(state["step"]))

    @torch.no_grad()
    def step(self, closure=None):
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
                if gradient.is_sparse:
                    self.update_sparse(param, table, gradient)
                else:
                    cpu.update_all_rows(gradient.contiguous(), self.sink(param))
        return loss

    def update_sparse(self, param, table, gradient):
        ids, rows = gradient._indices()[0].contiguous(), gradient._values().contiguous()
        cpu.check_ids("gradient", ids, len(table))
        none = table.new_empty((0, 0))
        # the row pass sums what stands twice in an uncoalesced gradient
        cpu.reduce_rows(table, table, none.long(), none, [(ids, rows)], 0, self.sink(param))


class RowSGD(RowOptimizer):
    """x -= lr g."""

    update = "sgd"

    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, {"lr": checks.finite("lr", lr, 0.0)})

    def new_state(self, param, group):
        return {}


class RowAdagrad(RowOptimizer):
    """x -= lr g / (sqrt(sum) + eps), with sum += mean(g^2) a row; `full`: sum += g^2 (Duchi et al. 2011).

    `initial` is the first value of sum.
    """

    def __init__(self, params, lr: float = 0.1, full: bool = False, eps: float = 1e-10, initial: float = 0.0):
        defaults = {"lr": checks.finite("lr", lr, 0.0), "full": full, "eps": eps, "initial": initial}
        super().__init__(params, defaults)

    def kernel(self, group):
        return "adagrad" if group["full"] else "row_adagrad"

    def new_state(self, param, group):
        shape = param.shape if group["full"] else param.shape[:1]
        return {"sum": torch.full(shape, group["initial"], dtype=param.dtype, device=param.device)}

    def constants(self, group):
        return {"lr": group["lr"], "eps": group["eps"]}


class RowAdam(RowOptimizer):
    """Lazy Adam: moments of touched rows only; bias corrected by the step count (Kingma and Ba 2015; SparseAdam)."""

    update = "adam"

    def __init__(self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        super().__init__(params, {"lr": checks.finite("lr", lr, 0.0), "betas": betas, "eps": eps})

    def new_state(self, param, group):
        like = param.detach()
        return {"exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}

    def constants(self, group):
        beta1, beta2 = group["betas"]
        return {"lr": group["lr"], "eps": group["eps"], "beta1": beta1, "beta2": beta2}
