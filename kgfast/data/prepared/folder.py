"""A prepared graph on disk: arrays as they are used, which a process maps and doesn't read.

    entities.names, relations.names        names by id, UTF-8, one behind the other
    entities.offsets, relations.offsets    int64: where each name begins, and the end of the last one
    {train,valid,test}.triples             int64 [M, 3]
    report.json                            what reading found
    graph.json                             format, salt of the names' hashes, size and SHA-256 of all files

Beside them texts and questions as in any dataset folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from kgfast.core.known import check_triples
from kgfast.data.cache import digest
from kgfast.data.names import Names
from kgfast.data.report import DataReport
from kgfast.data.sources import PREPARED, SPLITS
from kgfast.data.strings import Strings
from kgfast.errors import DataError

FORMAT = 1
KINDS = ("entities", "relations")


def write_index(folder: Path, salt: int) -> None:
    files = {path.name: [path.stat().st_size, digest(path)] for path in sorted(folder.iterdir())}
    content = {"format": FORMAT, "salt": salt, "files": files}
    (folder / PREPARED).write_text(json.dumps(content, indent=1), "utf-8")


def open_graph(folder: Path) -> tuple[dict[str, np.ndarray], Names, Names, DataReport]:
    """(splits, entity names, relation names, report), memory-mapped. All files are hashed first; DataError for one
    that has changed."""
    check_files(folder)
    entities, relations = (Names(mapped_names(folder, kind).array) for kind in KINDS)
    splits = {split: mapped(folder / f"{split}.triples", 3) for split in SPLITS}
    for split, rows in splits.items():
        check_triples(torch.from_numpy(rows), len(entities), len(relations), split)
    try:
        report = DataReport.from_dict(json.loads((folder / "report.json").read_text("utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'report.json'}: {error}") from None
    return splits, entities, relations, report


def check_files(folder: Path) -> None:
    try:
        index = json.loads((folder / PREPARED).read_text("utf-8"))
        form, files = index["format"], dict(index["files"])
        if form != FORMAT:
            raise DataError(
                f"{folder / PREPARED}: format {form} is of another version of kgfast; prepare the graph again"
            )
        needed = {f"{kind}.{what}" for kind in KINDS for what in ("names", "offsets")}
        needed |= {f"{split}.triples" for split in SPLITS} | {"report.json"}
        if missing := sorted(needed - set(files)):
            raise DataError(f"{folder / PREPARED} does not tell of {missing[0]}")
        for name, (size, hashed) in files.items():
            path = folder / name
            if not path.is_file():
                raise DataError(f"{path} is missing: prepare the graph again")
            if path.stat().st_size != size or digest(path) != hashed:
                raise DataError(f"{path} has changed since it was written: prepare the graph again")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder / PREPARED}: it is no description of a graph: {error}") from None


def mapped(path: Path, width: int = 1) -> np.ndarray:
    """int64 [n] or [n, width]; copied on write, so that a tensor may share it."""
    if path.stat().st_size % (8 * width):
        raise DataError(f"{path}: its {path.stat().st_size:,} bytes are no rows of {width}")
    if not path.stat().st_size:
        return np.empty((0, width) if width > 1 else 0, np.int64)
    rows = np.memmap(path, "<i8", "c")
    return np.asarray(rows.reshape(-1, width) if width > 1 else rows)


def mapped_names(folder: Path, kind: str) -> Strings:
    """The names of entities or relations; DataError where they aren't what offsets and text should be."""
    offsets, path = mapped(folder / f"{kind}.offsets"), folder / f"{kind}.names"
    letters = np.memmap(path, "u1", "r") if path.stat().st_size else np.empty(0, np.uint8)
    if not len(offsets) or offsets[0] or offsets[-1] != len(letters):
        raise DataError(f"{path}: it has {len(letters):,} bytes, and {kind}.offsets tells of another number")
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(letters)]
    names = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
    try:
        names.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {error}") from None
    return Strings(names)


def fingerprint_of(folder: Path) -> str:
    """As `kgfast.data.findings.fingerprint`, of files that may be larger than memory."""
    found = hashlib.sha256()
    for kind in KINDS:
        offsets = folder / f"{kind}.offsets"
        found.update(np.array([offsets.stat().st_size // 8 - 1], "<i8").data)
        add_file(found, offsets)
        add_file(found, folder / f"{kind}.names")
    for split in SPLITS:
        rows = folder / f"{split}.triples"
        found.update(np.array([rows.stat().st_size // 24], "<i8").data)
        add_file(found, rows)
    return found.hexdigest()


def add_file(found: Any, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            found.update(block)
