"""TextStore: all texts of a data set, tokenized once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, KgfastError
from kgfast.joint.model.packed import Encoded, Packed, gather_places
from kgfast.joint.text.forms import relation_texts
from kgfast.joint.text.tokenizer import Tokenizer

__all__ = ["Encoded", "Packed", "TextStore", "entity_texts", "graph_texts", "relation_texts"]


class TextStore:
    """Groups of texts by name, each a flat array of token ids with offsets: "entity", "relation", "question/train", ..

    Tokens are kept without special ones, whole; `packed` encloses and cuts them. max_length: tokens of a packed text at
    most, special ones included. corpus: the Corpus that language tasks learn from, where there is one. Memory: 4 bytes
    a token, 8 a text.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int = 64):
        if max_length < 8:
            raise ConfigError(f"max_length={max_length}: must be at least 8")
        self.tokenizer, self.max_length = tokenizer, max_length
        self.groups: dict[str, tuple[Tensor, Tensor]] = {}
        self.corpus: Any = None

    @classmethod
    def of_graph(cls, graph: KnowledgeGraph, tokenizer: Tokenizer, max_length: int = 64) -> TextStore:
        """Entities (label and description), relations, and questions by split ("question/train", ..) of a graph."""
        store = cls(tokenizer, max_length)
        for name, texts in graph_texts(graph).items():
            store.add(name, texts)
        return store

    def add(self, group: str, texts: Sequence[str | None]) -> None:
        """Tokenize a group of texts; None stands for a text that is missing, and has no tokens."""
        self.groups[group] = self.tokenizer.encode([text or "" for text in texts])

    def __contains__(self, group: str) -> bool:
        return group in self.groups

    def count(self, group: str) -> int:
        return len(self._group(group)[1]) - 1

    def present(self, group: str) -> Tensor:
        """Which texts of the group have tokens: bool [n]."""
        return self._group(group)[1].diff() > 0

    def unknown_shares(self) -> dict[str, float]:
        """{group, or "corpus": the share of its tokens that is [UNK]}."""
        groups = {name: tokens for name, (tokens, _) in self.groups.items()}
        if self.corpus is not None:
            groups["corpus"] = self.corpus.tokens
        return {name: unknown_share(tokens, self.tokenizer) for name, tokens in groups.items()}

    def packed(self, group: str, ids: Tensor | None = None) -> Packed:
        """The texts `ids` [n] of a group (None: all), as [CLS] text [SEP]."""
        return self.enclose([self._slices(group, ids)])

    def pairs(self, first: str, first_ids: Tensor, second: str, second_ids: Tensor) -> Packed:
        """Pairs of texts, as [CLS] first [SEP] second [SEP] with segments 0 and 1; the first text is cut to half of
        the room at most where both don't fit."""
        return self.enclose([self._slices(first, first_ids), self._slices(second, second_ids)])

    def pack(self, texts: Sequence[str]) -> Packed:
        """Any texts, tokenized now."""
        return self.enclose([self.tokenizer.encode(list(texts))])

    def enclose(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Packed:
        """One text each of the parts (tokens [T], offsets [n + 1]), joined, enclosed and cut to `max_length`."""
        begin, end = self.tokenizer.begin, self.tokenizer.end
        marks = (begin is not None) + (end is not None) * len(parts)
        room = self.max_length - marks
        lengths = [offsets.diff() for _, offsets in parts]
        if len(parts) == 2:  # what the second leaves free goes to the first, and the other way round
            first = torch.minimum(lengths[0], torch.clamp(room - lengths[1], min=room - room // 2))
            lengths = [first, torch.minimum(lengths[1], room - first)]
        else:
            lengths = [lengths[0].clamp(max=room)]
        whole = sum(lengths[1:], lengths[0]) + marks
        offsets = torch.cat((whole.new_zeros(1), whole.cumsum(0)))
        total = int(offsets[-1])
        tokens = torch.full((total,), 0 if end is None else end, dtype=torch.int64)
        segments = torch.zeros(total, dtype=torch.int64)
        cursor = offsets[:-1].clone()
        if begin is not None:
            tokens[cursor] = begin
            cursor += 1
        for place, ((flat, starts), length) in enumerate(zip(parts, lengths, strict=True)):
            rows = torch.repeat_interleave(torch.arange(len(length)), length)
            within = torch.arange(len(rows)) - (length.cumsum(0) - length)[rows]
            tokens[cursor[rows] + within] = flat[starts[:-1][rows] + within].long()
            if place:
                segments[cursor[rows] + within] = place
            cursor += length
            if end is not None:
                if place:
                    segments[cursor] = place
                cursor += 1
        return Packed.from_flat(tokens, offsets, segments)

    def _group(self, group: str) -> tuple[Tensor, Tensor]:
        if group not in self.groups:
            raise KgfastError(f"no texts called {group!r}; there are {', '.join(self.groups) or 'none'}")
        return self.groups[group]

    def _slices(self, group: str, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        tokens, offsets = self._group(group)
        if ids is None:
            return tokens, offsets
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= len(offsets) - 1):
            raise KgfastError(f"texts {group!r}: an id is outside [0, {len(offsets) - 1})")
        places, bounds = gather_places(offsets, ids)
        return tokens[places], bounds


def unknown_share(tokens: Tensor, tokenizer: Tokenizer) -> float:
    """The share of the tokens that is [UNK]; 0 where there are none."""
    return float(tokenizer.is_unknown(tokens).double().mean()) if len(tokens) else 0.0


def entity_texts(graph: KnowledgeGraph) -> list[str | None]:
    """Label and description of each entity, as far as the graph has them; None where it has neither."""
    labels = graph.entity_text if graph.entity_text is not None else [None] * graph.num_entities
    described = graph.entity_description if graph.entity_description is not None else [None] * graph.num_entities
    return [join(label, description) for label, description in zip(labels, described, strict=True)]


def inverse_texts(graph: KnowledgeGraph) -> list[str]:
    """Texts of relations read from tail to head."""
    return [f"inverse of {text}" for text in relation_texts(graph)]


def join(label: str | None, description: str | None) -> str | None:
    """ "label: description", or the description alone where it begins with the label."""
    if label is None or description is None:
        return label or description
    return description if description.startswith(label) else f"{label}: {description}"


def has_texts(graph: KnowledgeGraph) -> bool:
    """Whether any entity of the graph may have a text."""
    return graph.entity_text is not None or graph.entity_description is not None


def graph_texts(graph: KnowledgeGraph) -> dict[str, Sequence[str | None]]:
    """{group: texts} of a graph: "entity", "relation", and "question/SPLIT"."""
    groups: dict[str, Sequence[str | None]] = {"entity": entity_texts(graph), "relation": relation_texts(graph)}
    for split, questions in graph.questions.items():
        groups[f"question/{split}"] = [question for question, _, _ in questions]
    return groups


def all_texts(groups: dict[str, Sequence[str | None]]) -> Iterator[str]:
    """Every text of every group, for a tokenizer to learn from."""
    for texts in groups.values():
        yield from (text for text in texts if text)
