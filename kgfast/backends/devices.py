"""One device for the tensors of a call, which is made the current one: Triton launches on the current device, and on
its current stream, whatever the tensors' own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from kgfast.backends.base import Backend
from kgfast.backends.operands import RowUpdate
from kgfast.errors import KgfastError

ALIGNMENT = 16  # bytes that kernels load at once

B = TypeVar("B", bound=type[Backend])


def on_one_device(backend: B) -> B:
    """Guards every kernel of the contract that this class of a backend of GPUs defines."""
    for name in (*Backend.__abstractmethods__, "reduce_tables", "task_losses", "task_gradients"):
        if name in vars(backend):
            setattr(backend, name, guarded(vars(backend)[name]))
    return backend


def guarded(kernel: Callable) -> Callable:
    """`kernel`, a method, on the device of its tensors; they must be there together and contiguous."""
    names = list(inspect.signature(kernel).parameters)

    @wraps(kernel)
    def call(*arguments, **named):
        given = [*zip(names[1:], arguments[1:], strict=False), *named.items()]
        with current(device_of(given)):
            return kernel(*arguments, **named)

    return call


def current(device: torch.device | None) -> AbstractContextManager[Any]:
    """Inside, a GPU is the current device; of anything else there is one."""
    if device is None or device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def device_of(arguments: list[tuple[str, object]]) -> torch.device | None:
    """The one device of all tensors among arguments by name; KgfastError where they are on several."""
    first: tuple[str, torch.device] | None = None
    for name, tensor in tensors(arguments):
        if first is None:
            first = name, tensor.device
        elif tensor.device != first[1]:
            raise KgfastError(
                f"{name} is on {tensor.device}, {first[0]} on {first[1]}: tensors of a call must be on one device"
            )
        if not tensor.is_contiguous():
            raise KgfastError(f"{name}, {list(tensor.shape)} with strides {tensor.stride()}, must be contiguous")
    return first and first[1]


def tensors(arguments: list[tuple[str, object]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name, those in tuples, lists and row updates among them."""
    for name, value in arguments:
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, RowUpdate):
            yield from tensors([(f"{name}.{part}", one) for part, one in value.named_tensors()])
        elif isinstance(value, (tuple, list)):
            parts = getattr(value, "_fields", None)
            inner = parts or [f"{name}[{place}]" for place in range(len(value))]
            yield from tensors(list(zip(inner, value, strict=True)))


def aligned(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy where its memory does not begin where kernels can load 16 bytes."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()
