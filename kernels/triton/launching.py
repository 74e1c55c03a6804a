"""What launches of tiled kernels share: workspaces, panels of columns, tables laid out as tiles read them."""

from __future__ import annotations

import torch

from . import configurations
from .configurations import WORKSPACE_BYTES, Tiles
from .scores import SimilarityFormulae

FEW_SCORES = 256 << 20  # bytes


def fresh(device):
    """allocate(name, shape, dtype) of new memory."""
    return lambda name, shape, dtype: torch.empty(shape, dtype=dtype, device=device)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def is_product(similarity: int) -> bool:
    """Whether scores are matrix products; else their tiles read transposed rows."""
    return SimilarityFormulae.find(similarity).MATRIX_PRODUCT


def coordinates(dim: int, similarity: int) -> int:
    """Numbers of a row, or complex numbers."""
    return dim // 2 if SimilarityFormulae.find(similarity).COMPLEX else dim


# ---- operands: a kernel's arguments NAME_ptr, NAME_stride_row, NAME_stride_dim --------------------------------


def strided(name: str, tensor, stride_row: int, stride_dim: int) -> dict:
    return {f"{name}_ptr": tensor, f"{name}_stride_row": stride_row, f"{name}_stride_dim": stride_dim}


def score_operand(name: str, rows, similarity: int, multiple: int) -> dict:
    """Rows [N, D] as tiles of scores read them: distances one coordinate of many rows, from a transposed copy, padded
    to whole tiles."""
    if is_product(similarity):
        return strided(name, rows, rows.shape[1], 1)
    return transposed(name, rows, multiple)


def transposed(name: str, rows, multiple: int) -> dict:
    """A transposed copy with zeros up to the next multiple of rows."""
    width = ceil_div(len(rows), multiple) * multiple
    copy = rows.new_empty((rows.shape[1], width))
    copy[:, : len(rows)] = rows.t()
    copy[:, len(rows) :] = 0
    return strided(name, copy, 1, width)


def grouped_operand(name: str, tensor, stride_group: int, stride_row: int, stride_dim: int) -> dict:
    return strided(name, tensor, stride_row, stride_dim) | {f"{name}_stride_group": stride_group}


def transposed_by_group(name: str, rows, groups: int, multiple: int = 16) -> dict:
    """Rows [B, D] as [G, D, L] with zeros, L the next multiple of the largest group."""
    batch, dim = rows.shape
    largest = ceil_div(batch, groups)
    width = ceil_div(largest, multiple) * multiple
    copy = rows.new_zeros((groups, dim, width))
    if batch == groups * largest:
        copy[:, :, :largest] = rows.view(groups, largest, dim).transpose(1, 2)
    else:
        first, stop = (-(-torch.arange(one, groups + one, device=rows.device) * batch // groups) for one in (0, 1))
        place = first[:, None] + torch.arange(largest, device=rows.device)
        picked = rows[place.clamp(max=batch - 1)].masked_fill_((place >= stop[:, None])[:, :, None], 0)
        copy[:, :, :largest] = picked.transpose(1, 2)
    return grouped_operand(name, copy, dim * width, 1, width)


def transposes(rows, similarity: int) -> bool:
    """Whether gradients read the rows that they sum over from a transposed copy: Hopper's tensor cores take TF32 that
    way alone. So does the interpreter, to check it."""
    hopper = configurations.device_properties(rows.device)[0] in (0, 90)
    return hopper and is_product(similarity) and rows.dtype == torch.float32


def gradient_operand(name: str, rows, similarity: int) -> dict:
    """Rows [N, D] as tiles of gradients read those that they sum over."""
    return transposed(name, rows, 16) if transposes(rows, similarity) else strided(name, rows, rows.shape[1], 1)


def is_far(stride: int) -> bool:
    """Whether numbers of a tile, which has up to 256 rows and columns, may lie 2^31 apart, `stride` being between rows;
    kernels then take offsets of 64 bits, which need registers."""
    return 256 * stride >= 2**31


# ---- panels and workspaces -----------------------------------------------------------------------------------


def panels(count: int, bytes_each: float, budget: int, multiple: int):
    """[begin, end) of panels of columns whose `bytes_each` a column stay within `budget`."""
    width = max(int(budget / bytes_each) // multiple, 1) * multiple
    return [(begin, min(begin + width, count)) for begin in range(0, count, width)]


def workspace_bytes(batch: int, count: int, dim: int) -> int:
    """Room for dL/dscore. With the query gradient's float32 sums 4.8 % of float32 scores, between 32 and 64 MiB, as
    narrower panels leave multiprocessors idle. 64 MiB where the scores are few: the share does not matter there."""
    scores = 4 * batch * count
    if scores < FEW_SCORES:
        return WORKSPACE_BYTES
    return min(max(scores * 6 // 125 - 4 * batch * dim, WORKSPACE_BYTES // 2), WORKSPACE_BYTES)


def parts_of(programs: int, queries: int, device) -> int:
    """Into how many parts the queries of a list are cut, so that every multiprocessor has a sum to make."""
    wanted = ceil_div(2 * configurations.device_properties(device)[1], programs)
    return max(1, min(wanted, ceil_div(queries, 64), 16))


def view_of(workspace, shape, dtype):
    """The first bytes of the workspace as a tensor."""
    count = shape[0] * shape[1]
    return workspace[: count * dtype.itemsize].view(dtype).view(shape)


# ---- constants of a launch -----------------------------------------------------------------------------------


def score_blocks(sizes: Tiles) -> dict:
    """Of tiles of scores: queries by candidates, some coordinates at a time."""
    blocks = dict(BLOCK_B=sizes.rows, BLOCK_C=sizes.columns, BLOCK_D=sizes.depth)
    return blocks | dict(num_warps=sizes.warps, num_stages=sizes.stages)


def gradient_blocks(sizes: Tiles) -> dict:
    """Of tiles of gradients: rows x by coordinates, summed over some rows y at a time."""
    blocks = dict(BLOCK_X=sizes.rows, BLOCK_D=sizes.columns, BLOCK_Y=sizes.depth)
    return blocks | dict(num_warps=sizes.warps, num_stages=sizes.stages)
