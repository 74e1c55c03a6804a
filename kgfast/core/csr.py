"""Ranges of a flat array, one behind the other: how lists of different lengths are read."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_ranges(starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """(places [T], offsets [n + 1]): where the ranges starts[i]:ends[i] lie, in order, and the beginning of each."""
    lengths = ends - starts
    offsets = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
    shift = torch.repeat_interleave(starts - offsets[:-1], lengths)
    return shift + torch.arange(len(shift), device=shift.device), offsets


def as_csr(starts: Tensor, ends: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(offsets [n + 1], ids [T]) of the ranges starts[i]:ends[i] of `ids`."""
    places, offsets = gather_ranges(starts, ends)
    return offsets, ids[places]


def places_among(rows: Tensor, offsets: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """CSR (offsets [n + 1], places) of those `ids` that are among `rows`, ascending, as places there."""
    places = torch.searchsorted(rows, ids).clamp_(max=len(rows) - 1)
    found = rows[places] == ids
    return torch.nn.functional.pad(found.cumsum(0), (1, 0))[offsets], places[found]
