"""Laws that hold whatever the specification says: symmetries, special cases, threads, order."""

import pytest
import torch

import kgfast
from kgfast import reference, testing

SCORES = list(reference.SCORES)
SIDES = ("tail", "head")


def halves(x):
    return x.chunk(2, dim=-1)


def all_scores(entities, relations, triples, score, side="tail"):
    return kgfast.score_candidates(entities, relations, triples, score=score, side=side, impl="cpu")


@pytest.mark.parametrize("side", SIDES)
def test_complex_with_zero_imaginary_part_is_distmult(level, side):
    entities, relations = testing.make_tables("distmult", 17)
    triples = testing.make_triples(7)
    padded = [torch.cat([table, torch.zeros_like(table)], dim=1) for table in (entities, relations)]
    torch.testing.assert_close(
        all_scores(*padded, triples, "complex", side),
        all_scores(entities, relations, triples, "distmult", side),
    )


@pytest.mark.parametrize("side", SIDES)
def test_rotate_without_rotation_is_the_sum_of_moduli(level, side):
    entities, relations = testing.make_tables("rotate", 34)
    triples = testing.make_triples(7)
    known = entities[triples[:, 0 if side == "tail" else 2]]
    numbers, candidates = torch.complex(*halves(known)), torch.complex(*halves(entities))
    expected = -(numbers[:, None] - candidates).abs().sum(-1)
    torch.testing.assert_close(all_scores(entities, torch.zeros_like(relations), triples, "rotate", side), expected)


@pytest.mark.parametrize("score", ["transe_l1", "transe_l2"])
def test_transe_does_not_see_a_common_translation(level, score):
    entities, relations = testing.make_tables(score, 33, dtype=torch.float64)
    triples = testing.make_triples(7)
    moved = entities + torch.randn(33, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(
        all_scores(moved, relations, triples, score), all_scores(entities, relations, triples, score)
    )


@pytest.mark.parametrize("side", SIDES)
def test_rescal_with_a_diagonal_matrix_is_distmult(level, side):
    entities, relations = testing.make_tables("distmult", 17)
    triples = testing.make_triples(7)
    matrices = torch.diag_embed(relations).flatten(1)
    torch.testing.assert_close(
        all_scores(entities, matrices, triples, "rescal", side),
        all_scores(entities, relations, triples, "distmult", side),
    )


@pytest.mark.parametrize("side", SIDES)
def test_simple_with_tied_halves_is_distmult(level, side):
    entities, relations = testing.make_tables("distmult", 17)
    triples = testing.make_triples(7)
    tied = [torch.cat([table, table], dim=1) for table in (entities, relations)]
    torch.testing.assert_close(
        all_scores(*tied, triples, "simple", side), all_scores(entities, relations, triples, "distmult", side)
    )


@pytest.mark.parametrize("score", SCORES)
def test_head_and_tail_sides_agree_on_the_triple(level, score):
    case = testing.make_case(score, 33, 7, 1)
    expected = kgfast.score_triples(case.entities, case.relations, case.triples, score=score, impl="cpu")
    for side, column in (("tail", 2), ("head", 0)):
        scores = all_scores(case.entities, case.relations, case.triples, score, side)
        torch.testing.assert_close(scores.gather(1, case.triples[:, column, None]).squeeze(1), expected)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("objective", ["logistic", "softmax", "bce", "margin"])
def test_order_of_negatives_does_not_matter(score, objective):
    case = testing.make_case(score, 17, 7, 64, dtype=torch.float64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    options = dict(score=score, side="tail", objective=objective, margin=1.0, adversarial_temperature=0.5, impl="cpu")
    tables = (case.entities, case.relations, case.triples)
    losses = [
        kgfast.negative_sampling_loss(*tables, ids, **options) for ids in (case.negatives, case.negatives[:, order])
    ]
    torch.testing.assert_close(*losses, rtol=1e-13, atol=0)


def test_shared_lists_are_repeated_lists(level):
    case = testing.make_case("rotate", 34, 7, 64)
    options = dict(score="rotate", side="head", impl="cpu")
    tables = (case.entities, case.relations, case.triples)
    shared = kgfast.negative_sampling_loss(*tables, case.negatives[:3], **options)
    spread = kgfast.negative_sampling_loss(*tables, case.negatives[[0, 0, 0, 1, 1, 2, 2]], **options)
    torch.testing.assert_close(shared, spread)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("loss", ["independent", "shared", "all", "candidates"])
def test_same_bits_for_one_and_two_threads(for_threads, score, loss):
    case = testing.make_case(score, 34, 300, 40, num_entities=500)

    def run():
        tables = [table.clone().requires_grad_() for table in (case.entities, case.relations)]
        options = dict(score=score, side="head", impl="cpu")
        if loss == "all":
            value = kgfast.one_vs_all_loss(*tables, case.triples, **options)
        elif loss == "candidates":
            value = kgfast.score_candidates(*tables, case.triples, **options)
        else:
            ids = case.negatives if loss == "independent" else case.negatives[:3]
            value = kgfast.negative_sampling_loss(*tables, case.triples, ids, **options)
        value.backward(torch.ones_like(value) / 3)
        return value.detach(), *(table.grad for table in tables)

    one, two = for_threads(run)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_linear_cross_entropy_has_the_same_bits_for_one_and_two_threads(for_threads):
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*shape, generator=generator) for shape in ((300, 64), (2000, 64), (2000,))]
    targets = torch.randint(2000, (300,), generator=generator)

    def run():
        hidden, weight, bias = (leaf.clone().requires_grad_() for leaf in leaves)
        value = kgfast.linear_cross_entropy(hidden, weight, targets, bias=bias, impl="cpu")
        value.backward()
        return value.detach(), hidden.grad, weight.grad, bias.grad

    one, two = for_threads(run)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_sum_over_a_long_batch_has_the_same_bits_for_one_and_two_threads(for_threads):
    """Longer than the piece that torch gives to one thread in a sum."""
    case = testing.make_case("transe_l1", 2, 70_000, 2)
    tables = (case.entities, case.relations, case.triples)
    options = dict(score="transe_l1", side="tail", impl="cpu")
    one, two = for_threads(
        lambda: (
            kgfast.negative_sampling_loss(*tables, case.negatives, **options),
            kgfast.one_vs_all_loss(*tables, **options),
        )
    )
    assert one == two
