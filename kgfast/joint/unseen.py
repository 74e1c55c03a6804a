"""Entities that the graph never saw: rows from their texts alone, ranked in a graph of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kgfast.core import checks
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.evaluate.metrics import evaluate
from kgfast.joint.model.joint_model import evaluating
from kgfast.joint.model.sharing import ENTITIES
from kgfast.joint.tasks.link import LinkTask
from kgfast.joint.tasks.towers import TowersTask
from kgfast.joint.text.store import entity_texts
from kgfast.nn import KGEModel


@torch.no_grad()
def rows_of_texts(model, lines: Sequence[str], batch: int = 512) -> Tensor:
    """Entity rows [n, D] of any texts, by the model's backbone and projection; ConfigError where it reads none."""
    if not model.entities.reads:
        raise ConfigError("entities=table: an entity that is not in the graph has no row; use text or hybrid")
    check_texts(model, lines)
    rows = []
    with evaluating(model):
        for start in range(0, len(lines), batch):
            packed = model.texts.pack(lines[start : start + batch]).to(model.relations.device)
            rows.append(model.entities.text_rows(model.backbone.encode(packed, ENTITIES)))
    return torch.cat(rows).float()


def check_texts(model, lines: Sequence[str]) -> None:
    """DataError for a text that has no token, of which nothing can be known."""
    for line in lines:
        checks.text("text", line)
    _, offsets = model.texts.tokenizer.encode(lines)
    empty = (offsets.diff() == 0).nonzero()
    if len(empty):
        raise DataError(f"the text {lines[int(empty[0])]!r} is empty: the tokenizer finds no token in it")


def model_of_texts(model, other: KnowledgeGraph) -> KGEModel:
    """Tables for another graph: its entities by their texts alone, its relations by name from the model's graph."""
    lines = entity_texts(other)
    missing = [place for place, line in enumerate(lines) if not line]
    if missing:
        raise DataError(f"{other.name}: entity {other.entity_names[missing[0]]!r} has no text to know it by")
    graph: KnowledgeGraph = model.graph
    ids = torch.tensor([graph.relation_id(name) for name in other.relation_names])
    reciprocal = len(model.relations) == 2 * graph.num_relations
    places = torch.cat((ids, ids + graph.num_relations)) if reciprocal else ids
    rows = rows_of_texts(model, [line or "" for line in lines])
    tables = KGEModel(1, 1, rows.shape[1], score=model.score, reciprocal=reciprocal)
    tables.num_entities, tables.num_relations = other.num_entities, other.num_relations
    tables.entities = nn.Parameter(rows, False)
    tables.relations = nn.Parameter(model.relations.detach().float()[places.to(model.relations.device)], False)
    return tables.eval()


def evaluate_tasks_unseen(model, other: KnowledgeGraph, split: str = "test") -> dict[str, dict]:
    """{task: metrics} of the tasks that know entities by their texts; `link` where there are none."""
    found = {}
    with evaluating(model):
        if TowersTask.name in model.tasks:
            found[TowersTask.name] = model.tasks[TowersTask.name].evaluate_unseen(model, other, split)
    if LinkTask.name in model.tasks or not found:
        found[LinkTask.name] = evaluate_unseen(model, other, split)
    return found


def evaluate_unseen(model, other: KnowledgeGraph, split: str = "test") -> dict:
    """Filtered metrics on another graph, of whose entities only the texts are known; all of them compete."""
    return evaluate(model_of_texts(model, other), other, split)
