"""The folder in which a graph is being prepared, OUT.partial: one process at a time, and a later one goes on."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kgfast.core.files import lock, new_folder, write_whole
from kgfast.data.prepared.reading import Progress, Spills
from kgfast.errors import DataError, KgfastError

EVERY = 5.0  # seconds of reading that are lost at most


class Work:
    """Its parts, and the description of what is prepared, by which a later process knows that it is the same."""

    def __init__(self, folder: Path, stamp: Any):
        self.folder, self.stamp = folder, json.loads(json.dumps(stamp))
        self.spill, self.graph, self.state = folder / "spill", folder / "graph", folder / "progress.json"
        self.saved = time.monotonic()
        self.read = False  # to the end

    def begin(self) -> tuple[Progress, list[list[int]] | None, int]:
        """(how far an earlier process got, the sizes of its files, salt); of one that prepared something else, nothing
        is kept."""
        try:
            found = json.loads(self.state.read_text("utf-8"))
            if found["stamp"] == self.stamp and self.stamp is not None:
                return Progress(**found["progress"]), found["sizes"], found["salt"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # nothing there, or half of it: it is made anew
        self.clear()
        return Progress(), None, 0

    def clear(self) -> None:
        for folder in (self.spill, self.graph):
            clear(folder)
        self.state.unlink(missing_ok=True)

    def save(self, progress: Progress, spills: Spills, salt: int, now: bool = False) -> None:
        if self.stamp is None or (not now and time.monotonic() - self.saved < EVERY):
            return
        sizes = [spill.sizes() for spill in spills.all()]
        content = {"stamp": self.stamp, "progress": asdict(progress), "sizes": sizes, "salt": salt}
        write_whole(self.state, json.dumps(content).encode())
        self.saved = time.monotonic()


def clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()


@contextmanager
def work_folder(out: Path, stamp: Any) -> Iterator[Work]:
    """Yields the Work beside `out`; its `graph` becomes `out` when the block ends well. What is there stays when it
    doesn't, for the next call to go on with."""
    folder = out.with_name(f"{out.name}.partial")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is in the way")
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY) if folder.is_dir() else new_folder(folder)
    try:
        if not lock(handle):
            raise DataError(f"{folder} is in use: another process prepares {out}")
        work = Work(folder, stamp)
        try:
            yield work
        except KgfastError:
            if not work.read or stamp is None:
                shutil.rmtree(folder)  # the source must change before it is read again
            raise
        if out.is_dir():
            out.rmdir()  # it is empty
        os.rename(folder / "graph", out)
        shutil.rmtree(folder)
    finally:
        os.close(handle)
