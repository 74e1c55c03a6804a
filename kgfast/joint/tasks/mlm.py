"""Masked language modelling: which token stands where one is hidden (Devlin et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from kgfast.errors import ConfigError, DataError
from kgfast.joint.packed import Encoded, Packed
from kgfast.joint.perplexity import perplexity
from kgfast.joint.pooling import pick
from kgfast.joint.tasks import ModelDims, Schedule, TaskOptions, Term, generator, register


@dataclass(frozen=True)
class MaskedBatch:
    """Texts with tokens hidden; tokens `places` [M] of the pack were `targets` [M]."""

    packed: Packed
    places: Tensor
    targets: Tensor


@register
class MaskedLanguageTask(nn.Module):
    """Query: the transformed state of a hidden token. Table: the token embeddings. Only hidden tokens become queries.

    Of 15 % of the tokens, 80 % show [MASK], 10 % another token, 10 % themselves. Evaluation hides every token of the
    held-out text once, in seven rounds of a seventh each, and reports exp of the mean loss.
    """

    name, backbone = "mlm", True

    class Options(TaskOptions):
        batch_size: int = Field(32, gt=0, description="pieces of text in a step")
        mask: float = Field(0.15, gt=0, lt=1, description="part of the tokens that is hidden")
        evaluate_texts: int = Field(500, gt=0, description="held-out pieces of text that an evaluation reads at most")

    ROUNDS = 7

    def __init__(self, options, graph, texts, dims: ModelDims, seed: int):
        super().__init__()
        corpus_of(texts, self.name)
        if dims.causal:
            raise ConfigError("task mlm needs a BERT-like backbone; a GPT-like one has clm")
        if texts.tokenizer.mask is None:
            raise ConfigError("task mlm: the tokenizer has no [MASK] token")
        self.options, self.texts, self.seed = options, texts, seed
        self.spans = texts.corpus.spans("train", texts.max_length - 2)
        self.schedule = Schedule(len(self.spans), options.batch_size, seed, self.name)
        self.vocabulary = len(texts.tokenizer)

    def __len__(self) -> int:
        return len(self.schedule)

    def batch(self, step: int) -> MaskedBatch:
        packed = read(self.texts, self.spans[self.schedule.rows(step)])
        draws = generator(self.seed, f"mlm/mask/{step}")
        ordinary = self.ordinary(packed.tokens)
        hidden = ordinary & (torch.rand(len(ordinary), generator=draws) < self.options.mask)
        if not bool(hidden.any()):  # a few short texts: hide one token, so that the step teaches something
            hidden[torch.multinomial(ordinary.float(), 1, generator=draws)] = True
        places = hidden.nonzero()[:, 0]
        shown = packed.tokens.clone()
        chance = torch.rand(len(places), generator=draws)
        other = torch.randint(self.vocabulary, (len(places),), generator=draws)
        shown[places] = torch.where(chance < 0.9, other, shown[places])
        shown[places[chance < 0.8]] = self.texts.tokenizer.mask
        return MaskedBatch(
            Packed(shown, packed.positions, packed.segments, packed.offsets), places, packed.tokens[places]
        )

    def ordinary(self, tokens: Tensor) -> Tensor:
        """Which tokens may be hidden: all but [CLS] and [SEP]."""
        tokenizer = self.texts.tokenizer
        special = [one for one in (tokenizer.begin, tokenizer.end, tokenizer.pad) if one is not None]
        return ~torch.isin(tokens, torch.tensor(special))

    def requests(self, batch: MaskedBatch) -> Packed:
        return batch.packed

    def entities(self, batch: MaskedBatch) -> None:
        return None

    def terms(self, model, batch: MaskedBatch, encoded: Encoded) -> list[Term]:
        backbone = model.backbone.backbone_of(self.name)
        places = batch.places.to(encoded.hidden.device)
        query = backbone.lm_transform(pick(encoded.hidden, places))
        targets = batch.targets.to(places.device)
        return [Term(query, backbone.token_embeddings, targets, bias=backbone.lm_bias, name=self.name)]

    def evaluate(self, model, split: str) -> dict:
        spans = self.texts.corpus.spans(split, self.texts.max_length - 2)[: self.options.evaluate_texts]

        def batches():
            for rows in spans.split(64):
                whole = read(self.texts, rows)
                places = self.ordinary(whole.tokens).nonzero()[:, 0]
                turn = torch.randperm(len(places), generator=generator(self.seed, f"mlm/{split}")) % self.ROUNDS
                for current in range(self.ROUNDS):
                    hidden = places[turn == current]
                    shown = whole.tokens.clone()
                    shown[hidden] = self.texts.tokenizer.mask
                    packed = Packed(shown, whole.positions, whole.segments, whole.offsets)
                    batch = MaskedBatch(packed, hidden, whole.tokens[hidden])
                    yield self.terms(model, batch, model.backbone.encode(packed.to(device_of(model)), self.name))[0]

        return perplexity(batches())


def corpus_of(texts, task: str):
    """The corpus beside the texts; DataError where there is none."""
    corpus = getattr(texts, "corpus", None)
    if corpus is None:
        raise DataError(f"task {task} needs a corpus: texts of entities, or a text file (corpus=FILE)")
    return corpus


def read(texts, spans: Tensor) -> Packed:
    """The spans [n, 2] of the corpus, enclosed in [CLS] and [SEP]."""
    lengths = spans[:, 1] - spans[:, 0]
    offsets = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))
    places = torch.repeat_interleave(spans[:, 0] - offsets[:-1], lengths) + torch.arange(int(offsets[-1]))
    return texts.enclose([(texts.corpus.tokens[places], offsets)])


def device_of(model) -> torch.device:
    return next(model.parameters()).device
