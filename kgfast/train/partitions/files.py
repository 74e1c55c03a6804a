"""Tables in files of their own, which are read and written a partition at a time.

A column is the table of entities or one tensor of its optimizer's state: a file of rows in order of ids, so that a
partition is a range of bytes, and a file on side "a" of all partitions is the whole table. There are two sides. The
manifest says on which one each partition lies, and what is written goes to the other: until the next manifest the
disk holds all that this one names. Kernels need rows and states as tensors of their own, hence a file each.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from kgfast.core.files import naming, open_plain, plain_folder, sync
from kgfast.errors import CheckpointError
from kgfast.run.manifest import MANIFEST
from kgfast.train.partitions.order import Cut

SIDES = "ab"
ENTITIES = "entities"  # the column of the table itself; those of its state are "entities-sum" and so on
BLOCK = 1 << 23  # bytes that are read or written at a time
NORESERVE = 0x4000 if sys.platform == "linux" else 0  # a mapping larger than memory is no promise to fill it


@dataclass(frozen=True)
class Column:
    """What a row of a file is: `shape` numbers of `dtype`."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Column:
        return cls(tuple(tensor.shape[1:]), tensor.dtype)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def path_of(folder: Path, name: str, side: str) -> Path:
    return folder / f"{name}-{side}.table"


