"""Masked language modelling: which token stands where one is hidden (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from kgfast.errors import ConfigError
from kgfast.joint.model.packed import Packed
from kgfast.joint.tasks import ModelDims, TaskOptions, generator, register
from kgfast.joint.text.language import LanguageTask, TokenBatch, read
from kgfast.joint.text.mentioned import mentioned, with_entities_at


@register
class MaskedLanguageTask(LanguageTask):
    """Hidden tokens are asked for: of 15 % of the tokens, 80 % show [MASK], 10 % another token, 10 % themselves.

    Evaluation hides every token of the held-out text once, in seven rounds of a seventh each.
    """

    name = "mlm"

    class Options(TaskOptions):
        batch_size: int = Field(32, gt=0, description="pieces of text in a step")
        triples: int = Field(0, ge=0, description="triples of train, put into words, that a step reads besides")
        mask: float = Field(0.15, gt=0, lt=1, description="part of the tokens that is hidden")
        evaluate_texts: int = Field(500, gt=0, description="held-out pieces of text that an evaluation reads at most")

    ROUNDS = 7

    def __init__(self, options, graph, texts, dims: ModelDims, seed: int):
        super().__init__(options, graph, texts, dims, seed)
        if dims.causal:
            raise ConfigError("task mlm needs a BERT-like backbone; a GPT-like one has clm")
        if texts.tokenizer.mask is None:
            raise ConfigError("task mlm: the tokenizer has no [MASK] token")

    def batch(self, step: int) -> TokenBatch:
        spans, tokenizer = self.spans_of_step(step), self.texts.tokenizer
        packed = read(self.texts, spans)
        draws = generator(self.seed, f"mlm/mask/{step}")
        ordinary = self.ordinary(packed.tokens)
        hidden = ordinary & (torch.rand(len(ordinary), generator=draws) < self.options.mask)
        if not bool(hidden.any()):  # a few short texts: hide one token, so that the step teaches something
            hidden[torch.multinomial(ordinary.float(), 1, generator=draws)] = True
        places = hidden.nonzero()[:, 0]
        chance = torch.rand(len(places), generator=draws)
        other = torch.randint(len(tokenizer), (len(places),), generator=draws)
        shown = torch.where(chance < 0.9, other, packed.tokens[places]).masked_fill(chance < 0.8, tokenizer.mask)
        return self.show(packed, places, shown, spans)

    def all_tokens(self, spans: Tensor, split: str) -> Iterable[TokenBatch]:
        packed = read(self.texts, spans)
        places = self.ordinary(packed.tokens).nonzero()[:, 0]
        turn = torch.randperm(len(places), generator=generator(self.seed, f"mlm/{split}")) % self.ROUNDS
        for current in range(self.ROUNDS):
            yield self.show(packed, places[turn == current], self.texts.tokenizer.mask, spans)

    def show(self, packed: Packed, places: Tensor, tokens: Tensor | int, spans: Tensor) -> TokenBatch:
        """The texts with `tokens` shown at `places`, which ask for what stood there, and entities at whole names."""
        batch = show(packed, places, tokens)
        entered = with_entities_at(self.texts, batch.packed, mentioned(self.texts, packed, spans).without(places))
        return replace(batch, packed=entered)

    def ordinary(self, tokens: Tensor) -> Tensor:
        """Which tokens may be hidden: all but [CLS], [SEP] and [UNK]."""
        tokenizer = self.texts.tokenizer
        special = [one for one in (tokenizer.begin, tokenizer.end, tokenizer.pad) if one is not None]
        return ~(torch.isin(tokens, torch.tensor(special)) | tokenizer.is_unknown(tokens))


def show(packed: Packed, places: Tensor, tokens: Tensor | int) -> TokenBatch:
    """The texts with `tokens` shown at `places`, which ask for what stood there."""
    shown = packed.tokens.clone()
    shown[places] = torch.as_tensor(tokens, dtype=shown.dtype)
    return TokenBatch(Packed(shown, packed.positions, packed.segments, packed.offsets), places, packed.tokens[places])
