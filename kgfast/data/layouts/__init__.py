"""Folders as other programs lay graphs out: several files that only together give names, triples and questions.

Each file of this room has a `Layout`. A folder with a train file of kgfast's own is never one of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from pathlib import Path

import pyarrow as pa

from kgfast.data.columns import Columns
from kgfast.data.texts import Row


class Layout(ABC):
    """One folder. A subclass says how it is known and read; DataError with file and line for anything malformed.

    triples  {split: the file that stands for it in reports}
    """

    name: str
    triples: dict[str, Path]

    @classmethod
    @abstractmethod
    def find(cls, folder: Path) -> Layout | None:
        """The folder as this layout has it; None where it isn't one. Only names of files are looked at."""

    @abstractmethod
    def read(self, split: str) -> Columns:
        """The triples of a split."""

    @abstractmethod
    def files(self) -> list[Path]:
        """Every file that is read."""

    def texts(self) -> dict[str, tuple[pa.Array, pa.Array]]:
        """{role of a text, as in `sources.TEXTS`: (names, texts)}."""
        return {}

    def questions(self) -> dict[str, list[Row]]:
        """{split: questions}."""
        return {}


def layout_of(folder: Path) -> Layout | None:
    """The layout that a folder has; None where it has none of these."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return next((found for kind in Layout.__subclasses__() if (found := kind.find(folder)) is not None), None)
