"""The best answers to (head, relation, ?), (?, relation, tail) or (head, ?, tail), by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.core.known import KnownTriples
from kgfast.data.names import find_by_text
from kgfast.errors import ConfigError
from kgfast.evaluate.held import Held
from kgfast.evaluate.metrics import check_model_fits

if TYPE_CHECKING:
    from kgfast.nn import KGEModel

SLOTS = ("head", "relation", "tail")
KNOWN = ("exclude", "mark", "ignore")


class Searcher(Protocol):
    """What finds the best entities: a model, exactly, or an index of its rows."""

    def topk(
        self, triples: Tensor, k: int, side: str, exclude: KnownTriples | None = None
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Query:
    """The ids of a triple whose part `slot` (0 head, 1 relation, 2 tail) is asked for and has id 0."""

    ids: tuple[int, int, int]
    slot: int

    @classmethod
    def of(cls, graph: Any, head: str | None = None, relation: str | None = None, tail: str | None = None) -> Query:
        """From two names; ConfigError where it isn't two, DataError with the nearest names for an unknown one."""
        given = (head, relation, tail)
        missing = [slot for slot, name in enumerate(given) if name is None]
        if len(missing) != 1:
            got = ", ".join(SLOTS[slot] for slot in range(3) if slot not in missing) or "none"
            raise ConfigError(f"predict needs two of head, relation and tail, got {got}")
        ids = [0 if name is None else find_id(graph, slot, name) for slot, name in zip(SLOTS, given, strict=True)]
        return cls((ids[0], ids[1], ids[2]), missing[0])

    @property
    def own(self) -> int | None:
        """The entity that the query names, where it names one."""
        return None if self.slot == 1 else self.ids[2 - self.slot]


def predict(
    model: KGEModel,
    graph: Any,
    head: str | None = None,
    relation: str | None = None,
    tail: str | None = None,
    k: int = 10,
    known: str = "exclude",
    loops: bool | None = None,
) -> list[dict[str, Any]]:
    """The k best answers for the one part of a triple that isn't given, best first.

    head, relation, tail  names, or texts that one name has alone; the missing one is asked for
    graph  a KnowledgeGraph
    known  what happens to answers that the graph already holds: "exclude" leaves them out, "mark" keeps them with
           known=True and the split that has them, "ignore" doesn't look (then `graph` may be an id map without triples,
           and known is None)
    loops  whether the entity of the query may be its own answer; None: where a training triple of the relation leads
           from an entity to itself, or where `graph` isn't looked at

    Returns a list of dicts rank, id, name, label, score, known (and split); shorter than k where fewer answers remain.
    Memory: O(k). Raises ConfigError on wrong arguments, DataError on unknown names, with the nearest ones.
    """
    check_model_fits(model, graph)
    return predict_all(model, graph, [Query.of(graph, head, relation, tail)], k, known, loops)[0]


@torch.no_grad()
def predict_all(
    model: KGEModel,
    graph: Any,
    queries: Sequence[Query],
    k: int = 10,
    known: str = "exclude",
    loops: bool | None = None,
    held: Held | None = None,
    searcher: Searcher | None = None,
) -> list[list[dict[str, Any]]]:
    """`predict` of many queries, in one fused call for each part that is asked for. `held`: the graph's, kept by those
    who ask again; `searcher`: who finds the best entities, by default the model."""
    if checks.integer("k", k, 0) < 1:
        raise ConfigError(f"k={k}: must be at least 1")
    for place, query in enumerate(checks.rows("queries", queries)):
        if not isinstance(query, Query):
            raise ConfigError(f"queries[{place}] must be a query of names, as `query` makes it, not {query!r}")
    if not isinstance(known, str) or known not in KNOWN:
        raise ConfigError(f"known={known!r}: must be one of {', '.join(KNOWN)}")
    loops = None if loops is None else checks.flag("loops", loops)
    check_model_fits(model, graph)
    held = None if known == "ignore" else held or Held(graph)
    answers = [{} if held is None else held.answers(query.ids, query.slot) for query in queries]
    left_out = [set(found) if known == "exclude" else set() for found in answers]
    for query, found, out in zip(queries, answers, left_out, strict=True):
        looped = loops if loops is not None else held is None or query.ids[1] in held.loops
        if query.own is not None and query.own not in found and not looped:
            out.add(query.own)
    best: dict[int, tuple[list[float], list[int]]] = {}
    for slot in range(3):
        places = [place for place, query in enumerate(queries) if query.slot == slot]
        if places:
            rows, outs = [queries[place].ids for place in places], [left_out[place] for place in places]
            if slot == 1:
                results = best_relations(model, graph, rows, slot, k, outs)
            else:
                results = best_entities(model, graph, rows, slot, k, outs, searcher or model)
            best.update(zip(places, results, strict=True))
    return [
        described(graph, query.slot == 1, *best[place], None if held is None else found, known == "mark")
        for place, (query, found) in enumerate(zip(queries, answers, strict=True))
    ]


