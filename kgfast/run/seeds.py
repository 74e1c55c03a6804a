"""Random numbers: all that is drawn comes from the seed and the name of what is drawn, so that nothing needs state."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, key: int | str) -> torch.Generator:
    """A CPU generator of its own for (seed, key)."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def global_seed(seed: int, key: str) -> int:
    """A seed of torch's global generator, which dropout draws from, of its own for (seed, key)."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
