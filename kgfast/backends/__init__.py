"""Backends by name. `impl=` names one and raises with the reason when it can't serve; nothing falls back silently."""

from __future__ import annotations

from kgfast.errors import KgfastError

NAMES = ("cpu", "reference", "triton", "cuda")


def why_not(name: str) -> str | None:
    """None if the backend `name` can serve here, else the reason."""
    if name in ("cpu", "reference"):
        return None
    if name in ("triton", "cuda"):
        return f"the {name} kernels are not written yet"
    raise KgfastError(f"impl {name!r} is unknown; the backends are {', '.join(NAMES)}")


def status() -> dict[str, str | None]:
    """Every backend with None, or the reason why it can't serve."""
    return {name: why_not(name) for name in NAMES}


def choose(impl: str | None, device) -> str:
    """The backend for tensors on `device`: the one named, or the compiled one of that device."""
    if impl is None:
        if device.type == "cpu":
            return "cpu"
        raise KgfastError(f"no backend for tensors on {device}; move them to the CPU, or use impl='reference'")
    reason = why_not(impl)
    if reason:
        raise KgfastError(f"impl={impl!r} can't serve: {reason}")
    if impl == "cpu" and device.type != "cpu":
        raise KgfastError(f"impl='cpu' needs tensors on the CPU, not on {device}")
    return impl
