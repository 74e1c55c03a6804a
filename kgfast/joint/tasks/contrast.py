"""Contrast of texts: which of the batch's entities does (head, relation) lead to (Wang et al. 2022, SimKGC)?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kgfast.core.csr import places_among
from kgfast.errors import DataError
from kgfast.functional.answers import answers_of_both_sides
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.task import device_of
from kgfast.joint.tasks import ModelDims, Task, TaskOptions, Term, register
from kgfast.joint.text.store import has_texts, inverse_texts


@dataclass(frozen=True)
class ContrastBatch:
    """Queries `packed` [B] (texts of the known entity and the relation), then their distinct answers `tails` [K];
    targets [B]: the answer's place among them; known: CSR of the places that are right too."""

    packed: Packed
    queries: int
    tails: Tensor
    targets: Tensor
    known: tuple[Tensor, Tensor]


@register
class ContrastTask(Task):
    """Query: the unit vector of the pair of texts "entity, relation", over a learned temperature. Table: the unit
    vectors of the texts of the batch's answers. Both sides are asked, heads through "inverse of" the relation's text.

    In-batch candidates that train knows to be right are left out of the softmax; a triple whose head or tail has no
    text is left out of training.
    """

    name = "contrast"
    backbone = True
    headline = "mrr"
    columns = {"mrr": "MRR", "hits@10": "Hits@10", "queries": "queries"}

    class Options(TaskOptions):
        batch_size: int = Field(64, gt=0, description="triples in a step, each asked from both sides")
        temperature: float = Field(0.05, gt=0, description="initial temperature, which is learned")
        evaluate_triples: int = Field(500, gt=0, description="triples that an evaluation ranks at most")

    def __init__(self, options, graph, texts, dims: ModelDims, seed: int):
        super().__init__(options, graph, texts, dims, seed)
        if texts is None or "entity" not in texts:
            raise DataError("task contrast needs texts of entities")
        self.present = texts.present("entity")
        self.triples = graph.train[self.present[graph.train[:, 0]] & self.present[graph.train[:, 2]]]
        if not len(self.triples):
            raise DataError("task contrast: no triple of train has texts on both sides")
        if "inverse" not in texts:
            texts.add("inverse", inverse_texts(graph))
        self.answers = graph.known("train")
        self.schedule_over(len(self.triples))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(options.temperature)))

    @classmethod
    def lacks(cls, graph, config) -> str | None:
        return None if has_texts(graph) else "texts of entities"

    def batch(self, step: int) -> ContrastBatch:
        return self.of_triples(self.triples[self.schedule.rows(step)])

    def of_triples(self, triples: Tensor) -> ContrastBatch:
        asked = torch.cat((triples[:, 2], triples[:, 0]))
        tails, targets = torch.unique(asked, return_inverse=True)
        packed = Packed.cat([*self.asking(triples), self.texts.packed("entity", tails)])
        return ContrastBatch(packed, len(asked), tails, targets, self.known(triples, tails, self.answers))

    def asking(self, triples: Tensor) -> list[Packed]:
        """The texts that ask for the tails, then those that ask for the heads."""
        head, relation, tail = triples.unbind(1)
        pairs = self.texts.pairs
        return [pairs("entity", head, "relation", relation), pairs("entity", tail, "inverse", relation)]

    def known(self, triples: Tensor, among: Tensor, answers) -> tuple[Tensor, Tensor]:
        """CSR: places in `among` [K], ascending ids, of the known answers of the 2B queries."""
        return places_among(among, *answers_of_both_sides(answers, triples))

    def requests(self, batch: ContrastBatch) -> Packed:
        return batch.packed

    def terms(self, model, batch: ContrastBatch, encoded: Encoded) -> list[Term]:
        vectors = F.normalize(encoded.pooled.to(self.log_scale.dtype), dim=1)
        query = vectors[: batch.queries] * self.log_scale.clamp(max=math.log(100.0)).exp()
        device = query.device
        offsets, places = (part.to(device) for part in batch.known)
        return [
            Term(query, vectors[batch.queries :], batch.targets.to(device), known=(offsets, places), name=self.name)
        ]

    def evaluate(self, model, split: str) -> dict:
        """Filtered MRR of the texts alone: all entities with a text compete, both sides are asked."""
        triples = getattr(self.graph, split)
        triples = triples[self.present[triples[:, 0]] & self.present[triples[:, 2]]][: self.options.evaluate_triples]
        if not len(triples):
            return {"mrr": float("nan"), "hits@10": float("nan"), "queries": 0}
        device = device_of(model)
        entities = self.present.nonzero()[:, 0]
        table = torch.cat(
            [self.vectors(model, self.texts.packed("entity", ids), device) for ids in entities.split(512)]
        )
        everything, ranks = self.graph.known(), []
        for part in triples.split(256):
            query = torch.cat([self.vectors(model, packed, device) for packed in self.asking(part)])
            scores = query @ table.T
            targets = torch.searchsorted(entities, torch.cat((part[:, 2], part[:, 0]))).to(device)
            right = scores.gather(1, targets[:, None])
            offsets, places = (one.to(device) for one in self.known(part, entities, everything))
            scores[
                torch.repeat_interleave(torch.arange(len(query), device=device), offsets.diff()), places
            ] = -torch.inf
            ranks.append(1 + (scores > right).sum(1) + (scores == right).sum(1) / 2)
        found = torch.cat(ranks).double()
        return {
            "mrr": float((1 / found).mean()),
            "hits@10": float((found <= 10).double().mean()),
            "queries": len(found),
        }

    def vectors(self, model, packed: Packed, device) -> Tensor:
        return F.normalize(model.backbone.encode(packed.to(device), self.name).pooled.float(), dim=1)
