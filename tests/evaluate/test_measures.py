"""Adjusted mean ranks, any hits@k, and metrics by what training saw, each against its definition in NumPy."""

import numpy as np
import pytest
import torch

from kgfast.data import KnowledgeGraph
from kgfast.errors import KgfastError
from kgfast.evaluate.measures import heading, headings, summarize
from kgfast.evaluate.metrics import evaluate
from kgfast.nn import KGEModel

ENTITIES, RELATIONS, UNSEEN = 30, 5, 2  # the last entities and the last relation are not in train
SIDES = {"tail": (0, 2), "head": (2, 0)}  # where the known entity and the answer stand


def graph_of(seed):
    """Few entities and many triples, so that queries have several answers; frequencies fall."""
    random = np.random.default_rng(seed)

    def draw(count, entities, relations):
        ends = (entities * random.random((count, 2)) ** 2).astype(np.int64)
        return np.stack([ends[:, 0], random.integers(relations, size=count), ends[:, 1]], 1)

    train = np.concatenate([draw(200, ENTITIES - UNSEEN, RELATIONS - 1), draw(5, ENTITIES - UNSEEN, 1)])
    test = np.concatenate([draw(60, ENTITIES - UNSEEN, RELATIONS), draw(40, ENTITIES, RELATIONS)])
    test = np.concatenate([test, [[ENTITIES - 1, RELATIONS - 1, 0]]])
    return KnowledgeGraph.from_arrays(train, draw(30, ENTITIES, RELATIONS - 1), test, ENTITIES, RELATIONS)


def brute(graph, model, among=None):
    """{side: (ranks, competitors)} one query at a time; `among`: the entities that compete beside the right one."""
    known = {tuple(row) for split in ("train", "valid", "test") for row in getattr(graph, split).tolist()}
    found = {}
    for side, (_, answer) in SIDES.items():
        scores = model.score_candidates(graph.test, side).detach().numpy()
        ranks, sizes = [], []
        for row, own in zip(scores, graph.test.tolist(), strict=True):
            others = []
            for entity in range(ENTITIES) if among is None else among:
                triple = list(own)
                triple[answer] = entity
                if entity != own[answer] and tuple(triple) not in known:
                    others.append(row[entity])
            target = row[own[answer]]
            ranks.append(1 + np.sum(np.array(others) > target) + np.sum(np.array(others) == target) / 2)
            sizes.append(1 + len(others))
        found[side] = np.array(ranks), np.array(sizes)
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("candidates", [None, 9])
def test_adjusted_mean_ranks_are_those_of_the_definition(seed, candidates):
    graph = graph_of(seed)
    model = KGEModel(ENTITIES, RELATIONS, 4, score="distmult", init_scale=1.0, seed=seed)
    with torch.no_grad():
        model.entities[3] = model.entities[7]  # ties
    among, prefix = None, ""
    if candidates:
        order = torch.randperm(ENTITIES, generator=torch.Generator().manual_seed(seed))
        among, prefix = order[:candidates].sort().values.tolist(), "sampled_"
    found = evaluate(model, graph, candidates=candidates, seed=seed, hits=[1, 5, 50], batch_size=7)
    sides = brute(graph, model, among)
    sides["both"] = tuple(np.concatenate(parts) for parts in zip(sides["tail"], sides["head"], strict=True))
    for side, (ranks, sizes) in sides.items():
        part = found if side == "both" else found[side]
        expected = np.mean([(1 + size) / 2 for size in sizes])
        assert part[f"{prefix}amr"] == pytest.approx(ranks.mean() / expected, abs=1e-12)
        assert part[f"{prefix}amri"] == pytest.approx(1 - (ranks.mean() - 1) / (expected - 1), abs=1e-12)
        for k in (1, 5, 50):
            assert part[f"{prefix}hits@{k}"] == pytest.approx(np.mean(ranks <= k), abs=1e-12)
        assert f"{prefix}hits@10" not in part


