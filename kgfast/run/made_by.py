"""What made a run's results: enough to make them again, and nothing about who did."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch

from kgfast import __version__
from kgfast._C import cpu_level
from kgfast.core import machine


def made_by(device: str, checksums: dict[str, str]) -> dict[str, Any]:
    """Version and commit (None where it can't be told) of kgfast, command line, machine, versions, threads, data."""
    where: dict[str, Any] = {
        "processor": machine.processor(), "cores": machine.cores(), "level": cpu_level(),
        "system": machine.system(),
    }  # fmt: skip
    if device.startswith("cuda"):
        where["gpu"] = torch.cuda.get_device_name(device)
    return {
        "version": __version__,
        "commit": commit(),
        "command": command(sys.argv),
        "machine": where,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        **checksums,
    }


def command(words: list[str]) -> str:
    """The command line as a shell takes it: the program by its bare name, the home folder as ~."""
    program = Path(words[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    name = "python" if name in ("", "-c") else name
    return shlex.join([name, *words[1:]]).replace(str(Path.home()) + os.sep, f"~{os.sep}")


def commit() -> str | None:
    """The commit of kgfast's source, "-dirty" behind it where files were changed since; None where nobody knows."""
    source = Path(__file__).parents[2]
    if not (source / ".git").exists():
        return commit_installed()
    words = ["git", "--no-optional-locks", "-C", str(source), "describe", "--always", "--abbrev=40", "--exclude=*"]
    try:
        told = subprocess.run([*words, "--dirty"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a disk that doesn't answer
        return None
    return told.stdout.strip() or None


def commit_installed() -> str | None:
    """What the installer noted, where the package came from a repository."""
    try:
        told = json.loads(distribution("kgfast").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return None
    return told.get("vcs_info", {}).get("commit_id")


def as_rows(made: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, its value) for people."""
    rows = []
    for key, value in made.items():
        inner = value.values() if isinstance(value, dict) else [value]
        rows.append((key.replace("_", " "), ", ".join("unknown" if one is None else str(one) for one in inner)))
    return rows
