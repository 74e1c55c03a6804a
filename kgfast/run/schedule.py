"""The learning rate as a function of how far training is."""

from __future__ import annotations

import math

from kgfast.run.settings import RunSettings


def part_over(step: int, steps: int | None, seconds: float, minutes: float | None) -> float:
    """The part of training that is over, of its steps or its minutes, whichever is further; 0 without a bound."""
    by_steps = step / steps if steps else 0.0
    by_time = seconds / (60 * minutes) if minutes else 0.0
    return min(1.0, max(by_steps, by_time))


def learning_rate(config: RunSettings, step: int, steps: int | None, seconds: float) -> float:
    """The rate of step `step` of `steps` (None: no bound), `seconds` after the start.

    With f = `lr_final` and p in [0, 1] the part of training that is over: linear lr (1 - (1 - f) p);
    cosine lr (f + (1 - f) (1 + cos(pi p)) / 2); step lr until p = `lr_step_at`, then lr f. Warm-up multiplies by
    (step + 1) / warmup as long as that is below 1.
    """
    rate = config.lr
    if config.lr_schedule != "constant":
        over = part_over(step, steps, seconds, config.minutes)
        if config.lr_schedule == "linear":
            rate *= 1 - (1 - config.lr_final) * over
        elif config.lr_schedule == "cosine":
            rate *= config.lr_final + (1 - config.lr_final) * (1 + math.cos(math.pi * over)) / 2
        elif over >= config.lr_step_at:
            rate *= config.lr_final
    if step < config.warmup:
        rate *= (step + 1) / config.warmup
    return rate
