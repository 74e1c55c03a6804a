"""What every kind of run needs around its steps: a folder, a clock, signals that stop it in good order, the memory it
took."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from kgfast.errors import ConfigError, KgfastError
from kgfast.run.monitor import Monitor
from kgfast.run.schedule import part_over

LOG_SECONDS = 2.0
CHECKPOINT_SHARE = 20  # a checkpoint that took s seconds is followed by 20 s or more of training


class TrainingError(KgfastError):
    """Training can't go on, and says what to try."""


def run_folder(out: str | None, name: str, resume: bool) -> Path:
    """The folder of a run, which exists then: `out`, or a new one under runs/ that is called `name`; ConfigError if it
    holds another run already."""
    if out is not None:
        run = Path(out)
        taken = [name for name in ("checkpoint", "metrics.json") if (run / name).exists()]
        if taken and not resume:
            found = ", ".join(taken)
            raise ConfigError(f"out={out!r} holds a run already ({found}): resume it, or choose another folder")
        run.mkdir(parents=True, exist_ok=True)
        return run
    number = 1
    while True:
        try:
            run = Path("runs") / f"{name}-{number}"
            run.mkdir(parents=True)
            return run
        except FileExistsError:
            number += 1


class TrainingLoop(ABC):
    """One run and its clock: when it logs and saves, and what counts as training time.

    A subclass steps, writes each step's losses to `losses[position.step - logged]`, and says what is in a line of
    history and in a checkpoint.
    """

    config: Any
    console: Console
    monitor: Monitor
    position: Any  # where training stands: step, seconds, elapsed, history_bytes
    steps: int | None  # of the whole run; None: no bound
    losses: Tensor  # of the steps since `logged`
    logged: int  # the first step that isn't logged yet

    def start_clock(self) -> None:
        now = time.monotonic()
        self.begin = now - self.position.elapsed
        self.mark = now  # the start of training time that isn't logged yet
        self.next_log = now + LOG_SECONDS
        self.next_checkpoint = now + 60 * self.config.checkpoint_every

    def log_and_save(self, now: float) -> None:
        """Between two steps: what is due."""
        if now >= self.next_log:
            self.log()
            self.next_log = now + LOG_SECONDS
        if now >= self.next_checkpoint:
            seconds = self.save()
            self.next_checkpoint = time.monotonic() + max(60 * self.config.checkpoint_every, CHECKPOINT_SHARE * seconds)

    def log(self) -> None:
        """Read the losses since the last line, check them, write the line."""
        position = self.position
        now = time.monotonic()
        position.elapsed = now - self.begin
        if position.step == self.logged:
            self.mark = now
            return
        losses = self.losses[: position.step - self.logged].cpu().double()
        now = time.monotonic()  # the copy waited for the device, so that the time is the steps' own
        seconds, self.mark = now - self.mark, now
        self.check_finite(losses)
        position.seconds += seconds
        self.logged = position.step
        self.write_line(losses, seconds)

    def save(self) -> float:
        """Log what is pending and write a checkpoint; the seconds it took."""
        self.log()
        start = time.monotonic()
        self.position.elapsed = start - self.begin
        self.position.history_bytes = self.monitor.position()
        self.write_checkpoint()
        self.mark = time.monotonic()
        return self.mark - start

    @abstractmethod
    def check_finite(self, losses: Tensor) -> None:
        """TrainingError where one of the losses, from step `logged` on, is no number."""

    @abstractmethod
    def write_line(self, losses: Tensor, seconds: float) -> None:
        """A line of history: steps with these losses took so many seconds."""

    @abstractmethod
    def write_checkpoint(self) -> None: ...

    def progress(self) -> tuple[float, str]:
        """The part of training that is over, and the time that is left at this pace, in words."""
        elapsed = self.position.elapsed
        over = part_over(self.position.step, self.steps, elapsed, self.config.minutes)
        left = elapsed * (1 - over) / over if over else 0.0
        return over, f"{timedelta(seconds=round(left))} left"

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM in the yielded list, so that a step is never cut; a second one
    acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def receive(number: int, frame: object) -> None:
        received.append(number)
        put_back()

    for number in usual:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        put_back()


def leave(number: int, run: os.PathLike) -> None:
    """End as the signal asks, after a checkpoint."""
    message = f"stopped by {signal.Signals(number).name}; a checkpoint is in {run}, go on with resume"
    if number == signal.SIGINT:
        raise KeyboardInterrupt(message)
    raise SystemExit(128 + number)


def peak_memory_bytes(device: str) -> int:
    """The most memory that this process held so far: on its GPU if it trains there, else resident in RAM."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
