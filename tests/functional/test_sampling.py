"""Negatives have the distribution that the specification promises; the same ids on every backend:
backends/test_conformance_rows.py."""

import math

import pytest
import torch

import kgfast
from kgfast import testing
from kgfast.core.known import KnownTriples

NUM_ENTITIES = 203


def draw(triples, count, num_entities=NUM_ENTITIES, impl="cpu", **options):
    return kgfast.sample_negatives(triples, count, num_entities, impl=impl, **options)


def skewed_weights(size):
    weights = torch.rand(size, generator=torch.Generator().manual_seed(9), dtype=torch.float64) ** 3
    weights[::7] = 0
    return weights


def assert_frequencies(ids, probabilities):
    """Pearson's chi-square is within 5 standard deviations of its mean; probability 0 never occurs."""
    counts = torch.bincount(ids.flatten(), minlength=len(probabilities)).double()
    assert not counts[probabilities == 0].any()
    possible = probabilities > 0
    expected = ids.numel() * probabilities[possible]
    assert expected.min() > 5, "too few draws for the test"
    statistic = ((counts[possible] - expected) ** 2 / expected).sum().item()
    freedom = int(possible.sum()) - 1
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom), f"chi-square {statistic} with {freedom} degrees"


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_a_crowded_query_is_redrawn(impl, weighted):
    """200 of 203 entities are known answers: the complement is drawn from; 203 of 203: -1."""
    answers = torch.arange(NUM_ENTITIES)
    crowded = torch.stack([torch.zeros(200).long(), torch.zeros(200).long(), answers[:200]], dim=1)
    full = torch.stack([torch.ones(NUM_ENTITIES).long(), torch.zeros(NUM_ENTITIES).long(), answers], dim=1)
    known = KnownTriples.from_triples(torch.cat([crowded, full]), NUM_ENTITIES, 1)
    triples = torch.tensor([[0, 0, 5], [1, 0, 5], [2, 0, 5]])
    weights = skewed_weights(NUM_ENTITIES) + 1e-3 if weighted else None
    ids = draw(triples, 300, side="tail", seed=1, known=known, weights=weights, impl=impl)
    assert set(ids[0].tolist()) == {200, 201, 202}
    assert (ids[1] == -1).all()
    assert ids[2].min() >= 0 and len(ids[2].unique()) > 50  # a query that is not known draws from all
    reference_ids = draw(triples, 300, side="tail", seed=1, known=known, weights=weights, impl="reference")
    assert torch.equal(ids, reference_ids)


def test_large_tables_are_reached():
    """Ids come from the high half of a 64-bit product: no id of a table of 2^31 - 1 rows is out of reach."""
    triples = torch.zeros(50, 3, dtype=torch.int64)
    for size in (5_000_001, 2**31 - 1):
        ids = draw(triples, 400, size, side="tail", seed=3)
        assert torch.equal(ids, draw(triples, 400, size, side="tail", seed=3, impl="reference"))
        assert 0 <= ids.min() < size / 1000 and size * 0.999 < ids.max() < size


def test_known_answer():
    """x of counter 0, key 0 is 6627e8d5 e169c58d bc57ac4c 9b00dbd8 (Random123); id = x * C >> 32."""
    words = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    for impl in ("cpu", "reference"):
        ids = draw(torch.zeros(1, 3, dtype=torch.int64), 4, 1000, side="tail", seed=0, impl=impl)
        assert ids.tolist() == [[word * 1000 >> 32 for word in words]]


def test_uniform():
    triples = testing.make_triples(500, num_entities=NUM_ENTITIES)
    for side in ("tail", "head"):
        ids = draw(triples, 256, side=side, seed=4)
        assert_frequencies(ids, torch.full((NUM_ENTITIES,), 1 / NUM_ENTITIES, dtype=torch.float64))


def test_rows_columns_steps_seeds_and_sides_are_unrelated():
    """Two streams of 10,000 draws agree where chance says: 10,000 / 203 times, give or take 5 deviations."""
    triples = testing.make_triples(101, num_entities=NUM_ENTITIES)
    base = dict(side="tail", seed=4, step=0)
    ids = draw(triples, 101, **base)
    others = [draw(triples, 101, **{**base, **change}) for change in ({"side": "head"}, {"seed": 5}, {"step": 1})]
    pairs = [(ids, other) for other in others] + [(ids[:-1], ids[1:]), (ids[:, :-1], ids[:, 1:])]
    for a, b in pairs:
        mean = a.numel() / NUM_ENTITIES
        assert abs((a == b).sum().item() - mean) < 5 * math.sqrt(mean)


