"""Questions asked of a trained model: which part of it answers each, and the answers by name, with what supports them.

language model  a text with a blank: the names that fill it best
link head       an entity and a relation, nothing else: the link predictor's best entities
yes/no, count   questions of these kinds, from what the graph holds
question head   any other question: where its paths lead, or what the heads of the task `qa` predict
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.data.names import fold
from kgfast.errors import ConfigError, DataError
from kgfast.evaluate.held import Held
from kgfast.evaluate.predict import find_id, relation_label
from kgfast.joint.guesses import names_for_blank
from kgfast.joint.model.joint_model import evaluating
from kgfast.joint.predict import check_count, link_scores, relation_rows
from kgfast.joint.tasks.qa.kinds import COUNT, LIST, is_choice, kind_of
from kgfast.joint.tasks.qa.linking import Linked, Linker
from kgfast.joint.tasks.qa.questions import about
from kgfast.joint.tasks.qa.readings import About, Read, read
from kgfast.joint.tasks.qa.replies import Reply, confirmed, counted, listed, ranked
from kgfast.joint.text.forms import relation_texts
from kgfast.joint.text.mentions import PIECE
from kgfast.joint.unseen import check_texts

LANGUAGE, LINK, QUESTION = "language model", "link head", "question head"
BLANK = re.compile(r"_{2,}|\.{3}$|\u2026$")
AT_ONCE = 64  # questions that walk together: num_entities x 64 numbers a hop
MOST_OWNERS = 8  # entities that share a name

Answer = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A question, the part of the model that answers it, and each thing that it asks about."""

    question: str
    linked: Linked
    route: str
    abouts: Sequence[About]


def ask(model, question: str, topic: str | None = None, k: int = 5) -> dict[str, Any]:
    """The k likeliest answers to a question; `Asker` has the rest."""
    return Asker(model).ask([question], [topic], k)[0]


