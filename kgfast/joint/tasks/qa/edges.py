"""Both directions of a graph's triples as edges in order, and what a walk asks of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kgfast.core.known import check_triples
from kgfast.joint.model.packed import gather_places


@dataclass(frozen=True)
class Edges:
    """Both directions of a graph's triples, sorted by (entity, relation): E entities, 2R relations, M edges.

    heads, relations, tails  int64 [M]; relation r + R leads from the tail of (h, r, t) to its head
    counts                   float32 [M], edges of the same head and relation
    triples                  int64 [M], the triple that the edge stands for
    offsets                  int64 [E + 1], the edges that leave each entity
    """

    heads: Tensor
    relations: Tensor
    tails: Tensor
    counts: Tensor
    triples: Tensor
    offsets: Tensor
    num_relations: int  # R

    @classmethod
    def of(cls, triples: Tensor, num_entities: int, num_relations: int) -> Edges:
        """From triples int64 [M / 2, 3]. O(M log M)."""
        check_triples(triples, num_entities, num_relations)
        head, relation, tail = triples.unbind(1)
        heads, tails = torch.cat([head, tail]), torch.cat([tail, head])
        relations = torch.cat([relation, relation + num_relations])
        keys = heads * (2 * num_relations) + relations
        order = torch.argsort(keys, stable=True)
        numbers = torch.arange(len(triples), device=triples.device).repeat(2)[order]
        return cls.sorted(heads[order], relations[order], tails[order], numbers, num_entities, num_relations)

    @classmethod
    def sorted(cls, heads, relations, tails, triples, num_entities: int, num_relations: int) -> Edges:
        """From edges in order."""
        keys = heads * (2 * num_relations) + relations
        _, place, counts = torch.unique_consecutive(keys, return_inverse=True, return_counts=True)
        bounds = torch.searchsorted(heads, torch.arange(num_entities + 1, device=heads.device))
        return cls(heads, relations, tails, counts.float()[place], triples, bounds, num_relations)

    def to(self, device) -> Edges:
        names = ("heads", "relations", "tails", "counts", "triples", "offsets")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @property
    def num_entities(self) -> int:
        return len(self.offsets) - 1

    def __len__(self) -> int:
        return len(self.heads)

    @cached_property
    def keys(self) -> Tensor:
        """entity * 2R + relation of the pairs that have an edge, ascending."""
        return torch.unique_consecutive(self.heads * (2 * self.num_relations) + self.relations)

    @cached_property
    def present(self) -> Tensor:
        """Sparse [2R, E]: 1 where an edge of the relation leaves the entity."""
        width = 2 * self.num_relations
        return sparse(self.keys % width, self.keys // width, torch.ones_like(self.keys, dtype=torch.float32),
                      (width, self.num_entities))  # fmt: skip

    @cached_property
    def marginals(self) -> Tensor:
        """Sparse float64 [E, 2R]: the share of a relation's edges that lead to each entity."""
        width = 2 * self.num_relations
        counts = torch.bincount(self.relations, minlength=width).double()
        return sparse(self.tails, self.relations, 1 / counts[self.relations], (self.num_entities, width))

    def has(self, entities: Tensor, relations: Tensor) -> Tensor:
        """Whether an edge of `relations` leaves `entities`: bool, of their shape."""
        wanted = entities * (2 * self.num_relations) + relations
        if not len(self.keys):
            return torch.zeros_like(wanted, dtype=torch.bool)
        return self.keys[torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)] == wanted

    def leaving(self, entities: Tensor) -> Tensor:
        """The edges that leave `entities`, as places."""
        return gather_places(self.offsets, entities)[0]


def sparse(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse matrix; entries of the same place add up. Its indices are right by construction and not checked."""
    with torch.sparse.check_sparse_tensor_invariants(False):  # torch 2.11 warns in spite of the argument of this name
        return torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape).coalesce()
