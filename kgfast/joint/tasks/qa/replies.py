"""Replies to questions from what the graph holds: lists, numbers, yes and no, each with how sure it is.

A question may mean several paths of relations. One that leads anywhere from the topic counts by its probability; what
leads nowhere was hardly meant, and counts by EMPTY of it. Answers hold for what is known: what the graph does not hold
counts as not so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from kgfast.joint.tasks.qa.answering import Reading
from kgfast.joint.tasks.qa.paths import Facts, Path, Triple, likely_paths

EMPTY = 0.01  # how much of its probability counts of what leads nowhere


@dataclass(frozen=True)
class Sense:
    """A question read about one topic: the paths that it may mean, likeliest first; sure: that anything answers it."""

    topic: int
    paths: Sequence[Path]
    sure: float

    @classmethod
    def of(cls, facts: Facts, topic: int, reading: Reading, place: int) -> Sense:
        """What the question `place` of a reading means."""
        sure = 1.0 if reading.answerable is None else float(reading.answerable[place].sigmoid())
        return cls(topic, likely_paths(facts, topic, reading, place), sure)

    @property
    def mass(self) -> float:
        """How likely the paths are that lead anywhere."""
        return sum(path.probability for path in self.paths)

    @property
    def nothing(self) -> float:
        """What counts for an answer that is nothing."""
        return EMPTY * max(0.0, 1 - self.mass)

    def share(self, counted: float) -> float:
        """What counts, as a chance."""
        return self.sure * counted / (self.mass + self.nothing) if counted else 0.0

    def answers(self) -> dict[int, float]:
        """{entity: the chance that it is among what the question asks for}."""
        found: dict[int, float] = defaultdict(float)
        for path in self.paths:
            for entity in path.ends:
                found[entity] += path.probability
        return {entity: self.share(counted) for entity, counted in found.items()}

    def whole(self) -> tuple[frozenset[int], float]:
        """(all that the question asks for, the chance of exactly that)."""
        found: dict[frozenset[int], float] = defaultdict(float)
        found[frozenset()] = self.nothing
        for path in self.paths:
            found[path.ends] += path.probability
        ends = max(found, key=found.__getitem__)
        return ends, self.share(found[ends])

    def path_to(self, answer: int) -> Path | None:
        """The likeliest path that leads to an answer."""
        return next((path for path in self.paths if answer in path.ends), None)


@dataclass(frozen=True)
class Reply:
    """value: "yes", "no" or a number; None for a list. chance: that the question was understood so. answers: entities
    with the chance of each, the likeliest first, behind a "no" what is so instead; ways: the triples to each."""

    value: str | int | None
    chance: float
    answers: dict[int, float] = field(default_factory=dict)
    ways: dict[int, list[Triple]] = field(default_factory=dict)


def listed(facts: Facts, senses: Sequence[Sense]) -> Reply:
    """What all senses, one of each topic, lead to: the product of their chances."""
    of_each = [sense.answers() for sense in senses]
    common = set.intersection(*map(set, of_each)) if of_each else set()
    chances = {entity: product([found[entity] for found in of_each]) for entity in common}
    best = max(chances.values(), default=0.0)
    kept = {entity: chance for entity, chance in ranked(chances).items() if chance >= best / 2}
    return Reply(None, best, kept, {entity: ways_to(facts, senses, entity) for entity in kept})


def counted(facts: Facts, senses: Sequence[Sense]) -> Reply:
    """How many entities all senses, one of each topic, lead to."""
    wholes = [sense.whole() for sense in senses]
    common = sorted(frozenset.intersection(*(ends for ends, _ in wholes)))
    chance = product([chance for _, chance in wholes])
    ways = {entity: ways_to(facts, senses, entity) for entity in common}
    return Reply(len(common), chance, dict.fromkeys(common, chance), ways)


def confirmed(facts: Facts, pairs: Sequence[tuple[Sense, Collection[int]]]) -> Reply:
    """Yes or no: whether the paths of a topic lead to what else the question names (the entities that it may be), or
    anywhere if it names nothing else. A path that can't end there speaks for no as little as one that leads nowhere."""
    sums = {"yes": 0.0, "no": 0.0}
    best: dict[str, tuple[float, Sense, Path]] = {}
    for sense, others in pairs:
        sums["no"] += sense.nothing if others else 1 - sense.mass
        for path in sense.paths:
            value = "no" if others and path.ends.isdisjoint(others) else "yes"
            fits = not others or any(facts.may_end(other, path.relations) for other in others)
            counted = path.probability * (1 if fits else EMPTY)
            sums[value] += counted
            if counted > best.get(value, (0.0,))[0]:
                best[value] = counted, sense, path
    value = max(sums, key=sums.__getitem__)
    chance = max(sense.sure for sense, _ in pairs) * sums[value] / (sum(sums.values()) or 1)
    if value not in best:
        return Reply(value, chance)
    _, sense, path = best[value]
    named = {other for of, others in pairs if of is sense for other in others}
    shown = sorted(path.ends & named if value == "yes" and named else path.ends)
    ways = {entity: facts.way(sense.topic, path.relations, entity) for entity in shown}
    return Reply(value, chance, dict.fromkeys(shown, chance), ways)


def ways_to(facts: Facts, senses: Sequence[Sense], answer: int) -> list[Triple]:
    """The triples that lead from each topic to an answer."""
    triples: list[Triple] = []
    for sense in senses:
        path = sense.path_to(answer)
        triples += [] if path is None else facts.way(sense.topic, path.relations, answer)
    return list(dict.fromkeys(triples))


def ranked(chances: dict[int, float]) -> dict[int, float]:
    return dict(sorted(chances.items(), key=lambda item: (-item[1], item[0])))


def product(numbers: Sequence[float]) -> float:
    result = 1.0
    for number in numbers:
        result *= number
    return result
