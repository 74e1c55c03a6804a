"""Ranks and top-k: known answers, threads, NaN. On every backend: backends/test_conformance_ranking.py."""

import pytest
import torch

import kgfast
from kgfast import reference, testing
from kgfast.core.known import KnownTriples

TIES = ("optimistic", "realistic", "pessimistic")


def test_known_answers_of_the_three_modes():
    entities = torch.tensor([[1.0], [2.0], [2.0], [2.0], [3.0], [0.0]])
    relations = torch.ones(1, 1)
    triples = torch.tensor([[0, 0, 1]])  # scores 1 2 2 2 3 0, the target is the first 2
    options = dict(score="distmult", side="tail", impl="cpu")
    ranks = [kgfast.rank(entities, relations, triples, ties=ties, **options).item() for ties in TIES]
    assert ranks == [2.0, 3.0, 4.0]
    known = KnownTriples.from_triples(torch.tensor([[0, 0, 4], [0, 0, 3], [0, 0, 1]]), 6, 1)
    ranks = [kgfast.rank(entities, relations, triples, ties=ties, known=known, **options).item() for ties in TIES]
    assert ranks == [1.0, 1.5, 2.0]


def test_rank_does_not_depend_on_threads_or_batch(for_threads):
    case = testing.make_case("rotate", 34, 300, 1, num_entities=1000)
    known = testing.make_known(case.triples, num_entities=1000)

    def run(triples=case.triples):
        return kgfast.rank(case.entities, case.relations, triples, score="rotate", side="head", known=known, impl="cpu")

    one, two = for_threads(run)
    assert torch.equal(one, two)
    assert torch.equal(one, torch.cat([run(part) for part in case.triples.split(17)]))


def broken_case(place):
    """One NaN: in a row of triple 2, or in row 30, that no triple has."""
    case = testing.make_case("distmult", 8, 7, 1)
    head, relation, tail = case.triples[2].tolist()
    table = case.relations if place == "relation" else case.entities
    table[{"known entity": head, "relation": relation, "target": tail, "another candidate": 30}[place], 3] = torch.nan
    assert place != "another candidate" or not (case.triples == 30).any()
    return case.entities, case.relations, case.triples


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize("place", ["known entity", "relation", "target"])
def test_nan_has_no_rank(impl, place):
    *tables, triples = broken_case(place)
    with pytest.raises(ValueError, match=r"(?s)triples\[2\].*NaN"):
        kgfast.rank(*tables, triples, score="distmult", side="tail", impl=impl)


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize("ties", TIES)
def test_a_nan_of_another_candidate_counts_as_better(impl, ties):
    entities, relations, triples = broken_case("another candidate")
    options = dict(score="distmult", side="tail", ties=ties, impl=impl)
    ours = kgfast.rank(entities, relations, triples, **options)
    entities[30] = 0  # scores 0: better or worse than the target, level with none
    scores = reference.score_candidates(entities, relations, triples, score="distmult")
    worse = scores.gather(1, triples[:, 2:]).squeeze(1) > 0
    assert torch.equal(ours, kgfast.rank(entities, relations, triples, **options) + worse)


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize("k", [1, 5, 37])
def test_nan_has_no_place_in_topk(impl, k):
    with pytest.raises(ValueError, match=r"(?s)triples\[.*NaN"):
        kgfast.topk(*broken_case("another candidate"), k, score="distmult", side="tail", impl=impl)
