"""What language tasks have in common: pieces of the corpus in packs, and places there that ask for tokens."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kgfast.core.csr import gather_ranges
from kgfast.errors import DataError
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.model.pooling import pick
from kgfast.joint.task import Schedule, Task, Term, device_of
from kgfast.joint.text.corpus import Corpus
from kgfast.joint.text.ngrams import NGrams
from kgfast.joint.text.perplexity import perplexity
from kgfast.joint.text.store import has_texts, unknown_share

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph
    from kgfast.joint.config import JointConfig


@dataclass(frozen=True)
class TokenBatch:
    """Texts; the states at `places` [M] of the pack ask for the tokens `targets` [M]."""

    packed: Packed
    places: Tensor
    targets: Tensor


class CorpusTask(Task):
    """A task that reads the corpus: texts of entities, and text files."""

    backbone = True
    reads_corpus = True

    def __init__(self, options, graph, texts, dims, seed):
        corpus = getattr(texts, "corpus", None)
        if corpus is None:
            raise DataError(f"task {self.name} needs a corpus: texts of entities, or a text file (corpus=FILE)")
        super().__init__(options, graph, texts, dims, seed)
        self.corpus: Corpus = corpus

    @classmethod
    def lacks(cls, graph: KnowledgeGraph, config: JointConfig) -> str | None:
        return None if has_texts(graph) or config.corpus.files else "texts of entities"


class PieceTask(CorpusTask):
    """A task that reads pieces of the corpus in training, and `triples` sentences a step that say a triple each. Its
    options have `batch_size` and `triples`; tasks that `read_as` another and have its sizes read the same pieces, which
    are encoded once."""

    def __init__(self, options, graph, texts, dims, seed):
        super().__init__(options, graph, texts, dims, seed)
        spans = self.spans_of("train")
        self.spans = spans[self.has_targets(spans)]
        if len(spans) and not len(self.spans):
            raise DataError(
                f"task {self.name}: 100 % of the training text's tokens are [UNK], which nothing can be learned from: "
                f"the tokenizer does not fit the language of the texts"
            )
        self.schedule = Schedule(len(self.spans), options.batch_size, seed, self.read_as)
        self.triples = self.spans_of("triples")
        if options.triples:
            self.triples_schedule = Schedule(len(self.triples), options.triples, seed, f"{self.read_as}/triples")

    @property
    def read_as(self) -> str:
        """The name that decides which pieces a step reads."""
        return self.name

    def spans_of(self, split: str) -> Tensor:
        return self.corpus.spans(split, self.texts.max_length - 2)

    def has_targets(self, spans: Tensor) -> Tensor:
        """Which spans hold a token that is not [UNK]: bool [n]."""
        known = ~self.texts.tokenizer.is_unknown(self.corpus.tokens)
        before = torch.cat((torch.zeros(1, dtype=torch.int64), known.cumsum(0)))
        return before[spans[:, 1]] > before[spans[:, 0]]

    def can_evaluate(self, split: str) -> bool:
        return len(self.spans_of(split)) > 0

    def spans_of_step(self, step: int) -> Tensor:
        """The pieces of text of a training step: int64 [n, 2]."""
        spans = self.spans[self.schedule.rows(step)]
        if not self.options.triples:
            return spans
        return torch.cat([spans, self.triples[self.triples_schedule.rows(step)]])


class LanguageTask(PieceTask):
    """Query: the transformed state at a place. Table: that of the LM head. No other states become queries.

    A subclass says which places of a training step ask for which tokens (`batch`), and how an evaluation asks for all
    tokens of pieces (`all_tokens`); nothing asks for [UNK], which would be easy to guess. Its options have
    `batch_size`, `triples` and `evaluate_texts`.
    """

    headline = "perplexity"
    lower_is_better = (*Task.lower_is_better, "unigram_perplexity", "bigram_perplexity", "unknown")
    columns = {"perplexity": "perplexity", "unigram_perplexity": "of unigrams", "bigram_perplexity": "of bigrams",
               "loss": "loss", "tokens": "tokens", "unknown": "share of [UNK]"}  # fmt: skip

    @classmethod
    def beside_of(cls, metrics: Mapping[str, Any]) -> Mapping[str, float]:
        words = {"bigrams": "bigram_perplexity", "unigrams": "unigram_perplexity"}
        return {word: metrics[name] for word, name in words.items() if metrics.get(name) is not None}

    ahead: ClassVar[int] = 0  # the token that a place asks for stands so many places on

    @abstractmethod
    def batch(self, step: int) -> TokenBatch: ...

    @abstractmethod
    def all_tokens(self, spans: Tensor, split: str) -> Iterable[TokenBatch]:
        """Batches that ask for every token of these pieces once."""

    def requests(self, batch: TokenBatch) -> Packed:
        return batch.packed

    def terms(self, model, batch: TokenBatch, encoded: Encoded) -> list[Term]:
        backbone = model.backbone.backbone_of(self.name)
        places = batch.places.to(encoded.hidden.device)
        query = backbone.lm_transform(pick(encoded.hidden, places))
        targets = batch.targets.to(places.device)
        return [Term(query, backbone.lm_table, targets, bias=backbone.lm_bias, name=self.name)]

    def evaluate(self, model, split: str) -> dict[str, Any]:
        """Perplexity of the held-out text: exp of the mean loss of its tokens but [UNK], whose share is beside it; and
        that of unigrams and bigrams of the training text on the same tokens."""
        spans = self.spans_of(split)[: self.options.evaluate_texts]
        device = device_of(model)
        counted: list[Tensor] = []

        def terms() -> Iterator[Term]:
            for rows in spans.split(64):
                packed = read(self.texts, rows)
                for batch in self.all_tokens(rows, split):
                    counted.append(self.ngrams.losses(packed, batch.places + self.ahead))
                    yield self.terms(model, batch, model.backbone.encode(batch.packed.to(device), self.name))[0]

        found = perplexity(terms())
        known = torch.cat(counted, 1).mean(1).exp().tolist() if found["tokens"] else [math.nan, math.nan]
        places, _ = gather_ranges(spans[:, 0], spans[:, 1])
        return {
            "perplexity": found["perplexity"],
            **dict(zip(("unigram_perplexity", "bigram_perplexity"), known, strict=True)),
            "loss": found["loss"],
            "tokens": found["tokens"],
            "unknown": unknown_share(self.corpus.tokens[places], self.texts.tokenizer),
        }

    @cached_property
    def ngrams(self) -> NGrams:
        """Of all training text."""
        read_ones = torch.cat([self.spans, self.triples]) if self.options.triples else self.spans
        return NGrams(read(self.texts, read_ones), len(self.texts.tokenizer))


def read(texts: Any, spans: Tensor) -> Packed:
    """The spans [n, 2] of the corpus, enclosed in [CLS] and [SEP]."""
    places, offsets = gather_ranges(spans[:, 0], spans[:, 1])
    return texts.enclose([(texts.corpus.tokens[places], offsets)])
