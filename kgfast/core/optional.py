"""Packages that not everybody needs, imported on first use."""

from __future__ import annotations

import importlib
from types import ModuleType

from kgfast.errors import KgfastError


def needs(package: str, what: str, extra: str) -> ModuleType:
    """The package; KgfastError that says what to install where it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise KgfastError(f'{what} needs the package {package} ({error}): pip install "kgfast[{extra}]"') from error
