"""What the link predictor and the language model answer: entities by a relation, or by a text with a blank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kgfast import reference
from kgfast.core import checks
from kgfast.errors import ConfigError
from kgfast.evaluate.predict import described, find_id
from kgfast.joint.fact_scores import FactScorer
from kgfast.joint.facts import language_task
from kgfast.joint.model.joint_model import evaluating
from kgfast.joint.tasks.qa.fill import all_scores
from kgfast.joint.text.forms import Said, entity_labels
from kgfast.joint.unseen import rows_of_texts

AT_ONCE = 256  # texts that the language model scores together


@torch.no_grad()
def predict_for_text(model, text: str, relation: str, k: int = 10, side: str = "tail") -> list[dict]:
    """The k best answers to (entity, relation, ?) for an entity that has only a text and is not in the graph.

    side="head" asks (?, relation, entity). Returns dicts of rank, id, name, label and score, best first. ConfigError
    where entities are no texts (entities=table), DataError for an unknown relation.
    """
    checks.choose("side", side, ("tail", "head"))
    check_count(k, model.graph.num_entities)
    graph, relation_id = model.graph, find_id(model.graph, "relation", relation)
    with evaluating(model):
        scores = link_scores(model, rows_of_texts(model, [text]), relation_id, side)
    best = torch.sort(scores, descending=True, stable=True)
    return described(graph, False, best.values[:k].tolist(), best.indices[:k].tolist(), None)


def link_scores(model, row: Tensor, relation: int, side: str = "tail") -> Tensor:
    """The scores [E] of all entities for (row, relation, ?); side="head": (?, relation, row). row [1, D]."""
    count, spec = model.graph.num_relations, reference.find_score(model.score)
    reciprocal = side == "head" and len(model.relations) == 2 * count
    relations = model.relations[relation + count if reciprocal else relation][None]
    make = spec.head_query if side == "head" and not reciprocal else spec.tail_query
    return all_scores(make(row, relations), model.entities.all_rows(), model.score)[0]


def names_for_blank(model, text: str, blank: tuple[int, int]) -> Tensor:
    """The probability [E] of each entity's name, among all names, in the place text[start:stop] by the language model;
    ConfigError where the run has none."""
    task = language_task(model)
    if task is None:
        raise ConfigError(f"a blank is for a language model (mlm, clm), and this run has: {', '.join(model.tasks)}")
    before, behind = text[: blank[0]], text[blank[1] :]
    said = [
        Said(f"{before}{label}{behind}", (0, 0), (len(before), len(before) + len(label)))
        for label in entity_labels(model.graph)
    ]
    scorer, tails = FactScorer(model, task), torch.arange(len(said))
    parts: Sequence[Tensor] = [
        scorer.by_tokens(said[start : start + AT_ONCE], None, tails[start : start + AT_ONCE])
        for start in range(0, len(said), AT_ONCE)
    ]
    return torch.cat(list(parts)).softmax(0)


def check_count(k: int, most: int) -> None:
    k = checks.as_integer(k)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise ConfigError(f"k={k!r}: must be an integer from 1 to {most}, the number of entities")