def test_what_chance_and_perfection_get():
    graph = graph_of(0)
    model = KGEModel(ENTITIES, RELATIONS, 4, score="distmult")
    with torch.no_grad():
        model.entities.fill_(1.0)  # all tie, and a tie counts half
    found = evaluate(model, graph)
    assert found["amr"] == pytest.approx(1, abs=1e-12) and found["amri"] == pytest.approx(0, abs=1e-12)
    ones, fives = torch.ones(4, dtype=torch.float64), torch.full((4,), 5.0, dtype=torch.float64)
    assert summarize(ones, fives)["amri"] == 1.0 and summarize(ones, fives)["amr"] == 0.2
    assert summarize(ones, ones) | {"amr": 1.0, "amri": 0.0} == summarize(ones, ones)  # nothing else competes
    assert "amr" not in summarize(ones)


def bucket(count):
    return next(
        name
        for name, least in (("1000+", 1000), ("100-999", 100), ("10-99", 10), ("1-9", 1), ("0", 0))
        if count >= least
    )


@pytest.mark.parametrize("seed", range(3))
def test_by_seen_is_that_of_the_definition(seed):
    graph = graph_of(seed)
    model = KGEModel(ENTITIES, RELATIONS, 4, score="complex", init_scale=1.0, seed=seed)
    found = evaluate(model, graph, seen=True)["by_seen"]
    train = graph.train.tolist()
    queries = {"query": [], "relation": [], "anchor": []}
    for side, (anchor, _) in SIDES.items():
        for triple, rank in zip(graph.test.tolist(), brute(graph, model)[side][0], strict=True):
            entity, relation = triple[anchor], triple[1]
            times = sum(row[0] == entity for row in train) + sum(row[2] == entity for row in train)
            of_relation = sum(row[1] == relation for row in train)
            if any(row[1] == relation and row[anchor] == entity for row in train):
                name = "together"
            else:
                name = {2: "apart", 1: "one", 0: "none"}[(times > 0) + (of_relation > 0)]
            for what, its in (("query", name), ("relation", bucket(of_relation)), ("anchor", bucket(times))):
                queries[what].append((its, side, rank))
    assert {name for name, _, _ in queries["query"]} == {"together", "apart", "one", "none"}
    for what, rows in queries.items():
        assert set(found[what]) == {name for name, _, _ in rows}
        for name, part in found[what].items():
            for side in ("both", "tail", "head"):
                ranks = np.array([rank for its, at, rank in rows if its == name and side in (at, "both")])
                its = part if side == "both" else part.get(side, {"queries": 0})
                assert its["queries"] == len(ranks)
                if len(ranks):
                    assert its["mrr"] == pytest.approx(np.mean(1 / ranks), abs=1e-12)
                    assert its["hits@10"] == pytest.approx(np.mean(ranks <= 10), abs=1e-12)


def test_of_train_all_is_seen_together():
    graph = graph_of(1)
    model = KGEModel(ENTITIES, RELATIONS, 4, score="distmult")
    assert list(evaluate(model, graph, "train", seen=True)["by_seen"]["query"]) == ["together"]


@pytest.mark.parametrize("wrong", [[], [0], [1.5], "1,3", 3, [True]])
def test_wrong_hits_are_named(wrong):
    graph = graph_of(0)
    with pytest.raises(KgfastError, match="hits"):
        evaluate(KGEModel(ENTITIES, RELATIONS, 4, score="distmult"), graph, hits=wrong)


def test_headings():
    assert (heading("hits@50"), heading("amri"), heading("triples")) == ("Hits@50", "AMRI", None)
    names = ["sampled_mrr", "sampled_hits@5", "triples", "of"]
    assert headings(dict.fromkeys(names), "sampled_") == {"sampled_mrr": "MRR", "sampled_hits@5": "Hits@5"}
