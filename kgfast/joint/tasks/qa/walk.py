"""Following: probability mass walks from the topic along the edges, hop by hop, where the question's attention leads.

Per hop k a question spreads its attention a_k over the 2R relations (r, and r + R for r turned around). Mass at
entity e moves to each of the n(e, r) tails of relation r:

    x_k[t] = sum over edges (e, r, t) of x_{k-1}[e] a_k[r] / n(e, r)        (+ what `Fill` makes of missing edges)

After TransferNet (Shi et al. 2021), whose mass is not divided by n; divided, it is the probability of a random walk.
Mass is stored as [E, B], so that an edge reads and writes B neighbouring numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from kgfast.joint.tasks.qa.edges import Edges
from kgfast.joint.tasks.qa.fill import Fill

CHUNK = 2**22  # numbers of a temporary: edges of a chunk x questions


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
    return edges.counts[places].to(like.dtype).reciprocal()[:, None]


def start(topics: Tensor, num_entities: int, dtype=torch.float32) -> Tensor:
    """All mass at the topic: [E, B]."""
    mass = torch.zeros(num_entities, len(topics), dtype=dtype, device=topics.device)
    return mass.scatter_(0, topics[None], 1.0)


def walk(topics: Tensor, attention: Tensor, edges: Edges, fill: Fill | None = None) -> list[Tensor]:
    """Mass after 0, 1, .. K hops, each [E, B], for topics [B] and attention [K, 2R, B].

    Mass that finds no edge is lost, or goes where `fill` predicts.
    """
    masses = [start(topics, edges.num_entities, attention.dtype)]
    for hop in attention:
        mass, hop = masses[-1], hop.contiguous()
        moved = Move.apply(mass, hop, edges)
        masses.append(moved if fill is None else moved + fill.flow(mass, hop, edges))
    return masses


@dataclass(frozen=True)
class Step:
    """One step of the way to an answer, as a triple of the graph: a step against an edge has its start as the tail.

    known: whether the graph holds it, or it is predicted; share: which part of the mass that arrived came this way.
    """

    head: int
    relation: int
    tail: int
    known: bool
    share: float


@torch.no_grad()
def support(answer: int, masses: list[Tensor], attention: Tensor, edges: Edges, fill: Fill | None = None) -> list[Step]:
    """The likeliest way to an answer of one question, first step first, after len(masses) - 1 hops.

    masses [E, 1] of each hop, attention [K, 2R, 1]. Backwards from the answer, each step is the one, known or
    predicted, that brought the most mass. Empty where none arrived.
    """
    steps, place = [], answer
    for hop in range(len(masses) - 1, 0, -1):
        mass, shares = masses[hop - 1][:, 0], attention[hop - 1][:, 0]
        here = (edges.tails == place).nonzero()[:, 0]
        sources, relations = edges.heads[here], edges.relations[here]
        brought = mass[sources] * shares[relations] / edges.counts[here]
        known = len(brought)
        if fill is not None:
            missing = fill.arrivals(masses[hop - 1], attention[hop - 1], edges, place)
            sources, relations, brought = (
                torch.cat(parts) for parts in zip((sources, relations, brought), missing, strict=True)
            )
        if not len(brought) or float(brought.max()) <= 0:
            return []
        best = int(brought.argmax())
        source, relation = int(sources[best]), int(relations[best])
        inverse = relation >= edges.num_relations
        triple = (place, relation - edges.num_relations, source) if inverse else (source, relation, place)
        steps.append(Step(*triple, best < known, float(brought[best] / masses[hop][place, 0])))
        place = source
    return steps[::-1]
