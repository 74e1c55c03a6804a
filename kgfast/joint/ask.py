"""Questions asked of a trained model: answers by name, with the triples that support them."""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast import reference
from kgfast.core import checks
from kgfast.errors import ConfigError
from kgfast.evaluate.predict import find_id, relation_label
from kgfast.joint.model.joint_model import evaluating
from kgfast.joint.tasks.qa.fill import all_scores
from kgfast.joint.tasks.qa.questions import find_topic, mentions, without_mention
from kgfast.joint.tasks.qa.walk import Step, support, walk
from kgfast.joint.unseen import check_texts, rows_of_texts

MAIN = ("together", "following", "embedding")  # whose answers count: the first that there is


@torch.no_grad()
def ask(model, question: str, topic: str | None = None, k: int = 5) -> dict:
    """The k likeliest answers to a question.

    topic: name of the entity asked about; None: the longest name or text that the question mentions. Returns question,
    topic, and answers: dicts of rank, id, name, label, probability, heads (each head's probability), and support, the
    likeliest way from topic to answer as dicts of head, relation, tail (labels), known (False: a guess) and share (of
    the mass that arrived). ConfigError for a model without the task qa, DataError for an unknown topic.
    """
    if "qa" not in model.tasks:
        raise ConfigError(f"this model was trained without the task qa; it has: {', '.join(model.tasks) or 'none'}")
    check_count(k, model.graph.num_entities)
    check_texts(model, [question])
    graph, task = model.graph, model.tasks["qa"]
    entity = find_topic(graph, question) if topic is None else find_id(graph, "topic", topic)
    device = model.relations.device
    with evaluating(model):
        packed = model.texts.pack([without_mention(question, mentions(graph, entity))]).to(device)
        encoded, topics = model.backbone.encode(packed, task.name), torch.tensor([entity], device=device)
        found = task.probabilities(model, topics, encoded)
        main = found[next(head for head in MAIN if head in found)][0]
        ways = supports(model, topics, encoded) if "following" in found else lambda answer: []
        best = torch.sort(main, descending=True, stable=True)
        answers = [
            {
                "rank": rank,
                "id": answer,
                "name": str(graph.entity_names[answer]),
                "label": graph.label(answer),
                "probability": probability,
                "heads": {head: float(values[0, answer]) for head, values in found.items()},
                "support": [named(graph, step) for step in ways(answer)],
            }
            for rank, (probability, answer) in enumerate(
                zip(best.values[:k].tolist(), best.indices[:k].tolist(), strict=True), start=1
            )
        ]
    return {"question": question, "topic": str(graph.entity_names[entity]), "answers": answers}


def supports(model, topics: Tensor, encoded):
    """answer -> the steps of the likeliest way to it, of the number of hops that brings it the most."""
    task = model.tasks["qa"]
    reading, edges = task.reader(encoded), task.edges_on(topics.device)
    fill = task.link_fill(model, model.entities.all_rows()) if task.both and task.options.predicted else task.fill
    masses = walk(topics, reading.attention, edges, fill)

    def ways(answer: int) -> list[Step]:
        arrived = [float(share * mass[answer, 0]) for share, mass in zip(reading.hops[:, 0], masses, strict=True)]
        hops = arrived.index(max(arrived))
        return support(answer, masses[: hops + 1], reading.attention[:hops], edges, fill)

    return ways


def named(graph, step: Step) -> dict:
    return {
        "head": graph.label(step.head),
        "relation": relation_label(graph, step.relation),
        "tail": graph.label(step.tail),
        "known": step.known,
        "share": step.share,
    }


@torch.no_grad()
def predict_for_text(model, text: str, relation: str, k: int = 10, side: str = "tail") -> list[dict]:
    """The k best answers to (entity, relation, ?) for an entity that has only a text and is not in the graph.

    side="head" asks (?, relation, entity). Returns dicts of rank, id, name, label and score, best first. ConfigError
    where entities are no texts (entities=table), DataError for an unknown relation.
    """
    checks.choose("side", side, ("tail", "head"))
    check_count(k, model.graph.num_entities)
    graph, count = model.graph, model.graph.num_relations
    relation_id, spec = find_id(graph, "relation", relation), reference.find_score(model.score)
    with evaluating(model):
        row = rows_of_texts(model, [text])
        reciprocal = side == "head" and len(model.relations) == 2 * count
        relations = model.relations[relation_id + count if reciprocal else relation_id][None]
        make = spec.head_query if side == "head" and not reciprocal else spec.tail_query
        scores = all_scores(make(row, relations), model.entities.all_rows(), model.score)[0]
    best = torch.sort(scores, descending=True, stable=True)
    return [
        {
            "rank": rank,
            "id": answer,
            "name": str(graph.entity_names[answer]),
            "label": graph.label(answer),
            "score": score,
        }
        for rank, (score, answer) in enumerate(
            zip(best.values[:k].tolist(), best.indices[:k].tolist(), strict=True), start=1
        )
    ]


def check_count(k: int, most: int) -> None:
    if not isinstance(k, int) or not 1 <= k <= most:
        raise ConfigError(f"k={k!r}: must be an integer from 1 to {most}, the number of entities")