def test_a_row_is_drawn_alike_in_any_batch_and_width():
    triples = testing.make_triples(65, num_entities=NUM_ENTITIES)
    ids = draw(triples, 64, side="tail", seed=4)
    assert torch.equal(ids[:7, :5], draw(triples[:7], 5, side="tail", seed=4))


@pytest.mark.parametrize("side", ["tail", "head"])
def test_redrawn_negatives_are_uniform_on_the_complement(side):
    triples = testing.make_triples(3, num_entities=NUM_ENTITIES)
    known = testing.make_known(triples, num_entities=NUM_ENTITIES)
    repeated = triples.repeat_interleave(200, 0)
    ids = draw(repeated, 256, side=side, seed=4, known=known).view(3, -1)
    for row, triple in zip(ids, triples, strict=True):
        probabilities = torch.ones(NUM_ENTITIES, dtype=torch.float64)
        probabilities[known.answers(triple, side)] = 0
        assert_frequencies(row, probabilities / probabilities.sum())


@pytest.mark.parametrize("filtered", [False, True])
def test_weighted_frequencies(filtered):
    triples = testing.make_triples(1, num_entities=NUM_ENTITIES)
    known = testing.make_known(triples, num_entities=NUM_ENTITIES) if filtered else None
    weights = skewed_weights(NUM_ENTITIES)
    weights[weights < 1e-2] = 0
    ids = draw(triples.repeat(1000, 1), 200, side="tail", seed=4, known=known, weights=weights)
    if filtered:
        weights[known.answers(triples[0], "tail")] = 0
    assert_frequencies(ids, weights / weights.sum())


def test_shared_lists_count_lists_as_rows():
    triples = testing.make_triples(65, num_entities=NUM_ENTITIES)
    shared = draw(triples, 5, side="tail", seed=4, shared=10)
    assert shared.shape == (7, 5)
    assert torch.equal(shared, draw(triples[:7], 5, side="tail", seed=4))


def test_same_ids_for_one_and_two_threads(for_threads):
    triples = testing.make_triples(500, num_entities=NUM_ENTITIES)
    known = testing.make_known(triples, num_entities=NUM_ENTITIES)
    one, two = for_threads(lambda: draw(triples, 64, side="tail", seed=4, known=known))
    assert torch.equal(one, two)


@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.parametrize(
    "setting",
    testing.pairwise(
        side=("tail", "head", "both"),
        weighted=(False, True),
        known=(False, True),
        shared=(0, 3),
        objective=("logistic", "softmax"),
    ),
    ids=lambda s: "-".join(f"{key}{value}" for key, value in s.items()),
)
def test_a_sampler_in_the_loss_is_its_ids(impl, setting):
    """Redrawn ids are not known; where lists are shared they may be, and the loss masks them."""
    case = testing.make_case("complex", 18, 7, 1)
    known = testing.make_known(case.triples) if setting["known"] else None
    weights = skewed_weights(testing.NUM_ENTITIES) if setting["weighted"] else None
    sampler = kgfast.NegativeSampler(20, seed=5, step=6, weights=weights, known=known, shared=setting["shared"])
    side = setting["side"]
    options = dict(seed=5, step=6, weights=weights, known=known, shared=setting["shared"])
    ids = draw(case.triples, 20, testing.NUM_ENTITIES, side=side, impl=impl, **options)
    values = []
    for negatives in (sampler, ids):
        tables = [table.clone().requires_grad_() for table in (case.entities, case.relations)]
        loss = kgfast.negative_sampling_loss(
            *tables, case.triples, negatives, score="complex", side=side, objective=setting["objective"],
            known=known if negatives is ids else None, impl=impl,
        )  # fmt: skip
        loss.backward()
        values.append([loss.detach(), *(table.grad for table in tables)])
    for a, b in zip(*values, strict=True):
        torch.testing.assert_close(a, b)
