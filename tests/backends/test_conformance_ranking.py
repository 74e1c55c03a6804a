"""Filtered ranks and top-k of every backend against brute force over Python lists."""

import pytest
import torch
from lanes import SCORES

import kgfast
from kgfast import reference, testing

TIES = ("optimistic", "realistic", "pessimistic")


def tied_case(lane, score, dim, dtype=torch.float32):
    """A table of few distinct rows: almost every candidate ties with others, distinct ones differ clearly."""
    rows = 40 if lane.slow else 203
    dim = min(dim, 6) if lane.slow and score == "rescal" else dim
    few, relations = testing.make_tables(score, testing.usable_dim(score, dim), num_entities=9, dtype=dtype)
    choice = torch.randint(9, (rows,), generator=torch.Generator().manual_seed(5))
    triples = testing.make_triples(7, num_entities=rows)
    return lane.on(few[choice].contiguous(), relations, triples)


def answers_of(known, triples, side):
    return [set() if known is None else set(known.answers(row, side).tolist()) for row in triples.cpu()]


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


@pytest.mark.lanes(tiles=True)
@pytest.mark.axes(score=SCORES, rank_dim=(1, 16, 33), side=("tail", "head"))
def test_rank_with_many_ties(lane, setting):
    score, dim, side = setting["score"], setting["rank_dim"], setting["side"]
    dtype = lane.dtypes[-1] if dim == 16 else torch.float32
    entities, relations, triples = tied_case(lane, score, dim, dtype)
    known = testing.make_known(triples.cpu(), num_entities=len(entities))
    wide = (entities.cpu().double(), relations.cpu().double(), triples.cpu())
    scores = reference.score_candidates(*wide, score=score, side=side).tolist()
    targets = triples[:, 2 if side == "tail" else 0].tolist()
    for filtered in (None, known):
        answers = answers_of(filtered, triples, side)
        for ties in TIES:
            options = dict(score=score, side=side, ties=ties)
            here = filtered.to(lane.device) if filtered else None
            ranks = kgfast.rank(entities, relations, triples, known=here, impl=lane.impl, **options)
            expected = [brute_rank(*row, ties) for row in zip(scores, targets, answers, strict=True)]
            assert ranks.dtype == torch.float64
            assert ranks.tolist() == expected
            assert reference.rank(*wide, known=filtered, **options).tolist() == expected


@pytest.mark.lanes(tiles=True)
@pytest.mark.axes(score=SCORES)
def test_all_rows_equal(lane, setting):
    """Every candidate must tie with the target, wherever in a tile its row lies."""
    score, rows = setting["score"], 41 if lane.slow else 301
    dim = 6 if lane.slow and score == "rescal" else 33
    few, relations = testing.make_tables(score, testing.usable_dim(score, dim), num_entities=1)
    entities, relations = lane.on(few.expand(rows, -1).contiguous(), relations)
    triples = testing.make_triples(10 if lane.slow else 40, num_entities=rows).to(lane.device)
    for side in ("tail", "head"):
        for ties, expected in zip(TIES, (1.0, (1 + rows) / 2, rows), strict=True):
            ranks = kgfast.rank(entities, relations, triples, score=score, side=side, ties=ties, impl=lane.impl)
            assert (ranks == expected).all()


@pytest.mark.lanes(tiles=True)
@pytest.mark.axes(score=SCORES)
def test_rank_agrees_with_the_specification_without_ties(lane, setting):
    """In float64; where a lane has float32 alone, neighbours may change places in rounding."""
    score, dtype = setting["score"], lane.dtypes[-1]
    case = lane.case(score, 18, 13 if lane.slow else 65, 1, num_entities=50 if lane.slow else 257, dtype=dtype)
    known = testing.make_known(case.triples.cpu(), num_entities=len(case.entities))
    tables = (case.entities, case.relations, case.triples)
    wide = (case.entities.cpu().double(), case.relations.cpu().double(), case.triples.cpu())
    for side in ("tail", "head"):
        ours = kgfast.rank(*tables, score=score, side=side, known=known.to(lane.device), impl=lane.impl).cpu()
        specified = reference.rank(*wide, score=score, side=side, known=known)
        assert torch.equal(ours, specified) or dtype == torch.float32
        assert ((ours - specified).abs() > 1).double().mean() <= 0.2


@pytest.mark.lanes(tiles=True)
@pytest.mark.axes("k", score=SCORES, side=("tail", "head"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_topk(lane, setting, dtype):
    score, k, side = setting["score"], setting["k"], setting["side"]
    if dtype not in lane.dtypes or (lane.slow and dtype == torch.float64):
        pytest.skip(f"{dtype} is not of this lane, or as slow as float32")
    entities, relations, triples = tied_case(lane, score, 16, dtype)
    known = testing.make_known(triples.cpu(), num_entities=len(entities))
    wide = (entities.cpu().double(), relations.cpu().double(), triples.cpu())
    every = reference.score_candidates(*wide, score=score, side=side)
    for exclude in (None, known):
        options = dict(score=score, side=side)
        here = exclude.to(lane.device) if exclude else None
        found = kgfast.topk(entities, relations, triples, k, exclude=here, impl=lane.impl, **options)
        scores, ids = (one.cpu() for one in found)
        answers = answers_of(exclude, triples, side)
        expected = [brute_topk(row, k, out) for row, out in zip(every.tolist(), answers, strict=True)]
        assert ids.tolist() == expected
        assert reference.topk(*wide, k, exclude=exclude, **options)[1].tolist() == expected
        right = every.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf)
        torch.testing.assert_close(scores.double(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.lanes(tiles=True)
def test_topk_does_not_read_the_answer_column(lane):
    entities, relations, triples = tied_case(lane, "complex", 16)
    blank = triples.clone()
    blank[:, 2] = 0
    options = dict(score="complex", side="tail", impl=lane.impl)
    found = (kgfast.topk(entities, relations, one, 5, **options) for one in (triples, blank))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.lanes(tiles=True)
def test_empty_batch(lane):
    entities, relations, triples = tied_case(lane, "distmult", 4)
    options = dict(score="distmult", side="tail", impl=lane.impl)
    assert kgfast.rank(entities, relations, triples[:0], **options).shape == (0,)
    scores, ids = kgfast.topk(entities, relations, triples[:0], 3, **options)
    assert scores.shape == ids.shape == (0, 3)
