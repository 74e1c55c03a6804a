"""Backends by name. `impl=` names one and raises with the reason when it can't serve; nothing falls back silently.

All keep the contract of base.py. Everything above this package is written once, for the `Backend` that
`get(choose(impl, device))` returns.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch

from kgfast.backends.base import Backend
from kgfast.core import checks
from kgfast.errors import KgfastError

NAMES = ("cpu", "reference", "triton", "cuda")
GPU = "triton"  # serves tensors on a GPU where no backend is named
TRITON = importlib.util.find_spec("triton") is not None


CLASSES = {"cpu": "CpuBackend", "triton": "TritonBackend", "cuda": "CudaBackend"}
_made: dict[str, Backend] = {}


def get(name: str) -> Backend:
    """A backend; made on first use, so that nobody pays for what is not used."""
    if name not in CLASSES:
        raise KgfastError(f"impl {name!r} is unknown; the backends are {', '.join(NAMES)}")
    if name not in _made:
        _made[name] = getattr(importlib.import_module(f"kgfast.backends.{name}"), CLASSES[name])()
    return _made[name]


def why_not(name: str, device: str | None = None) -> str | None:
    """None if the backend `name` can serve tensors on a `device` type (None: any device here), else the reason."""
    if name == "reference":
        return None
    if name in ("triton", "cuda") and not TRITON:
        return "Triton is not installed: pip install triton"
    return get(name).why_not(device)


# what torch.compiler.assume_constant_result sets, without its slow import: a compiled call may be a backend's first
why_not._dynamo_marked_constant = True  # type: ignore[attr-defined]


def status() -> dict[str, str | None]:
    """Every backend with None, or the reason why it can't serve."""
    return {name: why_not(name) for name in NAMES}


def choose(impl: str | None, device: torch.device) -> str:
    """The backend for tensors on `device`: the one named, or the default of that kind of device."""
    if impl is None:
        if device.type not in ("cpu", "cuda"):
            raise KgfastError(f"no backend for tensors on {device}; move them to the CPU, or use impl='reference'")
        impl = "cpu" if device.type == "cpu" else GPU
    checks.choose("impl", impl, NAMES)
    reason = why_not(impl, device.type)
    if reason:
        raise KgfastError(f"impl={impl!r} can't serve: {reason}")
    return impl
