"""Mentions of entities in packs: where they stand, and where the entities enter the Transformer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kgfast.core.csr import gather_ranges
from kgfast.joint.model.packed import Packed


@dataclass(frozen=True)
class Mentioned:
    """M mentions in a pack, in order: tokens [first, stop) of its text `text` name `entity`; int64 [M] each."""

    first: Tensor
    stop: Tensor
    entity: Tensor
    text: Tensor

    def __len__(self) -> int:
        return len(self.first)

    def select(self, chosen: Tensor) -> Mentioned:
        return Mentioned(self.first[chosen], self.stop[chosen], self.entity[chosen], self.text[chosen])

    def without(self, places: Tensor) -> Mentioned:
        """Those that have none of these tokens."""
        if not len(self):
            return self
        hidden = torch.zeros(int(torch.cat([self.stop, places + 1]).max()) + 1, dtype=torch.int64)
        hidden[places + 1] = 1
        before = hidden.cumsum(0)
        return self.select(before[self.stop] == before[self.first])

    def tokens(self) -> tuple[Tensor, Tensor]:
        """(places, offsets [M + 1]): the tokens of each mention as CSR."""
        return gather_ranges(self.first, self.stop)


def mentioned(texts: Any, packed: Packed, spans: Tensor) -> Mentioned:
    """The mentions in the pack of the corpus' pieces `spans` [n, 2]; none where mentions weren't looked for."""
    corpus = texts.corpus
    nothing = torch.empty(0, dtype=torch.int64)
    if corpus.mentions is None or not len(corpus.mentions):
        return Mentioned(nothing, nothing, nothing, nothing)
    first, stop, entity = corpus.mentions.unbind(1)
    start = torch.searchsorted(first.contiguous(), spans[:, 0].contiguous())
    end = torch.searchsorted(stop.contiguous(), spans[:, 1].contiguous(), right=True)
    chosen, offsets = gather_ranges(start, torch.maximum(start, end))
    text = torch.repeat_interleave(torch.arange(len(spans)), offsets.diff())
    shift = (packed.offsets[:-1] + (texts.tokenizer.begin is not None) - spans[:, 0])[text]
    return Mentioned(first[chosen] + shift, stop[chosen] + shift, entity[chosen], text)


def with_entities_at(texts: Any, packed: Packed, which: Mentioned) -> Packed:
    """Entities enter at all tokens of their mentions."""
    if texts.corpus.mentions is None:
        return packed
    places, offsets = which.tokens()
    entered = torch.full_like(packed.tokens, -1)
    entered[places] = which.entity.repeat_interleave(offsets.diff())
    return replace(packed, entities=entered)


def with_entities_behind(texts: Any, packed: Packed, spans: Tensor) -> Packed:
    """Entities enter at the token behind their mention, where a causal model has read all of it; a mention that a piece
    does not hold enters nowhere."""
    corpus = texts.corpus
    if corpus.entered is None:
        return packed
    places, offsets = gather_ranges(spans[:, 0], spans[:, 1])
    text = torch.repeat_interleave(torch.arange(len(spans)), offsets.diff())
    first = packed.offsets[:-1] + (texts.tokenizer.begin is not None)
    entered = torch.full_like(packed.tokens, -1)
    entered[(first - spans[:, 0])[text] + places] = corpus.entered[places]
    entered[first] = -1
    return replace(packed, entities=entered)


def anchors_of(there: Mentioned, asked: Tensor, visible: Tensor | None) -> Tensor:
    """int64 [m, 2]: for each mention `asked` [m] the first entity that its text names, and the last before it, -1 for
    none. visible bool [M]: the mentions that are shown, of which the first may stand behind; None: those before."""
    places = torch.arange(len(there))
    counted = torch.ones_like(places, dtype=torch.bool) if visible is None else visible
    texts = int(there.text.max()) + 1 if len(there) else 0
    nobody = len(there)
    first = torch.full((texts,), nobody).scatter_reduce(0, there.text[counted], places[counted], "amin")[there.text]
    before = torch.where(counted, places, -1).cummax(0).values if len(there) else places
    last = torch.cat([before.new_full((1,), -1), before[:-1]])
    last = torch.where((last >= 0) & (there.text[last.clamp(min=0)] == there.text), last, nobody)
    if visible is None:
        first = torch.where(first < places, first, nobody)
    entity = torch.cat([there.entity, there.entity.new_full((1,), -1)])
    found = torch.stack([entity[first], entity[last]], 1)
    return torch.where(found[:, 1:] < 0, found[:, :1], found)[asked]
