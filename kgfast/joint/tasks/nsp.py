"""Next-sentence prediction: does the second sentence follow the first (Devlin et al. 2019)?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from kgfast.errors import ConfigError, DataError
from kgfast.joint.model.packed import Encoded, Packed, gather_places
from kgfast.joint.model.pooling import pool
from kgfast.joint.task import device_of
from kgfast.joint.tasks import ModelDims, TaskOptions, Term, generator, register
from kgfast.joint.text.language import CorpusTask


@dataclass(frozen=True)
class PairBatch:
    """Pairs of sentences; halves [2B + 1]: where each sentence begins in the pack; targets [B]: 1 where the second
    follows the first, 0 where it is of another document."""

    packed: Packed
    halves: Tensor
    targets: Tensor


@register
class NextSentenceTask(CorpusTask):
    """Query: tanh W [p, u * v], p the pooled state of the pair, u and v the means of either sentence's states. Table:
    two rows, is not next and is next. (BERT takes p alone; small models are then slow to see what sentences share.)

    Half of the pairs are real; the second of the others is drawn from the sentences of all other documents.
    """

    name = "nsp"
    headline = "accuracy"
    columns = {"accuracy": "accuracy", "pairs": "pairs"}

    class Options(TaskOptions):
        batch_size: int = Field(32, gt=0, description="pairs of sentences in a step")
        evaluate_pairs: int = Field(2000, gt=0, description="held-out pairs that an evaluation reads at most")

    def __init__(self, options, graph, texts, dims: ModelDims, seed: int):
        super().__init__(options, graph, texts, dims, seed)
        if dims.causal:
            raise ConfigError("task nsp needs a BERT-like backbone")
        self.firsts = self.corpus.following("train")
        if not len(self.firsts):
            raise DataError("task nsp: no document of the corpus has two sentences")
        self.schedule_over(len(self.firsts))
        self.transform = nn.Linear(2 * dims.hidden, dims.hidden)
        self.table = nn.Parameter(torch.zeros(2, dims.hidden))
        with torch.no_grad():
            draws = generator(seed, "nsp/table")
            self.transform.weight.copy_(torch.randn(dims.hidden, 2 * dims.hidden, generator=draws) * dims.hidden**-0.5)
            self.transform.bias.zero_()
            self.table.copy_(torch.randn(2, dims.hidden, generator=draws) * 0.02)

    def can_evaluate(self, split: str) -> bool:
        return len(self.corpus.following(split)) > 0

    def batch(self, step: int) -> PairBatch:
        return self.pairs(self.firsts, self.schedule.rows(step), generator(self.seed, f"nsp/pairs/{step}"))

    def pairs(self, among: Tensor, rows: Tensor, draws: torch.Generator) -> PairBatch:
        """The pairs that begin with sentences among[rows]; false seconds are drawn from the seconds in `among`."""
        firsts = among[rows]
        documents = self.corpus.document[among]
        real = torch.rand(len(rows), generator=draws) < 0.5
        # The sentences of one document are neighbours there: draw among the others, then step over these.
        own = self.corpus.document[firsts]
        start, stop = torch.searchsorted(documents, own), torch.searchsorted(documents, own, right=True)
        others = len(among) - (stop - start)
        drawn = (torch.rand(len(rows), generator=draws, dtype=torch.float64) * others).long()
        drawn = torch.where(drawn >= start, drawn + stop - start, drawn)
        real |= others == 0  # a single document has no false pairs
        seconds = torch.where(real, firsts, among[drawn.clamp(max=len(among) - 1)]) + 1
        packed = self.texts.enclose([self.slices(firsts), self.slices(seconds)])
        halves = (packed.segments.diff(prepend=packed.segments.new_ones(1)) != 0).nonzero()[:, 0]
        return PairBatch(packed, torch.cat((halves, packed.offsets[-1:])), real.long())

    def slices(self, sentences: Tensor) -> tuple[Tensor, Tensor]:
        places, offsets = gather_places(self.corpus.offsets, sentences)
        return self.corpus.tokens[places], offsets

    def requests(self, batch: PairBatch) -> Packed:
        return batch.packed

    def query(self, batch: PairBatch, encoded: Encoded) -> Tensor:
        means = pool(encoded.hidden, batch.halves.to(encoded.hidden.device), "mean")
        features = torch.cat((encoded.pooled, means[::2] * means[1::2]), 1)
        return self.transform(features).tanh().to(self.table.dtype)

    def terms(self, model, batch: PairBatch, encoded: Encoded) -> list[Term]:
        return [Term(self.query(batch, encoded), self.table, batch.targets.to(self.table.device), name=self.name)]

    def evaluate(self, model, split: str) -> dict:
        among = self.corpus.following(split)
        if not len(among):
            return {"accuracy": float("nan"), "pairs": 0}
        rows = torch.arange(len(among))[: self.options.evaluate_pairs]
        draws, right = generator(self.seed, f"nsp/{split}"), 0
        for part in rows.split(64):
            batch = self.pairs(among, part, draws)
            encoded = model.backbone.encode(batch.packed.to(device_of(model)), self.name)
            best = (self.query(batch, encoded) @ self.table.T).argmax(1)
            right += int((best.cpu() == batch.targets).sum())
        return {"accuracy": right / len(rows), "pairs": len(rows)}
