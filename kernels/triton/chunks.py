"""How a loss over all candidates is cut where the library multiplies: chunks of queries, the dtype of their sums.

Numbers alone: no device and no tensor is needed. Why these sizes: docs/gpu_tiles.md.
"""

from __future__ import annotations

from dataclasses import dataclass

FEW_BYTES = 64 << 20  # scores that need no cutting
LEAST_ROWS = 2048  # of a chunk: with fewer the products lose more than memory is worth
ROUNDED_CHUNKS = 4  # the most whose table gradients are added up in 16 bits
WIDE_ROWS = 4096  # of a chunk where sums are float32
LINE = 128  # bytes to which a row of scores is padded, so that every row begins where memory is read at once
OPERAND = 16  # bytes: products of 16-bit numbers are slow unless their sides are multiples of it
WORTH_SPLITTING = 1 << 32  # multiplications from which on a few more launches are repaid


@dataclass(frozen=True)
class Chunks:
    """rows: queries of a chunk, at most. stride: numbers from one row of scores to the next. main: columns of the
    large products; the others, padded to `tail` columns, are multiplied apart. wide_sums: the table gradient is added
    up in float32 beside the tables of 16 bits."""

    rows: int
    stride: int
    main: int
    tail: int
    wide_sums: bool

    def number(self, batch: int) -> int:
        return ceil_div(batch, self.rows)

    def extra_bytes(self, count: int, dim: int, itemsize: int) -> int:
        """Memory beyond inputs and gradients, but for some numbers a row: scores, the padded rest of the table with its
        gradient, wide sums."""
        sums = 4 * (count + self.tail) * dim if self.wide_sums else self.tail * dim * itemsize
        return self.rows * self.stride * itemsize + self.tail * dim * itemsize + sums


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def up_to_multiple(number: int, multiple: int) -> int:
    return ceil_div(number, multiple) * multiple


def even(batch: int, rows: int) -> int:
    """As many chunks as of `rows`, of about one size."""
    return min(batch, up_to_multiple(ceil_div(batch, ceil_div(batch, rows)), 128))


def plan(batch: int, count: int, dim: int, itemsize: int, wide: bool) -> Chunks:
    """Chunks of `batch` queries against `count` rows of `dim` numbers; wide: 16-bit products add to float32 sums.

    The scores kept are never more than [batch, count] in the table's dtype (rows padded to 128 bytes). Tables of 16
    bits: at most 4 chunks, whose sums lose little, or float32 sums where those take less memory than such long chunks.
    """
    half = itemsize == 2
    stride = up_to_multiple(count, LINE // itemsize)
    aligned = count - count % (OPERAND // itemsize)
    split = half and 0 < aligned < count and batch * count * dim >= WORTH_SPLITTING
    main, tail = (aligned, OPERAND // itemsize) if split else (count, 0)
    if batch * stride * itemsize <= FEW_BYTES:
        return Chunks(batch, stride, main, tail, False)
    rows = max(LEAST_ROWS, ceil_div(batch, ROUNDED_CHUNKS)) if half else LEAST_ROWS
    rows = even(batch, rows)
    wide_rows = even(batch, WIDE_ROWS)
    saved = (rows - wide_rows) * stride * itemsize
    if half and wide and saved > 4 * (count + tail) * dim:
        return Chunks(wide_rows, stride, main, tail, True)
    return Chunks(rows, stride, main, tail, False)
