"""What a walk makes of a missing edge: the link predictor's guess, and how often a relation leads where.

The graph is not complete. Where entity e has no edge of relation r, the mass x[e] a[r] goes

    to t with trust * p(t | e, r) + (1 - trust) * m(t | r)

p is the link predictor's softmax over all entities, m the share of r's edges that lead to t.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kgfast import backends, reference
from kgfast.joint.tasks.qa.edges import Edges
from kgfast.ops.autograd import AllScores

RELATIONS = 4  # of a hop, whose missing edges are asked of the link predictor


@dataclass(frozen=True)
class Fill:
    """rows [E, D] and relations [R or 2R, W] (2R: row r + R is r turned around) of the link predictor with this score;
    without them the marginals alone fill in.

    temperature: a factor of its scores; trust: its part, against the marginals; pairs: how many missing (entity,
    relation) pairs a question asks it in a hop, those with the most mass. Memory O(B pairs E) a hop.
    """

    rows: Tensor | None = None
    relations: Tensor | None = None
    score: str = ""
    temperature: Tensor | float = 1.0
    trust: Tensor | float = 0.0
    pairs: int = 8

    def flow(self, mass: Tensor, attention: Tensor, edges: Edges) -> Tensor:
        """Where mass [E, B] goes that finds no edge under attention [2R, B]: [E, B]."""
        present, marginals = edges.present.to(mass.dtype), edges.marginals.to(mass.dtype)
        lost = attention * (mass.sum(0) - torch.sparse.mm(present, mass)).clamp(min=0)  # rounding may fall below
        flow = (1 - self.trust) * torch.sparse.mm(marginals, lost)
        if self.rows is None:
            return flow
        entities, relations = self.missing(mass, attention, edges)
        lost = mass.gather(0, entities) * attention.gather(0, relations) * ~edges.has(entities, relations)
        guesses = self.probabilities(entities.t().flatten(), relations.t().flatten(), edges.num_relations)
        guessed = torch.bmm(lost.t()[:, None], guesses.unflatten(0, lost.t().shape))[:, 0].t()
        return flow + self.trust * guessed

    def arrivals(self, mass: Tensor, attention: Tensor, edges: Edges, place: int) -> tuple[Tensor, Tensor, Tensor]:
        """(entities, relations, what they bring to `place`) of one question's missing pairs: [P] each."""
        entities, relations = (ids[:, 0] for ids in self.missing(mass, attention, edges))
        lost = mass[entities, 0] * attention[relations, 0] * ~edges.has(entities, relations)
        column = torch.zeros(edges.num_entities, 1, dtype=mass.dtype, device=mass.device)
        column[place] = 1
        often = torch.sparse.mm(edges.marginals.to(mass.dtype).t(), column)[relations, 0]
        chance = (1 - self.trust) * often
        if self.rows is not None:
            chance = chance + self.trust * self.probabilities(entities, relations, edges.num_relations)[:, place]
        return entities, relations, lost * chance

    @torch.no_grad()
    def missing(self, mass: Tensor, attention: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """(entities, relations) [P, B], P <= pairs: the pairs without an edge that would take the most mass, among the
        entities with the most mass and the relations with the most attention."""
        weights, entities = mass.topk(min(self.pairs, len(mass)), dim=0)
        shares, relations = attention.topk(min(RELATIONS, len(attention)), dim=0)
        shape = (len(entities), len(relations), mass.shape[1])
        entities, relations = entities[:, None].expand(shape), relations[None].expand(shape)
        lost = (weights[:, None] * shares[None] * ~edges.has(entities, relations)).flatten(0, 1)
        best = lost.topk(min(self.pairs, len(lost)), dim=0).indices
        return entities.flatten(0, 1).gather(0, best), relations.flatten(0, 1).gather(0, best)

    def probabilities(self, entities: Tensor, relations: Tensor, num_relations: int) -> Tensor:
        """p(t | entity, relation) = softmax over all t of temperature x score: [P, E] for P pairs."""
        assert self.rows is not None and self.relations is not None  # who asks has checked
        spec = reference.find_score(self.score)
        known = self.rows[entities]
        if len(self.relations) == 2 * num_relations:
            query = spec.tail_query(known, self.relations[relations])
        else:
            row, forward = self.relations[relations % num_relations], (relations < num_relations)[:, None]
            query = torch.where(forward, spec.tail_query(known, row), spec.head_query(known, row))
        return (all_scores(query, self.rows, self.score) * self.temperature).softmax(1)


def all_scores(query: Tensor, table: Tensor, score: str) -> Tensor:
    """Similarity of each query [P, D] to every row of the table [E, D]: [P, E], with gradients."""
    spec = reference.find_score(score)
    if spec.similarity == "dot":
        return query @ table.t()
    backend = backends.choose(None, query.device)
    return AllScores.apply(query.contiguous(), table.contiguous(), int(spec.similarity_code), backend)
