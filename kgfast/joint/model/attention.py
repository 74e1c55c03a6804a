"""Attention over packed texts: every token sees its own text alone.

All other layers of a Transformer treat tokens one by one and never notice that texts lie side by side. Here texts of
like lengths are put into a few buckets, padded inside a bucket alone, and each bucket is one call of PyTorch's
scaled_dot_product_attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kgfast.joint.model.packed import Packed

NAME = "kgfast_packed"
SLACK = 0.75  # a bucket holds texts down to this part of its longest


@dataclass(frozen=True)
class Bucket:
    """texts [n] padded to `length`; padded: bool [n, 1, 1, length] or None, where a token is real."""

    texts: int
    length: int
    real: Tensor | None


@dataclass(frozen=True)
class Plan:
    """How T packed tokens become the rows of all buckets, P >= T of them, and back.

    places int64 [P]: the token of each padded row (a pad repeats its text's first); rows int64 [T]: its row of each
    token.
    """

    buckets: tuple[Bucket, ...]
    places: Tensor
    rows: Tensor
    causal: bool

    @classmethod
    def of(cls, packed: Packed, causal: bool) -> Plan:
        """Made once a pack, for all layers. Lengths are read on the CPU: one synchronisation on a GPU."""
        device = packed.tokens.device
        offsets = packed.offsets.cpu()
        lengths, order = offsets.diff().sort(descending=True)
        sizes, buckets, places = lengths.tolist(), [], []
        rows = torch.empty(int(offsets[-1]), dtype=torch.int64)
        start = used = 0
        while start < len(sizes):
            length = sizes[start]
            stop = int(torch.searchsorted(-lengths, -int(SLACK * length), right=True)) if length > 4 else len(sizes)
            begins = offsets[:-1][order[start:stop], None]
            within = torch.arange(length)
            real = within < lengths[start:stop, None]
            place = torch.where(real, begins + within, begins)
            rows[place[real]] = used + real.flatten().nonzero()[:, 0]
            mask = None if causal or sizes[stop - 1] == length else real[:, None, None].to(device)
            buckets.append(Bucket(stop - start, length, mask))
            places.append(place.flatten())
            used += place.numel()
            start = stop
        joined = torch.cat(places) if places else rows
        return cls(tuple(buckets), joined.to(device), rows.to(device), causal)


class Spread(torch.autograd.Function):
    """rows [P, W] = tokens[places]. Gradient by the inverse gather: no two tokens share a row, and pads have none."""

    @staticmethod
    def forward(ctx, tokens, places, rows):
        ctx.save_for_backward(rows)
        return tokens.index_select(0, places)

    @staticmethod
    def backward(ctx, gradient):
        (rows,) = ctx.saved_tensors
        return gradient.index_select(0, rows), None, None


class Collect(torch.autograd.Function):
    """tokens [T, W] = rows[rows of tokens]. A pad's gradient is 0."""

    @staticmethod
    def forward(ctx, padded, rows):
        ctx.save_for_backward(rows)
        ctx.count = len(padded)
        return padded.index_select(0, rows)

    @staticmethod
    def backward(ctx, gradient):
        (rows,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.count, gradient.shape[1]).index_copy_(0, rows, gradient), None


def attend(module, query, key, value, attention_mask=None, *, packing: Plan, scaling=None, dropout=0.0, **_):
    """Attention as transformers asks for it: query [1, heads, T, d] -> ([1, T, heads, d], None)."""
    dtype = query.dtype
    # On the CPU the gradient of attention in bfloat16 is several times slower than in float32.
    inner = torch.float32 if query.device.type == "cpu" and dtype == torch.bfloat16 else dtype
    parts = [spread(one, packing).to(inner) for one in (query, key, value)]
    heads, width = query.shape[1], value.shape[3]
    outputs, start = [], 0
    with torch.autocast(query.device.type, enabled=False):
        for bucket in packing.buckets:
            stop = start + bucket.texts * bucket.length
            queries, keys, values = (
                one[start:stop].view(bucket.texts, bucket.length, -1, query.shape[3]).transpose(1, 2) for one in parts
            )
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=bucket.real, dropout_p=dropout if module.training else 0.0,
                is_causal=packing.causal, scale=scaling, enable_gqa=key.shape[1] != heads,
            )  # fmt: skip
            outputs.append(attended.transpose(1, 2).reshape(stop - start, heads * width))
            start = stop
    tokens = Collect.apply(torch.cat(outputs).to(dtype), packing.rows)
    return tokens.view(1, -1, heads, width), None


def spread(one: Tensor, packing: Plan) -> Tensor:
    """[1, heads, T, d] -> [P, heads * d]."""
    flat = one[0].transpose(0, 1).reshape(one.shape[2], -1)
    return Spread.apply(flat, packing.places, packing.rows)


def install() -> str:
    """Make this attention known to transformers; its name for `attn_implementation`."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    return NAME
