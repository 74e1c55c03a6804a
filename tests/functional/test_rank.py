"""Filtered ranks and top-k against brute force over Python lists."""

import pytest
import torch

import kgfast
from kgfast import reference, testing
from kgfast.core.known import KnownTriples

SCORES = list(reference.SCORES)
TIES = ("optimistic", "realistic", "pessimistic")


def tied_case(score, dim, *, num_entities=203, distinct=9, batch=7, dtype=torch.float32):
    """A table of few distinct rows: almost every candidate ties with others, distinct ones differ clearly."""
    few, relations = testing.make_tables(score, testing.usable_dim(score, dim), num_entities=distinct, dtype=dtype)
    choice = torch.randint(distinct, (num_entities,), generator=torch.Generator().manual_seed(5))
    triples = testing.make_triples(batch, num_entities=num_entities)
    return few[choice].contiguous(), relations, triples


def brute_rank(scores, target, known, ties):
    """Over Python lists: known answers other than the target are not there."""
    rivals = [s for c, s in enumerate(scores) if c != target and c not in known]
    greater, equal = sum(s > scores[target] for s in rivals), sum(s == scores[target] for s in rivals)
    return {
        "optimistic": 1 + greater,
        "pessimistic": 1 + greater + equal,
        "realistic": 1 + greater + equal / 2,
    }[ties]


def brute_topk(scores, k, known):
    order = sorted((-s, c) for c, s in enumerate(scores) if c not in known)[:k]
    return [c for _, c in order] + [-1] * (k - len(order))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dim", [1, 16, 33])
@pytest.mark.parametrize("side", ["tail", "head"])
def test_rank_with_many_ties(level, score, dim, side):
    dtype = torch.float64 if dim == 16 else torch.float32
    entities, relations, triples = tied_case(score, dim, dtype=dtype)
    known = testing.make_known(triples, num_entities=len(entities))
    wide = (entities.double(), relations.double())
    scores = reference.score_candidates(*wide, triples, score=score, side=side).tolist()
    targets = triples[:, 2 if side == "tail" else 0].tolist()
    for filtered in (None, known):
        for ties in TIES:
            ranks = kgfast.rank(
                entities, relations, triples, score=score, side=side, known=filtered, ties=ties, impl="cpu"
            )
            answers = [set() if filtered is None else set(known.answers(row, side).tolist()) for row in triples]
            expected = [brute_rank(*row, ties) for row in zip(scores, targets, answers, strict=True)]
            assert ranks.dtype == torch.float64
            assert ranks.tolist() == expected
            same = reference.rank(*wide, triples, score=score, side=side, known=filtered, ties=ties)
            assert same.tolist() == expected


@pytest.mark.parametrize("score", SCORES)
def test_all_rows_equal(level, score):
    """Every candidate must tie with the target, wherever in a tile its row lies."""
    few, relations = testing.make_tables(score, testing.usable_dim(score, 33), num_entities=1)
    entities = few.expand(301, -1).contiguous()
    triples = testing.make_triples(40, num_entities=301)
    for side in ("tail", "head"):
        for ties, expected in zip(TIES, (1.0, 151.0, 301.0), strict=True):
            ranks = kgfast.rank(entities, relations, triples, score=score, side=side, ties=ties, impl="cpu")
            assert (ranks == expected).all()


@pytest.mark.parametrize("score", SCORES)
def test_rank_agrees_with_reference_without_ties(level, score):
    case = testing.make_case(score, 18, 65, 1, num_entities=257, dtype=torch.float64)
    known = testing.make_known(case.triples, num_entities=257)
    for side in ("tail", "head"):
        options = dict(score=score, side=side, known=known)
        tables = (case.entities, case.relations, case.triples)
        assert torch.equal(kgfast.rank(*tables, impl="cpu", **options), reference.rank(*tables, **options))


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


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("k", [1, 10, 203, 210])
def test_topk(level, score, k):
    entities, relations, triples = tied_case(score, 16)
    known = testing.make_known(triples, num_entities=len(entities))
    for side in ("tail", "head"):
        wide = (entities.double(), relations.double(), triples)
        every = reference.score_candidates(*wide, score=score, side=side)
        for exclude in (None, known):
            options = dict(score=score, side=side, exclude=exclude)
            scores, ids = kgfast.topk(entities, relations, triples, k, impl="cpu", **options)
            answers = [set() if exclude is None else set(known.answers(row, side).tolist()) for row in triples]
            expected = [brute_topk(row, k, out) for row, out in zip(every.tolist(), answers, strict=True)]
            assert ids.tolist() == expected
            assert reference.topk(*wide, k, **options)[1].tolist() == expected
            found = every.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)
            torch.testing.assert_close(scores.double(), found, rtol=1e-5, atol=1e-5)


def test_topk_does_not_read_the_answer_column():
    entities, relations, triples = tied_case("complex", 16)
    blank = triples.clone()
    blank[:, 2] = 0
    options = dict(score="complex", side="tail", impl="cpu")
    for a, b in zip(
        kgfast.topk(entities, relations, triples, 5, **options),
        kgfast.topk(entities, relations, blank, 5, **options),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_empty_batch():
    entities, relations, _ = tied_case("distmult", 4)
    triples = torch.empty(0, 3, dtype=torch.int64)
    options = dict(score="distmult", side="tail", impl="cpu")
    assert kgfast.rank(entities, relations, triples, **options).shape == (0,)
    scores, ids = kgfast.topk(entities, relations, triples, 3, **options)
    assert scores.shape == ids.shape == (0, 3)


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
