"""Single queries that say more than a mean: right at once where that was hard, and furthest off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kgfast.data import KnowledgeGraph

SHOWN = 6  # of either kind
LOOKED_AT = 1000  # rows, for those that differ


def examples(
    graph: KnowledgeGraph, triples: Tensor, ranks: Mapping[str, Tensor], by_frequency: Mapping[str, Tensor]
) -> dict[str, list[dict[str, Any]]]:
    """{"best": queries that the model ranks first, those first that frequency ranks worst; "worst": the highest ranks}.

    Each is a dict: triple (names), ids, side (which is asked for), rank, by_frequency (that rank).
    """
    rank, frequency = (torch.cat([found["tail"], found["head"]]) for found in (ranks, by_frequency))
    first = (rank == 1).nonzero()[:, 0]
    later = (rank > 1).nonzero()[:, 0]
    best = first[frequency[first].argsort(descending=True, stable=True)]
    worst = later[rank[later].argsort(descending=True, stable=True)]

    def told(place: int) -> dict[str, Any]:
        side = "tail" if place < len(triples) else "head"
        head, relation, tail = ids = triples[place % len(triples)].tolist()
        names = [str(graph.entity_names[head]), str(graph.relation_names[relation]), str(graph.entity_names[tail])]
        return {
            "triple": names, "ids": ids, "side": side,
            "rank": float(rank[place]), "by_frequency": float(frequency[place]),
        }  # fmt: skip

    return {
        name: [told(place) for place in varied(places, triples[:, 1])]
        for name, places in (("best", best), ("worst", worst))
    }


def varied(places: Tensor, relations: Tensor) -> list[int]:
    """SHOWN of places in [0, 2 M), the first ones, of each relation and side one before there are two of any."""
    looked, count = places[:LOOKED_AT].tolist(), len(relations)
    firsts: dict[tuple[int, bool], int] = {}
    for place in looked:
        firsts.setdefault((int(relations[place % count]), place < count), place)
    first = set(firsts.values())
    return sorted([*firsts.values(), *(place for place in looked if place not in first)][:SHOWN], key=looked.index)
