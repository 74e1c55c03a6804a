"""Trackio, which keeps its records on this machine. TRACKIO_PROJECT names the project, kgfast by default."""

from __future__ import annotations

import os
from collections.abc import Mapping

import trackio

from kgfast.run.trackers import Tracker, Watched


class Trackio(Tracker):
    def __init__(self, watched: Watched) -> None:
        self.run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "kgfast"), name=f"{watched.folder.name}-{watched.id}",
            config=dict(watched.settings), resume="allow",
        )  # fmt: skip

    def log(self, numbers: Mapping[str, float], step: int, epoch: float) -> None:
        self.run.log({**numbers, "epoch": epoch}, step=step)

    def close(self, ended: str) -> None:
        self.run.finish()


open_tracker = Trackio
