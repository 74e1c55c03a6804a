"""Backends by name. `impl=` names one and raises with the reason when it can't serve; nothing falls back silently.

A backend is a module with the functions of `cpu.py`: the same names, arguments and meaning. Everything above this
package is written once, for the module that `module(choose(impl, device))` returns.
"""

from __future__ import annotations

import importlib
import importlib.util
import os

from kgfast.errors import KgfastError

NAMES = ("cpu", "reference", "triton", "cuda")
GPU = "triton"  # serves tensors on a GPU where no backend is named
TRITON = importlib.util.find_spec("triton") is not None
# Triton reads the variable when kernels are defined: its interpreter runs them on the CPU, slowly, to check them
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = importlib.util.find_spec("kgfast.backends.cuda") is not None


def why_not(name: str, device: str | None = None) -> str | None:
    """None if the backend `name` can serve tensors on a `device` type (None: any device here), else the reason."""
    if name == "reference":
        return None
    if name == "cpu":
        return None if device in (None, "cpu") else f"it needs tensors on the CPU, not on {device}"
    if name == "triton":
        if not TRITON:
            return "Triton is not installed: pip install triton"
        if INTERPRETED or device == "cuda":
            return None
        return missing_gpu(device)
    if name == "cuda":
        if not CUDA:
            return "the CUDA kernels are not built: they need nvcc when kgfast is installed"
        cuda = module("cuda")
        reason = cuda.why_not()
        if reason or device == "cuda" or (device in (None, "cpu") and cuda.ON_HOST):
            return reason
        return missing_gpu(device)
    raise KgfastError(f"impl {name!r} is unknown; the backends are {', '.join(NAMES)}")


def missing_gpu(device: str | None) -> str | None:
    if device is not None:
        return f"it needs tensors on a GPU, not on {device}"
    import torch

    return None if torch.cuda.is_available() else "no CUDA device was found"


def status() -> dict[str, str | None]:
    """Every backend with None, or the reason why it can't serve."""
    return {name: why_not(name) for name in NAMES}


def choose(impl: str | None, device) -> str:
    """The backend for tensors on `device`: the one named, or the default of that kind of device."""
    if impl is None:
        if device.type not in ("cpu", "cuda"):
            raise KgfastError(f"no backend for tensors on {device}; move them to the CPU, or use impl='reference'")
        impl = "cpu" if device.type == "cpu" else GPU
    reason = why_not(impl, device.type)
    if reason:
        raise KgfastError(f"impl={impl!r} can't serve: {reason}")
    return impl


def module(name: str):
    """The module of a backend; imported on first use, so that nobody pays for what is not used."""
    return importlib.import_module(f"kgfast.backends.{name}")
