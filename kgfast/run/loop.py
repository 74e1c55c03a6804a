"""The loop of every kind of training: steps, what is told of them, validations, checkpoints, the end and the results.

All randomness of a step comes from (seed, step), so a run that was killed and resumed has the bits of one that was not.
Nothing in a step waits for the device: losses are read when a line of history is written.
"""

from __future__ import annotations

import json
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from kgfast.core.files import write_whole
from kgfast.data import KnowledgeGraph
from kgfast.run.checkpoint import Position
from kgfast.run.made_by import made_by
from kgfast.run.monitor import Monitor, numbers
from kgfast.run.progress import LONG, lasting
from kgfast.run.reading import flat
from kgfast.run.schedule import learning_rate, part_over
from kgfast.run.session import leave, peak_memory_bytes, stop_signals
from kgfast.run.settings import RunSettings
from kgfast.run.trackers import Tracker, open_trackers

LOG_SECONDS = 2.0
CHECKPOINT_SHARE = 20  # a checkpoint that took s seconds is followed by 20 s or more of training


class TrainingLoop(ABC):
    """One run. A subclass builds what is trained, then says what a step is, how training ends, what stands in a line of
    history and in a checkpoint, and what the results are: the abstract methods below, in this order.
    """

    config: RunSettings
    graph: KnowledgeGraph
    run: Path
    console: Console
    monitor: Monitor
    position: Position
    steps: int | None  # of the whole run; None: no bound
    losses: Tensor  # room for those of the steps since `logged`, a row a step
    rate: float | None  # of the last step; None: none is set yet
    first = True  # whether this process writes the run's files
    before: float = 0.0  # seconds of `position.elapsed` before the first step
    expected: float | None = None  # seconds that training was to take, told once
    watchers: Sequence[Tracker] = ()  # told of the run, beside those that the settings name

    # What a kind of training fills in

    @abstractmethod
    def restore(self, saved: Any) -> None:
        """Put a checkpoint in place: all state, and `position`."""

    @abstractmethod
    def set_rates(self, rate: float) -> None:
        """The learning rate of the coming steps."""

    @abstractmethod
    def take_step(self) -> Tensor:
        """Train on the next batch; its losses, a row of `losses`. All of `position` moves on but `step`."""

    @abstractmethod
    def after_step(self) -> None:
        """Validate where it is due."""

    @abstractmethod
    def ended(self) -> str | None:
        """What ends training now, other than its minutes."""

    @abstractmethod
    def at_end(self) -> None:
        """After the last step, before the last checkpoint."""

    @abstractmethod
    def check_finite(self, losses: Tensor) -> None:
        """TrainingError where one of the losses, from step `logged` on, is no number."""

    @abstractmethod
    def write_line(self, losses: Tensor, seconds: float) -> None:
        """A line of history: steps with these losses took so many seconds."""

    @abstractmethod
    def measure(self) -> tuple[dict[str, Any], str] | None:
        """(metrics, the same for people) on the valid part of the data; None where there is none."""

    @abstractmethod
    def write_checkpoint(self) -> None: ...

    @abstractmethod
    def epoch(self) -> float:
        """Passes over the examples so far."""

    @abstractmethod
    def evaluate(self, stopped: str) -> dict[str, Any]:
        """What metrics.json holds beside "train"."""

    @abstractmethod
    def pace(self) -> dict[str, Any]:
        """What "train" in metrics.json holds beside seconds, memory, steps, epochs and what ended training."""

    @abstractmethod
    def write_report(self, metrics: dict[str, Any]) -> None: ...

    def checksums(self) -> dict[str, str]:
        """Of the data, by the names that metrics.json has for them."""
        return {"data_sha256": self.graph.fingerprint}

    def agree(self, value: float) -> float:
        """The value that all processes of the run go by."""
        return value

    # The run

    def go_on(self, saved: Any, resume: bool) -> None:
        """Put the checkpoint of a run that is resumed in place, if it has one, and say so."""
        if saved is not None:
            self.restore(saved)
            self.say(f"resuming {self.run} at {self.place()}")
        elif resume:
            self.say(f"{self.run} holds no checkpoint yet: starting from the beginning")
        self.logged = self.position.step  # the first step that isn't logged yet

    def place(self) -> str:
        return f"step {self.position.step}"

    def run_to_end(self) -> dict[str, Any]:
        """Train, evaluate, write the results; {} in a process that doesn't."""
        run, history_bytes = (self.run if self.first else None), self.position.history_bytes
        with Monitor(run, self.console, history_bytes=history_bytes, trackers=self.trackers()) as self.monitor:
            stopped = self.train_until_stop()
            self.monitor.rest()
            return self.results(stopped) if self.first else {}

    def trackers(self) -> list[Tracker]:
        """Who is told of the run: those that the settings name, and the watchers."""
        if not self.first:
            return []
        names = [*(["tensorboard"] if self.config.tensorboard else []), *self.config.trackers]
        settings = dict(flat(self.config.model_dump()))
        return [*open_trackers(names, self.run, settings, self.position.step), *self.watchers]

    def train_until_stop(self) -> str:
        """Steps until training ends; says what ended it. A signal ends the process, after a checkpoint."""
        budget = 60 * self.config.minutes if self.config.minutes else math.inf
        self.start_clock()
        with stop_signals() as received:
            while True:
                now = time.monotonic()
                elapsed = self.agree(now - self.begin)
                if self.agree(float(bool(received))):
                    self.save()
                    leave(received[0] if received else signal.SIGTERM, self.run)
                self.log_and_save(now)
                stopped = self.ended() or ("minutes" if elapsed >= budget else None)
                if stopped is not None:
                    break
                self.advance(elapsed)
            self.log()
            self.at_end()
            self.save()
            if received:
                leave(received[0], self.run)
        return stopped

    def advance(self, elapsed: float) -> None:
        """One step at the rate of now."""
        rate = learning_rate(self.config, self.position.step, self.steps, elapsed)
        if rate != self.rate:
            self.set_rates(rate)
            self.rate = rate
        index = self.position.step - self.logged
        self.losses[index] = self.take_step()
        self.position.step += 1
        if index + 1 == len(self.losses):
            self.log()
        self.after_step()

    def results(self, stopped: str) -> dict[str, Any]:
        """What metrics.json holds, written, and the report."""
        position, memory = self.position, peak_memory_bytes(self.config.device)
        metrics = self.evaluate(stopped)
        metrics["train"] = {
            **self.pace(),
            "seconds": position.seconds,
            "peak_memory_bytes": memory,
            "steps": position.step,
            "epochs": self.epoch(),
            "stopped": stopped,
        }
        metrics["made_by"] = made_by(self.config.device, self.checksums())
        write_whole(self.run / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
        self.write_report(metrics)
        found = {key: value for key, value in metrics.items() if key not in ("run", "made_by")}
        self.monitor.track(dict(numbers("results", found)), position.step, self.epoch())
        return metrics

    # Its clock

    def start_clock(self) -> None:
        now = time.monotonic()
        self.rate = None
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

    def validate(self) -> None:
        """Measure what was learned so far, once a step; a line of history. It is no training time."""
        position = self.position
        if position.validated_step == position.step:
            return
        self.log()
        position.validated_step = position.step
        found = self.measure()
        if found is not None:
            metrics, text = found
            self.monitor.validation({"step": position.step, "epoch": self.epoch(), "valid": metrics}, text)
        self.mark = time.monotonic()

    def save(self) -> float:
        """Log what is pending and write a checkpoint; the seconds it took."""
        self.log()
        start = time.monotonic()
        self.position.elapsed = start - self.begin
        self.position.history_bytes = self.monitor.position()
        self.write_checkpoint()
        self.mark = time.monotonic()
        return self.mark - start

    # What is told

    def tell(self, numbers: dict[str, Any], text: str, place: str) -> None:
        """A line of history with these numbers; `text` is what people see of them."""
        position = self.position
        over = part_over(position.step, self.steps, position.elapsed, self.config.minutes)
        left = self.seconds_left() if over else 0.0
        record = {"step": position.step, "epoch": self.epoch(), **numbers}
        self.monitor.training(record, over, f"{text}  {lasting(left)} left", place)
        if self.expected is None and over:
            self.expected = left
            if left >= LONG:
                self.say(f"training: about {lasting(left)} left")

    def seconds_left(self) -> float:
        """By the steps and by the minutes that are left, whichever end sooner."""
        position, minutes = self.position, self.config.minutes
        by_time = 60 * minutes - position.elapsed if minutes else math.inf
        trained = position.elapsed - self.before
        by_steps = trained * (self.steps / position.step - 1) if self.steps else math.inf
        return max(0.0, min(by_time, by_steps))

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)
