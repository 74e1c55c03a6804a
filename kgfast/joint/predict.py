"""Predictions for what the graph doesn't have: an entity of which there is a text, maybe triples; a relation's text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kgfast import reference
from kgfast.core import checks
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.evaluate.predict import SLOTS, described, find_id
from kgfast.joint.fit import fit
from kgfast.joint.model.joint_model import evaluating
from kgfast.joint.tasks.link import LinkTask
from kgfast.joint.tasks.qa.fill import all_scores
from kgfast.joint.unseen import relations_of_texts, rows_of_texts

NEW = "?"  # stands for the new entity in its triples


def predict_for_text(
    model,
    text: str | None = None,
    relation: str | None = None,
    k: int = 10,
    side: str = "tail",
    *,
    entity: str | None = None,
    relation_text: str | None = None,
    edges: Sequence[Sequence[str]] = (),
) -> list[dict]:
    """The k best answers to (entity, relation, ?) where one of the two is not in the graph; side="head": (?, r, e).

    text           of an entity that is not in the graph; or `entity`, the name of one that is
    relation       name of a relation; or `relation_text`, the text of one that is not in the graph
    edges          triples of the new entity, which is "?" in them: its row begins by the text and is fitted to them

    Returns dicts of rank, id, name, label and score, best first; answers that `edges` give already are left out, and
    so is `entity`. ConfigError where rows are made of no texts, DataError for an unknown name.
    """
    checks.choose("side", side, ("tail", "head"))
    check_count(k, model.graph.num_entities)
    if (text is None) == (entity is None) or (relation is None) == (relation_text is None):
        raise ConfigError("give one of text and entity, and one of relation and relation_text")
    if len(checks.rows("edges", edges)) and text is None:
        raise ConfigError("edges are triples of a new entity: they need its text")
    graph: KnowledgeGraph = model.graph
    triples = triples_of(graph, edges)
    with evaluating(model), torch.no_grad():
        table = model.entities.all_rows().float()
        if relation is None:
            number, rows = None, relations_of_texts(model, [relation_text or ""])
        else:
            number = find_id(graph, "relation", relation)
            rows = relation_rows(model, number).float()
        known = torch.tensor([] if entity is None else [find_id(graph, "entity", entity)], dtype=torch.int64)
        row = rows_of_texts(model, [text or ""]) if entity is None else table[known.to(table.device)]
        if len(triples):
            row = fitted(model, graph, triples, table, row)
            known = answers_in(triples, number, side, graph.num_entities)
        scores = link_scores(model, row, rows, side, table)
        scores[known.to(scores.device)] = -torch.inf
    best = torch.sort(scores, descending=True, stable=True)
    count = min(k, len(scores) - len(known))
    return described(graph, False, best.values[:count].tolist(), best.indices[:count].tolist(), None)


def relation_rows(model, relation: int) -> Tensor:
    """[1, W], or [2, W] where a reciprocal model has a row of the inverse too."""
    return model.relations.unflatten(0, (-1, model.graph.num_relations))[:, relation]


def link_scores(model, row: Tensor, relation: Tensor, side: str, table: Tensor) -> Tensor:
    """The scores [E] of the entities of `table` for (row, relation, ?); side="head": (?, relation, row).

    row [1, D]; relation [1 or 2, W], as `relation_rows` has it.
    """
    spec, inverse = reference.find_score(model.score), len(relation) == 2
    make = spec.head_query if side == "head" and not inverse else spec.tail_query
    return all_scores(make(row, relation[-1 if side == "head" else 0][None]), table, model.score)[0]


def triples_of(graph: KnowledgeGraph, edges: Sequence[Sequence[str]]) -> Tensor:
    """int64 [M, 3] of the new entity's triples by name; it has the id behind all others."""
    rows = []
    for place, names in enumerate(edges):
        if not isinstance(names, (list, tuple)) or len(names) != 3 or (names[0] == NEW) == (names[2] == NEW):
            raise DataError(f"edges[{place}] must be (head, relation, tail), one of head and tail {NEW!r}: {names!r}")
        rows.append([
            graph.num_entities if name == NEW and slot != "relation" else find_id(graph, slot, name)
            for slot, name in zip(SLOTS, names, strict=True)
        ])  # fmt: skip
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)


def fitted(model, graph: KnowledgeGraph, triples: Tensor, table: Tensor, row: Tensor) -> Tensor:
    """The row [1, D] fitted to its triples; all others and the relations stay."""
    if LinkTask.name not in model.tasks:
        raise ConfigError(f"edges need a model of the task link; this one has: {', '.join(model.tasks)}")
    bigger = KnowledgeGraph.from_arrays(triples, None, None, graph.num_entities + 1, graph.num_relations)
    with torch.enable_grad():
        return fit(model, bigger, row, model.relations.detach().float(), others=table, learn=False)[0]


def answers_in(triples: Tensor, relation: int | None, side: str, new: int) -> Tensor:
    """The answers to (new, relation, ?), or (?, relation, new), that the triples hold."""
    asked, answer = (0, 2) if side == "tail" else (2, 0)
    held = (triples[:, asked] == new) & (triples[:, 1] == (-1 if relation is None else relation))
    return triples[held, answer].unique()


def check_count(k: int, most: int) -> None:
    k = checks.as_integer(k)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise ConfigError(f"k={k!r}: must be an integer from 1 to {most}, the number of entities")
