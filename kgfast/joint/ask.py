"""Questions asked of a trained model: answers by name, with the triples that support them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.errors import ConfigError
from kgfast.evaluate.predict import find_id, relation_label
from kgfast.joint.model.joint_model import evaluating
from kgfast.joint.model.packed import Encoded
from kgfast.joint.predict import check_count
from kgfast.joint.tasks.qa.questions import Topics, mentions, without_mention
from kgfast.joint.tasks.qa.walk import Step, support, walk
from kgfast.joint.unseen import check_texts

MAIN = ("together", "following", "embedding")  # whose answers count: the first that there is


AT_ONCE = 64  # questions that walk together: num_entities x 64 numbers a hop


def ask(model, question: str, topic: str | None = None, k: int = 5) -> dict[str, Any]:
    """The k likeliest answers to a question; `ask_all` has the rest."""
    return ask_all(model, [question], [topic], k)[0]


@torch.no_grad()
def ask_all(
    model,
    questions: Sequence[str],
    topics: Sequence[str | None] | None = None,
    k: int = 5,
    threshold: float | None = None,
    finder: Topics | None = None,
) -> list[dict[str, Any]]:
    """The k likeliest answers to each question, read and walked together.

    topics     names of the entities asked about; None: the longest name or text that the question mentions
    threshold  a likeliest answer below this probability counts as not known
    finder     of topics, for those who ask again

    Returns dicts of question, topic, knows (None without a threshold), and answers: dicts of rank, id, name, label,
    probability, heads (each head's probability), and support, the likeliest way from topic to answer as dicts of head,
    relation, tail (labels), known (False: a guess) and share (of the mass that arrived). ConfigError for a model
    without the task qa, DataError for an unknown topic.
    """
    if "qa" not in model.tasks:
        raise ConfigError(f"this model was trained without the task qa; it has: {', '.join(model.tasks) or 'none'}")
    check_count(k, model.graph.num_entities)
    entities = topic_ids(model, questions, topics, finder)
    results: list[dict[str, Any]] = []
    with evaluating(model):
        for start in range(0, len(questions), AT_ONCE):
            chosen = slice(start, start + AT_ONCE)
            results += answers_of(model, questions[chosen], entities[chosen], k, threshold)
    return results


def topic_ids(
    model, questions: Sequence[str], topics: Sequence[str | None] | None = None, finder: Topics | None = None
) -> list[int]:
    """The entity that each question is about; DataError for a question that is empty or about none that is known."""
    check_texts(model, questions)
    finder = finder or Topics(model.graph)
    named = [None] * len(questions) if topics is None else checks.rows("topics", topics)
    if len(named) != len(questions):
        raise ConfigError(f"topics: {len(named)} of them for {len(questions)} questions; None stands for no topic")
    return [
        finder.find(question) if topic is None else find_id(model.graph, "topic", topic)
        for question, topic in zip(questions, named, strict=True)
    ]


def answers_of(
    model, questions: Sequence[str], entities: list[int], k: int, threshold: float | None
) -> list[dict[str, Any]]:
    """`ask_all` of a few questions, whose topics are known."""
    graph, task, device = model.graph, model.tasks["qa"], model.relations.device
    bare = [without_mention(text, mentions(graph, entity)) for text, entity in zip(questions, entities, strict=True)]
    encoded = model.backbone.encode(model.texts.pack(bare).to(device), task.name)
    topics = torch.tensor(entities, device=device)
    found = task.probabilities(model, topics, encoded)
    ways = supports(model, topics, encoded) if "following" in found else lambda place, answer: []
    best = torch.sort(found[next(head for head in MAIN if head in found)], descending=True, stable=True)
    results = []
    for place, (question, entity) in enumerate(zip(questions, entities, strict=True)):
        answers = [
            {
                "rank": rank,
                "id": answer,
                "name": str(graph.entity_names[answer]),
                "label": graph.label(answer),
                "probability": probability,
                "heads": {head: float(values[place, answer]) for head, values in found.items()},
                "support": [named(graph, step) for step in ways(place, answer)],
            }
            for rank, (probability, answer) in enumerate(
                zip(best.values[place, :k].tolist(), best.indices[place, :k].tolist(), strict=True), start=1
            )
        ]
        knows = None if threshold is None else bool(answers[0]["probability"] >= threshold)
        topic = str(graph.entity_names[entity])
        results.append({"question": question, "topic": topic, "knows": knows, "answers": answers})
    return results


def supports(model, topics: Tensor, encoded: Encoded) -> Callable[[int, int], list[Step]]:
    """(question, answer) -> the steps of the likeliest way there, of the number of hops that brings it the most."""
    task = model.tasks["qa"]
    reading, edges = task.reader(encoded), task.edges_on(topics.device)
    fill = task.link_fill(model, model.entities.all_rows()) if task.both and task.options.predicted else task.fill
    masses = walk(topics, reading.attention, edges, fill)

    def ways(place: int, answer: int) -> list[Step]:
        of_one, shares = [mass[:, place, None] for mass in masses], reading.hops[:, place]
        arrived = [float(share * mass[answer, 0]) for share, mass in zip(shares, of_one, strict=True)]
        hops = arrived.index(max(arrived))
        return support(answer, of_one[: hops + 1], reading.attention[:hops, :, place, None], edges, fill)

    return ways


def named(graph, step: Step) -> dict:
    return {
        "head": graph.label(step.head),
        "relation": relation_label(graph, step.relation),
        "tail": graph.label(step.tail),
        "known": step.known,
        "share": step.share,
    }