class Asker:
    """Answers questions by a joint model; ConfigError for one without the task qa. Names are read once. `held`: the
    graph's, where it is there already."""

    def __init__(self, model, held: Held | None = None):
        if "qa" not in model.tasks:
            raise ConfigError(f"this model was trained without the task qa; it has: {', '.join(model.tasks) or 'none'}")
        self.model, self.graph, self.task = model, model.graph, model.tasks["qa"]
        names = zip(map(str, self.graph.relation_names), relation_texts(self.graph), strict=True)
        self.relations = {fold(text): relation for relation, pair in enumerate(names) for text in pair}
        texts = (*self.task.load("train").texts, *self.relations)
        self.linker = Linker(self.graph, (word for text in texts for word in PIECE.findall(fold(text))))
        self.facts, self.held = self.task.facts, held or Held(self.graph)

    @torch.no_grad()
    def ask(
        self,
        questions: Sequence[str],
        topics: Sequence[str | None] | None = None,
        k: int = 5,
        threshold: float | None = None,
    ) -> list[dict[str, Any]]:
        """The k likeliest answers to each question, read together.

        topics     names of the entities asked about; None: those that the question mentions
        threshold  a likeliest answer below this probability counts as not known

        Returns dicts of question, by (the part of the model that answers), topics (names; the question's first is also
        topic; None where it names nothing), knows (None without a threshold), value ("yes", "no", a number; None where
        the answer is a list), probability, and answers: dicts of rank, id, name, label, probability, known (whether
        the graph's facts give it, or it is predicted), heads (each head's probability), and support, triples as dicts
        of head, relation, tail (labels), known, split (that holds it) and share (of the mass that arrived). DataError
        for an empty question or an unknown topic.
        """
        check_count(k, self.graph.num_entities)
        check_texts(self.model, questions)
        named = [None] * len(questions) if topics is None else checks.rows("topics", topics)
        if len(named) != len(questions):
            raise ConfigError(f"topics: {len(named)} of them for {len(questions)} questions; None stands for no topic")
        asked = [self.understand(one, topic) for one, topic in zip(questions, named, strict=True)]
        results: list[dict[str, Any]] = []
        with evaluating(self.model):
            for start in range(0, len(asked), AT_ONCE):
                block = asked[start : start + AT_ONCE]
                reads = iter(read(self.model, self.facts, [about for one in block for about in walking(one)]))
                results += [self.answer(one, [next(reads) for _ in walking(one)], k, threshold) for one in block]
        return results

    # What is asked

    def understand(self, question: str, topic: str | None) -> Asked:
        """The dispatcher: the one place that decides which part of the model answers."""
        linked = self.linker.link(question)
        if BLANK.search(linked.text):
            return Asked(question, linked, LANGUAGE, ())
        abouts = self.abouts(linked) if topic is None else [self.about(linked, find_id(self.graph, "topic", topic))]
        if topic is None and self.relation_beside(linked) is not None:
            return Asked(question, linked, LINK, abouts)
        kind = kind_of(linked.text)
        known = kind != LIST and "following" in self.task.options.heads
        return Asked(question, linked, kind if known else QUESTION, abouts)

    def abouts(self, linked: Linked) -> list[About]:
        """The question about each entity that it names; DataError for a name that too many share."""
        for mention in linked.mentions:
            if len(mention.entities) > MOST_OWNERS:
                names = ", ".join(repr(self.graph.entity_names[entity]) for entity in mention.entities[:5])
                raise DataError(f"{mention.name!r} may be {names} or others: name the topic")
        choice = is_choice(linked.text)
        return [
            About(mention.entities, linked.bare(place, choice), owners(linked, besides=place))
            for place, mention in enumerate(linked.mentions)
        ]

    def about(self, linked: Linked, entity: int) -> About:
        """The question about an entity that is given, whether the question names it or not."""
        for one in self.abouts(linked):
            if entity in one.entities:
                return About((entity,), one.text, one.others)
        return About((entity,), about(self.linker, linked.text, entity), owners(linked))

    def relation_beside(self, linked: Linked) -> tuple[int, str] | None:
        """(relation, side that is asked for) of a text that is an entity and a relation, nothing else."""
        if len(linked.mentions) != 1:
            return None
        (mention,) = linked.mentions
        before, behind = (
            fold(part.strip(" ?.,:|")) for part in (linked.text[: mention.start], linked.text[mention.stop :])
        )
        if before and behind or (before or behind) not in self.relations:
            return None
        return self.relations[before or behind], "head" if before else "tail"

    # Who answers

    def answer(self, asked: Asked, reads: list[Read], k: int, threshold: float | None) -> dict[str, Any]:
        """The answers of the part of the model that was chosen."""
        if asked.route == LANGUAGE:
            return self.result(asked, [], None, None, self.fill_blank(asked.linked, k))
        if asked.route == LINK:
            return self.result(asked, asked.abouts[0].entities[:1], None, None, self.predict(asked, k))
        if not reads:
            return {**self.result(asked, [], None, None, []), "knows": False}
        if asked.route == QUESTION:
            return self.list_answers(asked, reads, k, threshold)
        if asked.route == COUNT:
            reply = counted(self.facts, [read.sense for read in reads])
        else:
            others = [about.others for about in asked.abouts]
            reply = confirmed(self.facts, [(read.sense, other) for read, other in zip(reads, others, strict=True)])
        answers = [self.known(reply, entity, {}) for entity in reply.answers]
        return self.result(asked, topics_of(reads), reply, threshold, answers[:k])

    def list_answers(self, asked: Asked, reads: list[Read], k: int, threshold: float | None) -> dict[str, Any]:
        """Where the paths lead and then what the heads predict; predictions alone where they are likelier."""
        if is_choice(asked.linked.text):  # the topic is what the others are answers to
            others = [about.others for about in asked.abouts]
            reads = [max(zip(reads, others, strict=True), key=lambda one: (among(*one), one[0].strength))[0]]
        reply = listed(self.facts, [read.sense for read in reads])
        if not reply.answers and len(reads) > 1:
            reads = [max(reads, key=lambda read: read.strength)]
            reply = listed(self.facts, [reads[0].sense])
        predicted = torch.stack([read.main for read in reads]).prod(0)
        heads = {head: torch.stack([read.heads[head] for read in reads]).prod(0) for head in reads[0].heads}
        best = torch.sort(predicted, descending=True, stable=True)
        reply = surer(reply, predicted, float(best.values[0]), int(best.indices[0]))
        answers = [self.known(reply, entity, heads) for entity in reply.answers]
        for probability, entity in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if len(answers) >= k:
                break
            if entity not in reply.answers:
                steps = [self.step(s.head, s.relation, s.tail, s.share) for read in reads for s in read.way(entity)]
                answers.append(self.described(entity, probability, steps, heads))
        return self.result(asked, topics_of(reads), reply, threshold, answers[:k])

    def predict(self, asked: Asked, k: int) -> list[Answer]:
        """The link predictor's answers, with their probabilities among all entities."""
        beside = self.relation_beside(asked.linked)
        assert beside is not None  # or it would have gone elsewhere
        relation, side = beside
        entity = asked.abouts[0].entities[0]
        table = self.model.entities.all_rows()
        scores = link_scores(self.model, table[entity][None], relation_rows(self.model, relation), side, table)
        answers = []
        for probability, other in highest(scores.softmax(0), k):
            head, tail = (entity, other) if side == "tail" else (other, entity)
            answers.append(self.described(other, probability, [self.step(head, relation, tail)], {}))
        return answers

    def fill_blank(self, linked: Linked, k: int) -> list[Answer]:
        """The names that the language model finds likeliest in the blank."""
        blank = BLANK.search(linked.text)
        assert blank is not None  # or it would have gone elsewhere
        chances = names_for_blank(self.model, linked.text, blank.span())
        return [self.described(entity, probability, [], {}) for probability, entity in highest(chances, k)]

    # How it is told

    def result(
        self, asked: Asked, topics: Iterable[int], reply: Reply | None, threshold: float | None, answers: list[Answer]
    ) -> dict[str, Any]:
        names = [str(self.graph.entity_names[entity]) for entity in topics]
        chance = reply.chance if reply is not None else max((one["probability"] for one in answers), default=0.0)
        return {
            "question": asked.question,
            "by": asked.route,
            "topic": names[0] if names else None,
            "topics": names,
            "knows": None if threshold is None or reply is None else chance >= threshold,
            "value": None if reply is None else reply.value,
            "probability": chance,
            "answers": [{"rank": rank, **answer} for rank, answer in enumerate(answers, 1)],
        }

    def known(self, reply: Reply, entity: int, heads: dict[str, Tensor]) -> Answer:
        """An answer that the graph holds: there the paths lead that the question means."""
        steps = [self.step(*triple) for triple in reply.ways[entity]]
        return {**self.described(entity, reply.answers[entity], steps, heads), "known": True}

    def described(self, entity: int, probability: float, steps: list[dict], heads: dict[str, Tensor]) -> Answer:
        return {
            "id": entity,
            "name": str(self.graph.entity_names[entity]),
            "label": self.graph.label(entity),
            "probability": probability,
            "known": False,
            "heads": {head: float(values[entity]) for head, values in heads.items()},
            "support": steps,
        }

    def step(self, head: int, relation: int, tail: int, share: float = 1.0) -> dict[str, Any]:
        """A triple as people read it, with the split that holds it."""
        split = self.held.answers((head, relation, tail), 2).get(tail)
        return {
            "head": self.graph.label(head),
            "relation": relation_label(self.graph, relation),
            "tail": self.graph.label(tail),
            "known": split is not None,
            "split": split,
            "share": share,
        }


