"""What backends are handed and what they hand back: buffers, where rows' gradients go, the tensors of a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kgfast.registry import Update

Allocate = Callable[[str, Sequence[int], torch.dtype], Tensor]
Extra = tuple[Tensor, Tensor]  # ids [M], gradient rows [M, D]
Ranges = tuple[Tensor, Tensor, Tensor]  # starts [B], ends [B], ids: row b has ids[starts[b] : ends[b]], ascending


class Workspace:
    """Buffers kept between steps, by name; a view of the right shape is handed out each time."""

    def __init__(self, device: torch.device | str | None = None):
        self.buffers: dict[str, Tensor] = {}
        self.device = device

    def __call__(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        count = math.prod(shape)
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < count or buffer.dtype != dtype:
            buffer = self.buffers[name] = torch.empty(count, dtype=dtype, device=self.device)
        return buffer[:count].view(shape)


class Constants(NamedTuple):
    """An optimizer's numbers, in the order of the kernels that read them from memory."""

    lr: float
    eps: float
    beta1: float
    beta2: float
    adam_rate: float
    step: float


@dataclass
class RowUpdate:
    """Where rows' gradients go: added to `rows`, or applied to them by an optimizer's rule with its state."""

    rule: Update
    rows: Tensor
    states: tuple[Tensor, ...]
    constants: Constants

    def tensors(self) -> tuple[Tensor, ...]:
        return self.rows, *self.states

    def named_tensors(self) -> list[tuple[str, Tensor]]:
        return [("rows", self.rows), *((f"states[{place}]", state) for place, state in enumerate(self.states))]


class DeviceRowUpdate(RowUpdate):
    """A row update whose constants lie on the device, so that a captured graph follows a schedule."""

    def __init__(self, rule: Update, rows: Tensor, states: tuple[Tensor, ...]):
        super().__init__(rule, rows, states, Constants(*[0.0] * len(Constants._fields)))
        self.on_device = torch.zeros(len(Constants._fields), dtype=torch.float64, device=rows.device)

    def named_tensors(self) -> list[tuple[str, Tensor]]:
        return [*super().named_tensors(), ("constants", self.on_device)]

    def write(self, constants: Constants) -> None:
        """Only what changed is written."""
        for place, (value, before) in enumerate(zip(constants, self.constants, strict=True)):
            if value != before:
                self.on_device[place].fill_(value)
        self.constants = constants

    def address(self) -> tuple[int, ...]:
        """What a captured graph holds on to."""
        return self.rule, *(one.data_ptr() for one in (*self.tensors(), self.on_device))


def adam_rate(lr: float, beta1: float, beta2: float, step: int, dtype: torch.dtype) -> float:
    """lr sqrt(1 - beta2^t) / (1 - beta1^t), with betas rounded as the moments' are (Kingma and Ba 2015)."""
    first, second = (float(np.float32(beta)) if dtype == torch.float32 else beta for beta in (beta1, beta2))
    return lr * math.sqrt(1 - second**step) / (1 - first**step)


class Sampled(NamedTuple):
    """A loss over sampled negatives and where its gradients come from: pairs (query b, row ids[b, k]) with coefficients
    dL/dscore, and for lists that queries share the gradient of each listed row."""

    losses: Tensor  # [B], weighted
    d_query: Tensor  # [B, D], or [0, D] without gradient
    pairs: Any  # ids [B, 1 + N], or [B, 1] with shared lists; or what the backend's row pass takes in their place
    coefficients: Tensor  # as ids
    d_negatives: Tensor  # [G, N, D] with shared lists, else [0, 0, D]


class RowPass(NamedTuple):
    """The arguments of `reduce_rows` for one table."""

    query: Tensor
    table: Tensor
    pairs: Any
    coefficients: Tensor
    extras: Sequence[Extra]
    similarity: int
    update: RowUpdate


class SampledInputs(NamedTuple):
    """The tensors of a loss over sampled negatives."""

    query: Tensor
    table: Tensor
    targets: Tensor
    negatives: Tensor
    starts: Tensor
    ends: Tensor
    known: Tensor
    weights: Tensor


class CandidateInputs(NamedTuple):
    """The tensors of a loss over all candidates."""

    query: Tensor
    table: Tensor
    bias: Tensor
    starts: Tensor
    ends: Tensor
    answers: Tensor
    weights: Tensor
