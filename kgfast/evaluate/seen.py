"""Metrics by how much of a query training saw: the entity and the relation that are known, together and one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kgfast.evaluate.measures import summarize

SHOWN = ("mrr", "hits@10")
TOGETHER = ("together", "apart", "one", "none")
WORDS = {
    "query": "query in train", "relation": "triples of the relation", "anchor": "triples of the entity",
}  # fmt: skip
TIMES = {"0": 0, "1-9": 1, "10-99": 10, "100-999": 100, "1000+": 1000}  # each bucket's least


def by_seen(graph: Any, triples: Tensor, ranks: Mapping[str, Tensor]) -> dict[str, dict[str, dict[str, Any]]]:
    """{what: {bucket: METRICS}} of queries (head, relation, ?) and (?, relation, tail), the empty buckets left out.

    query     "together": some triple of train has this entity on this side of this relation; "apart": train has both,
              never so; "one": train has only the entity or only the relation; "none": neither
    relation  by how many triples of train have the relation: "0", "1-9", "10-99", "100-999", "1000+"
    anchor    by how many triples of train have the known entity, at either end (those at both ends count twice)

    Every query is in one bucket of each. METRICS are queries, mrr and hits@10 over both sides, and the same under
    "tail" and "head" where that side has such queries. Of train itself all queries are "together".
    """
    triples, train = triples.cpu(), graph.train.cpu()
    relations = torch.bincount(train[:, 1], minlength=graph.num_relations)
    entities = torch.bincount(train[:, [0, 2]].flatten(), minlength=graph.num_entities)
    of_relation = relations[triples[:, 1]]
    places: dict[str, dict[str, Tensor]] = {"query": {}, "relation": {}, "anchor": {}}
    for side, anchor in (("tail", 0), ("head", 2)):
        of_anchor = entities[triples[:, anchor]]
        lacking = (of_anchor == 0).long() + (of_relation == 0).long()
        apart = ~together(train, triples, anchor, graph.num_entities)
        places["query"][side] = torch.where(lacking > 0, 1 + lacking, apart.long())
        places["relation"][side], places["anchor"][side] = times(of_relation), times(of_anchor)
    names = {"query": TOGETHER, "relation": tuple(TIMES), "anchor": tuple(TIMES)}
    return {what: dict(groups(ranks, found, names[what])) for what, found in places.items()}


def together(train: Tensor, triples: Tensor, anchor: int, num_entities: int) -> Tensor:
    """bool [M]: whether train has a triple with the same relation and, in column `anchor`, the same entity."""
    asked, place = torch.unique(triples[:, 1] * num_entities + triples[:, anchor], return_inverse=True)
    there = train[:, 1] * num_entities + train[:, anchor]
    near = torch.searchsorted(asked, there).clamp_(max=max(len(asked) - 1, 0))
    seen = torch.zeros(len(asked), dtype=torch.bool)
    seen[near[asked[near] == there]] = True
    return seen[place]


def times(counts: Tensor) -> Tensor:
    """The place in TIMES of each count."""
    return torch.bucketize(counts, torch.tensor(list(TIMES.values())), right=True) - 1


def groups(
    ranks: Mapping[str, Tensor], places: Mapping[str, Tensor], names: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, METRICS) of the buckets that have queries."""
    for number, name in enumerate(names):
        chosen = {side: ranks[side][places[side] == number] for side in ("tail", "head")}
        whole = torch.cat(list(chosen.values()))
        if len(whole):
            sides = {side: metrics(values) for side, values in chosen.items() if len(values)}
            yield name, metrics(whole) | sides


def metrics(ranks: Tensor) -> dict[str, Any]:
    found = summarize(ranks)
    return {"queries": len(ranks), **{name: found[name] for name in SHOWN}}
