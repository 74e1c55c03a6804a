"""The folder of a run: a new one, or one to go on with, and never that of another process."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kgfast.core.files import lock, naming, open_plain, plain_folder, remove_abandoned
from kgfast.errors import ConfigError

LOCK = ".lock"
HOLDER_BYTES = 200  # of the lock's file that tell who has it


@contextmanager
def run_folder(out: str | None, name: str, resume: bool) -> Iterator[Path]:
    """The folder of a run, this process's alone in the block: `out`, or a new one under runs/ that is called `name`.

    ConfigError if another process trains there, or if it holds another run already.
    """
    run = new_folder(name) if out is None else made_folder(out)
    with locked(run):
        taken = [name for name in ("checkpoint", "metrics.json") if os.path.lexists(run / name)]
        if taken and not resume:
            found = ", ".join(taken)
            raise ConfigError(f"out={out!r} holds a run already ({found}): resume it, or choose another folder")
        remove_abandoned(run)
        yield run


def new_folder(name: str) -> Path:
    number = 1
    while True:
        try:
            run = Path("runs") / f"{name}-{number}"
            run.mkdir(parents=True)
            return run
        except FileExistsError:
            number += 1


def made_folder(out: str) -> Path:
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"out={out!r}: it is no folder") from None
    return Path(out)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep other processes out of the folder. A process that ends, in whatever way, leaves no lock behind."""
    with open_plain(run / LOCK, os.O_RDWR | os.O_CREAT) as file:
        try:
            free = lock(file.fileno())
        except OSError as error:
            warnings.warn(f"{run} can't be locked ({error.strerror}): let no other process train there", stacklevel=2)
            free = True
        if not free:
            raise ConfigError(f"out={str(run)!r}: {holder(file.read(HOLDER_BYTES))} trains there: wait for its end, or "
                              "choose another folder")  # fmt: skip
        with naming(run / LOCK):
            file.truncate(0)
            file.seek(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            file.flush()
        try:
            yield
        finally:
            with naming(run / LOCK):
                file.truncate(0)


def holder(content: bytes) -> str:
    """Who wrote the lock's file, as words for a message."""
    words = content.decode(errors="replace").splitlines()
    return words[0] if words and words[0].startswith("process ") and words[0].isprintable() else "another process"


def folder_inside(run: Path, name: str) -> Path:
    """A folder of the run that others write into; OSError where it is a link."""
    path = run / name
    path.mkdir(exist_ok=True)
    return plain_folder(path)
