"""Questions as paths of relations, and where paths lead along the facts of a graph: whole sets, without guesses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kgfast.data import KnowledgeGraph
from kgfast.joint.tasks.qa.answering import Reading
from kgfast.joint.tasks.qa.edges import Edges

RELATIONS = 8  # that a step tries from what is reached, the likeliest that lead anywhere
PATHS = 16  # of a question, the likeliest
LEAST = 3e-4  # probability of a path

Triple = tuple[int, int, int]  # head, relation, tail


@dataclass(frozen=True)
class Path:
    """Relations to follow, each < R, or + R against its direction; how likely the question means them; where they lead
    from its topic."""

    relations: tuple[int, ...]
    probability: float
    ends: frozenset[int]


def likely_paths(facts: Facts, topic: int, reading: Reading, place: int) -> list[Path]:
    """What the question `place` of a reading may mean, of all that leads anywhere from its topic, the likeliest first;
    after several steps the topic itself is no answer, and staying there is no path."""
    hops = reading.hops[:, place].tolist()
    beam: list[Path] = [Path((), 1.0, frozenset({topic}))]
    found: list[Path] = []
    for hop, attention in enumerate(reading.attention[:, :, place].cpu(), 1):
        shares, order = attention.sort(descending=True)
        likely = list(zip(order.tolist(), shares.tolist(), strict=True))
        grown = [longer for path in beam for longer in steps(facts, path, likely, LEAST / max(*hops[hop:], LEAST))]
        beam = sorted(grown, key=lambda path: -path.probability)[:PATHS]
        for path in beam:
            ends = path.ends - {topic} if hop > 1 else path.ends
            if ends and hops[hop] * path.probability >= LEAST:
                found.append(Path(path.relations, hops[hop] * path.probability, ends))
    return sorted(found, key=lambda path: -path.probability)[:PATHS]


def steps(facts: Facts, path: Path, likely: list[tuple[int, float]], least: float) -> Iterator[Path]:
    """The path with one more of the relations `likely`, given with their probability, the likeliest first."""
    tried = 0
    for relation, share in likely:
        if tried == RELATIONS or path.probability * share < least:
            return
        if ends := facts.after(path.ends, relation):
            tried += 1
            yield Path((*path.relations, relation), path.probability * share, ends)


class Facts:
    """Where paths lead along edges, both ways of every triple that is known. O(log M) a look-up."""

    def __init__(self, edges: Edges):
        self.num_relations = edges.num_relations
        keys = edges.heads * (2 * edges.num_relations) + edges.relations
        present, counts = torch.unique_consecutive(keys, return_counts=True)
        self.keys, self.tails = present.cpu().numpy(), edges.tails.cpu().numpy()
        self.starts = np.concatenate([[0], counts.cumsum(0).cpu().numpy()])

    @classmethod
    def of(cls, graph: KnowledgeGraph) -> Facts:
        """All that the graph holds, whatever the split."""
        triples = torch.cat([graph.train, graph.valid, graph.test])
        return cls(Edges.of(triples, graph.num_entities, graph.num_relations))

    def step(self, entity: int, relation: int) -> list[int]:
        """Where the edges of a relation lead from an entity."""
        key = entity * 2 * self.num_relations + relation
        place = int(self.keys.searchsorted(key))
        if place == len(self.keys) or self.keys[place] != key:
            return []
        return self.tails[self.starts[place] : self.starts[place + 1]].tolist()

    def after(self, entities: Iterable[int], relation: int) -> frozenset[int]:
        """Where the edges of a relation lead from any of `entities`."""
        return frozenset(end for entity in entities for end in self.step(entity, relation))

    def back(self, relation: int) -> int:
        """The relation against its direction."""
        return (relation + self.num_relations) % (2 * self.num_relations)

    def may_end(self, entity: int, path: tuple[int, ...]) -> bool:
        """Whether the last step of the path leads to the entity from anywhere."""
        return bool(self.step(entity, self.back(path[-1])))

    def way(self, topic: int, path: tuple[int, ...], answer: int) -> list[Triple]:
        """The triples of a way along the path from topic to answer, first step first; none where there is no way."""
        layers = [frozenset({topic})]
        for relation in path[:-1]:
            layers.append(self.after(layers[-1], relation))
        triples: list[Triple] = []
        place, count = answer, self.num_relations
        for entities, relation in zip(layers[::-1], path[::-1], strict=True):
            sources = entities.intersection(self.step(place, self.back(relation)))
            if not sources:
                return []
            source = min(sources)
            triples.append((source, relation, place) if relation < count else (place, relation - count, source))
            place = source
        return triples[::-1]
