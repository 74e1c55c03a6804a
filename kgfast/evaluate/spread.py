"""What values of several seeds come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def mean_and_spread(values: Sequence[float | None]) -> dict[str, Any]:
    """{"mean", "spread", "values"} over those that are finite numbers; spread is the sample standard deviation, None
    for a single one."""
    known = [one for one in values if one is not None and math.isfinite(one)]
    return {
        "mean": statistics.fmean(known) if known else None,
        "spread": statistics.stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }
