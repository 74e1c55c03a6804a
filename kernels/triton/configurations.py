"""Tile sizes by architecture and kind of arithmetic: one table to edit, no autotuning. Why: docs/gpu_tiles.md."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import triton
import triton.language as tl

from kgfast.core.environment import TRITON_INTERPRETED
from kgfast.core.sums import sum_dtype

from .scores import SimilarityFormulae

TYPES = {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
WORKSPACE_BYTES = 64 << 20  # the most coefficients, keys or transposed rows that an op keeps


@dataclass(frozen=True)
class Tiles:
    """A tile has `rows` x `columns` sums; `depth` coordinates (or rows, for gradients) are loaded at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def fit(self, rows: int) -> Tiles:
        """The same with no more rows than the batch needs (16 at least, as the tensor cores take)."""
        return replace(self, rows=min(self.rows, max(16, triton.next_power_of_2(rows))))


# kind of arithmetic -> (tiles of scores, tiles of gradients)
HALF_80 = (Tiles(128, 128, 32, 8, 4), Tiles(128, 128, 32, 8, 4))
HALF_90 = (Tiles(128, 256, 64, 8, 3), Tiles(128, 128, 64, 8, 4))
HALF_100 = (Tiles(256, 128, 64, 8, 3), Tiles(128, 128, 64, 8, 4))
SINGLE = (Tiles(128, 128, 32, 8, 3), Tiles(128, 128, 32, 8, 3))  # tf32
THREEFOLD = (Tiles(64, 128, 32, 8, 2), Tiles(64, 128, 32, 8, 2))  # tf32x3: each operand twice in registers
THREEFOLD_90 = (Tiles(128, 128, 32, 8, 3), Tiles(128, 128, 32, 8, 3))
DOUBLE = (Tiles(32, 32, 16, 4, 2), Tiles(32, 32, 16, 4, 2))
# fewer rows and columns than threads: only then a coordinate is loaded straight into the layout of the sums
DISTANCE = (Tiles(64, 64, 1, 4, 1), Tiles(32, 64, 1, 4, 1))
DISTANCE_DOUBLE = (Tiles(32, 32, 1, 4, 1), Tiles(16, 32, 1, 4, 1))
GROUPED_90 = (Tiles(128, 128, 64, 8, 3), Tiles(128, 128, 64, 8, 3))  # what describes a task needs registers too
SMALL = (Tiles(32, 64, 32, 4, 1), Tiles(32, 32, 32, 4, 1))  # the interpreter: many tiles even of small tables

GROUPED = {"half": "grouped", "tf32x3": "grouped tf32x3"}  # what differs for many tasks at once
TABLE = {
    80: {"half": HALF_80, "grouped": HALF_80, "tf32": SINGLE, "tf32x3": THREEFOLD, "grouped tf32x3": THREEFOLD},
    90: {"half": HALF_90, "grouped": GROUPED_90, "tf32": SINGLE, "tf32x3": THREEFOLD_90, "grouped tf32x3": THREEFOLD},
    100: {"half": HALF_100, "grouped": GROUPED_90, "tf32": SINGLE, "tf32x3": THREEFOLD, "grouped tf32x3": THREEFOLD},
}


@lru_cache
def device_properties(device: torch.device) -> tuple[int, int]:
    """(architecture in TABLE, number of multiprocessors); an unknown newer chip takes the newest known row.

    Chips of 12.x have 99 KB of shared memory, as those of 8.6 and 8.9: they take the row of 8.0, which fits.
    """
    if device.type == "cpu":
        return 0, 2
    found = torch.cuda.get_device_properties(device)
    known = [one for one in TABLE if one <= found.major * 10]
    return 80 if found.major == 12 or not known else known[-1], found.multi_processor_count


def precision(dtype: torch.dtype) -> str:
    """How tl.dot multiplies. float32 follows torch.set_float32_matmul_precision: "highest" (torch's default) is three
    tf32 products, which are as exact as float32 sums; "high" and "medium" are one."""
    if dtype == torch.float64:
        return "ieee"
    if dtype == torch.float32:
        return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    return "widened" if TRITON_INTERPRETED else "tf32"  # the word has no meaning for 16-bit operands


def arithmetic(dtype: torch.dtype, similarity: int) -> dict:
    """Constants of every kernel with tiles."""
    return dict(
        SIMILARITY=SimilarityFormulae.find(similarity), ACC=TYPES[sum_dtype(dtype)], INPUT_PRECISION=precision(dtype)
    )


def bits(value: float) -> int:
    """float64 bits, which `tiles.number` reads."""
    return struct.unpack("<q", struct.pack("<d", value))[0]


def tiles(what: str, dtype: torch.dtype, similarity: int, device: torch.device, rows: int) -> Tiles:
    """Tiles of "scores" or "gradients", "grouped" before it for many tasks; `rows`: how many there are at most."""
    architecture, _ = device_properties(device)
    place = ("scores", "gradients").index(what.removeprefix("grouped "))
    if architecture == 0:
        return SMALL[place].fit(rows)
    kind = precision(dtype) if dtype == torch.float32 else "half"
    if what.startswith("grouped"):
        kind = GROUPED.get(kind, kind)
    return choose(architecture, dtype, similarity, kind)[place].fit(rows)


def choose(architecture: int, dtype: torch.dtype, similarity: int, kind: str) -> tuple[Tiles, Tiles]:
    if not SimilarityFormulae.find(similarity).MATRIX_PRODUCT:
        return DISTANCE_DOUBLE if dtype == torch.float64 else DISTANCE
    if dtype == torch.float64:
        return DOUBLE
    return TABLE[architecture][kind]
