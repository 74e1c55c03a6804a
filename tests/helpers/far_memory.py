"""Memory of more than 2^31 numbers that takes none but where it is touched."""

import mmap

import numpy as np
import torch


def reserved(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Zeros [shape]; only pages that are written to take memory."""
    size = int(np.prod(shape)) * dtype.itemsize
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    return torch.frombuffer(mmap.mmap(-1, size, flags=flags), dtype=dtype).view(shape)
