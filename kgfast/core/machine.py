"""What machine this is: its kind, never its name, its user or a path."""

from __future__ import annotations

import os
import platform


def processor() -> str:
    """The processor's name as the system tells it."""
    if platform.system() == "Linux":
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def system() -> str:
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
