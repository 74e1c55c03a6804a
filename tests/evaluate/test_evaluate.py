"""Metrics against a ranking written out in plain Python, and the parts they fall into."""

import pytest
import torch

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError, KgfastError
from kgfast.evaluate.metrics import evaluate, histogram, relation_categories
from kgfast.evaluate.sampled import SampledRanks
from kgfast.nn import KGEModel
from kgfast.reference import score_candidates


def random_graph(entities=23, relations=4, seed=0):
    """Dense enough for queries with several answers; entity 22 occurs in test alone."""
    random = torch.Generator().manual_seed(seed)

    def draw(count, limit=entities - 1):
        ends = torch.randint(limit, (count, 2), generator=random)
        return torch.stack([ends[:, 0], torch.randint(relations, (count,), generator=random), ends[:, 1]], 1)

    test = torch.cat([draw(30), torch.tensor([[22, 0, 1], [2, 1, 22]])])
    return KnowledgeGraph.from_arrays(draw(150), draw(30), test, entities, relations)


def plain_ranks(model, graph, triples, side):
    """Filtered realistic ranks, one query at a time in float64, from the definition."""
    everything = {tuple(row) for split in (graph.train, graph.valid, graph.test) for row in split.tolist()}
    column = 0 if side == "head" else 2
    found = []
    for row in triples.tolist():
        query, at = torch.tensor([row]), side
        if model.reciprocal and side == "head":
            query, at = torch.tensor([[row[2], row[1] + graph.num_relations, row[0]]]), "tail"
        tables = model.entities.detach().double(), model.relations.detach().double()
        scores = score_candidates(*tables, query, score=model.score, side=at)[0].tolist()
        own, greater, equal = scores[row[column]], 0, 0
        for candidate, score in enumerate(scores):
            other = tuple(candidate if place == column else value for place, value in enumerate(row))
            if candidate != row[column] and other not in everything:
                greater, equal = greater + (score > own), equal + (score == own)
        found.append(1 + greater + equal / 2)
    return found


@pytest.mark.parametrize(
    ("score", "reciprocal"), [("transe_l1", False), ("distmult", False), ("complex", True), ("rotate", False)]
)
def test_metrics_are_those_of_the_definition(score, reciprocal):
    graph = random_graph()
    model = KGEModel(23, 4, 8, score=score, reciprocal=reciprocal, init_scale=1.0, seed=3)
    found = evaluate(model, graph, batch_size=7)
    sides = {side: plain_ranks(model, graph, graph.test, side) for side in ("tail", "head")}
    for part, ranks in (
        (found, sides["tail"] + sides["head"]),
        (found["tail"], sides["tail"]),
        (found["head"], sides["head"]),
    ):
        assert part["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks), abs=1e-9)
        assert part["mean_rank"] == pytest.approx(sum(ranks) / len(ranks), abs=1e-9)
        for k in (1, 3, 10):
            assert part[f"hits@{k}"] == pytest.approx(sum(rank <= k for rank in ranks) / len(ranks), abs=1e-9)
    assert found["triples"] == len(graph.test)


def test_a_model_that_knows_nothing_gets_the_mean_rank():
    graph = KnowledgeGraph.from_arrays([[0, 0, 1]], test=[[2, 0, 3]], num_entities=11)
    model = KGEModel(11, 1, 4, score="distmult")
    with torch.no_grad():
        model.entities.fill_(1.0)
    assert evaluate(model, graph)["mean_rank"] == 6.0  # among eleven that tie
    assert evaluate(model, graph, ties="optimistic")["mean_rank"] == 1.0
    assert evaluate(model, graph, ties="pessimistic")["mean_rank"] == 11.0


def test_other_known_answers_are_left_out():
    graph = KnowledgeGraph.from_arrays([[0, 0, 1]], [[0, 0, 2]], [[0, 0, 3]], num_entities=5)
    model = KGEModel(5, 1, 1, score="transe_l1")
    with torch.no_grad():
        model.relations.fill_(0.0)
        model.entities[:, 0] = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.9])
    # 0 itself is nearest to the query, 1 and 2 are known, 3 is asked for
    assert evaluate(model, graph)["tail"]["mean_rank"] == 2.0


