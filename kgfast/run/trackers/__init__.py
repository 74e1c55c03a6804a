"""Other programs that are told of a run: one hook, a file for each of them.

A tracker of your own is a subclass of `Tracker`, given to `train(config, trackers=[..])`.
"""

from __future__ import annotations

import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from kgfast.core.files import read_plain, write_whole
from kgfast.core.optional import needs
from kgfast.errors import CheckpointError

NAMES = ("wandb", "mlflow", "trackio")  # each a module here and a package to install
ID = "tracker_id"  # the file of a run that keeps its name for trackers


@dataclass(frozen=True)
class Watched:
    """What a tracker is told of a run at its start."""

    folder: Path
    settings: Mapping[str, Any]
    step: int  # the next; not 0 in a run that goes on

    @property
    def id(self) -> str:
        """The same when the run goes on: drawn once and kept in its folder."""
        return run_id(self.folder)


class Tracker(ABC):
    """Is told the numbers of one run. Names have slashes and no @: train/loss, valid/hits_at_10, results/test/mrr."""

    @abstractmethod
    def log(self, numbers: Mapping[str, float], step: int, epoch: float) -> None:
        """Numbers after `step` steps, which are `epoch` passes over the examples."""

    @abstractmethod
    def close(self, ended: str) -> None:
        """The run is "finished", was "stopped" and may go on, or has "failed"."""


def check_installed(names: Sequence[str]) -> None:
    """KgfastError that says what to install where a tracker's package is missing."""
    for name in names:
        needs(name, f"trackers={name}", name)


def open_trackers(names: Sequence[str], run: Path, settings: Mapping[str, Any], step: int) -> list[Tracker]:
    """The trackers of these names, told that the run begins or goes on."""
    opened: list[Tracker] = []
    try:
        for name in names:
            module = import_module(f"{__name__}.{name}")
            opened.append(module.open_tracker(Watched(run, settings, step)))
    except BaseException:
        for tracker in opened:
            tracker.close("failed")
        raise
    return opened


def run_id(run: Path) -> str:
    path = run / ID
    try:
        found = read_plain(path, 100).decode("ascii", "replace").strip()
    except FileNotFoundError:
        found = secrets.token_hex(4)
        write_whole(path, f"{found}\n".encode())
    if not re.fullmatch("[0-9a-f]{8}", found):
        raise CheckpointError(f"{path} is damaged: it holds no id of a run")
    return found
