"""What a run takes of the machine, held against what is there before anything large is made: memory and threads.

Estimates are from below: what is refused could not have run.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel

from kgfast.core.checks import integer
from kgfast.errors import ConfigError

THREADS_A_CORE = 8  # more of them do nothing but wait
FEWEST_BOUND = 64
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class Need(NamedTuple):
    """Bytes that a setting asks for."""

    setting: str  # as in a message: "dim=512"
    what: str
    size: int


def check_memory(needs: Iterable[Need], device: str = "cpu") -> None:
    """ConfigError that names the setting which asks for the most, where all together don't fit."""
    needs = list(needs)
    free, total = free_memory(device), sum(need.size for need in needs)
    if free is None or total <= free:
        return
    largest = max(needs, key=lambda need: need.size)
    raise ConfigError(
        f"{largest.setting[:80]}: {largest.what} need {amount(largest.size)} of the {amount(total)} that the run takes "
        f"at least, and {amount(free)} are free on {device}"
    )


def outsized(config: BaseModel, *names: str) -> str:
    """The one of these settings that is the furthest above its default, as a message has it: "dim=100000"."""
    defaults = {name: type(config).model_fields[name].default for name in names}
    name = max(names, key=lambda name: getattr(config, name) // max(defaults[name], 1))
    return f"{name}={getattr(config, name)}"


def amount(size: float) -> str:
    if size >= 1024 ** len(UNITS):
        return "no sensible amount"
    unit = 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:,.4g} {UNITS[unit]}"


def free_memory(device: str = "cpu") -> int | None:
    """Bytes that this process may still take; None where the system does not tell."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return min(bounds(), default=None)


def resident_bytes() -> int:
    """What this process holds in memory now; the most it ever held where the system does not tell."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return most_resident_bytes()


def most_resident_bytes() -> int:
    """The most that this process ever held in memory. Where only getrusage tells, that of the process which started it
    counts too."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def bounds() -> Iterator[int]:
    """What bounds the memory of the process, each in bytes that are left: the machine, its container, its limit."""
    with suppress(OSError, KeyError, ValueError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        sizes = {words[0]: 1024 * int(words[1]) for words in lines}
        yield sizes["MemAvailable:"] + sizes["SwapFree:"]
    with suppress(OSError, KeyError, ValueError):  # ValueError: "max"
        group = Path("/sys/fs/cgroup")
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])
        yield int((group / "memory.max").read_text()) - used
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        with suppress(OSError):
            yield limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def use_threads(count: int | None) -> None:
    """Compute with so many threads; None: as many as there are. ConfigError for more than any machine like this can
    use, at which the system may end the process."""
    if count is None:
        return
    most = max(FEWEST_BOUND, THREADS_A_CORE * (os.cpu_count() or 1))
    count = integer("threads", count, 0)
    if not 1 <= count <= most:
        raise ConfigError(
            f"threads={str(count)[:20]}: must be from 1 to {most}, {THREADS_A_CORE} for each core of this machine"
        )
    torch.set_num_threads(count)
