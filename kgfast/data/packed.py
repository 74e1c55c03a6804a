"""Packed files: gzip, bzip2 and Zstandard, known by their first bytes, whole or piece by piece."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from kgfast.errors import DataError

ENDINGS = (".gz", ".bz2", ".zst")
MARKS = 10  # bytes that tell
ERRORS = (OSError, EOFError, zlib.error, pa.ArrowException)


def zstandard(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, pa.CompressedInputStream(file, "zstd"))


def opener(first: bytes) -> tuple[str, Callable[[BinaryIO], BinaryIO]] | None:
    """(name, what unpacks a file) of the kind of packing that a file with these first bytes has; None: it has none."""
    if first.startswith(b"\x1f\x8b"):
        return "gzip", lambda file: cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if first.startswith(b"BZh") and first[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):  # a block, or the end
        return "bzip2", lambda file: cast(BinaryIO, bz2.BZ2File(file))
    if first.startswith(b"\x28\xb5\x2f\xfd"):
        return "Zstandard", zstandard
    return None


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO, str | None]]:
    """(the file, its content unpacked, the name of its packing or None). DataError if it changes meanwhile."""
    with path.open("rb") as file:
        before, kind = os.fstat(file.fileno()), opener(file.peek(MARKS)[:MARKS])
        yield file, file if kind is None else kind[1](file), kind and kind[0]
        now = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
            raise DataError(f"{path} changed while it was read")


def unpack(path: Path, data: pa.Buffer) -> pa.Buffer:
    """The content of packed data, or the data where it isn't packed."""
    found = opener(data[:MARKS].to_pybytes())
    if found is None:
        return data
    name, open_packed = found
    try:
        return pa.py_buffer(open_packed(cast(BinaryIO, io.BytesIO(data))).read())
    except ERRORS as error:
        raise DataError(f"{path}: broken {name} data: {error}") from error
