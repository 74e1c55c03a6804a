"""Questions read about entities: what each means, and what the heads of the task predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kgfast.joint.model.packed import Encoded
from kgfast.joint.tasks.qa.paths import Facts
from kgfast.joint.tasks.qa.replies import Sense
from kgfast.joint.tasks.qa.walk import Step, support, walk

MAIN = ("together", "following", "embedding")  # whose predictions count: the first that there is


class About(NamedTuple):
    """What a question asks about: one of `entities`, for which MENTION stands in `text`; what else it names."""

    entities: tuple[int, ...]
    text: str
    others: frozenset[int]


@dataclass(frozen=True)
class Read:
    """A question read about an entity: its sense, the probabilities [E] of each head, and the likeliest way to an
    answer."""

    sense: Sense
    heads: dict[str, Tensor]
    way: Callable[[int], list[Step]]

    @property
    def strength(self) -> float:
        """How likely this entity is meant: of several that share a name, the one that has what is asked for."""
        return self.sense.sure * self.sense.mass

    @property
    def main(self) -> Tensor:
        return self.heads[next(head for head in MAIN if head in self.heads)]


def read(model, facts: Facts, abouts: Sequence[About]) -> list[Read]:
    """What each text says, about that of its entities that is most likely meant. One walk for all."""
    rows = [(place, entity) for place, about in enumerate(abouts) for entity in about.entities]
    if not rows:
        return []
    task, device = model.tasks["qa"], model.relations.device
    packed = model.texts.pack([abouts[place].text for place, _ in rows]).to(device)
    encoded = model.backbone.encode(packed, task.name)
    topics = torch.tensor([entity for _, entity in rows], device=device)
    heads, reading = task.probabilities(model, topics, encoded), task.reader(encoded)
    ways = supports(model, topics, encoded) if "following" in heads else lambda place, answer: []
    of_each: list[list[Read]] = [[] for _ in abouts]
    for row, (place, entity) in enumerate(rows):
        sense = Sense.of(facts, entity, reading, row) if "following" in heads else Sense(entity, (), 1.0)
        of_each[place].append(Read(sense, {head: values[row] for head, values in heads.items()}, partial(ways, row)))
    return [max(reads, key=lambda read: read.strength) for reads in of_each]


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
