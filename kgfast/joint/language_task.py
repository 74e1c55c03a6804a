"""What language tasks have in common: pieces of the corpus in packs, and places there that ask for tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kgfast.core.csr import gather_ranges
from kgfast.errors import DataError
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.model.pooling import pick
from kgfast.joint.tasks import Schedule, TaskOptions, Term
from kgfast.joint.text.corpus import Corpus
from kgfast.joint.text.perplexity import perplexity
from kgfast.joint.text.store import TextStore


@dataclass(frozen=True)
class TokenBatch:
    """Texts; the states at `places` [M] of the pack ask for the tokens `targets` [M]."""

    packed: Packed
    places: Tensor
    targets: Tensor


class LanguageTask(nn.Module, ABC):
    """Query: the transformed state at a place. Table: the token embeddings. No other states become queries.

    A subclass says which places of a training step ask for which tokens (`batch`), and how an evaluation asks for all
    tokens of a pack (`all_tokens`). Its options have `batch_size` and `evaluate_texts`.
    """

    name: ClassVar[str]
    backbone: ClassVar[bool] = True

    def __init__(self, options: TaskOptions, texts: TextStore, seed: int):
        super().__init__()
        self.options, self.texts, self.seed = options, texts, seed
        self.spans = corpus_of(texts, self.name).spans("train", texts.max_length - 2)
        self.schedule = Schedule(len(self.spans), options.batch_size, seed, self.name)

    def __len__(self) -> int:
        return len(self.schedule)

    def pieces(self, step: int) -> Packed:
        """The texts of a training step."""
        return read(self.texts, self.spans[self.schedule.rows(step)])

    @abstractmethod
    def batch(self, step: int) -> TokenBatch: ...

    @abstractmethod
    def all_tokens(self, packed: Packed, split: str) -> Iterable[TokenBatch]: ...

    def requests(self, batch: TokenBatch) -> Packed:
        return batch.packed

    def entities(self, batch: TokenBatch) -> None:
        return None

    def terms(self, model, batch: TokenBatch, encoded: Encoded) -> list[Term]:
        backbone = model.backbone.backbone_of(self.name)
        places = batch.places.to(encoded.hidden.device)
        query = backbone.lm_transform(pick(encoded.hidden, places))
        targets = batch.targets.to(places.device)
        return [Term(query, backbone.token_embeddings, targets, bias=backbone.lm_bias, name=self.name)]

    def evaluate(self, model, split: str) -> dict:
        """Perplexity of the held-out text: exp of the mean loss of its tokens."""
        spans = self.texts.corpus.spans(split, self.texts.max_length - 2)[: self.options.evaluate_texts]
        batches = (batch for rows in spans.split(64) for batch in self.all_tokens(read(self.texts, rows), split))
        device = device_of(model)
        return perplexity(
            self.terms(model, batch, model.backbone.encode(batch.packed.to(device), self.name))[0] for batch in batches
        )


def corpus_of(texts: TextStore | None, task: str) -> Corpus:
    """The corpus beside the texts; DataError where there is none."""
    corpus = getattr(texts, "corpus", None)
    if corpus is None:
        raise DataError(f"task {task} needs a corpus: texts of entities, or a text file (corpus=FILE)")
    return corpus


def read(texts: TextStore, spans: Tensor) -> Packed:
    """The spans [n, 2] of the corpus, enclosed in [CLS] and [SEP]."""
    places, offsets = gather_ranges(spans[:, 0], spans[:, 1])
    return texts.enclose([(texts.corpus.tokens[places], offsets)])


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
