"""Long work tells how long it will take."""

import io

import pytest
from rich.console import Console

from kgfast.run import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def told(clock, seconds):
    """What a console that is no terminal shows of work whose tenth takes so long."""
    console = Console(file=io.StringIO(), width=80)
    with progress.progress_bar(console, "ranking test") as advance:
        for done in range(1, 11):
            clock[0] += seconds
            advance(done, 10)
    return console.file.getvalue()


def test_long_work_is_told_once(clock):
    assert told(clock, 100) == "ranking test: about 0:15:00 left\n"


def test_short_work_is_not_told(clock):
    assert told(clock, 1.5) == ""


def test_a_terminal_has_a_bar(clock):
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with progress.progress_bar(console, "ranking test") as advance:
        advance(5, 10)
    assert "ranking test" in console.file.getvalue() and "about" not in console.file.getvalue()
