"""Two towers over texts: which entity's text answers those of an entity and a relation (SimKGC, Wang et al. 2022)?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kgfast.core.csr import places_among
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.functional.answers import answers_of_both_sides
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.model.sharing import ENTITIES
from kgfast.joint.task import device_of
from kgfast.joint.tasks import ModelDims, Task, TaskOptions, Term, register
from kgfast.joint.text.store import TextStore, entity_texts, has_texts, inverse_texts

LOUDEST = math.log(100.0)  # of the learned scale, the inverse of the temperature


@dataclass(frozen=True)
class TowerBatch:
    """triples int64 [B, 3]; targets int64 [2B]: places of tails, then heads, among those who compete; known: CSR of the
    places that are right too; relations int64 [K], ascending: those of the batch; packed: their texts, then the
    inverse ones (None where they are read once for all)."""

    triples: Tensor
    targets: Tensor
    known: tuple[Tensor, Tensor]
    relations: Tensor
    packed: Packed | None


def tower(inside: int, width: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(inside), nn.Dropout(dropout), nn.Linear(inside, width), nn.GELU(), nn.Dropout(dropout),
        nn.Linear(width, out),
    )  # fmt: skip


@register
class TowersTask(Task):
    """Query: the unit vector that one tower makes of a known entity's and a relation's pooled texts, over a learned
    temperature. Table: the unit vectors that another makes of entities' pooled texts. Both sides are asked, heads
    through "inverse of" the relation's text.

    All entities with a text and a triple in train compete, the known one of a query among them (a "self negative");
    other right answers don't. Texts of entities come from the memory, as read last (see `EntityEncoder`): a frozen
    Transformer reads each text once. Triples with an entity without text are left out.
    """

    name = "towers"
    backbone = True
    headline = "mrr"
    columns = {"mrr": "MRR", "hits@1": "Hits@1", "hits@10": "Hits@10", "mean_rank": "mean rank", "queries": "queries"}

    class Options(TaskOptions):
        batch_size: int = Field(256, gt=0, description="triples in a step, each asked from both sides")
        temperature: float = Field(0.05, gt=0, description="initial temperature, which is learned")
        width: int = Field(768, gt=0, description="width inside the towers")
        out: int = Field(384, gt=0, description="numbers of the vectors that are compared")
        dropout: float = Field(0.3, ge=0, lt=1, description="dropout in the towers")

    def __init__(self, options, graph, texts, dims: ModelDims, seed: int):
        super().__init__(options, graph, texts, dims, seed)
        if texts is None or "entity" not in texts:
            raise DataError("task towers needs texts of entities")
        if not dims.entities_read:
            raise ConfigError("task towers reads texts of entities: it needs entities.kind=text or hybrid, not table")
        present = texts.present("entity")
        self.triples = graph.train[present[graph.train[:, 0]] & present[graph.train[:, 2]]]
        if not len(self.triples):
            raise DataError("task towers: no triple of train has texts on both sides")
        add_inverse(texts, graph)
        self.known = graph.known("train")
        self.rivals = self.triples[:, [0, 2]].unique()
        self.schedule_over(len(self.triples))
        self.query = tower(2 * dims.hidden, options.width, options.out, options.dropout)
        self.entity = tower(dims.hidden, options.width, options.out, options.dropout)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(options.temperature)))
        self.frozen = dims.frozen
        self.kept: Tensor | None = None  # pooled texts of all relations, which a frozen Transformer reads once

    @classmethod
    def lacks(cls, graph, config) -> str | None:
        return None if has_texts(graph) else "texts of entities"

    def batch(self, step: int) -> TowerBatch:
        triples = self.triples[self.schedule.rows(step)]
        targets = torch.searchsorted(self.rivals, torch.cat((triples[:, 2], triples[:, 0])))
        known = places_among(self.rivals, *answers_of_both_sides(self.known, triples))
        relations = triples[:, 1].unique()
        packed = None
        if not self.frozen:
            packed = Packed.cat([self.texts.packed(group, relations) for group in ("relation", "inverse")])
        return TowerBatch(triples, targets, known, relations, packed)

    def requests(self, batch: TowerBatch) -> Packed | None:
        return batch.packed

    def entities(self, batch: TowerBatch) -> Tensor:
        return batch.triples[:, [0, 2]]

    def terms(self, model, batch: TowerBatch, encoded: Encoded | None) -> list[Term]:
        device = model.device
        head, relation, tail = batch.triples.to(device).unbind(1)
        if encoded is None:
            relations = self.kept_relations(model)
        else:
            places = torch.searchsorted(batch.relations.to(device), relation.contiguous())
            relations, relation = encoded.pooled, places
        count = len(relations) // 2
        asked = self.asked(
            model.entities.pooled(torch.cat((head, tail))), relations[torch.cat((relation, relation + count))]
        )
        table = self.answering(model.entities.pooled(self.rivals.to(device)))
        query = asked * self.log_scale.clamp(max=LOUDEST).exp()
        known = tuple(part.to(device) for part in batch.known)
        return [Term(query, table, batch.targets.to(device), known=(known[0], known[1]), name=self.name)]

    def asked(self, entities: Tensor, relations: Tensor) -> Tensor:
        """Unit vectors [n, out] of queries, from pooled texts [n, H] of what is known."""
        return F.normalize(self.query(torch.cat((entities, relations), 1).to(self.log_scale.dtype)), dim=1)

    def answering(self, entities: Tensor) -> Tensor:
        """Unit vectors [n, out] of entities that may answer."""
        return F.normalize(self.entity(entities.to(self.log_scale.dtype)), dim=1)

    @torch.no_grad()
    def kept_relations(self, model) -> Tensor:
        if self.kept is None or self.kept.device != model.device:
            self.kept = self.read_relations(model, self.texts)
        return self.kept

    def read_relations(self, model, texts: TextStore) -> Tensor:
        """Pooled texts [2R, H] of all relations, then of their inverses."""
        packed = Packed.cat([texts.packed(group) for group in ("relation", "inverse")]).to(model.device)
        return model.backbone.encode(packed, self.name).pooled.float()

    def evaluate(self, model, split: str) -> dict:
        """Filtered metrics of the texts alone: all entities with a text compete, both sides are asked."""
        relations = self.kept_relations(model) if self.frozen else self.read_relations(model, self.texts)
        return self.ranked(model, self.graph, split, model.entities.pooled(), relations, self.texts.present("entity"))

    @torch.no_grad()
    def evaluate_unseen(self, model, other: KnowledgeGraph, split: str) -> dict:
        """The same on another graph, of whose entities and relations only the texts are known."""
        lines = entity_texts(other)
        missing = [place for place, line in enumerate(lines) if not line]
        if missing:
            raise DataError(f"{other.name}: entity {other.entity_names[missing[0]]!r} has no text to know it by")
        texts = TextStore.of_graph(other, self.texts.tokenizer, self.texts.max_length)
        add_inverse(texts, other)
        present = texts.present("entity")
        pooled = torch.cat([
            model.backbone.encode(texts.packed("entity", ids).to(model.device), ENTITIES).pooled.float()
            for ids in torch.arange(other.num_entities).split(512)
        ])  # fmt: skip
        return self.ranked(model, other, split, pooled, self.read_relations(model, texts), present)

    def ranked(
        self, model, graph: KnowledgeGraph, split: str, pooled: Tensor, relations: Tensor, present: Tensor
    ) -> dict[str, float | int]:
        """Metrics of a split; ties count half."""
        triples = getattr(graph, split)
        triples = triples[present[triples[:, 0]] & present[triples[:, 2]]]
        device = device_of(model)
        rivals = present.nonzero()[:, 0]
        table, known = self.answering(pooled[rivals.to(device)]), graph.known()
        ranks = [torch.empty(0, device=device)]
        for part in triples.split(256):
            head, relation, tail = part.to(device).unbind(1)
            turned = relation + graph.num_relations
            query = self.asked(pooled[torch.cat((head, tail))], relations[torch.cat((relation, turned))])
            scores = query @ table.T
            targets = torch.searchsorted(rivals, torch.cat((part[:, 2], part[:, 0]))).to(device)
            right = scores.gather(1, targets[:, None])
            offsets, places = (one.to(device) for one in places_among(rivals, *answers_of_both_sides(known, part)))
            rows = torch.repeat_interleave(torch.arange(len(query), device=device), offsets.diff())
            scores[rows, places] = -torch.inf
            ranks.append(1 + (scores > right).sum(1) + (scores == right).sum(1) / 2)
        found = torch.cat(ranks).double()
        hits = {f"hits@{k}": float((found <= k).double().mean()) for k in (1, 3, 10)}
        return {"mrr": float((1 / found).mean()), **hits, "mean_rank": float(found.mean()), "queries": len(found)}


def add_inverse(texts: TextStore, graph: KnowledgeGraph) -> None:
    """Texts of relations read from tail to head."""
    if "inverse" not in texts:
        texts.add("inverse", inverse_texts(graph))
