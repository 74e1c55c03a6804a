"""Mixing: which tasks take part in a step, and which of their batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from kgfast.errors import ConfigError
from kgfast.run.seeds import generator

METHODS = ("every", "proportional", "temperature", "round_robin")
BLOCK = 1024  # steps whose tasks are drawn together


class Mixing:
    """The tasks of a step, a function of (seed, step) alone.

        every         all tasks, in each step
        round_robin   one, by turns
        proportional  one, drawn with a chance proportional to its number of batches n_i
        temperature   one, drawn with a chance proportional to n_i^(1 / temperature)     (Arivazhagan et al. 2019)

    sizes: {task: batches an epoch}. An epoch is max n_i steps with `every`, else sum n_i.
    """

    def __init__(self, method: str, sizes: Mapping[str, int], *, temperature: float = 2.0, seed: int = 0):
        if method not in METHODS:
            raise ConfigError(f"mixing={method!r}: must be one of {', '.join(METHODS)}")
        if not sizes or min(sizes.values()) < 1:
            raise ConfigError(f"mixing: every task needs a batch, got {dict(sizes)}")
        if temperature <= 0:
            raise ConfigError(f"mixing.temperature={temperature}: must be above 0")
        self.method, self.names, self.seed = method, list(sizes), seed
        counts = torch.tensor([float(sizes[name]) for name in self.names], dtype=torch.float64)
        power = 1 / temperature if method == "temperature" else 1.0
        self.chances = counts**power / (counts**power).sum()
        self.per_epoch = int(counts.max() if method == "every" else counts.sum())
        self._block = -1
        self._drawn: list[int] = []

    def tasks(self, step: int) -> list[str]:
        """Names of the tasks of step `step`."""
        if self.method == "every":
            return list(self.names)
        if self.method == "round_robin":
            return [self.names[step % len(self.names)]]
        block, index = divmod(step, BLOCK)
        if block != self._block:
            draws = generator(self.seed, f"mixing/{block}")
            self._drawn = torch.multinomial(self.chances, BLOCK, replacement=True, generator=draws).tolist()
            self._block = block
        return [self.names[self._drawn[index]]]


class Starvation:
    """Raises an alarm, once each time, for a task absent for `steps` steps, or whose weight is under 1 % of the mean
    weight."""

    SHARE = 0.01

    def __init__(self, names: Sequence[str], steps: int):
        self.steps, self.said = steps, dict.fromkeys(names, False)

    def alarms(self, step: int, last: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, str]:
        """{task: what is wrong} of the tasks that starve and did not before; `last` is the step each was last in."""
        found, mean = {}, sum(weights.values()) / max(len(weights), 1)
        for name in self.said:
            absent = step - last[name]
            if absent >= self.steps:
                reason = f"task {name} starves: it was in none of the last {absent} steps"
            elif len(weights) > 1 and weights[name] < self.SHARE * mean:
                reason = f"task {name} starves: its weight is {weights[name]:.2g}, the mean of all {mean:.2g}"
            else:
                self.said[name] = False
                continue
            if not self.said[name]:
                self.said[name] = True
                found[name] = reason
        return found
