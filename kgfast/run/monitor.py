"""What a person sees of training: a progress bar on standard error, RUN/history.jsonl, and what trackers show."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from kgfast.core.files import naming, open_plain
from kgfast.run.trackers import Tracker

QUIET_SECONDS = 30.0  # between two lines where standard error is no terminal


class Monitor:
    """Records of one run, as a context manager; of no run where `run` is None (a process that isn't the first).

    `history_bytes` is where an earlier part of the run ended.
    """

    def __init__(
        self, run: Path | None, console: Console, *, history_bytes: int, trackers: Sequence[Tracker] = ()
    ) -> None:
        self.console, self.trackers = console, trackers
        self.path = Path(os.devnull) if run is None else run / "history.jsonl"
        if run is None:
            self.file: BinaryIO = open(self.path, "ab")
        else:
            self.file = open_plain(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            # What came after the checkpoint is about to happen again.
            with naming(self.path):
                self.file.truncate(min(history_bytes, os.path.getsize(self.path)))
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("training", total=1.0, text="")
        self._spoke = time.monotonic()

    def __enter__(self) -> Monitor:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self.bar.stop()
        self.file.close()
        stopped = kind is not None and not issubclass(kind, Exception)  # by a signal
        for tracker in self.trackers:
            tracker.close("finished" if kind is None else "stopped" if stopped else "failed")

    def rest(self) -> None:
        """No progress is shown any more."""
        self.bar.stop()

    def training(self, record: dict[str, Any], over: float, text: str, name: str) -> None:
        """A line of history; `over` is the part of training that is done, `text` and `name` say the rest to people."""
        self._write(record)
        self.bar.update(self.task, completed=over, description=name, text=text)
        if not self.console.is_terminal and time.monotonic() - self._spoke > QUIET_SECONDS:
            self.say(f"{name}  {over:.0%}  {text}")

    def validation(self, record: dict[str, Any], text: str) -> None:
        """A line of history: step, epoch, valid (metrics)."""
        self._write(record)
        self.say(text)

    def position(self) -> int:
        """Bytes of history that are safe on disk."""
        if self.path == Path(os.devnull):
            return 0
        with naming(self.path):
            os.fsync(self.file.fileno())
        return os.path.getsize(self.path)

    def say(self, text: str) -> None:
        self._spoke = time.monotonic()
        self.console.print(text, highlight=False, markup=False)

    def _write(self, record: dict[str, Any]) -> None:
        with naming(self.path):
            self.file.write(json.dumps(record).encode() + b"\n")
            self.file.flush()
        told: dict[str, float] = {}
        for key, value in record.items():
            if key not in ("step", "epoch"):
                told |= numbers(key if key == "valid" else f"train/{key}", value)
        self.track(told, record["step"], record["epoch"])

    def track(self, told: Mapping[str, float], step: int, epoch: float) -> None:
        """Tell the trackers; no name has an @ there, which some don't take."""
        for tracker in self.trackers:
            tracker.log({name.replace("@", "_at_"): value for name, value in told.items()}, step, epoch)


def numbers(path: str, value: Any) -> Iterator[tuple[str, float]]:
    """(path, number) of all numbers in nested dictionaries."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(f"{path}/{key}", inner)
    elif isinstance(value, (int, float)):
        yield path, value
