"""How far long work is, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import Progress

LONG = 20.0  # seconds of work from which on a line tells the expected time
SURE = 1.0  # seconds after which it can be told


def lasting(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def progress_bar(console: Console, text: str) -> Iterator[Callable[[int, int], None]]:
    """Yields the function to call with (done, total): a bar with the time left where the console is a terminal, else
    one line with the expected time where it is long."""
    begin, told = time.monotonic(), False

    def advance(done: int, total: int) -> None:
        nonlocal told
        bar.update(task, completed=done, total=total)
        passed = time.monotonic() - begin
        if told or console.is_terminal or passed < SURE or not done:
            return
        told = True
        left = passed * (total - done) / done
        if left >= LONG:
            console.print(f"{text}: about {lasting(left)} left", highlight=False, markup=False)

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield advance
