"""Following: probability mass walks from the topic along the edges, hop by hop, where the question's attention leads.

Per hop k a question spreads its attention a_k over the 2R relations (r, and r + R for r turned around). Mass at entity e
moves to each of the n(e, r) tails of relation r:

    x_k[t] = sum over edges (e, r, t) of x_{k-1}[e] a_k[r] / n(e, r)        (+ what `predicted` makes of missing edges)

After TransferNet (Shi et al. 2021), whose mass is not divided by n; divided, it is the probability of a random walk.
Mass is stored as [E, B], so that an edge reads and writes B neighbouring numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from kgfast import reference
from kgfast.autograd import AllScores
from kgfast.backends.cpu import SIMILARITIES
from kgfast.joint.packed import gather_places
from kgfast.known import check_triples

CHUNK = 2**22  # numbers of a temporary: edges of a chunk x questions


@dataclass(frozen=True)
class Edges:
    """Both directions of a graph's triples, sorted by (entity, relation): E entities, 2R relations, M edges.

    heads, relations, tails  int64 [M]; relation r + R leads from the tail of (h, r, t) to its head
    rates                    float32 [M], 1 / (edges of the same head and relation)
    triples                  int64 [M], the triple that the edge stands for
    offsets                  int64 [E + 1], the edges that leave each entity
    """

    heads: Tensor
    relations: Tensor
    tails: Tensor
    rates: Tensor
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
        return cls(heads, relations, tails, counts.float().reciprocal()[place], triples, bounds, num_relations)

    def only(self, kept: Tensor) -> Edges:
        """The edges of the triples that `kept`, bool [M / 2], marks; rates are counted anew."""
        chosen = kept[self.triples]
        parts = (part[chosen] for part in (self.heads, self.relations, self.tails, self.triples))
        return Edges.sorted(*parts, self.num_entities, self.num_relations)

    def to(self, device) -> Edges:
        names = ("heads", "relations", "tails", "rates", "triples", "offsets")
        return Edges(*(getattr(self, name).to(device) for name in names), self.num_relations)

    @property
    def num_entities(self) -> int:
        return len(self.offsets) - 1

    def __len__(self) -> int:
        return len(self.heads)

    @cached_property
    def keys(self) -> Tensor:
        """entity * 2R + relation of the pairs that have an edge, ascending."""
        return torch.unique_consecutive(self.heads * (2 * self.num_relations) + self.relations)

    def has(self, entities: Tensor, relations: Tensor) -> Tensor:
        """Whether an edge of `relations` leaves `entities`: bool, of their shape."""
        wanted = entities * (2 * self.num_relations) + relations
        if not len(self.keys):
            return torch.zeros_like(wanted, dtype=torch.bool)
        return self.keys[torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)] == wanted

    def leaving(self, entities: Tensor) -> Tensor:
        """The edges that leave `entities`, as places."""
        return gather_places(self.offsets, entities)[0]


class Move(Function):
    """(mass [E, B], attention [2R, B]) -> mass after one hop [E, B].

    Only edges that leave an entity with mass are read. Memory: the result and two chunks of 16 MB; nothing of size
    [M, B] is kept for the way back.
    """

    @staticmethod
    def forward(ctx, mass: Tensor, attention: Tensor, edges: Edges) -> Tensor:
        ctx.save_for_backward(mass, attention)
        ctx.edges = edges
        result = torch.zeros_like(mass)
        for places in chunks(active(mass, edges), mass.shape[1]):
            moved = mass[edges.heads[places]].mul_(attention[edges.relations[places]])
            result.index_add_(0, edges.tails[places], moved.mul_(rate(edges, places, mass)))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        mass, attention = ctx.saved_tensors
        edges: Edges = ctx.edges
        g = g.contiguous()
        d_mass = torch.zeros_like(mass) if ctx.needs_input_grad[0] else None
        d_attention = torch.zeros_like(attention)
        # an entity without mass adds nothing to d_attention, but its own gradient is that of all its edges
        used = active(mass, edges) if d_mass is None else torch.arange(len(edges), device=mass.device)
        for places in chunks(used, mass.shape[1]):
            heads, relations = edges.heads[places], edges.relations[places]
            arriving = g[edges.tails[places]].mul_(rate(edges, places, mass))
            d_attention.index_add_(0, relations, arriving * mass[heads])
            if d_mass is not None:
                d_mass.index_add_(0, heads, arriving.mul_(attention[relations]))
        return d_mass, d_attention, None


def active(mass: Tensor, edges: Edges) -> Tensor:
    """Places of the edges that leave an entity with mass in any question."""
    return edges.leaving((mass != 0).any(1).nonzero()[:, 0])


def chunks(places: Tensor, width: int):
    return places.split(max(1, CHUNK // max(width, 1))) if len(places) else ()


def rate(edges: Edges, places: Tensor, like: Tensor) -> Tensor:
    return edges.rates[places].to(like.dtype)[:, None]


@dataclass(frozen=True)
class Links:
    """What fills in for missing edges: the link predictor's tables, and how much of it is asked.

    rows [E, D], relations [R or 2R, W] (2R: row r + R is r turned around), temperature: a factor of the scores;
    pairs: how many missing (entity, relation) pairs a question may ask in a hop.
    """

    rows: Tensor
    relations: Tensor
    score: str
    temperature: Tensor | float = 1.0
    pairs: int = 8

    def queries(self, entities: Tensor, relations: Tensor, num_relations: int) -> Tensor:
        """[P, D] for the pairs (entity, relation of 2R)."""
        spec = reference.find_score(self.score)
        known = self.rows[entities]
        if len(self.relations) == 2 * num_relations:
            return spec.tail_query(known, self.relations[relations])
        row = self.relations[relations % num_relations]
        forward = (relations < num_relations)[:, None]
        return torch.where(forward, spec.tail_query(known, row), spec.head_query(known, row))

    def probabilities(self, entities: Tensor, relations: Tensor, num_relations: int) -> Tensor:
        """p(t | entity, relation) = softmax over all entities of temperature x score: [P, E]."""
        query = self.queries(entities, relations, num_relations).contiguous()
        scores = AllScores.apply(query, self.rows, SIMILARITIES.index(reference.find_score(self.score).similarity))
        return (scores * self.temperature).softmax(1)


def predicted(mass: Tensor, attention: Tensor, edges: Edges, links: Links) -> Tensor:
    """Where mass goes that finds no edge: sum over missing pairs (e, r) of x[e] a[r] p(t | e, r): [E, B].

    Of the pairs without an edge, those `links.pairs` with the most mass, found among the entities and relations with
    the most; the rest is lost. Memory O(B pairs E).
    """
    entities, relations = missing_pairs(mass.detach(), attention.detach(), edges, links.pairs)
    lost = mass.gather(0, entities) * attention.gather(0, relations) * ~edges.has(entities, relations)
    pairs, batch = lost.shape
    flows = links.probabilities(entities.t().flatten(), relations.t().flatten(), edges.num_relations)
    return torch.bmm(lost.t()[:, None], flows.view(batch, pairs, -1))[:, 0].t()


@torch.no_grad()
def missing_pairs(mass: Tensor, attention: Tensor, edges: Edges, pairs: int) -> tuple[Tensor, Tensor]:
    """(entities, relations) [P, B], P <= pairs: the pairs without an edge that most mass would take."""
    weights, entities = mass.topk(min(pairs, len(mass)), dim=0)
    shares, relations = attention.topk(min(4, len(attention)), dim=0)
    shape = (len(entities), len(relations), mass.shape[1])
    each_entity, each_relation = entities[:, None].expand(shape), relations[None].expand(shape)
    lost = weights[:, None] * shares[None] * ~edges.has(each_entity, each_relation)
    best = lost.flatten(0, 1).topk(min(pairs, shape[0] * shape[1]), dim=0).indices
    return each_entity.flatten(0, 1).gather(0, best), each_relation.flatten(0, 1).gather(0, best)


def start(topics: Tensor, num_entities: int, dtype=torch.float32) -> Tensor:
    """All mass at the topic: [E, B]."""
    mass = torch.zeros(num_entities, len(topics), dtype=dtype, device=topics.device)
    return mass.scatter_(0, topics[None], 1.0)


def walk(topics: Tensor, attention: Tensor, edges: Edges, links: Links | None = None) -> list[Tensor]:
    """Mass after 0, 1, .. K hops, each [E, B], for topics [B] and attention [K, 2R, B]."""
    masses = [start(topics, edges.num_entities, attention.dtype)]
    for hop in attention:
        mass = masses[-1]
        moved = Move.apply(mass, hop.contiguous(), edges)
        masses.append(moved if links is None else moved + predicted(mass, hop, edges, links))
    return masses


@dataclass(frozen=True)
class Step:
    """One step of the way to an answer. known: whether it is a triple of the graph, or predicted; share: which part of
    the mass that arrived came this way."""

    head: int
    relation: int
    tail: int
    known: bool
    share: float


@torch.no_grad()
def support(
    answer: int, masses: list[Tensor], attention: Tensor, edges: Edges, links: Links | None = None
) -> list[Step]:
    """The likeliest way to an answer of one question: masses [E, 1] of each hop, attention [K, 2R, 1].

    Backwards from the answer, each step is the edge, known or predicted, that brought the most mass. Triples are as in
    the graph: a step against an edge yields (h, r, t) with the answer's side as its head.
    """
    steps, place, count = [], answer, edges.num_relations
    for mass, hop, arrived in zip(masses[-2::-1], attention.flip(0), masses[:0:-1], strict=True):
        here = (edges.tails == place).nonzero()[:, 0]
        brought = mass[edges.heads[here], 0] * hop[edges.relations[here], 0] * edges.rates[here].to(mass)
        ways = [(edges.heads[here], edges.relations[here], brought, True)]
        if links is not None:
            entities, relations = (ids[:, 0] for ids in missing_pairs(mass, hop, edges, links.pairs))
            lost = mass[entities, 0] * hop[relations, 0] * ~edges.has(entities, relations)
            ways.append((entities, relations, lost * links.probabilities(entities, relations, count)[:, place], False))
        ways = [(float(mass.max()), way, int(mass.argmax())) for way in ways if len(mass := way[2])]
        most, (entities, relations, _, known), best = (
            max(ways, key=lambda way: way[0], default=(0.0, None, 0)) if ways else (0.0, (None, None, None, None), 0)
        )
        if most <= 0:
            return []
        source, relation = int(entities[best]), int(relations[best])
        triple = (source, relation, place) if relation < count else (place, relation - count, source)
        steps.append(Step(*triple, known, most / float(arrived[place, 0])))
        place = source
    return steps[::-1]
