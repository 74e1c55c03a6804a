"""Timing in turns: what disturbs the machine disturbs all alike."""

from __future__ import annotations

import time

LEAST, MOST = 5, 200  # rounds


def rounds_for(once: dict[str, float], seconds: float) -> int:
    """How many rounds fit into `seconds` for each of them, every call being made twice."""
    return max(LEAST, min(MOST, int(seconds * len(once) / (2 * sum(once.values()) + 1e-9))))


def in_turns(rivals: dict, ours):
    """(a function to call before each timed call of ours, {rival: its seconds}).

    Each rival is timed after an untimed call of its own, and ours is made ready by one, so that all find the caches as
    they leave them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}

    def before():
        for name, call in rivals.items():
            call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
        ours()

    return before, seconds
