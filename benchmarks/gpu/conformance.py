"""The conformance suite by every backend that serves the device: `pytest tests/backends --impl .. --device ..`.

Where pytest-xdist is installed, its processes share the tests out: Triton compiles on the CPU, and most of the time
goes there. Each line that pytest prints is counted as it comes, so a time limit loses none.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.stage import Stage
from benchmarks.machine import cores
from kgfast import backends

ROOT = Path(__file__).parents[2]
OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR)\b")
AT_ONCE = 100  # outcomes in a row of the part


def command(impl: str, device: str, quick: bool) -> list[str]:
    shared = ["-n", str(max(cores() - 1, 1))] if device == "cuda" and importlib.util.find_spec("xdist") else []
    options = ["--impl", impl, "--device", device, "--tb=short", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", "-vv", "tests/backends", *options, *["--quick"] * quick, *shared]


def run(stage: Stage, impl: str) -> int:
    """Keeps how many tests passed and failed, and the names of those that failed; pytest's exit status."""
    counts: dict[str, int] = dict(PASSED=0, FAILED=0, ERROR=0)
    failures: list[str] = []

    def keep():
        failed = counts["FAILED"] + counts["ERROR"]
        stage.keep(impl=impl, passed=counts["PASSED"], failed=failed, failures=list(failures))
        counts.update(dict.fromkeys(counts, 0))
        failures.clear()

    tests = subprocess.Popen(
        command(impl, stage.device.type, stage.tiny),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert tests.stdout is not None
    summary = False  # it names what failed once more
    for line in tests.stdout:
        summary = summary or "short test summary" in line
        found = None if summary else OUTCOME.search(line)
        if found is None or found[1] != "PASSED":
            print(line, end="", flush=True)
        if found is not None:
            counts[found[1]] += 1
            failures += [] if found[1] == "PASSED" else [line.strip()[:300]]
            if sum(counts.values()) >= AT_ONCE:
                keep()
    keep()
    return tests.wait()


def main() -> None:
    stage, worst = Stage(__doc__), 0
    for impl in ("triton", "cuda"):
        reason = backends.why_not(impl, stage.device.type)
        if reason:
            stage.keep(impl=impl, skipped=reason)
        else:
            worst = max(worst, run(stage, impl))
    raise SystemExit(worst)


if __name__ == "__main__":
    main()
