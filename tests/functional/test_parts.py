"""Ranking goes query by query in parts, so that Ctrl-C is heard: their results are those of the whole."""

import pytest
import torch

import kgfast
from kgfast import ops, testing
from kgfast.core.known import KnownTriples
from kgfast.functional import ranking


@pytest.mark.parametrize("score", ["transe_l1", "distmult", "rotate"])
@pytest.mark.parametrize("filtered", [False, True])
def test_parts_are_the_whole(score, filtered, monkeypatch):
    entities, relations = testing.make_tables(score, 18, num_entities=301)
    triples = testing.make_triples(97, num_entities=301, num_relations=len(relations), seed=0)
    known = KnownTriples.from_triples(triples, 301, len(relations)) if filtered else None
    tables, options = (entities, relations, triples), dict(score=score, side="tail", impl="cpu")

    def results():
        best = kgfast.topk(*tables, 5, exclude=known, **options)
        return [kgfast.rank(*tables, known=known, **options), *best]

    whole = results()
    monkeypatch.setattr(ranking, "AT_ONCE", 1)
    monkeypatch.setattr(ranking, "FEWEST", 8)
    seen = []
    plain = ops.of("cpu").rank
    monkeypatch.setattr(ops, "of", lambda name: Spied(plain, seen))
    assert all(torch.equal(one, other) for one, other in zip(whole, results(), strict=True))
    assert seen == [8] * 12 + [1]


class Spied:
    """The CPU's ops; how many queries are ranked at a time is noted."""

    def __init__(self, rank, seen):
        self.real, self.rank = real, lambda query, *rest: seen.append(len(query)) or rank(query, *rest)

    def __getattr__(self, name):
        return getattr(self.real, name)


real = ops.of("cpu")


def test_no_query_is_a_part_too():
    entities, relations = testing.make_tables("distmult", 4, num_entities=5)
    nothing = torch.empty(0, 3, dtype=torch.int64)
    assert kgfast.rank(entities, relations, nothing, score="distmult", side="tail").shape == (0,)
    scores, ids = kgfast.topk(entities, relations, nothing, 2, score="distmult", side="head")
    assert scores.shape == ids.shape == (0, 2)
