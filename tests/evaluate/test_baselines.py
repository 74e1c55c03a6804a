"""Ranks without a model, and the queries that the report shows."""

import torch

from kgfast.data import KnowledgeGraph
from kgfast.evaluate import evaluate
from kgfast.evaluate.baselines import baselines, frequency_ranks, guessing
from kgfast.evaluate.examples import SHOWN, examples
from kgfast.nn import KGEModel


def some_graph(seed=0):
    """90 triples of 3 relations over 12 entities, some entities far more frequent than others."""
    draws = torch.Generator().manual_seed(seed)
    ends = (torch.rand(90, 2, generator=draws) ** 2 * 12).long()
    relations = torch.randint(3, (90, 1), generator=draws)
    triples = torch.cat([ends[:, :1], relations, ends[:, 1:]], 1)
    return KnowledgeGraph.from_arrays(triples[:60], triples[60:75], triples[75:], num_entities=12, num_relations=3)


def rank_one_by_one(graph, triple, slot):
    """The filtered rank of a triple's answer by how often train has each candidate."""
    everything = {tuple(row) for split in ("train", "valid", "test") for row in getattr(graph, split).tolist()}
    counts = [0] * graph.num_entities
    for row in graph.train.tolist():
        counts[row[slot]] += row[1] == triple[1]
    others = [entity for entity in range(graph.num_entities) if entity != triple[slot]]
    left = [e for e in others if tuple(e if place == slot else triple[place] for place in range(3)) not in everything]
    own = counts[triple[slot]]
    above, equal = sum(counts[e] > own for e in left), sum(counts[e] == own for e in left)
    return 1 + above + equal / 2, len(left) + 1


def test_ranks_by_frequency_are_those_of_counting(monkeypatch):
    graph = some_graph()
    for at_once in (1, 1 << 22):
        monkeypatch.setattr("kgfast.evaluate.baselines.AT_ONCE", at_once)
        for side, slot in (("tail", 2), ("head", 0)):
            ranks, left = frequency_ranks(graph, graph.test, graph.known(), side)
            counted = [rank_one_by_one(graph, row, slot) for row in graph.test.tolist()]
            assert list(zip(ranks.tolist(), left.tolist(), strict=True)) == counted


def test_chance_is_the_mean_over_all_ranks():
    found = guessing(torch.tensor([4.0], dtype=torch.float64))
    assert abs(found["mrr"] - (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4) < 1e-12
    assert (found["hits@1"], found["hits@3"], found["hits@10"], found["mean_rank"]) == (0.25, 0.75, 1.0, 2.5)


def test_nothing_is_frequent_where_train_lacks_the_relation():
    graph = KnowledgeGraph.from_arrays([[0, 1, 1]], None, [[0, 0, 1]], num_entities=5)
    found, ranks = baselines(graph, graph.test, graph.known())
    assert ranks["tail"].tolist() == [3.0] and found["frequency"]["mean_rank"] == found["chance"]["mean_rank"] == 3.0


def test_examples_are_right_against_the_odds_and_furthest_off():
    graph = some_graph()
    count = len(graph.test)
    ranks = {side: torch.full((count,), 1.0, dtype=torch.float64) for side in ("tail", "head")}
    ranks["head"][4:7] = torch.tensor([9.0, 11.0, 1.5])
    by_frequency = {side: torch.arange(count, dtype=torch.float64) for side in ("tail", "head")}
    found = examples(graph, graph.test, ranks, by_frequency)
    assert [(one["rank"], one["ids"]) for one in found["worst"]] == [
        (11.0, graph.test[5].tolist()), (9.0, graph.test[4].tolist()), (1.5, graph.test[6].tolist()),
    ]  # fmt: skip
    best = found["best"]
    assert best[0]["by_frequency"] == count - 1 and {one["rank"] for one in best} == {1.0}
    frequencies = [one["by_frequency"] for one in best]
    assert len(best) == SHOWN and frequencies == sorted(frequencies, reverse=True)
    kinds = {(one["ids"][1], one["side"]) for one in best}  # every relation on both sides, before any comes again
    assert len(kinds) == min(SHOWN, 2 * len(graph.test[:, 1].unique()))


def test_details_have_both_and_sampled_metrics_neither():
    graph = some_graph()
    model = KGEModel(12, 3, 4, score="distmult")
    found = evaluate(model, graph, details=True)
    assert set(found["baselines"]) == {"frequency", "chance"} and set(found["examples"]) == {"best", "worst"}
    for one in found["examples"]["worst"]:
        head, relation, tail = one["ids"]
        assert one["triple"] == [graph.entity_names[head], graph.relation_names[relation], graph.entity_names[tail]]
    assert not {"baselines", "examples"} & set(evaluate(model, graph, details=True, candidates=5))
