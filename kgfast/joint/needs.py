"""Packages that only joint training needs, imported on first use."""

from __future__ import annotations

from types import ModuleType

from kgfast.core import optional


def needs(package: str, extra: str = "joint", what: str = "joint training") -> ModuleType:
    """The package; KgfastError that says what to install where it is missing."""
    return optional.needs(package, what, extra)
