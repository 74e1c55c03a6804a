"""One vector of each packed text."""

from __future__ import annotations

import torch
from torch import Tensor

POOLINGS = ("mean", "first", "last")


class Mean(torch.autograd.Function):
    """mean[i] = sum of hidden[offsets[i]:offsets[i + 1]] / its length; its gradient is a gather."""

    @staticmethod
    def forward(ctx, hidden, offsets):
        ctx.save_for_backward(offsets)
        return torch.segment_reduce(hidden, "mean", offsets=offsets, axis=0)

    @staticmethod
    def backward(ctx, gradient):
        (offsets,) = ctx.saved_tensors
        lengths = offsets.diff()
        rows = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        return (gradient / lengths[:, None].to(gradient.dtype)).index_select(0, rows), None


class Pick(torch.autograd.Function):
    """hidden[places], places all different: the gradient is written, not added."""

    @staticmethod
    def forward(ctx, hidden, places):
        ctx.save_for_backward(places)
        ctx.count = len(hidden)
        return hidden.index_select(0, places)

    @staticmethod
    def backward(ctx, gradient):
        (places,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.count, *gradient.shape[1:]).index_copy_(0, places, gradient), None


def pick(hidden: Tensor, places: Tensor) -> Tensor:
    """Rows `places` [m] of hidden [T, H], each at most once."""
    return Pick.apply(hidden, places)


def pool(hidden: Tensor, offsets: Tensor, how: str) -> Tensor:
    """[n, H]: the mean of a text's states, or its first or last."""
    if how == "mean":
        return Mean.apply(hidden, offsets)
    return pick(hidden, offsets[:-1] if how == "first" else offsets[1:] - 1)
