"""What a graph holds of an entity, and which relations lead from an entity to itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kgfast.data import KnowledgeGraph

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class ByEntity:
    """The triples of a split by entity: `places[offsets[e]:offsets[e + 1]]` are the rows with e at either end."""

    places: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, triples: Tensor, num_entities: int) -> ByEntity:
        head, tail = triples[:, 0], triples[:, 2]
        other = (head != tail).nonzero()[:, 0]  # a loop stands once
        ends = torch.cat([head, tail[other]])
        rows = torch.cat([torch.arange(len(triples)), other])
        counts = torch.bincount(ends, minlength=num_entities)
        return cls(rows[torch.argsort(ends, stable=True)], torch.nn.functional.pad(counts.cumsum(0), (1, 0)))


class Held:
    """What predictions ask of a graph. The first question reads all triples; from the second on they are sorted, which
    takes 16 bytes a triple.
    """

    def __init__(self, graph: KnowledgeGraph):
        self.splits: dict[str, Tensor] = {split: getattr(graph, split).cpu() for split in SPLITS}
        self.num_entities = graph.num_entities
        train = self.splits["train"]
        self.loops = set(train[train[:, 0] == train[:, 2], 1].unique().tolist())
        self._asked = False
        self._sorted: dict[str, ByEntity] = {}

    def sort(self) -> None:
        """Sort the triples now: the server does, so that no request waits for it."""
        self._sorted = self._sorted or {
            split: ByEntity.of(triples, self.num_entities) for split, triples in self.splits.items()
        }

    def of(self, entity: int) -> dict[str, Tensor]:
        """{split: triples [n, 3] with this entity at either end}, in their order."""
        if self._asked:
            self.sort()
        self._asked = True
        if not self._sorted:
            return {split: t[(t[:, 0] == entity) | (t[:, 2] == entity)] for split, t in self.splits.items()}
        found = {}
        for split, index in self._sorted.items():
            places = index.places[int(index.offsets[entity]) : int(index.offsets[entity + 1])]
            found[split] = self.splits[split][places.sort().values]
        return found

    def answers(self, ids: tuple[int, int, int], slot: int) -> dict[int, str]:
        """The ids that complete `ids`, whose part `slot` (0, 1, 2) is asked for, to a triple, and the first split that
        has it."""
        first, second = (column for column in range(3) if column != slot)
        found: dict[int, str] = {}
        for split, rows in self.of(ids[2 if slot == 0 else 0]).items():
            fits = (rows[:, first] == ids[first]) & (rows[:, second] == ids[second])
            for answer in rows[fits, slot].tolist():
                found.setdefault(answer, split)
        return found
