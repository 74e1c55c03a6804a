"""Rows and names on disk, in runs that are sorted by part: each of PARTS parts is read by itself later on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from kgfast.data.prepared.hashing import as_strings, contents

BITS = 8
PARTS = 1 << BITS  # at 300 million triples, a part has a million


def part_of(hashes: np.ndarray) -> np.ndarray:
    """uint8: the first bits of a hash say to which part it belongs."""
    return (hashes >> np.uint64(64 - BITS)).astype(np.uint8)


class Pieces:
    """A file of numbers that is written run by run and read by (run, part)."""

    def __init__(self, path: Path, dtype: type | str, width: int = 1):
        self.file = path.open("a+b", buffering=0)
        self.dtype, self.width = np.dtype(dtype), width

    def append(self, rows: np.ndarray) -> None:
        content = memoryview(np.ascontiguousarray(rows, self.dtype).reshape(-1).view(np.uint8).data)
        while content:
            content = content[self.file.write(content) :]

    def read(self, start: int, stop: int) -> np.ndarray:
        size = self.dtype.itemsize * self.width
        content, place = bytearray((stop - start) * size), start * size
        view = memoryview(content)
        while view:
            count = os.preadv(self.file.fileno(), [view], place)
            if not count:
                raise OSError(f"{self.file.name} ends early")
            view, place = view[count:], place + count
        rows = np.frombuffer(content, self.dtype)
        return rows.reshape(-1, self.width) if self.width > 1 else rows

    def __len__(self) -> int:
        return os.fstat(self.file.fileno()).st_size // (self.dtype.itemsize * self.width)

    def keep(self, size: int) -> None:
        """Take back what was written behind the first `size` rows."""
        self.file.truncate(size * self.dtype.itemsize * self.width)

    def close(self) -> None:
        self.file.close()


class Spill:
    """What `files` hold in common: runs, where the parts of each begin, and how far a process that ended had got."""

    def __init__(self, folder: Path, name: str, columns: int):
        self.index = Pieces(folder / f"{name}.index", "<i8", columns * (PARTS + 1))
        self.files: list[Pieces] = [self.index]

    def sizes(self) -> list[int]:
        """What `keep` takes; all of it is on the disk."""
        for piece in self.files:
            os.fsync(piece.file.fileno())
        return [len(piece) for piece in self.files]

    def keep(self, sizes: list[int]) -> None:
        for piece, size in zip(self.files, sizes, strict=True):
            piece.keep(size)

    def runs(self) -> np.ndarray:
        """int64 [runs, columns, PARTS + 1]: where each part of each run begins, and ends."""
        return self.index.read(0, len(self.index)).reshape(len(self.index), -1, PARTS + 1)

    def close(self) -> None:
        for piece in self.files:
            piece.close()


class RowSpill(Spill):
    """Rows of three hashes; the part is that of the unordered pair of head and tail."""

    def __init__(self, folder: Path, name: str):
        super().__init__(folder, name, 1)
        self.rows = Pieces(folder / f"{name}.rows", "<u8", 3)
        self.files.append(self.rows)

    def append(self, rows: np.ndarray, parts: np.ndarray) -> None:
        begin = len(self.rows)
        self.rows.append(rows[np.argsort(parts, kind="stable")])
        self.index.append(begin + np.concatenate(([0], np.bincount(parts, minlength=PARTS).cumsum())))

    def parts(self) -> Iterator[np.ndarray]:
        """uint64 [n, 3] of one part after the other."""
        runs = self.runs()[:, 0]
        for part in range(PARTS):
            found = [self.rows.read(run[part], run[part + 1]) for run in runs]
            yield np.concatenate(found) if found else np.empty((0, 3), np.uint64)


class NameSpill(Spill):
    """Names by their hashes, each once in a run."""

    def __init__(self, folder: Path, name: str):
        super().__init__(folder, name, 2)
        self.hashes = Pieces(folder / f"{name}.hashes", "<u8")
        self.lengths = Pieces(folder / f"{name}.lengths", "<u4")
        self.letters = Pieces(folder / f"{name}.letters", "u1")
        self.files += [self.hashes, self.lengths, self.letters]

    def append(self, hashes: np.ndarray, names: pa.Array) -> None:
        """Both by ascending hash."""
        offsets, letters = contents(names)
        places = np.searchsorted(part_of(hashes), np.arange(PARTS + 1))
        begins = np.stack((len(self.hashes) + places, len(self.letters) + offsets[places]))
        self.hashes.append(hashes)
        self.lengths.append(np.diff(offsets))
        self.letters.append(letters)
        self.index.append(begins)

    def parts(self) -> Iterator[tuple[np.ndarray, pa.Array]]:
        """(hashes, names) of one part after the other, in the order of the runs."""
        runs = self.runs()
        for part in range(PARTS):
            pieces = [(places[part : part + 2], bounds[part : part + 2]) for places, bounds in runs]
            hashes = np.concatenate([self.hashes.read(*places) for places, _ in pieces])
            lengths = np.concatenate([self.lengths.read(*places) for places, _ in pieces])
            letters = np.concatenate([self.letters.read(*bounds) for _, bounds in pieces])
            yield hashes, as_strings(np.concatenate(([0], lengths.cumsum(dtype=np.int64))), letters)
