"""The best answers to (head, relation, ?), (?, relation, tail) or (head, ?, tail), by name."""

import torch

from kgfast.core.known import KnownTriples
from kgfast.data.names import find_by_text
from kgfast.errors import ConfigError
from kgfast.evaluate.metrics import check_model_fits

KNOWN = ("exclude", "mark", "ignore")


@torch.no_grad()
def predict(model, graph, head=None, relation=None, tail=None, k=10, known="exclude"):
    """The k best answers for the one part of a triple that isn't given, best first.

    `head`, `relation` and `tail` are names, or texts that one name has alone; the missing one is asked for.
    `graph` is a KnowledgeGraph. `known` says what happens to answers that the graph already holds: "exclude"
    leaves them out, "mark" keeps them with known=True, "ignore" doesn't look (then `graph` may be an id map
    without triples, and known is None).

    Returns a list of dicts rank, id, name, label, score, known; shorter than k where fewer answers remain.
    Memory: O(k). Raises ConfigError on wrong arguments, DataError on unknown names, with the nearest ones.
    """
    given = {"head": head, "relation": relation, "tail": tail}
    missing = [part for part, name in given.items() if name is None]
    if len(missing) != 1:
        got = ", ".join(slot for slot in given if slot not in missing) or "none"
        raise ConfigError(f"predict needs two of head, relation and tail, got {got}")
    if k < 1:
        raise ConfigError(f"k={k}: must be at least 1")
    if known not in KNOWN:
        raise ConfigError(f"known={known!r}: must be one of {', '.join(KNOWN)}")
    check_model_fits(model, graph)
    part = missing[0]
    query = [0 if name is None else find_id(graph, slot, name) for slot, name in given.items()]
    held = set() if known == "ignore" else known_answers(graph, query, part)
    ask = best_relations if part == "relation" else best_entities
    scores, ids = ask(model, graph, query, part, k, held if known == "exclude" else ())
    return [
        {
            "rank": rank,
            "id": answer,
            "name": str((graph.relation_names if part == "relation" else graph.entity_names)[answer]),
            "label": relation_label(graph, answer) if part == "relation" else graph.label(answer),
            "score": score,
            "known": None if known == "ignore" else answer in held,
        }
        for rank, (score, answer) in enumerate(zip(scores, ids, strict=True), start=1)
    ]


def find_id(graph, slot, name):
    """The id of a name, or of the one entity or relation that has it for its text; DataError otherwise."""
    kind = "relation" if slot == "relation" else "entity"
    return find_by_text(slot, name, getattr(graph, f"{kind}_names"), getattr(graph, f"{kind}_text", None))


def known_answers(graph, query, part):
    """The ids that complete `query` to a triple of the graph (all splits)."""
    slot = ("head", "relation", "tail").index(part)
    others = [column for column in range(3) if column != slot]
    held = set()
    for triples in (graph.train, graph.valid, graph.test):
        fits = (triples[:, others[0]] == query[others[0]]) & (triples[:, others[1]] == query[others[1]])
        held.update(triples[fits, slot].tolist())
    return held


def best_entities(model, graph, query, part, k, left_out):
    device = model.entities.device
    rows = torch.tensor([query], dtype=torch.int64)
    exclude = None
    if left_out:
        complete = rows.repeat(len(left_out), 1)
        complete[:, 0 if part == "head" else 2] = torch.tensor(sorted(left_out))
        exclude = KnownTriples.from_triples(complete, graph.num_entities, graph.num_relations).to(device)
    k = min(k, graph.num_entities)
    scores, ids = (values[0].tolist() for values in model.topk(rows.to(device), k, part, exclude=exclude))
    remaining = sum(answer >= 0 for answer in ids)
    return scores[:remaining], ids[:remaining]


def best_relations(model, graph, query, part, k, left_out):
    triples = torch.tensor([query], dtype=torch.int64).repeat(graph.num_relations, 1)
    triples[:, 1] = torch.arange(graph.num_relations)
    scores = model.score_triples(triples.to(model.entities.device)).double().cpu()
    scores[list(left_out)] = -torch.inf
    scores, ids = torch.sort(scores, descending=True, stable=True)
    count = min(k, graph.num_relations - len(left_out))
    return scores[:count].tolist(), ids[:count].tolist()


def relation_label(graph, relation):
    texts = getattr(graph, "relation_text", None)  # an id map has names alone
    return (texts[relation] if texts else None) or str(graph.relation_names[relation])