def test_relation_categories_after_bordes():
    one, fan = [[0, 0, 1], [2, 0, 3]], [[0, 1, tail] for tail in range(1, 4)]
    into, many = [[head, 2, 0] for head in range(1, 4)], [[h, 3, t] for h in (0, 1) for t in (2, 3)]
    graph = KnowledgeGraph.from_arrays(one + fan + into + many, num_relations=5)
    assert relation_categories(graph) == ["1-1", "1-n", "n-1", "n-n", "not in train"]
    at_threshold = KnowledgeGraph.from_arrays([[0, 0, 1], [0, 0, 2], [3, 0, 4]])  # 1.5 tails a head
    assert relation_categories(at_threshold) == ["1-n"]


def test_details_add_up_to_the_whole():
    graph = random_graph()
    model = KGEModel(23, 4, 8, score="complex", init_scale=1.0)
    found = evaluate(model, graph, details=True)
    for parts in (found["per_relation"], found["per_category"].values(), found["entities"].values()):
        assert sum(part["triples"] for part in parts) == len(graph.test)
        for key in ("mrr", "hits@10"):
            mean = sum(part[key] * part["triples"] for part in parts) / len(graph.test)
            assert mean == pytest.approx(found[key], abs=1e-12)
            for side in ("head", "tail"):
                mean = sum(part[side][key] * part["triples"] for part in parts) / len(graph.test)
                assert mean == pytest.approx(found[side][key], abs=1e-12)
    assert found["entities"]["unseen"]["triples"] == 2
    counts = [part["triples"] for part in found["per_relation"]]
    assert counts == sorted(counts, reverse=True)
    assert sum(found["histogram"]["tail"]) == sum(found["histogram"]["head"]) == len(graph.test)
    first = found["histogram"]["tail"][0] / len(graph.test)
    assert first == found["tail"]["hits@1"] or first > found["tail"]["hits@1"]  # 1.5 lies in the first bin


def test_histogram_bins():
    ranks = {"tail": torch.tensor([1.0, 1.5, 3.0, 9.0, 10.0, 99.0, 100.0], dtype=torch.float64)}
    found = histogram(ranks, 100)
    assert found == {"edges": [1, 2, 3, 4, 10, 30, 100, 300], "tail": [2, 0, 1, 1, 1, 1, 1]}


def test_progress_and_mode():
    graph = random_graph()
    model = KGEModel(23, 4, 8, score="distmult").train()
    calls = []
    evaluate(model, graph, batch_size=10, progress=lambda done, total: calls.append((done, total)))
    total = 2 * len(graph.test)
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert model.training


def test_a_diverged_model_is_refused():
    graph = random_graph()
    for table in ("entities", "relations"):
        model = KGEModel(23, 4, 8, score="distmult")
        with torch.no_grad():
            getattr(model, table)[1, 2] = torch.nan
        with pytest.raises(KgfastError, match=f"model.{table} has 1 rows that aren't finite"):
            evaluate(model, graph)
    model = KGEModel(23, 4, 8, score="distmult")
    with torch.no_grad():
        model.entities.fill_(3e38)
        model.relations.fill_(3e38)
    with pytest.raises(KgfastError, match="isn't finite"):
        evaluate(model, graph)


def test_wrong_arguments_are_named():
    graph = random_graph()
    model = KGEModel(23, 4, 8, score="distmult")
    with pytest.raises(ConfigError, match="split='tset'"):
        evaluate(model, graph, "tset")
    with pytest.raises(ConfigError, match="ties='mean'"):
        evaluate(model, graph, ties="mean")
    with pytest.raises(ConfigError, match="batch_size=0"):
        evaluate(model, graph, batch_size=0)
    with pytest.raises(DataError, match="num_entities = 24"):
        evaluate(KGEModel(24, 4, 8, score="distmult"), graph)
    bare = KnowledgeGraph.from_arrays(graph.train, num_entities=23, num_relations=4)
    with pytest.raises(DataError, match="no test triples to evaluate; it has: train"):
        evaluate(model, bare)


