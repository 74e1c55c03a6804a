"""Texts side by side without padding, and what the Transformer made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kgfast.core.csr import gather_ranges
from kgfast.errors import KgfastError


@dataclass(frozen=True)
class Packed:
    """n texts of T tokens together; text i is the slice offsets[i]:offsets[i + 1].

    tokens     int64 [T], special tokens ([CLS], [SEP]) included
    positions  int64 [T], 0, 1, .. within each text
    segments   int64 [T], 0, or 1 for the second text of a pair
    offsets    int64 [n + 1], ascending from 0 to T
    entities   int64 [T], the entity whose row enters at a token, -1 for none; None where none enters anywhere
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    offsets: Tensor
    entities: Tensor | None = None

    @classmethod
    def from_flat(cls, tokens: Tensor, offsets: Tensor, segments: Tensor | None = None) -> Packed:
        """From tokens [T] and offsets [n + 1]; positions are counted here, segments are 0 unless given."""
        tokens, offsets = tokens.long(), offsets.long()
        if len(offsets) < 1 or int(offsets[0]) != 0 or int(offsets[-1]) != len(tokens):
            raise KgfastError(f"offsets must ascend from 0 to the number of tokens, {len(tokens)}")
        lengths = offsets.diff()
        if len(lengths) and int(lengths.min()) < 1:
            raise KgfastError(f"text {int(lengths.argmin())} has no tokens")
        positions = torch.arange(len(tokens), device=tokens.device) - torch.repeat_interleave(offsets[:-1], lengths)
        return cls(tokens, positions, torch.zeros_like(tokens) if segments is None else segments.long(), offsets)

    @classmethod
    def from_texts(cls, texts: Sequence[Tensor]) -> Packed:
        """From a list of token ids, one tensor a text."""
        if not len(texts):
            return cls.empty()
        lengths = torch.tensor([0, *(len(text) for text in texts)], device=texts[0].device)
        return cls.from_flat(torch.cat(list(texts)), lengths.cumsum(0))

    @classmethod
    def empty(cls, device="cpu") -> Packed:
        nothing = torch.empty(0, dtype=torch.int64, device=device)
        return cls(nothing, nothing, nothing, torch.zeros(1, dtype=torch.int64, device=device))

    @classmethod
    def cat(cls, parts: Sequence[Packed]) -> Packed:
        """All texts of the parts, in order."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.empty()
        starts, bounds = 0, [parts[0].offsets[:1]]
        for part in parts:
            bounds.append(part.offsets[1:] + starts)
            starts += len(part.tokens)
        tokens, positions, segments = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "positions", "segments")
        )
        entities = None
        if any(part.entities is not None for part in parts):
            entities = torch.cat([part.given_entities() for part in parts])
        return cls(tokens, positions, segments, torch.cat(bounds), entities)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text: int64 [n]."""
        return self.offsets.diff()

    @property
    def rows(self) -> Tensor:
        """The text of each token: int64 [T]."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.tokens.device), self.lengths)

    def to(self, device) -> Packed:
        entities = None if self.entities is None else self.entities.to(device)
        parts = (self.tokens, self.positions, self.segments, self.offsets)
        tokens, positions, segments, offsets = (part.to(device) for part in parts)
        return Packed(tokens, positions, segments, offsets, entities)

    def select(self, ids: Tensor) -> Packed:
        """The texts `ids` [m], in that order, repeats allowed."""
        places, offsets = gather_places(self.offsets, ids)
        entities = None if self.entities is None else self.entities[places]
        return Packed(self.tokens[places], self.positions[places], self.segments[places], offsets, entities)

    def given_entities(self) -> Tensor:
        """int64 [T], -1 throughout where no entity's row enters."""
        return torch.full_like(self.tokens, -1) if self.entities is None else self.entities

    def distinct(self) -> tuple[Packed, Tensor]:
        """(each text once, in order of first appearance; for every text its place there [n]).

        Texts are equal when tokens, segments and entities are. Found by a 64-bit hash, then compared token by token.
        """
        if len(self) < 2:
            return self, torch.arange(len(self), device=self.tokens.device)
        _, inverse = torch.unique(self.hashes(), return_inverse=True)
        texts = torch.arange(len(self), device=inverse.device)
        firsts = torch.full_like(texts, len(self)).scatter_reduce(0, inverse, texts, "amin")
        kept = firsts[firsts < len(self)].sort().values
        place = torch.searchsorted(kept, firsts[inverse])
        if len(kept) == len(self):
            return self, place
        chosen = self.select(kept)
        again = chosen.select(place)
        same = torch.equal(again.offsets, self.offsets) and torch.equal(again.tokens, self.tokens)
        same = same and torch.equal(again.segments, self.segments)
        if not same or not torch.equal(again.given_entities(), self.given_entities()):
            return self, texts  # two texts share a hash: encode all rather than confuse them
        return chosen, place

    def hashes(self) -> Tensor:
        """int64 [n] of tokens, segments, entities and their order: sums of mixed words, arithmetic modulo 2^64."""
        word = (self.tokens * 2 + self.segments + 1) * 0x1F3D5B79 + (self.positions + 1) * 0x5851F42D4C957F2D
        if self.entities is not None:
            word = word + (self.entities + 1) * 0x632BE59BD9B4E019
        word = (word ^ (word >> 31)) * 0x2545F4914F6CDD1D
        word = (word ^ (word >> 29)) * 0x14057B7EF767814F
        zero = torch.zeros(len(self), dtype=torch.int64, device=word.device)
        return zero.index_add(0, self.rows, word ^ (word >> 32))


def gather_places(offsets: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(places in the flat array, offsets [m + 1]) of the slices `ids` [m] of CSR `offsets`."""
    return gather_ranges(offsets[ids], offsets[ids + 1])


@dataclass(frozen=True)
class Encoded:
    """Hidden states of the texts that a task requested, in its own order.

    hidden [T, H], text i the slice offsets[i]:offsets[i + 1]; pooled [n, H], one vector a text.
    """

    hidden: Tensor
    offsets: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.pooled)

    def slice(self, start: int, stop: int) -> Encoded:
        """Texts start .. stop - 1."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return Encoded(self.hidden[first:last], self.offsets[start : stop + 1] - first, self.pooled[start:stop])

    def select(self, ids: Tensor) -> Encoded:
        """The texts `ids` [m], in that order, repeats allowed."""
        places, offsets = gather_places(self.offsets, ids)
        return Encoded(self.hidden[places], offsets, self.pooled[ids])
