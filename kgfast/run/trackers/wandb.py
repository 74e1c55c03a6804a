"""Weights & Biases. Its own environment variables count: WANDB_PROJECT (kgfast by default), WANDB_MODE, .."""

from __future__ import annotations

import os
from collections.abc import Mapping

import wandb

from kgfast.run.trackers import Tracker, Watched


class Wandb(Tracker):
    def __init__(self, watched: Watched) -> None:
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "kgfast"), name=watched.folder.name, id=watched.id, resume="allow",
            config=dict(watched.settings), dir=str(watched.folder),
        )  # fmt: skip

    def log(self, numbers: Mapping[str, float], step: int, epoch: float) -> None:
        self.run.log({**numbers, "epoch": epoch}, step=step)

    def close(self, ended: str) -> None:
        self.run.finish(exit_code=0 if ended == "finished" else 1)


open_tracker = Wandb
