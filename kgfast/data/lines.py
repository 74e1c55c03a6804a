"""Bytes of a file (plain or packed) and its lines, without a Python object per line."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.packed import unpack
from kgfast.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
END_OF_LINE = tuple(b"\r\n")
SHOWN = 80


def read_bytes(path: Path) -> pa.Buffer:
    """The content of `path`, unpacked if its first bytes are those of gzip, bzip2 or Zstandard.

    It is read and not mapped, since a process is killed that touches a mapped file which somebody cuts. A UTF-8 byte
    order mark and blank lines at the end are cut off. DataError if nothing is left, or if it changes meanwhile.
    """
    data = b""
    if size := path.stat().st_size:
        with pa.OSFile(os.fsencode(path)) as file:
            data = file.read_buffer(size)
        if not data.size == size == path.stat().st_size:
            raise DataError(f"{path} changed while it was read")
        data = unpack(path, data)
        start = len(BYTE_ORDER_MARK) if data[:3].to_pybytes() == BYTE_ORDER_MARK else 0
        end = data.size
        letters = np.frombuffer(data, np.uint8)
        while end > start and letters[end - 1] in END_OF_LINE:
            end -= 1
        data = data.slice(start, end - start)
    if not len(data):
        raise DataError(f"{path} is empty")
    return data


def read_lines(path: Path) -> pa.Array:
    """The lines of `path` as an Arrow array that shares its memory (8 bytes a line more), ends of line (LF, CR LF,
    or CR alone) removed.

    DataError, with the line's number, where a line isn't UTF-8.
    """
    data = read_bytes(path)
    lines, error = split_lines(data)
    if error is not None:
        number, line = next(bad_text(data), (None, None))
        if number is None:
            raise DataError(f"{path}: {error}") from error
        raise DataError(f"{path}, line {number}: not valid UTF-8: {line}") from None
    return lines


def split_lines(data: pa.Buffer) -> tuple[pa.Array, pa.ArrowInvalid | None]:
    """(the lines, what is wrong with their text)."""
    letters = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(letters == ord("\n"))
    returns = np.flatnonzero(letters == ord("\r"))
    returns = returns[letters[np.minimum(returns + 1, len(letters) - 1)] != ord("\n")]
    if len(returns):
        ends = np.sort(np.concatenate((ends, returns)))
    offsets = np.concatenate(([0], ends + 1, [len(letters)]))
    lines = pa.Array.from_buffers(pa.large_string(), len(ends) + 1, [None, pa.py_buffer(offsets), data])
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid as error:
        return lines, error
    return pc.utf8_rtrim(lines, "\r\n"), None


def text_lines(data: pa.Buffer) -> io.TextIOWrapper:
    """The lines one by one, for the slow pass that finds a malformed one; invalid bytes become surrogates."""
    return io.TextIOWrapper(pa.BufferReader(data), "utf-8", errors="surrogateescape", newline=None)


def bad_text(data: pa.Buffer):
    """(number, excerpt) of each line that isn't UTF-8."""
    for number, line in enumerate(text_lines(data), 1):
        if not is_text(line):
            yield number, excerpt(line)


def line_of(data: pa.Buffer, place: int) -> tuple[int, str]:
    """(number, excerpt) of the line that holds the byte at `place`."""
    front = data.slice(0, place).to_pybytes()
    number = len(front.splitlines()) + (not front or front[-1] in END_OF_LINE)
    start = max(front.rfind(b"\n"), front.rfind(b"\r")) + 1
    line = data.slice(start, min(data.size - start, 4 * SHOWN + 8)).to_pybytes().splitlines()[0]
    return number, excerpt(line.decode("utf-8", "replace"))


def is_text(line: str) -> bool:
    return line.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in line)


def excerpt(line: str) -> str:
    """A line as an error message quotes it: escaped, and cut if long."""
    line = line.rstrip("\n")
    return repr(line) if len(line) <= SHOWN else repr(line[:SHOWN]) + "..."