class PartitionFiles:
    """The columns of all partitions in `folder`, open on both sides.

    `saved`: what `entry` returned for the manifest that counts; None: none counts, and what lies there is written over.
    Reading and writing may happen in another thread, one call at a time.
    """

    def __init__(self, folder: Path, cut: Cut, columns: Mapping[str, Column], saved: Mapping[str, Any] | None):
        self.folder, self.cut, self.columns = folder, cut, dict(columns)
        if saved:
            check_entry(folder, cut, self.columns, saved)
        self.committed = saved["sides"] if saved else ""
        self.sides = [*(self.committed or "b" * cut.partitions)]  # where the newest rows of each partition are
        self.checksums = {name: [*saved["crc32"][name]] if saved else [0] * cut.partitions for name in columns}
        self.files: dict[tuple[str, str], BinaryIO] = {}
        folder.mkdir(exist_ok=True)
        plain_folder(folder)
        for name, column in self.columns.items():
            for side in SIDES:
                self.files[name, side] = self.open(path_of(folder, name, side), cut.entities * column.row_bytes)
        sync(folder)

    def open(self, path: Path, size: int) -> BinaryIO:
        """The file with all of its blocks: a full disk is found now."""
        file = open_plain(path, os.O_RDWR | os.O_CREAT)
        with naming(path):
            if os.fstat(file.fileno()).st_size != size:
                file.truncate(size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        return file

    def read(self, partition: int, rows: Mapping[str, Tensor]) -> None:
        """Fill `rows`, a tensor [size, ..] a column; CheckpointError where that isn't what was written."""
        for name, tensor in rows.items():
            path = path_of(self.folder, name, self.sides[partition])
            with naming(path):
                found = read_range(self.files[name, self.sides[partition]], self.offset(name, partition), tensor)
            if found != self.checksums[name][partition]:
                raise CheckpointError(
                    f"{path} is damaged: crc32 of partition {partition} is {found:08x}, "
                    f"{self.checksums[name][partition]:08x} was written"
                )

    def write(self, partition: int, rows: Mapping[str, Tensor]) -> None:
        """Put `rows` on the side that no manifest names."""
        side = "b" if self.committed and self.committed[partition] == "a" else "a"
        for name, tensor in rows.items():
            with naming(path_of(self.folder, name, side)):
                file, offset = self.files[name, side], self.offset(name, partition)
                self.checksums[name][partition] = write_range(file, offset, tensor)
                if hasattr(os, "posix_fadvise"):  # the disk may begin now: less is left for `sync`
                    os.posix_fadvise(file.fileno(), offset, tensor.nbytes, os.POSIX_FADV_DONTNEED)
        self.sides[partition] = side

    def sync(self) -> None:
        """All that was written is on the disk when this returns."""
        for (name, side), file in self.files.items():
            with naming(path_of(self.folder, name, side)):
                os.fsync(file.fileno())

    def offset(self, name: str, partition: int) -> int:
        return self.cut.start(partition) * self.columns[name].row_bytes

    def entry(self) -> dict[str, Any]:
        """For the manifest: where the newest rows of all partitions are."""
        return {"rows": self.cut.rows, "sides": "".join(self.sides), "crc32": self.checksums}

    def commit(self) -> None:
        """A manifest with the newest entry counts now."""
        self.committed = "".join(self.sides)

    def remove_side_b(self) -> None:
        """Give its space back, once the manifest names side a alone."""
        for name in self.columns:
            self.files.pop((name, "b")).close()
            path_of(self.folder, name, "b").unlink()

    def close(self) -> None:
        for file in self.files.values():
            file.close()


def blocks(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a contiguous tensor, block by block."""
    content = tensor.view(-1).view(torch.uint8).numpy().data
    for start in range(0, len(content), BLOCK):
        yield content[start : start + BLOCK]


def read_range(file: BinaryIO, offset: int, tensor: Tensor, before: int = 0) -> int:
    """Fill the tensor from `offset` on; the CRC-32 of what was read, behind what had the CRC-32 `before`."""
    found = before
    for block in blocks(tensor):
        done = 0
        while done < len(block):
            count = os.preadv(file.fileno(), [block[done:]], offset + done)
            if not count:
                raise OSError(errno.EIO, f"it ends {len(block) - done:,} bytes too soon", file.name)
            done += count
        found, offset = zlib.crc32(block, found), offset + done
    return found


def write_range(file: BinaryIO, offset: int, tensor: Tensor) -> int:
    """Write the tensor from `offset` on; its CRC-32."""
    found = 0
    for block in blocks(tensor):
        done = 0
        while done < len(block):
            done += os.pwrite(file.fileno(), block[done:], offset + done)
        found, offset = zlib.crc32(block, found), offset + done
    return found


def opened_table(folder: Path, cut: Cut, column: Column, saved: Mapping[str, Any]) -> Tensor:
    """The table [E, dim] that a manifest names, every partition checked: mapped where it lies in one file, as that of a
    finished run does, else read. What is written into it stays in this process."""
    check_entry(folder, cut, [ENTITIES], saved)
    shape, whole = (cut.entities, *column.shape), len({*saved["sides"]}) > 1
    table = torch.empty(shape, dtype=column.dtype) if whole else None
    for partition, side in enumerate(saved["sides"]):
        start, size = cut.start(partition), cut.size(partition)
        path = path_of(folder, ENTITIES, side)
        with open_table(path, cut.entities * column.row_bytes) as file:
            if table is not None:
                found = read_range(file, start * column.row_bytes, table[start : start + size])
            else:
                found = checksum(file, start * column.row_bytes, size * column.row_bytes)
        if found != saved["crc32"][ENTITIES][partition]:
            raise CheckpointError(f"{path} is damaged: crc32 of partition {partition} is {found:08x}")
    return mapped(path, shape, column.dtype) if table is None else table


def check_entry(folder: Path, cut: Cut, columns: Iterable[str], saved: Mapping[str, Any]) -> None:
    """CheckpointError for an entry that isn't of these columns, cut like this."""
    counts = {len(saved["sides"]), *(len(saved["crc32"].get(name, ())) for name in columns)}
    if saved["rows"] != cut.rows or counts != {cut.partitions}:
        raise CheckpointError(
            f"{folder / MANIFEST} is damaged: partitions don't tell of {cut.partitions} times {cut.rows} rows"
        )


def checksum(file: BinaryIO, offset: int, size: int) -> int:
    """The CRC-32 of a range of bytes."""
    found, block = 0, torch.empty(min(size, BLOCK), dtype=torch.uint8)
    for start in range(0, size, BLOCK):
        found = read_range(file, offset + start, block[: size - start], found)
    return found


def mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    with open_plain(path) as file:
        flags, access = mmap.MAP_PRIVATE | NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return torch.frombuffer(mmap.mmap(file.fileno(), 0, flags=flags, prot=access), dtype=dtype).view(shape)


def open_table(path: Path, size: int) -> BinaryIO:
    """CheckpointError where the file isn't there with this size."""
    try:
        file = open_plain(path)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read, and the checkpoint needs it: {error.strerror}") from error
    found = os.fstat(file.fileno()).st_size
    if found != size:
        file.close()
        raise CheckpointError(f"{path} is damaged: bytes is {found}, {size} was written")
    return file
