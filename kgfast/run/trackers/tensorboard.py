"""TensorBoard: events in RUN/tensorboard."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from kgfast.run.folder import folder_inside
from kgfast.run.trackers import Tracker, Watched


class TensorBoard(Tracker):
    def __init__(self, watched: Watched) -> None:
        folder = folder_inside(watched.folder, "tensorboard")
        self.writer = SummaryWriter(str(folder), purge_step=watched.step)

    def log(self, numbers: Mapping[str, float], step: int, epoch: float) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self, ended: str) -> None:
        self.writer.close()


open_tracker = TensorBoard