def spread_graph():
    """400 test triples over 60 entities, of a model of which nothing is known: ranks of all sizes."""
    random = torch.Generator().manual_seed(5)
    triples = torch.stack([torch.randint(high, (900,), generator=random) for high in (60, 3, 60)], 1).unique(dim=0)
    return KnowledgeGraph.from_arrays(triples[::2], None, triples[1::2], 60, 3)


def test_some_triples_stand_for_all():
    graph, model = spread_graph(), KGEModel(60, 3, 8, score="distmult", init_scale=1.0, seed=1)
    whole = evaluate(model, graph)
    some = evaluate(model, graph, triples=100, seed=4)
    assert (some["triples"], some["of"], some["seed"]) == (100, len(graph.test), 4)
    assert some == evaluate(model, graph, triples=100, seed=4) and some != evaluate(model, graph, triples=100, seed=5)
    everything = evaluate(model, graph, triples=len(graph.test))
    assert everything == whole and "interval" not in whole
    held = {name: 0 for name in some["interval"]}
    for seed in range(100):
        found = evaluate(model, graph, triples=100, seed=seed)
        for name, (low, high) in found["interval"].items():
            assert low <= found[name] <= high
            held[name] += low <= whole[name] <= high
    assert all(88 <= count <= 100 for count in held.values()), held  # 95 of 100 are expected


@pytest.mark.parametrize(("score", "reciprocal"), [("transe_l1", False), ("complex", True)])
@pytest.mark.parametrize("ties", ["realistic", "optimistic", "pessimistic"])
def test_sampled_ranks_are_those_of_the_definition(score, reciprocal, ties):
    graph = random_graph()
    model = KGEModel(23, 4, 8, score=score, reciprocal=reciprocal, init_scale=1.0, seed=3)
    with torch.no_grad():
        model.entities[9] = model.entities[4]  # a tie
    every = SampledRanks(model, 23)
    some = SampledRanks(model, 7, seed=2)
    assert len(some.candidates.unique()) == 7
    known = graph.known()
    everything = {tuple(row) for split in (graph.train, graph.valid, graph.test) for row in split.tolist()}
    for side, column in (("tail", 2), ("head", 0)):
        found = every.rank(graph.test, side, known, ties)
        assert found.tolist() == model.rank(graph.test, side, known=known, ties=ties).tolist()
        scores = model.score_candidates(graph.test, side)
        for row, triple, rank in zip(
            scores, graph.test.tolist(), some.rank(graph.test, side, known, ties), strict=True
        ):
            others = [
                c for c in some.candidates.tolist()
                if c != triple[column] and (*triple[:column], c, *triple[column + 1 :]) not in everything
            ]  # fmt: skip
            own = row[triple[column]]
            greater, equal = sum(bool(row[c] > own) for c in others), sum(bool(row[c] == own) for c in others)
            assert float(rank) == 1 + greater + {"optimistic": 0, "pessimistic": equal, "realistic": equal / 2}[ties]


def test_sampled_metrics_say_so_wherever_they_stand():
    graph, model = random_graph(), KGEModel(23, 4, 8, score="distmult", seed=3)
    found = evaluate(model, graph, candidates=5, triples=20, details=True, seed=1)
    names = []

    def walk(value):
        for key, part in value.items() if isinstance(value, dict) else ():
            names.append(key)
            walk(part)
        for part in value if isinstance(value, list) else ():
            walk(part)

    walk(found)
    assert not {"mrr", "hits@1", "hits@3", "hits@10", "mean_rank"} & set(names)
    assert found["candidates"] == 5 and {"sampled_mrr", "sampled_hits@10", "sampled_mean_rank"} <= found.keys()
    assert 0 < found["sampled_mrr"] <= 1 and found["sampled_mean_rank"] <= 6


@pytest.mark.parametrize(
    "wrong", [{"triples": 0}, {"triples": 2.5}, {"candidates": 0}, {"candidates": 24}, {"seed": -1}, {"batch_size": 0}]
)
def test_bounds_out_of_range(wrong):
    graph, model = random_graph(), KGEModel(23, 4, 8, score="distmult")
    with pytest.raises(KgfastError, match=next(iter(wrong))):
        evaluate(model, graph, **wrong)
