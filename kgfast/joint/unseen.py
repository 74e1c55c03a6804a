"""Entities and relations that the graph never saw: rows from their texts, fitted to triples of a graph of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from kgfast.core import checks
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.evaluate.measures import HEADINGS
from kgfast.evaluate.metrics import evaluate
from kgfast.joint.fit import fit
from kgfast.joint.model.joint_model import evaluating
from kgfast.joint.model.packed import Encoded
from kgfast.joint.model.sharing import ENTITIES, RELATIONS
from kgfast.joint.task import Told
from kgfast.joint.tasks.link import LinkTask
from kgfast.joint.tasks.towers import TowersTask
from kgfast.joint.text.store import entity_texts, relation_texts
from kgfast.nn import KGEModel


class EdgeResults(Told):
    """How results of rows that are fitted to a graph's own triples are told."""

    name = "edges"
    headline = "mrr"
    columns = HEADINGS


@torch.no_grad()
def rows_of_texts(model, lines: Sequence[str]) -> Tensor:
    """Entity rows [n, D] of any texts, by the model's backbone and projection; ConfigError where it reads none."""
    if not model.entities.reads:
        raise ConfigError("entities=table: an entity that is not in the graph has no row; use text or hybrid")
    with evaluating(model):
        return torch.cat([model.entities.text_rows(read) for read in encoded(model, lines, ENTITIES)]).float()


@torch.no_grad()
def relations_of_texts(model, lines: Sequence[str]) -> Tensor:
    """Relation rows of any texts: [n, W], or [2n, W] where those that ask for heads have rows of their own."""
    texts = model.relation_texts
    if texts is None:
        raise ConfigError("relations.kind=table: a relation that is not in the graph has no row; use hybrid")
    with evaluating(model):
        pooled = torch.cat([read.pooled for read in encoded(model, lines, RELATIONS)])
        return texts.like(model.relation_table, pooled).float()


def encoded(model, lines: Sequence[str], reader: str, batch: int = 512) -> Iterator[Encoded]:
    """Texts through the Transformer, as those of entities or relations are read."""
    check_texts(model, lines)
    for start in range(0, len(lines), batch):
        yield model.backbone.encode(model.texts.pack(lines[start : start + batch]).to(model.relations.device), reader)


def check_texts(model, lines: Sequence[str]) -> None:
    """DataError for a text that has no token, of which nothing can be known."""
    for line in lines:
        checks.text("text", line)
    _, offsets = model.texts.tokenizer.encode(lines)
    empty = (offsets.diff() == 0).nonzero()
    if len(empty):
        raise DataError(f"the text {lines[int(empty[0])]!r} is empty: the tokenizer finds no token in it")


def model_of_texts(model, other: KnowledgeGraph) -> KGEModel:
    """Tables for another graph: its entities by their texts alone, its relations by name from the model's graph, or by
    their texts where that hasn't them and the model reads texts of relations."""
    lines = entity_texts(other)
    missing = [place for place, line in enumerate(lines) if not line]
    if missing:
        raise DataError(f"{other.name}: entity {other.entity_names[missing[0]]!r} has no text to know it by")
    rows = rows_of_texts(model, [line or "" for line in lines])
    return tables_of(model, other, rows, known_relations(model, other))


def known_relations(model, other: KnowledgeGraph) -> Tensor:
    """Rows of another graph's relations, [R, W] or [2R, W]."""
    graph: KnowledgeGraph = model.graph
    named, texts = graph.relation_names.find_all(other.relation_names.array), relation_texts(other)
    ids = torch.from_numpy(named)
    new = (ids < 0).nonzero()[:, 0].tolist()
    if new and model.relation_texts is None:
        graph.relation_id(other.relation_names[new[0]])  # says that there is none, and what is near
    sets = len(model.relations) // graph.num_relations
    rows = model.relations.detach().float().unflatten(0, (sets, -1))[:, ids.clamp(min=0).to(model.relations.device)]
    if new:
        rows[:, new] = relations_of_texts(model, [texts[place] for place in new]).unflatten(0, (sets, -1))
    return rows.flatten(0, 1)


def tables_of(model, other: KnowledgeGraph, rows: Tensor, relations: Tensor) -> KGEModel:
    reciprocal = len(relations) == 2 * other.num_relations
    tables = KGEModel(1, 1, rows.shape[1], score=model.score, reciprocal=reciprocal)
    tables.num_entities, tables.num_relations = other.num_entities, other.num_relations
    tables.entities, tables.relations = nn.Parameter(rows, False), nn.Parameter(relations, False)
    return tables.eval()


def model_of_edges(model, other: KnowledgeGraph, learn: bool = True) -> KGEModel:
    """`model_of_texts`, fitted to the triples that the other graph has in train; relations too where they `learn`."""
    tables = model_of_texts(model, other)
    return tables_of(model, other, *fit(model, other, tables.entities, tables.relations, learn=learn))


def evaluate_tasks_unseen(model, other: KnowledgeGraph, split: str = "test") -> dict[str, dict]:
    """{task: metrics} of the tasks that know entities by their texts; `link` where there are none. With the task link,
    `edges` has those of rows that are fitted to the triples of the other graph's train."""
    found = {}
    with evaluating(model):
        if TowersTask.name in model.tasks:
            found[TowersTask.name] = model.tasks[TowersTask.name].evaluate_unseen(model, other, split)
        if LinkTask.name in model.tasks or not found:
            found[LinkTask.name] = evaluate_unseen(model, other, split)
        if LinkTask.name in model.tasks and len(other.train):
            found[EdgeResults.name] = evaluate(model_of_edges(model, other), other, split)
    return found


def evaluate_unseen(model, other: KnowledgeGraph, split: str = "test") -> dict:
    """Filtered metrics on another graph, of whose entities only the texts are known; all of them compete."""
    with torch.no_grad():
        return evaluate(model_of_texts(model, other), other, split)
