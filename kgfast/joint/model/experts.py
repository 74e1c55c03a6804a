"""Experts: feed-forward layers of which each token takes the few that a gate chooses for it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from kgfast.errors import ConfigError, KgfastError

GATES = ("token", "task", "both")


class Gate(nn.Module):
    """Chances of the experts for each token: softmax of W x (token), of a row of its task (task), or of their sum."""

    def __init__(self, hidden: int, experts: int, tasks: int, kind: str):
        super().__init__()
        if kind not in GATES:
            raise ConfigError(f"gate={kind!r}: must be one of {', '.join(GATES)}")
        self.token = nn.Linear(hidden, experts, bias=False) if kind != "task" else None
        self.task = nn.Embedding(tasks, experts) if kind != "token" else None
        if self.token is not None:
            nn.init.normal_(self.token.weight, std=hidden**-0.5)
        if self.task is not None:
            nn.init.normal_(self.task.weight, std=1.0)

    def forward(self, hidden: Tensor, tasks: Tensor) -> Tensor:
        """[T, experts] chances from hidden [T, H] and the task of each token [T]."""
        parts = [] if self.token is None else [self.token(hidden)]
        parts += [] if self.task is None else [self.task(tasks)]
        return sum(parts[1:], parts[0]).float().softmax(-1)


class Experts(nn.Module):
    """y = sum over the top k experts e of p_e expert_e(x); p renormalised over them where k > 1 (with k = 1 it is not,
    so that the gate learns). No token is dropped (Shazeer et al. 2017; Fedus et al. 2022).

    experts: modules [T, H] -> [T, H]. `begin` says which task each token of the next pass is of. A pass in training
    leaves `counts` [tasks, experts], the tokens routed so far, and `balance`, E sum_e f_e P_e with f_e the share of the
    routes and P_e the mean chance of expert e: 1 when all are used alike (Fedus et al. 2022, eq. 4).
    """

    counts: Tensor

    def __init__(self, experts: list[nn.Module], hidden: int, tasks: int, *, top_k: int, gate: str):
        super().__init__()
        if not 1 <= top_k <= len(experts):
            raise ConfigError(f"top_k={top_k}: must be between 1 and the number of experts, {len(experts)}")
        self.experts, self.top_k = nn.ModuleList(experts), top_k
        self.gate = Gate(hidden, len(experts), tasks, gate)
        self.register_buffer("counts", torch.zeros(tasks, len(experts), dtype=torch.int64))
        self.tasks: Tensor | None = None
        self.balance: Tensor | None = None
        self.recording = False

    def begin(self, tasks: Tensor) -> None:
        """tasks int64 [T]: the task of each token of the pass that follows."""
        self.tasks, self.recording, self.balance = tasks, True, None

    def forward(self, hidden: Tensor) -> Tensor:
        shape = hidden.shape
        flat = hidden.reshape(-1, shape[-1])
        if self.tasks is None or len(self.tasks) != len(flat):
            raise KgfastError("experts: `begin` was not told the task of each token of this pass")
        chances = self.gate(flat, self.tasks)
        best, chosen = chances.topk(self.top_k, dim=-1)
        if self.top_k > 1:
            best = best / best.sum(-1, keepdim=True)
        if self.training:
            self.record(chances, chosen, self.tasks)
        routes = chosen.flatten()
        order = routes.argsort(stable=True)
        tokens = order // self.top_k
        bounds = torch.bincount(routes, minlength=len(self.experts)).cumsum(0).tolist()
        inputs = flat.index_select(0, tokens)
        outputs = [
            expert(inputs[start:stop])
            for expert, start, stop in zip(self.experts, [0, *bounds[:-1]], bounds, strict=True)
            if stop > start
        ]
        weighted = torch.cat(outputs) * best.flatten()[order, None].to(flat.dtype)
        return torch.zeros_like(weighted[: len(flat)]).index_add(0, tokens, weighted).reshape(shape)

    def record(self, chances: Tensor, chosen: Tensor, tasks: Tensor) -> None:
        """Counts and balance of this pass. With activation checkpointing the layer runs again in the backward pass and
        must do the same operations; it is recorded once."""
        experts = len(self.experts)
        with torch.no_grad():
            pairs = (tasks[:, None] * experts + chosen).flatten()
            counts = torch.bincount(pairs, minlength=self.counts.numel()).view_as(self.counts)
            share = counts.sum(0) / counts.sum()
        balance = experts * (share * chances.mean(0)).sum()
        if self.recording:
            self.counts += counts
            self.balance, self.recording = balance, False


class Inner(nn.Module):
    """A feed-forward layer without its residual: linear, activation, linear, dropout."""

    def __init__(self, first: nn.Module, activation, second: nn.Module, dropout: float):
        super().__init__()
        self.first, self.activation, self.second = first, activation, second
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.second(self.activation(self.first(hidden))))


class Closing(nn.Module):
    """What stands behind BERT's feed-forward layer: norm(experts(x) + residual)."""

    def __init__(self, experts: Experts, norm: nn.Module):
        super().__init__()
        self.experts, self.norm = experts, norm

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.norm(self.experts(hidden) + residual)


def route_layers(model: nn.Module, hidden: int, tasks: int, *, experts: int, top_k: int, gate: str) -> list[Experts]:
    """Replace the feed-forward part of every layer of a transformers model by experts; the new modules, in order.

    Each expert starts as the layer's own feed-forward part with 2 % of noise, so that a pretrained model stays what it
    was ("sparse upcycling", Komatsuzaki et al. 2023).
    """
    if experts < 2:
        raise ConfigError(f"experts={experts}: must be at least 2")
    layers = layers_of(model)
    routed = []
    for layer in layers:
        if hasattr(layer, "intermediate") and hasattr(layer.output, "LayerNorm"):  # BERT's
            own = Inner(
                layer.intermediate.dense, layer.intermediate.intermediate_act_fn, layer.output.dense,
                layer.output.dropout.p,
            )  # fmt: skip
            router = Experts(copies(own, experts), hidden, tasks, top_k=top_k, gate=gate)
            layer.intermediate, layer.output = nn.Identity(), Closing(router, layer.output.LayerNorm)
        elif hasattr(layer, "mlp"):  # GPT-2's, Llama's
            router = Experts(copies(layer.mlp, experts), hidden, tasks, top_k=top_k, gate=gate)
            layer.mlp = router
        else:
            raise ConfigError(f"sharing='routed': {type(layer).__name__} has no feed-forward part that is known here")
        routed.append(router)
    return routed


def layers_of(model: nn.Module) -> Any:
    """The nn.ModuleList of a model's layers."""
    for path in ("encoder.layer", "h", "layers"):
        found: Any = model
        for part in path.split("."):
            found = getattr(found, part, None)
        if isinstance(found, nn.ModuleList):
            return found
    raise ConfigError(f"{type(model).__name__} has no list of layers that is known here")


def copies(module: nn.Module, count: int) -> list[nn.Module]:
    """`count` copies, told apart by a little noise on the weights."""
    made = []
    for _ in range(count):
        one = copy.deepcopy(module)
        for parameter in one.parameters():
            if parameter.dim() > 1:
                with torch.no_grad():
                    parameter.add_(0.02 * parameter.std() * torch.randn_like(parameter))
        made.append(one)
    return made
