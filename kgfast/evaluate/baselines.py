"""What ranks mean: the same queries ranked without a model, by frequency and by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kgfast.core.known import KnownTriples
from kgfast.data import KnowledgeGraph
from kgfast.evaluate.measures import HITS, HITS_AT, summarize

SLOT = {"head": 0, "tail": 2}
AT_ONCE = 1 << 22  # known answers that are looked at together
EULER = 0.5772156649015329


def baselines(
    graph: KnowledgeGraph, triples: Tensor, known: KnownTriples, hits: Sequence[int] = HITS
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """({"frequency": metrics, "chance": metrics}, the ranks {side: [M]} by frequency) of filtered queries.

    frequency  candidates by how often train has them on this side of the relation; those it never has share the rest
    chance     what guessing is expected to reach:  mrr = mean(H(n) / n)    hits@k = mean(min(k, n) / n)
               mean_rank = mean((n + 1) / 2)        with n candidates that aren't filtered
    """
    ranks, left = {}, []
    for side in ("tail", "head"):
        ranks[side], count = frequency_ranks(graph, triples, known, side)
        left.append(count)
    counts = torch.cat(left).double()
    by_frequency = summarize(torch.cat([*ranks.values()]), (counts + 1) / 2, hits)
    return {"frequency": by_frequency, "chance": guessing(counts, hits)}, ranks


def guessing(count: Tensor, hits: Sequence[int] = HITS) -> dict[str, float]:
    """Expected metrics of guesses among float64 `count` [n] candidates each."""
    found = {"mrr": float(((torch.digamma(count + 1) + EULER) / count).mean())}
    found |= {f"{HITS_AT}{k}": float((count.clamp(max=k) / count).mean()) for k in hits}
    return found | {"mean_rank": float((count + 1).mean() / 2), "amr": 1.0, "amri": 0.0}


def frequency_ranks(graph: KnowledgeGraph, triples: Tensor, known: KnownTriples, side: str) -> tuple[Tensor, Tensor]:
    """(the filtered ranks of the right answers by frequency, float64 [M], ties counting as the mean; how many
    candidates each has, int64 [M])."""
    frequency = Frequency(graph, SLOT[side])
    relation, answer = triples[:, 1], triples[:, SLOT[side]]
    own = frequency.of(relation, answer)
    above, equal = frequency.above_and_equal(relation, own)
    starts, ends = known.lookup(triples, side)
    sizes = ends - starts
    left = graph.num_entities - sizes + 1
    for rows in groups(sizes):
        owner = rows.repeat_interleave(sizes[rows])
        within = torch.arange(len(owner)) - (sizes[rows].cumsum(0) - sizes[rows]).repeat_interleave(sizes[rows])
        others = known.ids(side)[starts[owner] + within]
        owner, others = owner[others != answer[owner]], others[others != answer[owner]]
        found = frequency.of(relation[owner], others)
        above.index_add_(0, owner, -(found > own[owner]).long())
        equal.index_add_(0, owner, -(found == own[owner]).long())
    return 1 + above.double() + (equal.double() - 1) / 2, left


class Frequency:
    """How often train has an entity in a slot of a relation."""

    def __init__(self, graph: KnowledgeGraph, slot: int):
        train, self.num_entities = graph.train.cpu(), graph.num_entities
        self.keys, self.counts = torch.unique(train[:, 1] * self.num_entities + train[:, slot], return_counts=True)
        self.step = len(train) + 1  # no count reaches it
        self.ladder = (self.keys // self.num_entities * self.step + self.counts).sort().values  # by relation, by count

    def of(self, relation: Tensor, entity: Tensor) -> Tensor:
        key = relation * self.num_entities + entity
        place = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == key, self.counts[place], 0)

    def above_and_equal(self, relation: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """How many entities are more frequent than `count`, and how many are as frequent: int64 [n] each."""
        first, last = (torch.searchsorted(self.ladder, (relation + more) * self.step) for more in (0, 1))
        low = torch.searchsorted(self.ladder, relation * self.step + count)
        high = torch.searchsorted(self.ladder, relation * self.step + count, right=True)
        return last - high, torch.where(count > 0, high - low, self.num_entities - (last - first))


def groups(sizes: Tensor) -> list[Tensor]:
    """Rows in order, parted so that sizes in a part add up to AT_ONCE, or it is a single row."""
    part = sizes.cumsum(0) // AT_ONCE
    return list(torch.arange(len(sizes)).split(torch.unique_consecutive(part, return_counts=True)[1].tolist()))
