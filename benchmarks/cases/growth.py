"""How cost grows, and a table far larger than the caches."""

from __future__ import annotations

from benchmarks.cases.registry import Case
from benchmarks.inputs import LARGE

# How cost grows: one axis at a time around the default size.
GROWTH = {
    "negatives": (16, 64, 256, 1024),
    "dim": (64, 128, 256, 512, 1024),
    "batch": (128, 512, 2048, 8192),
    "entities": (2_000, 15_000, 50_000, 200_000),
}
GROWING = (
    Case("NegativeSamplingStep", "transe_l1", "none"),
    Case("NegativeSamplingStep", "distmult", "none"),
    Case("NegativeSamplingStep", "distmult", "batch"),
    Case("OneVsAllStep", "complex", "softmax"),
    Case("rank", "transe_l1", "filtered"),
    Case("rank", "complex", "filtered"),
)


def scaling() -> list[Case]:
    return [
        Case(case.op, case.score, case.variant, ((axis, value),))
        for case in GROWING
        for axis, values in GROWTH.items()
        if axis != "negatives" or case.op == "NegativeSamplingStep"
        for value in values
    ]


def large() -> list[Case]:
    changes = tuple(LARGE.items())
    return [Case("NegativeSamplingStep", score, "none", changes) for score in ("transe_l1", "distmult")]
