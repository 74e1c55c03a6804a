"""A file of text block by block, each of whole lines: what is in memory is a block, whatever the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from kgfast.data.lines import BYTE_ORDER_MARK
from kgfast.data.packed import ERRORS, opened
from kgfast.errors import DataError

SIZE = 1 << 23  # bytes of a block, or a little more; larger ones are slower, as all that is made of them is new memory
LONGEST = 1 << 26  # without an end of line: then the block ends where a line may, even if a quote is open there
NEW_LINE, QUOTE = b'\n"'


@dataclass(frozen=True)
class Block:
    """Whole lines, without the end of the last one."""

    data: pa.Buffer
    line: int  # the number of the first one
    read: int  # bytes of the file that were read so far, as they lie on the disk


def blocks(path: Path, *, quoted: bool = False, size: int | None = None) -> Iterator[Block]:
    """The lines of `path`, unpacked where it is packed, without a byte order mark and blank lines at the end.

    quoted: an end of line between two quotes belongs to the line. DataError if nothing is there, if it is packed and
    broken, or if it changes meanwhile.
    """
    size, line, kept, filled = size or SIZE, 1, b"", False
    with opened(path) as (file, content, packed):
        for piece in pieces(path, content, size, packed):
            kept += piece
            end = cut(kept, quoted)
            if end is None:
                continue
            after = end + (2 if kept[end : end + 2] == b"\r\n" else 1)
            yield Block(pa.py_buffer(kept[:end]), line, file.tell())
            filled, line, kept = True, line + line_ends(kept[:after]), kept[after:]
        kept = kept.rstrip(b"\r\n")
        if kept:
            yield Block(pa.py_buffer(kept), line, file.tell())
        elif not filled:
            raise DataError(f"{path} is empty")


def pieces(path: Path, content: BinaryIO, size: int, packed: str | None) -> Iterator[bytes]:
    try:
        yield content.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK)
        while piece := content.read(size):
            yield piece
    except ERRORS as error:
        if packed is None:
            raise
        raise DataError(f"{path}: broken {packed} data: {error}") from error


def cut(data: bytes, quoted: bool) -> int | None:
    """Where the end of the last line that is surely whole begins; None where there is none.

    Blank lines at the end are left for the next block, as they may be the end of the file.
    """
    filled = len(data.rstrip(b"\r\n"))
    end = data.rfind(b"\n", 0, filled + (2 if data.startswith(b"\r\n", filled) else 1))
    if quoted and end >= 0 and b'"' in data:
        letters = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(letters[: end + 1] == NEW_LINE)
        outside = ends[np.searchsorted(np.flatnonzero(letters == QUOTE), ends) % 2 == 0]
        end = int(outside[-1]) if len(outside) else -1 if len(data) < LONGEST else end
    elif end < 0:
        end = data.rfind(b"\r", 0, filled - 1)
    if end <= 0 or not filled:
        return None
    return end - 1 if data[end - 1 : end + 1] == b"\r\n" else end


def line_ends(data: bytes) -> int:
    """How many lines end here, by LF, CR LF, or CR alone."""
    count = data.count(b"\n")
    return count + data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else count