def walking(asked: Asked) -> Sequence[About]:
    """What the reader has to read of a question."""
    return () if asked.route in (LANGUAGE, LINK) else asked.abouts


def owners(linked: Linked, besides: int | None = None) -> frozenset[int]:
    """All entities that a question may name, one mention aside."""
    return frozenset(
        entity for place, mention in enumerate(linked.mentions) if place != besides for entity in mention.entities
    )


def among(read: Read, others: frozenset[int]) -> float:
    """How likely one of the others is what the question asks of its topic."""
    return max((chance for entity, chance in read.sense.answers().items() if entity in others), default=0.0)


def topics_of(reads: Sequence[Read]) -> list[int]:
    """The entities that a question is about, the one first of which it most clearly asks."""
    return [read.sense.topic for read in sorted(reads, key=lambda read: -read.strength)]


def surer(reply: Reply, predicted: Tensor, chance: float, entity: int) -> Reply:
    """What is known, each answer as likely as by facts or prediction; nothing where something else is likelier."""
    if reply.chance < chance and entity not in reply.answers:
        return Reply(None, chance)
    chances = ranked({one: max(known, float(predicted[one])) for one, known in reply.answers.items()})
    return Reply(None, max(chances.values(), default=chance), chances, reply.ways)


def highest(chances: Tensor, k: int) -> list[tuple[float, int]]:
    best = torch.sort(chances, descending=True, stable=True)
    return list(zip(best.values[:k].tolist(), best.indices[:k].tolist(), strict=True))
