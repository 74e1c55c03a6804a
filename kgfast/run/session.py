"""What every kind of run needs around its steps: a start, signals that stop it in good order, the memory it took."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError, KgfastError
from kgfast.run.memory import most_resident_bytes, use_threads
from kgfast.run.settings import RunSettings, check_device
from kgfast.run.trackers import check_installed


class TrainingError(KgfastError):
    """Training can't go on, and says what to try."""


def start(config: RunSettings, resume: bool) -> bool:
    """Whether the run goes on; ConfigError before anything is read where it can't start. Sets the number of threads."""
    resume = resume or config.resume
    if resume and config.out is None:
        raise ConfigError("resume: needs out=RUN, the folder of the run to go on with")
    check_device(config.device)
    check_installed(config.trackers)
    use_threads(config.threads)
    return resume


def check_triples(graph: KnowledgeGraph) -> None:
    """DataError where there is nothing to train on."""
    if len(graph.train) == 0:
        raise DataError(f"graph {graph.name!r} has no train triples")


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
    return most_resident_bytes()
