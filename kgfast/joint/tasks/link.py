"""Link prediction: which entity completes (head, relation, ?) and (?, relation, tail)?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from kgfast import reference
from kgfast.data import KnowledgeGraph
from kgfast.errors import DataError
from kgfast.evaluate.measures import HEADINGS
from kgfast.evaluate.metrics import evaluate
from kgfast.functional.answers import answers_of_both_sides
from kgfast.functional.regularizers import cubed
from kgfast.joint.task import device_of
from kgfast.joint.tasks import LossTerm, ModelDims, Task, TaskOptions, Term, generator, register
from kgfast.nn import KGEModel
from kgfast.run.memory import Need, check_memory


class LinkOptions(TaskOptions):
    """Options of the task "link"."""

    batch_size: int = Field(512, gt=0, description="triples of a step; each asks for its tail and for its head")
    candidates: int = Field(0, ge=0, description="entities drawn to compete with the answers of a step; 0: all")
    answers: Literal["one", "all"] = Field(
        "one", description="the triple's own entity, or all known answers of a query"
    )
    objective: Literal["softmax", "bce"] = "softmax"
    n3: float = Field(0.0, ge=0, description="weight of the N3 regulariser (Lacroix et al. 2018)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the known entity's row")
    text_weight: float = Field(1.0, ge=0, description="hybrid entities or relations: weight of the loss by texts")


@dataclass(frozen=True)
class LinkBatch:
    """triples int64 [B, 3]; answers: CSR of 2B queries (tails asked, then heads); entities int64 [K], ascending: who
    competes, None for all."""

    triples: Tensor
    offsets: Tensor
    answers: Tensor
    entities: Tensor | None


@register
class LinkTask(Task):
    """Terms: the queries of both sides of B triples [2B, D] against the entities' rows [E, D] or [K, D].

    With 2R relation rows, row r + R asks for heads as tails of the inverse relation; with R rows the score's own head
    query does. Entities that train never saw don't compete where texts are read: nothing is known against them, and
    all that could be learned of their texts is that they are never right. Where entities or relations are hybrid, the
    same loss with half of them by text alone teaches texts to stand for rows among rows; its gradient reaches texts
    alone, and the graph's rows and relations stay its own. Memory O(B D) beyond the rows: no scores are stored.
    """

    name = "link"
    Options = LinkOptions
    headline = "mrr"
    columns = HEADINGS

    def __init__(self, options: LinkOptions, graph: KnowledgeGraph, texts, dims: ModelDims, seed: int):
        super().__init__(options, graph, texts, dims, seed)
        setting = f"tasks.{self.name}.candidates={options.candidates}"
        check_memory([Need(setting, "the candidates of a step", 8 * options.candidates)])
        self.score = reference.find_score(dims.score)
        self.known = graph.known("train")
        self.seen = graph.train[:, [0, 2]].unique()
        self.schedule_over(len(graph.train))
        self.dropout = nn.Dropout(options.dropout)

    @classmethod
    def unused_options(cls, entities: str) -> Mapping[str, str]:
        return {} if entities == "hybrid" else {"text_weight": f"with entities.kind={entities}"}

    def batch(self, step: int) -> LinkBatch:
        triples = self.graph.train[self.schedule.rows(step)]
        if self.options.answers == "all":
            offsets, answers = answers_of_both_sides(self.known, triples)
        else:
            answers = torch.cat([triples[:, 2], triples[:, 0]])
            offsets = torch.arange(len(answers) + 1)
        if not self.options.candidates:
            return LinkBatch(triples, offsets, answers, None)
        draws = generator(self.seed, f"link/drawn/{step}")
        drawn = torch.randint(len(self.seen), (self.options.candidates,), generator=draws)
        entities, places = torch.unique(torch.cat([answers, self.seen[drawn]]), return_inverse=True)
        return LinkBatch(triples, offsets, places[: len(answers)], entities)

    def entities(self, batch: LinkBatch) -> Tensor:
        return batch.triples[:, [0, 2]].flatten() if batch.entities is None else batch.entities

    def terms(self, model, batch: LinkBatch, encoded) -> list[Term | LossTerm]:
        device = device_of(model)
        rows, texts = model.entities.both_rows(None if batch.entities is None else batch.entities.to(device))
        relations, relation_texts = model.both_relations()
        everyone = batch.entities is not None or not model.entities.reads or len(self.seen) == len(rows)
        candidates = None if everyone else self.seen.to(device)
        terms = self.losses(rows, relations, batch, candidates)
        hybrid = model.entities.kind == "hybrid"
        if self.options.text_weight and (hybrid or relation_texts is not None):
            # a random half stands there by text alone, the others as they are: so texts come to lie where rows do (the
            # scores of complex rows stay the same when all are turned alike), and to be no louder than these
            mixed = half(rows, texts if hybrid else None)
            by_text = self.losses(mixed, half(relations, relation_texts), batch, candidates)
            share = self.options.text_weight
            terms += [replace(term, weight=share * term.weight, name=f"{term.name}/text") for term in by_text]
        return terms

    def losses(
        self, table: Tensor, relations: Tensor, batch: LinkBatch, candidates: Tensor | None
    ) -> list[Term | LossTerm]:
        """The loss over entities' rows `table`, [E, D] or [K, D] of `batch.entities`, and its regulariser."""
        head, relation, tail = batch.triples.to(table.device).unbind(1)
        if batch.entities is not None:  # the answers are among them: every head and tail of the batch
            entities = batch.entities.to(table.device)
            head, tail = (
                torch.searchsorted(entities, head.contiguous()),
                torch.searchsorted(entities, tail.contiguous()),
            )
        heads, tails = table[head], table[tail]
        reciprocal = len(relations) == 2 * self.graph.num_relations
        rows = relations[relation]
        turned = relations[relation + self.graph.num_relations] if reciprocal else rows
        ask_head = self.score.tail_query if reciprocal else self.score.head_query
        queries = (self.score.tail_query(self.dropout(heads), rows), ask_head(self.dropout(tails), turned))
        term = Term(
            torch.cat(queries), table, (batch.offsets.to(table.device), batch.answers.to(table.device)),
            candidates=candidates, similarity=self.score.similarity,
            objective=self.options.objective, name=self.name,
        )  # fmt: skip
        if not self.options.n3:
            return [term]
        rows_used = [heads, tails] if self.score.phases else [heads, tails, rows, turned]
        sizes = torch.stack([cubed(part, self.score.complex_rows) for part in rows_used])
        # both queries of a triple use its head and tail, each its own relation row: per query, both and one
        cubes = sizes[:2].sum(0) + sizes[2:].sum(0) / 2
        return [term, LossTerm(cubes, weight=self.options.n3, name="n3")]

    def evaluate(self, model, split: str) -> dict:
        """Filtered MRR, hits and mean rank over both sides, all entities competing; seen and unseen entities apart."""
        result = evaluate(link_model(model, self.graph), self.graph, split, details=True)
        for name in ("per_relation", "per_category", "histogram", "baselines", "examples"):
            del result[name]
        return result

    @classmethod
    def groups_of(cls, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Either side; entities and relations seen and unseen in training, where there are unseen ones."""
        yield from ((side, metrics[side]) for side in ("tail", "head"))
        for what in ("entities", "relations"):
            if "unseen" in metrics.get(what, {}):
                yield from ((f"{group} {what}", part) for group, part in metrics[what].items())


def half(rows: Tensor, texts: Tensor | None) -> Tensor:
    """Rows without gradient, a random half of them replaced by those of texts, where there are any."""
    if texts is None:
        return rows.detach()
    return torch.where(torch.rand(len(texts), 1, device=texts.device) < 0.5, texts, rows.detach())


def link_model(model, graph: KnowledgeGraph) -> KGEModel:
    """The tables of a joint model as a `kgfast.nn.KGEModel`, which ranks and predicts: entities encoded once, now."""
    rows, relations = model.entities.all_rows().detach().float(), model.relations.detach().float()
    if len(rows) != graph.num_entities:
        raise DataError(f"the model has {len(rows)} entities, graph {graph.name!r} has {graph.num_entities}")
    if len(relations) not in (graph.num_relations, 2 * graph.num_relations):
        raise DataError(f"the model has {len(relations)} relation rows for {graph.num_relations} relations")
    reciprocal = len(relations) == 2 * graph.num_relations
    tables = KGEModel(1, 1, rows.shape[1], score=model.score, reciprocal=reciprocal)
    tables.num_entities, tables.num_relations = graph.num_entities, graph.num_relations
    tables.entities, tables.relations = nn.Parameter(rows, False), nn.Parameter(relations, False)
    return tables.eval()