def described(
    graph: Any,
    relations: bool,
    scores: list[float],
    ids: list[int],
    known: Mapping[int, str] | None,
    with_splits: bool = False,
) -> list[dict[str, Any]]:
    """Answers as people read them; `known`: the split that holds each known answer."""
    return [
        {
            "rank": rank,
            "id": answer,
            "name": str((graph.relation_names if relations else graph.entity_names)[answer]),
            "label": relation_label(graph, answer) if relations else graph.label(answer),
            "score": score,
            "known": None if known is None else answer in known,
            **({"split": (known or {}).get(answer)} if with_splits else {}),
        }
        for rank, (score, answer) in enumerate(zip(scores, ids, strict=True), start=1)
    ]


def find_id(graph: Any, slot: str, name: str) -> int:
    """The id of a name, or of the one entity or relation that has it for its text; DataError otherwise."""
    kind = "relation" if slot == "relation" else "entity"
    return find_by_text(slot, name, getattr(graph, f"{kind}_names"), getattr(graph, f"{kind}_text", None))


Found = list[tuple[list[float], list[int]]]  # for each query: scores and ids, best first


def best_entities(
    model: KGEModel, graph: Any, queries: list[tuple[int, int, int]], slot: int, k: int, left_out: list[set[int]],
    searcher: Searcher,
) -> Found:  # fmt: skip
    device, rows = model.entities.device, torch.tensor(queries, dtype=torch.int64)
    exclude = None
    if any(left_out):
        counts = torch.tensor([len(out) for out in left_out])
        complete = rows.repeat_interleave(counts, 0)
        complete[:, slot] = torch.tensor([answer for out in left_out for answer in sorted(out)], dtype=torch.int64)
        exclude = KnownTriples.from_triples(complete, graph.num_entities, graph.num_relations).to(device)
    found = searcher.topk(rows.to(device), min(k, graph.num_entities), SLOTS[slot], exclude=exclude)
    results: Found = []
    for scores, ids in zip(*(values.tolist() for values in found), strict=True):
        remaining = sum(answer >= 0 for answer in ids)
        results.append((scores[:remaining], ids[:remaining]))
    return results


def best_relations(
    model: KGEModel, graph: Any, queries: list[tuple[int, int, int]], slot: int, k: int, left_out: list[set[int]]
) -> Found:
    count = graph.num_relations
    triples = torch.tensor(queries, dtype=torch.int64).repeat_interleave(count, 0)
    triples[:, slot] = torch.arange(count).repeat(len(queries))
    results: Found = []
    for scores, out in zip(
        model.score_triples(triples.to(model.entities.device)).double().cpu().view(-1, count), left_out, strict=True
    ):
        scores[list(out)] = -torch.inf
        scores, ids = torch.sort(scores, descending=True, stable=True)
        remaining = min(k, count - len(out))
        results.append((scores[:remaining].tolist(), ids[:remaining].tolist()))
    return results


def relation_label(graph: Any, relation: int) -> str:
    texts = getattr(graph, "relation_text", None)  # an id map has names alone
    return (texts[relation] if texts else None) or str(graph.relation_names[relation])
