"""Causal language modelling: which token comes next (Radford et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from kgfast.errors import ConfigError
from kgfast.joint.packed import Encoded, Packed
from kgfast.joint.perplexity import perplexity
from kgfast.joint.pooling import pick
from kgfast.joint.tasks import ModelDims, Schedule, TaskOptions, Term, register
from kgfast.joint.tasks.mlm import corpus_of, device_of, read


@dataclass(frozen=True)
class CausalBatch:
    """Texts; the token behind `places` [M] of the pack is `targets` [M]."""

    packed: Packed
    places: Tensor
    targets: Tensor


@register
class CausalLanguageTask(nn.Module):
    """Query: the state of a token. Table: the token embeddings. Answer: the next token of its text, the end included.

    The last token of a text has nothing behind it and is no query.
    """

    name, backbone = "clm", True

    class Options(TaskOptions):
        batch_size: int = Field(32, gt=0, description="pieces of text in a step")
        evaluate_texts: int = Field(2000, gt=0, description="held-out pieces of text that an evaluation reads at most")

    def __init__(self, options, graph, texts, dims: ModelDims, seed: int):
        super().__init__()
        corpus = corpus_of(texts, self.name)
        if not dims.causal:
            raise ConfigError(
                "task clm needs a GPT-like backbone; a BERT-like one has mlm, for it sees what comes next"
            )
        self.options, self.texts = options, texts
        self.spans = corpus.spans("train", texts.max_length - 2)
        self.schedule = Schedule(len(self.spans), options.batch_size, seed, self.name)

    def __len__(self) -> int:
        return len(self.schedule)

    def batch(self, step: int) -> CausalBatch:
        return shift(read(self.texts, self.spans[self.schedule.rows(step)]))

    def requests(self, batch: CausalBatch) -> Packed:
        return batch.packed

    def entities(self, batch: CausalBatch) -> None:
        return None

    def terms(self, model, batch: CausalBatch, encoded: Encoded) -> list[Term]:
        backbone = model.backbone.backbone_of(self.name)
        places = batch.places.to(encoded.hidden.device)
        query = backbone.lm_transform(pick(encoded.hidden, places))
        targets = batch.targets.to(places.device)
        return [Term(query, backbone.token_embeddings, targets, bias=backbone.lm_bias, name=self.name)]

    def evaluate(self, model, split: str) -> dict:
        spans = self.texts.corpus.spans(split, self.texts.max_length - 2)[: self.options.evaluate_texts]

        def batches():
            for rows in spans.split(64):
                batch = shift(read(self.texts, rows))
                encoded = model.backbone.encode(batch.packed.to(device_of(model)), self.name)
                yield self.terms(model, batch, encoded)[0]

        return perplexity(batches())


def shift(packed: Packed) -> CausalBatch:
    """Every token of a text but its last asks for the one behind it."""
    asks = torch.ones(len(packed.tokens), dtype=torch.bool)
    asks[packed.offsets[1:] - 1] = False
    places = asks.nonzero()[:, 0]
    return CausalBatch(packed, places, packed.tokens[places + 1])
