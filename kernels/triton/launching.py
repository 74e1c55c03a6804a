"""What launches of tiled kernels share: workspaces, panels of columns, tables laid out as tiles read them."""

from __future__ import annotations

import torch

from . import configurations
from .configurations import WORKSPACE_BYTES, constants
from .scores import DOT

FEW_SCORES = 256 << 20  # bytes


def fresh(device):
    """allocate(name, shape, dtype) of new memory."""
    return lambda name, shape, dtype: torch.empty(shape, dtype=dtype, device=device)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def readable(rows, similarity: int, multiple: int):
    """(tensor, stride of a row, stride of a coordinate): dot tiles read rows, distance tiles one coordinate of many,
    from a transposed copy, padded to whole tiles."""
    if similarity == DOT:
        return rows, rows.shape[1], 1
    return turn(rows, multiple)


def turn(rows, multiple: int):
    """A transposed copy with zeros up to the next multiple of rows, and its strides."""
    width = ceil_div(len(rows), multiple) * multiple
    turned = rows.new_empty((rows.shape[1], width))
    turned[:, : len(rows)] = rows.t()
    turned[:, len(rows) :] = 0
    return turned, 1, width


def transposes(rows, similarity: int) -> bool:
    """Whether slopes read the rows that they sum over from a transposed copy: Hopper's tensor cores take TF32 that way
    alone. So does the interpreter, to check it."""
    hopper = configurations.device_properties(rows.device)[0] in (0, 90)
    return hopper and similarity == DOT and rows.dtype == torch.float32


def laid_for_slopes(rows, similarity: int):
    """(tensor, stride of a row, stride of a coordinate) of the rows that slopes sum over."""
    return turn(rows, 16) if transposes(rows, similarity) else (rows, rows.shape[1], 1)


def panels(count: int, bytes_each: float, budget: int, multiple: int):
    """[begin, end) of panels of columns whose `bytes_each` a column stay within `budget`."""
    width = max(int(budget / bytes_each) // multiple, 1) * multiple
    return [(begin, min(begin + width, count)) for begin in range(0, count, width)]


def workspace_bytes(batch: int, count: int, dim: int) -> int:
    """Room for coefficients. With the query gradient's float32 sums 4.8 % of float32 scores, between 32 and 64 MiB, as
    narrower panels leave multiprocessors idle. 64 MiB where the scores are few: the share does not matter there."""
    scores = 4 * batch * count
    if scores < FEW_SCORES:
        return WORKSPACE_BYTES
    return min(max(scores * 6 // 125 - 4 * batch * dim, WORKSPACE_BYTES // 2), WORKSPACE_BYTES)


def part_of(workspace, shape, dtype):
    """The first bytes of the workspace as a tensor."""
    count = shape[0] * shape[1]
    return workspace[: count * dtype.itemsize].view(dtype).view(shape)


def block(sizes, names=("ROWS", "COLUMNS", "DEPTH")) -> dict:
    values = dict(zip(names, (sizes.rows, sizes.columns, sizes.depth), strict=True))
    return values | constants(sizes)
