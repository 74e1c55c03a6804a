"""Unigram and bigram models of tokens: what perplexity means, told beside every perplexity of a Transformer."""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast.joint.model.packed import Packed

DISCOUNT = 0.75  # taken from the count of every pair that was seen (Ney et al. 1994)


class NGrams:
    """p1(w) = (c(w) + 1) / (N + V), and p2(w | v) = max(c(v w) - d, 0) / c(v) + d n(v) / c(v) p1(w), n(v) the number
    of different tokens behind v: counted in texts with their start and end. After a v that was never seen, p1(w)."""

    def __init__(self, packed: Packed, vocabulary: int):
        self.vocabulary = vocabulary
        counts = torch.bincount(packed.tokens, minlength=vocabulary).double() + 1
        self.single = counts / counts.sum()
        follows = packed.positions[1:] > 0
        before, after = packed.tokens[:-1][follows], packed.tokens[1:][follows]
        self.pairs, self.counts = torch.unique(before * vocabulary + after, return_counts=True)
        owner = self.pairs // vocabulary
        self.seen = torch.bincount(before, minlength=vocabulary).double()
        self.kinds = torch.bincount(owner, minlength=vocabulary).double()

    def losses(self, packed: Packed, places: Tensor) -> Tensor:
        """-log of both chances of the tokens at `places` [n] of texts: float64 [2, n], unigram and bigram."""
        tokens, inner = packed.tokens[places], packed.positions[places] > 0
        single = self.single[tokens]
        before = packed.tokens[(places - 1).clamp(min=0)]
        keys = before * self.vocabulary + tokens
        found = torch.searchsorted(self.pairs, keys).clamp(max=max(len(self.pairs) - 1, 0))
        count = torch.zeros_like(single)
        if len(self.pairs):
            count = torch.where(self.pairs[found] == keys, self.counts[found].double(), 0.0)
        seen = self.seen[before]
        pair = ((count - DISCOUNT).clamp(min=0) + DISCOUNT * self.kinds[before] * single) / seen.clamp(min=1)
        return -torch.stack([single, torch.where(inner & (seen > 0), pair, single)]).log()
