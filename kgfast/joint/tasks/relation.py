"""Relation prediction: which relation leads from head to tail?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kgfast import reference
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError
from kgfast.evaluate.measures import HEADINGS, summarize
from kgfast.evaluate.metrics import split_triples
from kgfast.joint.model.packed import gather_places
from kgfast.joint.tasks import ModelDims, Task, TaskOptions, Term, register


class RelationOptions(TaskOptions):
    """Options of the task "relation"."""

    batch_size: int = Field(512, gt=0, description="pairs of entities in a step")


@dataclass(frozen=True)
class RelationBatch:
    """Pairs int64 [B, 2] of head and tail; all relations between them as CSR."""

    pairs: Tensor
    offsets: Tensor
    answers: Tensor


@register
class RelationTask(Task):
    """Terms: relation_query(h, t) [B, W] against the R relation rows; all relations between h and t are right.

    An auxiliary task for link prediction (Chen et al. 2021). Scores without a relation query (rotate) are refused.
    """

    name = "relation"
    Options = RelationOptions
    headline = "mrr"
    columns = HEADINGS

    def __init__(self, options: RelationOptions, graph: KnowledgeGraph, texts, dims: ModelDims, seed: int):
        super().__init__(options, graph, texts, dims, seed)
        self.score = reference.find_score(dims.score)
        self.relation_query: Any = self.score.relation_query
        if self.relation_query is None:
            able = ", ".join(name for name, score in reference.SCORES.items() if score.relation_query is not None)
            raise ConfigError(f"task relation: score {dims.score!r} has no relation query; these have one: {able}")
        self.pairs, self.offsets, self.answers = relations_between(graph.train)
        self.schedule_over(len(self.pairs))

    def batch(self, step: int) -> RelationBatch:
        rows = self.schedule.rows(step)
        places, offsets = gather_places(self.offsets, rows)
        return RelationBatch(self.pairs[rows], offsets, self.answers[places])

    def entities(self, batch: RelationBatch) -> Tensor:
        return batch.pairs.flatten()

    def terms(self, model, batch: RelationBatch, encoded) -> list[Term]:
        device = model.relations.device
        rows = model.entities.rows(batch.pairs.flatten().to(device)).unflatten(0, (-1, 2))
        targets = (batch.offsets.to(device), batch.answers.to(device))
        query = self.relation_query(rows[:, 0], rows[:, 1])
        table = model.relations[: self.graph.num_relations]
        return [Term(query, table, targets, similarity=self.score.similarity, name=self.name)]

    def evaluate(self, model, split: str) -> dict:
        """Filtered MRR, hits and mean rank of the relation, all R competing, other known relations left out."""
        triples = split_triples(self.graph, split).to(model.relations.device)
        table = model.relations[: self.graph.num_relations]
        pairs, offsets, answers = relations_between(torch.cat([self.graph.train, self.graph.valid, self.graph.test]))
        size = self.graph.num_entities
        place = torch.searchsorted(pairs[:, 0] * size + pairs[:, 1], (triples[:, 0] * size + triples[:, 2]).cpu())
        ranks = []
        for start in range(0, len(triples), 1024):
            batch = triples[start : start + 1024]
            rows = model.entities.rows(batch[:, [0, 2]].flatten()).unflatten(0, (-1, 2))
            query = self.relation_query(rows[:, 0], rows[:, 1])
            scores = reference.SIMILARITIES[self.score.similarity](query[:, None], table).cpu()
            own = scores.gather(1, batch[:, 1:2].cpu())
            for row, pair in enumerate(place[start : start + 1024].tolist()):
                scores[row, answers[offsets[pair] : offsets[pair + 1]]] = -torch.inf
            ranks.append(1 + (scores > own).sum(1).double() + 0.5 * (scores == own).sum(1).double())
        return summarize(torch.cat(ranks)) | {"triples": len(triples)}


def relations_between(triples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(pairs [P, 2] of head and tail, ascending; CSR of the relations between them: offsets [P + 1], ids)."""
    order = triples[:, [0, 2, 1]].unique(dim=0)
    pairs, counts = torch.unique_consecutive(order[:, :2], dim=0, return_counts=True)
    return pairs, torch.cat([counts.new_zeros(1), counts.cumsum(0)]), order[:, 2].contiguous()
