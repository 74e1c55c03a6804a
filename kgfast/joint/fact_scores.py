"""What a language model gives triples in words: a score of each, by the tokens of its tail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kgfast.core.csr import gather_ranges
from kgfast.functional.candidates import linear_cross_entropy
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.model.pooling import pool
from kgfast.joint.task import device_of
from kgfast.joint.tasks.link import link_model
from kgfast.joint.tasks.mention import MentionTask
from kgfast.joint.text.forms import Said
from kgfast.joint.text.language import LanguageTask


class Asked(NamedTuple):
    """n texts that ask for tails: the states at `places` of `packed` ask for the tokens `targets`, text `owner`; the
    tail of text i begins at token `first[i]` of the pack and has `length[i]` tokens."""

    packed: Packed
    places: Tensor
    targets: Tensor
    owner: Tensor
    first: Tensor
    length: Tensor


class FactScorer:
    """Scores of triples in words by the language model that `task` trains: a causal model gives the log-likelihood of
    the tail and what stands behind it, a masked one the mean log-likelihood of the tail's tokens, all of them hidden.
    """

    def __init__(self, model, task: LanguageTask):
        self.model, self.task, self.tokenizer = model, task, model.texts.tokenizer
        self.causal = model.backbone.backbone_of(task.name).causal

    def by_tokens(self, said: Sequence[Said], heads: Tensor | None, tails: Tensor) -> Tensor:
        """float64 [n] of triples whose heads are these entities, None where they are not told."""
        asked, backbone = self.ask(said, heads, tails), self.model.backbone.backbone_of(self.task.name)
        hidden = self.encode(asked, self.task.name).hidden
        losses = linear_cross_entropy(
            backbone.lm_transform(hidden[asked.places.to(hidden.device)]), backbone.lm_table,
            asked.targets.to(hidden.device), bias=backbone.lm_bias, reduction="none",
        )  # fmt: skip
        sums = torch.zeros(len(asked.packed), dtype=torch.float64).index_add(0, asked.owner, -losses.double().cpu())
        return sums if self.causal else sums / asked.length

    def encode(self, asked: Asked, task: str) -> Encoded:
        return self.model.backbone.encode(asked.packed.to(device_of(self.model)), task)

    def by_table(self, mention: MentionTask, said: Sequence[Said], heads: Tensor | None, tails: Tensor) -> Tensor:
        """float64 [n]: log of the chance, among all entities, that the text names the tail: by the task `mention`."""
        asked = self.ask(said, heads, tails)
        hidden = self.encode(asked, mention.name).hidden
        if self.causal:
            states = hidden[torch.maximum(asked.first - 1, asked.packed.offsets[:-1]).to(hidden.device)]
        else:
            places, offsets = gather_ranges(asked.first, asked.first + asked.length)
            states = pool(hidden[places.to(hidden.device)], offsets.to(hidden.device), "mean")
        known = torch.full((len(said),), -1) if heads is None else heads.clone()
        if self.causal:  # what stands behind is not read yet
            known[torch.tensor([one.head[0] > one.tail[0] for one in said])] = -1
        return mention.log_chances(self.model, states, known[:, None].expand(-1, 2).to(hidden.device), tails)

    def by_link(self, triples: Tensor) -> Tensor:
        """float64 [n]: the score of triples [n, 3], relation for tails."""
        tables = link_model(self.model, self.model.graph)
        parts = triples.to(tables.entities.device).split(8192)
        return torch.cat([tables.score_triples(part) for part in parts]).double().cpu()

    def ask(self, said: Sequence[Said], heads: Tensor | None, tails: Tensor) -> Asked:
        """Texts with the entities that enter them; those that are too long lose tokens in front."""
        tokens, offsets, spans = self.tokenizer.encode_placed([one.text for one in said])
        room = self.model.texts.max_length - (self.tokenizer.begin is not None) - (self.tokenizer.end is not None)
        bounds, shown, entities = offsets.tolist(), [], []
        owner: list[int] = []
        within: list[int] = []
        first, length = [], []
        for text, one in enumerate(said):
            found = spans[text]
            cut = max(0, len(found) - room)
            head, tail = ([max(0, place - cut) for place in inside(found, span)] for span in (one.head, one.tail))
            ids = tokens[bounds[text] + cut : bounds[text + 1]].tolist()
            entered = [-1] * len(ids)
            if heads is not None and head[0] < head[1]:
                enter(entered, head, int(heads[text]), self.causal)
            if self.causal:
                enter(entered, tail, int(tails[text]), self.causal)
            asks = range(tail[0], len(ids) if self.causal else tail[1])
            if self.causal and self.tokenizer.begin is None and tail[0] == 0:
                asks = asks[1:]  # no state stands before
            owner += [text] * len(asks)
            within += asks
            shown.append(ids)
            entities += entered
            first.append(tail[0])
            length.append(tail[1] - tail[0])
        return self.pack(shown, entities, owner, within, first, length)

    def pack(self, shown, entities, owner, within, first, length) -> Asked:
        begin = self.tokenizer.begin is not None
        counts = torch.tensor([0, *map(len, shown)]).cumsum(0)
        flat = torch.tensor([id for ids in shown for id in ids], dtype=torch.int64)
        packed = self.model.texts.enclose([(flat, counts)])
        owners = torch.tensor(owner, dtype=torch.int64)
        places = packed.offsets[owners] + torch.tensor(within, dtype=torch.int64) + begin
        inner = packed.offsets[:-1].repeat_interleave(counts.diff()) - counts[:-1].repeat_interleave(counts.diff())
        entered = torch.full_like(packed.tokens, -1)
        entered[inner + torch.arange(len(flat)) + begin] = torch.tensor(entities, dtype=torch.int64)
        asked, targets = packed.tokens.clone(), packed.tokens[places]
        if self.causal:
            places = places - 1
        else:
            asked[places] = self.tokenizer.mask
        packed = Packed(asked, packed.positions, packed.segments, packed.offsets, entered)
        starts = packed.offsets[:-1] + torch.tensor(first) + begin
        return Asked(packed, places, targets, owners, starts, torch.tensor(length))


def inside(spans: Sequence[tuple[int, int]], wanted: tuple[int, int]) -> tuple[int, int]:
    """The tokens [first, stop) that hold the characters [start, stop)."""
    touching = [place for place, (start, stop) in enumerate(spans) if start < wanted[1] and stop > wanted[0]]
    return (touching[0], touching[-1] + 1) if touching else (0, 0)


def enter(entered: list[int], mention: Sequence[int], entity: int, causal: bool) -> None:
    """The entity at the tokens of its mention, or for a causal model at the one behind it: as in training."""
    first, stop = mention
    for place in range(stop, stop + 1) if causal else range(first, stop):
        if place < len(entered):
            entered[place] = entity
