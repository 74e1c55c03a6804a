"""Causal language modelling: which token comes next (Radford et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor

from kgfast.errors import ConfigError
from kgfast.joint.model.packed import Packed
from kgfast.joint.tasks import ModelDims, TaskOptions, register
from kgfast.joint.text.language import LanguageTask, TokenBatch, read
from kgfast.joint.text.mentioned import with_entities_behind
from kgfast.joint.text.tokenizer import Tokenizer


@register
class CausalLanguageTask(LanguageTask):
    """Every token of a text but its last, which has nothing behind it, asks for the one behind it, the end included,
    unless that is [UNK]."""

    name = "clm"
    ahead = 1

    class Options(TaskOptions):
        batch_size: int = Field(32, gt=0, description="pieces of text in a step")
        triples: int = Field(0, ge=0, description="triples of train, put into words, that a step reads besides")
        evaluate_texts: int = Field(2000, gt=0, description="held-out pieces of text that an evaluation reads at most")

    def __init__(self, options, graph, texts, dims: ModelDims, seed: int):
        if not dims.causal:
            raise ConfigError(
                "task clm needs a GPT-like backbone; a BERT-like one has mlm, for it sees what comes next"
            )
        super().__init__(options, graph, texts, dims, seed)

    def batch(self, step: int) -> TokenBatch:
        return self.ask(self.spans_of_step(step))

    def all_tokens(self, spans: Tensor, split: str) -> Iterable[TokenBatch]:
        yield self.ask(spans)

    def ask(self, spans: Tensor) -> TokenBatch:
        """Every token of these pieces, entities behind their names."""
        packed = with_entities_behind(self.texts, read(self.texts, spans), spans)
        return shift(packed, self.texts.tokenizer)


def shift(packed: Packed, tokenizer: Tokenizer) -> TokenBatch:
    asks = torch.ones(len(packed.tokens), dtype=torch.bool)
    asks[packed.offsets[1:] - 1] = False
    asks[:-1] &= ~tokenizer.is_unknown(packed.tokens[1:])
    places = asks.nonzero()[:, 0]
    return TokenBatch(packed, places, packed.tokens[places + 1])
