"""Row optimizers: only touched rows of a table move, and only their state. torch.optim classes, one kernel each.

With sparse gradients (`sparse_grad=True`, nn.Embedding(sparse=True)) the touched rows are those of the gradient; with a
dense gradient every row is. Training applies the same kernels inside the pass that makes the gradients (steps/).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from kgfast import backends
from kgfast.backends.base import Backend
from kgfast.backends.operands import RowUpdate
from kgfast.core import checks
from kgfast.core.sums import sum_dtype
from kgfast.errors import KgfastError
from kgfast.registry import RULES, Rule

# settings that torch's optimizers have and these may not
OTHERS = {"weight_decay", "momentum", "dampening", "nesterov", "maximize", "amsgrad", "lr_decay", "betas", "eps"}


def positive(name: str, value: float) -> float:
    """A finite number above 0: what keeps 0 / 0 out of a table."""
    if checks.finite(name, value, 0.0) == 0:
        raise KgfastError(f"{name}=0 must be above 0")
    return float(value)


class RowOptimizer(Optimizer):
    """Tables [rows, dim] as parameters, whose touched rows a rule changes (see `kgfast.reference.updates.RULES`).

    The classes below are the same with names and arguments of their own.

    Args:
        params: tables, or groups of them with settings of their own, as torch's optimizers take them.
        rule: the word of a rule, as in `RowOptimizer(params, "adam", lr=1e-3)`.
        settings: the rule's own, such as lr; what isn't given is as the rule has it.
    """

    def __init__(self, params: ParamsT, rule: str, **settings: Any):
        self.rule = checks.pick("rule", rule, RULES)
        for name in settings:
            checks.choose("setting", name, self.rule.settings)
        self.start(params, {**self.rule.settings, **settings})

    def start(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        """As torch's own, whose errors don't say what they are about."""
        try:
            Optimizer.__init__(self, params, defaults)
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            if isinstance(error, KgfastError):
                raise
            raise KgfastError(f"params must be tables, or groups of them: {error}") from None

    def add_param_group(self, param_group: dict) -> None:
        """As torch's; settings of other optimizers, which would have no effect here, are refused."""
        super().add_param_group(param_group)
        try:
            self.check_group(self.param_groups[-1])
        except KgfastError:
            self.param_groups.pop()
            raise

    def check_group(self, group: dict) -> None:
        """KgfastError for tables and settings that a group can't have."""
        for param in group["params"]:
            if param.dim() != 2:
                raise KgfastError(f"params must be tables [rows, dim], not of shape {list(param.shape)}")
            if param.layout != torch.strided or param.dtype not in checks.FLOATS:
                raise KgfastError(f"params must be dense tables of real numbers, not {param.dtype} {param.layout}")
        if len(set(group["params"])) < len(group["params"]):
            raise KgfastError("params: a table stands twice")
        for name in OTHERS - self.defaults.keys():
            if group.get(name):
                raise KgfastError(f"{name}={group[name]!r}: {type(self).__name__} has no such setting")
        self.constants(group)
        checks.flag("full", group.get("full", False))
        checks.finite("initial", group.get("initial", 0.0), 0.0)

    def rule_of(self, group: dict) -> Rule:
        """What happens to a row of a group."""
        return self.rule

    def same_for(self, params: ParamsT) -> RowOptimizer:
        """Another optimizer of this kind."""
        kind: Callable[..., RowOptimizer] = type(self)
        return RowOptimizer(params, self.rule.update.word) if kind is RowOptimizer else kind(params)

    def state_shapes(self, param: Tensor, group: dict) -> dict[str, torch.Size]:
        """The state tensors of a parameter, in the order of the kernel's arguments."""
        states = self.rule_of(group).states
        return {name: param.shape[:1] if one_a_row else param.shape for name, one_a_row in states.items()}

    def new_state(self, param: Tensor, group: dict) -> dict[str, Tensor]:
        """The state before the first step, and its count of steps."""
        first = group.get("initial", 0.0)
        options: dict[str, Any] = {"dtype": sum_dtype(param.dtype), "device": param.device}
        shapes = self.state_shapes(param, group).items()
        state = {name: torch.full(shape, first, **options) for name, shape in shapes}
        return {"step": torch.zeros((), dtype=torch.float64), **state}

    def constants(self, group: dict) -> dict[str, float]:
        """lr, eps, beta1, beta2 of a group, as the kernel wants them."""
        found = {"lr": checks.finite("lr", group["lr"], 0.0, torch.finfo(torch.float32).max)}
        if "eps" in group:
            found["eps"] = positive("eps", group["eps"])
        if "betas" in group:
            betas = group["betas"]
            if not isinstance(betas, list | tuple) or len(betas) != 2:
                raise KgfastError(f"betas={betas!r} must be two numbers in [0, 1)")
            found["beta1"], found["beta2"] = (checks.finite("betas", beta, 0.0) for beta in betas)
            if max(found["beta1"], found["beta2"]) >= 1:
                raise KgfastError(f"betas={betas!r} must be two numbers in [0, 1)")
        return found

    def ensure_state(self) -> None:
        """Makes the state of every parameter, so that it can be saved and loaded before the first step."""
        for group in self.param_groups:
            for param in group["params"]:
                if not self.state[param]:
                    self.state[param].update(self.new_state(param, group))

    def row_update(self, param: Tensor, backend: Backend) -> RowUpdate:
        """Advances the parameter's step and returns what the row pass of a backend needs to update it in place."""
        group = self.group_of(param)
        state = self.state[param]
        if not state:
            state.update(self.new_state(param, group))
        shapes = self.state_shapes(param, group)
        states = tuple(self.state_tensor(param, name, shape, state) for name, shape in shapes.items())
        step = int(state["step"]) + 1
        held = self.__dict__.setdefault("row_updates", {})  # a copy of an optimizer starts without
        held[param] = backend.row_update(
            self.rule_of(group).update, param.detach(), states, **self.constants(group), step=step,
            last=held.get(param),
        )  # fmt: skip
        state["step"] += 1  # after what can be refused
        return held[param]

    def group_of(self, param: Tensor) -> dict:
        for group in self.param_groups:
            if any(param is one for one in group["params"]):
                return group
        raise KgfastError(f"optimizer: it has no parameter of shape {list(param.shape)} that is the table to update")

    @staticmethod
    def state_tensor(param: Tensor, name: str, shape: torch.Size, state: dict) -> Tensor:
        """The state `name`, which must fit its table: a kernel writes to it."""
        value, dtype = state.get(name), sum_dtype(param.dtype)
        if value is None or value.shape != shape or value.dtype != dtype or not value.is_contiguous():
            found = "missing" if value is None else f"{list(value.shape)} {value.dtype}"
            raise KgfastError(
                f"optimizer state {name!r} of a table {list(param.shape)} must be a contiguous {list(shape)} "
                f"{dtype}; it is {found}"
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
                backend = backends.get(backends.choose(None, table.device))
                backend.check_table("params", table)
                gradient = param.grad
                if gradient.shape != table.shape or gradient.dtype != table.dtype or gradient.device != table.device:
                    raise KgfastError(
                        f"gradient {list(gradient.shape)} {gradient.dtype} on {gradient.device} is not of its table, "
                        f"{list(table.shape)} {table.dtype} on {table.device}: that was replaced since backward"
                    )
                if gradient.is_sparse:
                    self.update_sparse(param, table, gradient, backend)
                else:
                    backend.update_all_rows(gradient.resolve_neg().contiguous(), self.row_update(param, backend))
        return loss

    def update_sparse(self, param: Tensor, table: Tensor, gradient: Tensor, backend: Backend) -> None:
        if gradient.sparse_dim() != 1:
            raise KgfastError(f"gradient: a sparse one needs sparse_dim 1, not {gradient.sparse_dim()}")
        ids, rows = gradient._indices()[0].contiguous(), gradient._values().resolve_neg().contiguous()
        checks.id_range("gradient", ids, len(table))
        none = table.new_empty((0, 0))
        # the row pass sums what stands twice in an uncoalesced gradient
        backend.reduce_rows(table, table, none.long(), none, [(ids, rows)], 0, self.row_update(param, backend))


class RowSGD(RowOptimizer):
    """x -= lr g.

    Args:
        params: tables, or groups of them, as torch's optimizers take them.
        lr: the rate.
    """

    def __init__(self, params: ParamsT, lr: float = 0.1):
        super().__init__(params, "sgd", lr=lr)


class RowAdagrad(RowOptimizer):
    """x -= lr g / (sqrt(sum) + eps), with sum += mean(g^2), one a row (Duchi et al. 2011).

    Args:
        params: tables, or groups of them, as torch's optimizers take them.
        lr: the rate.
        full: whether every number has a sum of its own, sum += g^2.
        eps: above 0, what a sum of 0 is divided by.
        initial: the first value of sum.
    """

    def __init__(self, params: ParamsT, lr: float = 0.1, full: bool = False, eps: float = 1e-10, initial: float = 0.0):
        self.rule = RULES["row_adagrad"]
        self.start(params, {"lr": lr, "full": full, "eps": eps, "initial": initial})

    def rule_of(self, group: dict) -> Rule:
        return RULES["adagrad" if group["full"] else "row_adagrad"]


class RowAdam(RowOptimizer):
    """Lazy Adam: moments of touched rows only; bias corrected by the step count (Kingma and Ba 2015; SparseAdam).

    Args:
        params: tables, or groups of them, as torch's optimizers take them.
        lr: the rate.
        betas: how much of the first and second moment is kept in a step, each in [0, 1).
        eps: above 0, added to the root of the second moment.
    """

    def __init__(self, params: ParamsT, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8):
        super().__init__(params, "adam", lr=lr, betas=betas, eps=eps)


# Those that have a class of their own, by rule.
NAMED: dict[str, Callable[..., RowOptimizer]] = {
    "sgd": RowSGD,
    "row_adagrad": RowAdagrad,
    "adagrad": partial(RowAdagrad, full=True),
    "adam": RowAdam,
}
BY_RULE: dict[str, Callable[..., RowOptimizer]] = {
    word: NAMED.get(word, partial(RowOptimizer, rule=word)) for word in RULES
}
