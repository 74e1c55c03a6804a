"""Corpus: the sentences that language modelling learns from, and those held out of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kgfast.data import KnowledgeGraph
from kgfast.data.lines import read_lines
from kgfast.errors import ConfigError, DataError
from kgfast.joint.text.forms import Forms
from kgfast.joint.text.mentions import find_mentions, longest
from kgfast.joint.text.store import entity_texts
from kgfast.joint.text.tokenizer import Tokenizer
from kgfast.run.seeds import generator

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^\sa-z])")
SPLITS = ("train", "valid", "test", "triples")


class Corpus:
    """Documents of sentences, tokenized once: sentence i is tokens[offsets[i]:offsets[i + 1]].

    tokens int32 [T], offsets int64 [S + 1], document int64 [S] ascending, split int64 [documents]: 0 train, 1 valid,
    2 test, 3 triples. A document is an entity: the sentences of its text and, in train, its triples put into words; or
    a paragraph of a text file; or a triple of train in words.

    With `mentions_of`, a graph, its entities are found in the texts: mentions int64 [M, 3], tokens[first:stop] name an
    entity, the longest at each place; entered int64 [T], at the token behind a name its entity, else -1: there what
    stands before tells that the name is whole.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        documents: Sequence[Sequence[str]],
        split: Tensor,
        mentions_of: KnowledgeGraph | None = None,
    ):
        if len(documents) != len(split):
            raise DataError(f"{len(documents)} documents, but splits for {len(split)}")
        lines = [sentence for document in documents for sentence in document]
        self.document = torch.repeat_interleave(
            torch.arange(len(documents)), torch.tensor([len(document) for document in documents], dtype=torch.int64)
        )
        self.split = split
        self.mentions: Tensor | None = None
        self.entered: Tensor | None = None
        if mentions_of is None:
            self.tokens, self.offsets = tokenizer.encode(lines)
        else:
            self.tokens, self.offsets, places = tokenizer.encode_placed(lines)
            self.enter_mentions(find_mentions(mentions_of, lines), places)

    def enter_mentions(self, found: np.ndarray, places: list[list[tuple[int, int]]]) -> None:
        """From characters to tokens; a name that begins or ends inside a token is none."""
        begins, entered = self.offsets.tolist(), torch.full((len(self.tokens),), -1)
        documents, kept = self.document.tolist(), []
        owner = torch.repeat_interleave(self.document, self.offsets.diff()).tolist()
        for sentence, rows in groupby(found.tolist(), key=lambda row: row[0]):
            first = {start: place for place, (start, _) in enumerate(places[sentence], begins[sentence])}
            last = {stop: place + 1 for place, (_, stop) in enumerate(places[sentence], begins[sentence])}
            whole = [(first[a], last[b], entity) for _, a, b, entity in rows if a in first and b in last]
            kept += longest(whole)
            for _, stop, entity in sorted(whole, key=lambda row: -row[0]):  # of those that end here the longest
                if stop < len(owner) and owner[stop] == documents[sentence]:
                    entered[stop] = entity
        self.mentions, self.entered = torch.tensor(kept, dtype=torch.int64).reshape(-1, 3), entered

    @classmethod
    def of_graph(
        cls,
        graph: KnowledgeGraph,
        tokenizer: Tokenizer,
        *,
        files: Iterable[str | Path] = (),
        triples: bool = True,
        held_out: float = 0.05,
        seed: int = 0,
        apart: bool = False,
        mentions: bool = False,
    ) -> Corpus:
        """The texts of a graph's entities, the triples of train put into words (`triples`), and lines of text files.

        held_out: part of the documents in each of valid and test. A held-out entity's own text and the triples that it
        is head of are then in no training sentence. Files: a paragraph a line; a blank line is nothing. apart: triples
        of train as documents of their own too, the split "triples"; mentions: entities are found in all texts.
        """
        if not 0 <= held_out < 0.5:
            raise ConfigError(f"held_out={held_out}: must be at least 0 and below 0.5")
        documents = [sentences(text) if text else [] for text in entity_texts(graph)]
        for file in files:
            documents += [sentences(line) for line in text_lines(Path(file))]
        order = torch.randperm(len(documents), generator=generator(seed, "corpus"))
        count = int(held_out * len(documents))
        split = torch.zeros(len(documents), dtype=torch.int64)
        split[order[:count]], split[order[count : 2 * count]] = 1, 2
        if triples or apart:
            told = graph.train[split[graph.train[:, 0]] == 0]
            words = verbalise(graph, told)
            if triples:
                for head, sentence in zip(told[:, 0].tolist(), words, strict=True):
                    documents[head].append(sentence)
            if apart:
                documents += [[sentence] for sentence in words]
                split = torch.cat([split, torch.full((len(words),), 3)])
        corpus = cls(tokenizer, documents, split, graph if mentions else None)
        if not bool((corpus.split[corpus.document] == 0).any()):
            raise DataError(f"{graph.name} has no text to learn language from: no texts of entities, no text file")
        return corpus

    def __len__(self) -> int:
        return len(self.document)

    def spans(self, split: str, length: int) -> Tensor:
        """Pieces of text for a Transformer to read: int64 [n, 2], each tokens[start:stop] of one document.

        As many whole sentences as `length` tokens hold; a longer sentence is cut.
        """
        spans: list[tuple[int, int]] = []
        bounds = self.offsets.tolist()
        documents, wanted = self.document.tolist(), (self.split == SPLITS.index(split)).tolist()
        start, last = 0, -1  # the span being filled, and its document
        for sentence, document in enumerate(documents):
            if not wanted[document]:
                continue
            begin, end = bounds[sentence], bounds[sentence + 1]
            if document == last and end - start <= length and spans:
                spans[-1] = (start, end)
                continue
            for cut in range(begin, end, length):
                spans.append((cut, min(cut + length, end)))
                start = cut
            last = document if end > begin else -1
        return torch.tensor(spans, dtype=torch.int64).reshape(-1, 2)

    def following(self, split: str) -> Tensor:
        """Sentences that another of the same document follows: int64 [n], ids of the first of each pair."""
        filled = self.offsets.diff() > 0
        inside = (self.split == SPLITS.index(split))[self.document]
        follows = self.document[:-1] == self.document[1:]
        return (follows & filled[:-1] & filled[1:] & inside[:-1]).nonzero()[:, 0]


def sentences(text: str) -> list[str]:
    """A text cut behind . ! ? where something other than a small letter follows."""
    return [part for part in SENTENCE_END.split(text.strip()) if part]


def verbalise(graph: KnowledgeGraph, triples: Tensor) -> list[str]:
    """Triples in words: the relation's template with the labels of head and tail."""
    return [said.text for said in Forms(graph).say_all(*triples.unbind(1))]


def text_lines(path: Path) -> list[str]:
    """Lines of a text file that hold something; DataError where it can't be read or holds nothing."""
    if not path.is_file():
        raise DataError(f"corpus: there is no file {path}")
    lines = [line.strip() for line in read_lines(path).to_pylist() if line.strip()]
    if not lines:
        raise DataError(f"corpus: {path} is empty")
    return lines
