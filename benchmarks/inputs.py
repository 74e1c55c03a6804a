"""Inputs of the cases: a synthetic graph whose entities and relations are as unevenly used as real ones (Zipf)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

import kgfast
from kgfast.nn import KGEModel

EXPONENT = 0.75  # of Zipf's law: the hundred most used of FB15k-237's entities have about its share of triples


@dataclass(frozen=True)
class Size:
    """Of graph, batch and rows. `dim` counts reals."""

    entities: int = 14_541
    relations: int = 237
    triples: int = 272_115
    batch: int = 1024
    negatives: int = 256
    dim: int = 400

    def with_(self, **changes) -> Size:
        return replace(self, **changes)


SIZES = {
    "fb15k-237": Size(),
    "tiny": Size(entities=211, relations=7, triples=1500, batch=48, negatives=8, dim=16),
}
COPIED = 300_000  # entities; beyond that there is one table, and no baseline with its own
LARGE = {"entities": 5_000_000, "relations": 1000, "triples": 2_000_000}  # 8 GB of rows at 400 reals


def zipf(count: int, draws: int, generator) -> Tensor:
    """int64 [draws]: id i is drawn in proportion to 1 / rank(i)^EXPONENT, ranks being shuffled."""
    weights = torch.arange(1, count + 1, dtype=torch.float64) ** -EXPONENT
    places = torch.rand(draws, generator=generator, dtype=torch.float64) * weights.sum()
    found = torch.searchsorted(weights.cumsum(0), places).clamp_(max=count - 1)
    return torch.randperm(count, generator=generator)[found]


class Inputs:
    """Tables and triples of one size and score; the same for the same seed."""

    def __init__(self, size: Size, score: str, seed: int = 0):
        self.size, self.score, self.seed = size, score, seed
        self._model = self.new_model()
        self.entities, self.relations = self._model.entities.detach(), self._model.relations.detach()
        generator = torch.Generator().manual_seed(seed)
        columns = [zipf(count, size.triples, generator) for count in (size.entities, size.relations, size.entities)]
        self.graph = torch.stack(columns, 1)
        self.triples = self.graph[torch.arange(size.batch) % size.triples]

    @cached_property
    def known(self):
        return kgfast.KnownTriples.from_triples(self.graph, self.size.entities, self.size.relations)

    def negatives(self, lists: int | None = None) -> Tensor:
        """int64 [lists, N], uniform; a list for every triple by default."""
        shape = (self.size.batch if lists is None else lists, self.size.negatives)
        return torch.randint(self.size.entities, shape, generator=torch.Generator().manual_seed(self.seed + 1))

    def tables(self, dtype=torch.float32) -> list[Tensor]:
        """Copies that may be trained."""
        return [self.entities.to(dtype, copy=True), self.relations.to(dtype, copy=True)]

    def new_model(self) -> KGEModel:
        size = self.size
        scale = size.dim**-0.25  # scores of order 1
        return KGEModel(size.entities, size.relations, size.dim, score=self.score, seed=self.seed, init_scale=scale)

    def model(self) -> KGEModel:
        """A model that may be trained: with tables of its own, unless two of them would be too much."""
        return self.new_model() if self.size.entities <= COPIED else self._model

    def slice(self, per_triple: int) -> int:
        """How many triples the reference can take: 2^23 numbers where it stores `per_triple` rows for each."""
        return max(2, min(self.size.batch, (1 << 23) // (per_triple * self.size.dim)))
