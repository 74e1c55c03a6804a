"""KnownTriples against a dictionary of sets."""

from collections import defaultdict

import pytest
import torch

from kgfast.core.known import KnownTriples
from kgfast.errors import DataError, KgfastError


def random_triples(count, entities, relations, seed=0):
    generator = torch.Generator().manual_seed(seed)
    limits = (entities, relations, entities)
    return torch.stack([torch.randint(limit, (count,), generator=generator) for limit in limits], 1)


def brute_force(triples, side):
    answers = defaultdict(set)
    for head, relation, tail in triples.tolist():
        known, answer = (head, tail) if side == "tail" else (tail, head)
        answers[known, relation].add(answer)
    return answers


def queries(entities, relations, side):
    """Every possible query, seen or not, with rubbish in the column that is asked for."""
    grid = torch.cartesian_prod(torch.arange(entities), torch.arange(relations))
    rubbish = torch.full((len(grid),), -7)
    columns = (grid[:, 0], grid[:, 1], rubbish) if side == "tail" else (rubbish, grid[:, 1], grid[:, 0])
    return torch.stack(columns, 1)


def assert_equals_brute_force(known, triples, side):
    expected = brute_force(triples, side)
    rows = queries(known.num_entities, known.num_relations, side)
    starts, ends = known.lookup(rows, side)
    assert starts.dtype == ends.dtype == known.ids(side).dtype == torch.int64
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        query = (row[0] if side == "tail" else row[2], row[1])
        assert known.ids(side)[start:end].tolist() == sorted(expected[query])


@pytest.mark.parametrize("side", ["tail", "head"])
@pytest.mark.parametrize("shape", [(400, 17, 5), (1, 1, 1), (0, 4, 3), (50, 200, 2)])
def test_lookup_equals_a_dictionary(shape, side):
    triples = random_triples(*shape)  # the first shape holds repeated rows
    known = KnownTriples.from_triples(triples, *shape[1:])
    assert len(known) == len(set(map(tuple, triples.tolist())))
    assert_equals_brute_force(known, triples, side)


@pytest.mark.parametrize("side", ["tail", "head"])
def test_reciprocal(side):
    triples = random_triples(300, 13, 4)
    head, relation, tail = triples.unbind(1)
    both = torch.cat([triples, torch.stack([tail, relation + 4, head], 1)])
    known = KnownTriples.from_triples(triples, 13, 4).reciprocal()
    assert known.num_relations == 8
    assert_equals_brute_force(known, both, side)


@pytest.mark.parametrize("side", ["tail", "head"])
def test_ids_too_large_for_one_key(side):
    """num_relations * num_entities^2 exceeds 64 bits: the two-sort way gives the same as the dictionary."""
    entities, relations = 3_000_000_000, 1000
    triples = random_triples(200, 9, 3).repeat(2, 1)
    triples = triples * torch.tensor([300_000_000, 300, 300_000_000])
    known = KnownTriples.from_triples(triples, entities, relations)
    expected = brute_force(triples, side)
    starts, ends = known.lookup(triples, side)
    for (head, relation, tail), start, end in zip(triples.tolist(), starts, ends, strict=True):
        query = (head if side == "tail" else tail, relation)
        assert known.ids(side)[start:end].tolist() == sorted(expected[query])


def test_queries_out_of_range_have_no_answers():
    known = KnownTriples.from_triples([[0, 1, 2], [3, 0, 3]], 4, 2)
    rows = torch.tensor([[4, 0, 0], [-1, 1, 0], [0, 2, 0], [0, -1, 0]])  # (4, 0) has the key of (0, 1)
    starts, ends = known.lookup(rows, "tail")
    assert (ends - starts).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("side", ["tail", "head"])
@pytest.mark.parametrize("relation", [2**62, -(2**62), 2**63 - 1, -(2**63), 2**61, 3 * 2**60])
def test_ids_so_large_that_a_key_would_wrap_have_no_answers(relation, side):
    """With 4 entities the key of relation 2^62 is that of relation 0, with 2^k of them that of 2^(64 - k)."""
    for entities in (4, 8, 16):
        known = KnownTriples.from_triples([[1, 0, 2], [1, 0, 3], [1, 1, 3]], entities, 2)
        rows = torch.tensor([[1, relation, 3], [relation, 0, relation], [1, 0, 3]])
        starts, ends = known.lookup(rows, side)
        assert (ends - starts).tolist()[:2] == [0, 0] and int(ends[2] - starts[2]) > 0
        assert not len(known.answers((1, relation, 3), side))


def test_answers_are_for_people():
    known = KnownTriples.from_triples([[0, 1, 3], [0, 1, 2], [1, 1, 2]], 4, 2)
    assert known.answers((0, 1, -1), "tail").tolist() == [2, 3]
    assert known.answers([9, 1, 2], "head").tolist() == [0, 1]
    assert "3 triples" in repr(known)
    assert known.to("cpu").answers((0, 1, 0), "tail").tolist() == [2, 3]


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        ([[0, 0, 0], [0, 0, 4]], r"triples\[1\]: tail id 4 is outside \[0, 4\)"),
        ([[-1, 0, 0]], r"triples\[0\]: head id -1"),
        ([[0, 2, 0]], r"triples\[0\]: relation id 2 is outside \[0, 2\), the ids of 2 relations"),
        ([[0, 0]], r"shape \[M, 3\].*not \[1, 2\]"),
        ([[0.0, 0.0, 0.0]], "integer ids, not torch.float32"),
    ],
)
def test_bad_triples(triples, message):
    with pytest.raises(DataError, match=message):
        KnownTriples.from_triples(triples, 4, 2)


def test_bad_side():
    with pytest.raises(KgfastError, match="'tail' or 'head', not 'both'"):
        KnownTriples.from_triples([[0, 0, 0]], 1, 1).ids("both")
