"""Where and of what a figure was measured, the memory a call takes, and the files of results."""

from __future__ import annotations

import ctypes
import datetime
import json
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def generation() -> str:
    """What tells processors of one name apart, such as "family 26 model 2"; empty where the system does not tell."""
    if not Path("/proc/cpuinfo").exists():
        return ""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    found = (re.search(rf"^{name}\s*: (\d+)$", text, re.MULTILINE) for name in ("cpu family", "model"))
    return " ".join(f"{name} {match[1]}" for name, match in zip(("family", "model"), found, strict=True) if match)


def machine() -> str:
    """Processor, its generation and number of cores, as a file name: no host name, no path."""
    from kgfast.core.machine import processor

    model = re.sub(r"[^a-z0-9]+", "-", f"{processor()} {generation()}".lower()).strip("-")
    return f"{model}-{cores()}-cores"


def commit() -> str:
    """The commit of this checkout, with "+changes" where tracked files differ from it; "unknown" outside git."""
    found = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    return found.stdout.strip() if found.returncode == 0 else "unknown"


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment() -> dict:
    """What belongs to every row of results."""
    import kgfast

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": commit(),
        "cpu_level": kgfast.cpu_level(),
        "threads": torch.get_num_threads(),
        "versions": {"kgfast": kgfast.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def append(rows: list[dict], path: Path) -> None:
    """Adds JSON lines in one write, so that an interrupted run leaves whole lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def read(path: Path) -> list[dict]:
    """The rows of a file of results; a malformed line is named."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: not a JSON line: {error}") from error
    return rows


def available_bytes() -> int:
    """Memory that can be taken without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo holds no MemAvailable")


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (highest) of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status holds no {field}")


def peak_above(call) -> int | None:
    """Bytes of resident memory that one call takes above what is there before it, its results included; None off Linux.

    Freed memory is given back first (malloc_trim, and kgfast's scratch), or a call could grow into it unseen.
    """
    if platform.system() != "Linux":
        return None
    from kgfast import _C

    _C.release_scratch()
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts again from here
    except PermissionError:
        return None
    before = resident("VmRSS")
    result = call()
    peak = resident("VmHWM") - before
    del result
    return max(peak, 0)
