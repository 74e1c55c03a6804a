"""What stages share: options, the part of the result, timing by device events in turns, caches cold where asked."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

FLUSH_BYTES = 512 << 20  # more than any second-level cache
LEAST, MOST = 5, 50  # rounds


class Stage:
    """One stage: where it runs, how large, and its part, written after every row so that a time limit loses none."""

    def __init__(self, description: str, **extra):
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
        parser.add_argument("--tiny", action="store_true", help="sizes that only show that the code runs")
        parser.add_argument("--part", type=Path)
        for name, options in extra.items():
            parser.add_argument(f"--{name}", **options)
        self.options = parser.parse_args()
        self.device, self.tiny = torch.device(self.options.device), self.options.tiny
        self.rows: list[dict] = []
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise SystemExit("no CUDA device: --device cpu --tiny is the dry run")
        size = FLUSH_BYTES if self.device.type == "cuda" else 1 << 10
        self.flush = torch.empty(size, dtype=torch.uint8, device=self.device)

    def keep(self, **row) -> None:
        self.rows.append(row)
        shown = {key: value for key, value in row.items() if not isinstance(value, dict | list)}
        words = (f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown.items())
        print(*words, flush=True)
        if self.options.part:
            temporary = self.options.part.with_suffix(".new")
            temporary.write_text(json.dumps(self.rows), encoding="utf-8")
            temporary.replace(self.options.part)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def once(self, call) -> float:
        """Seconds of one call, the device's end awaited."""
        self.synchronize()
        begin = time.perf_counter()
        call()
        self.synchronize()
        return time.perf_counter() - begin

    def in_turns(self, calls: dict, seconds: float, cold: bool) -> dict[str, list[float]]:
        """Seconds of each call, round by round; before each, the second-level cache is overwritten if `cold`."""
        for call in calls.values():
            call()
        longest = sum(self.once(call) for call in calls.values())
        rounds = 2 if self.tiny else max(LEAST, min(MOST, int(seconds / max(longest, 1e-6))))
        times: dict[str, list] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(self.event_times(call, cold))
        self.synchronize()
        return {name: [measured() for measured in all] for name, all in times.items()}

    def event_times(self, call, cold: bool):
        """Starts a call between two events; the result is a function that reads its seconds after synchronizing."""
        if cold:
            self.flush.zero_()
        if self.device.type == "cpu":
            elapsed = self.once(call)
            return lambda: elapsed
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        return lambda: begin.elapsed_time(end) / 1e3

    def peak_above(self, call) -> int | None:
        """Bytes that one call takes above what is there before it, its results included."""
        if self.device.type == "cpu":
            return None
        call()
        self.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        self.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        del result
        return peak


def summary(times: list[float]) -> dict:
    return {"seconds": statistics.median(times), "least": min(times), "most": max(times), "rounds": len(times)}
