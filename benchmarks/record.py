"""Rows of results: one JSON object for each case and provider."""

from __future__ import annotations

import statistics
from dataclasses import asdict

from benchmarks.ceilings import floor


def rows_of(case, kind: str, session, work, seconds: dict, memory: dict) -> list[dict]:
    """kgfast's row first. `fraction`: the least time that counted work allows at this run's rates, by the median."""
    least, bound = floor(work.cost.bytes, work.cost.operations, work.cost.access, session.rates)
    size = session.size.with_(**dict(case.changes))
    rows = []
    for provider in sorted(seconds, key=lambda name: name != "kgfast"):
        times = seconds[provider]
        median = statistics.median(times)
        rows.append({
            **session.environment, "kind": kind, "case": str(case), "op": case.op, "score": case.score,
            "variant": case.variant, "provider": provider, "size": session.size_name, "sizes": asdict(size),
            "seconds": median, "seconds_min": min(times), "seconds_max": max(times), "rounds": len(times),
            "per_second": work.units / median, "unit": work.unit, "bytes": work.cost.bytes,
            "operations": work.cost.operations, "access": work.cost.access, "bound": bound,
            "fraction": least / median, "ceilings": session.rates, "peak_memory_bytes": memory[provider],
        })  # fmt: skip
    return rows
