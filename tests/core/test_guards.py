"""Input that once reached a kernel, or was misread without a word: each now works or names what is wrong."""

import numpy as np
import pytest
import torch

import kgfast
from kgfast import nn, optim, steps

TRIPLES = torch.tensor([[0, 0, 1], [2, 1, 3], [4, 2, 0], [1, 0, 2]])


def model_and_step(**options):
    model = nn.ComplEx(5, 3, 4, **options)
    return model, steps.NegativeSamplingStep(model, optim.RowAdagrad(model.parameters()), negatives=2)


def test_triples_in_columns_are_read_as_triples():
    tables = []
    for triples in (TRIPLES, TRIPLES.t().contiguous().t()):
        model, step = model_and_step()
        step(triples, 0)
        tables.append(model.entities.detach())
    assert torch.equal(*tables)
    graph = kgfast.KnowledgeGraph.from_arrays(np.asfortranarray(TRIPLES.numpy()))
    assert graph.train.is_contiguous()


def test_a_step_refuses_what_kernels_can_not_read():
    model, step = model_and_step(reciprocal=True)
    for triples, message in (
        (TRIPLES.int(), "int32"),
        (TRIPLES + torch.tensor([0, 3, 0]), "relations"),
        (TRIPLES - torch.tensor([0, 1, 0]), "relations"),
    ):
        with pytest.raises(kgfast.KgfastError, match=message):
            step(triples, 0)
    model.double()
    with pytest.raises(kgfast.KgfastError, match="model.entities was replaced"):
        step(TRIPLES, 0)
    with pytest.raises(kgfast.KgfastError, match="relations"):
        model.rank(TRIPLES - torch.tensor([0, 1, 0]), "head")


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(kgfast.KgfastError, match="optimizer"):
        steps.OneVsAllStep(nn.ComplEx(5, 3, 4), optim.RowAdagrad(nn.ComplEx(5, 3, 4).parameters()))


def test_optimizer_state_of_another_size_is_refused():
    small, large = (torch.nn.Parameter(torch.ones(rows, 4)) for rows in (2, 6))
    given, taken = optim.RowAdagrad([small]), optim.RowAdagrad([large])
    given.ensure_state()
    taken.load_state_dict(given.state_dict())
    large.grad = torch.ones(6, 4)
    with pytest.raises(kgfast.KgfastError, match=r"'sum'.*\[6\]"):
        taken.step()
    assert torch.equal(large, torch.ones(6, 4))


def test_a_gradient_sparse_in_both_dimensions_is_refused():
    table = torch.nn.Parameter(torch.ones(6, 4))
    table.grad = torch.eye(6, 4).to_sparse()
    with pytest.raises(kgfast.KgfastError, match="sparse_dim 1"):
        optim.RowSGD([table]).step()


@pytest.mark.parametrize("entities, relations", [(9, 3), (5, 2)])
def test_known_triples_of_another_graph_are_refused(entities, relations):
    known = kgfast.KnownTriples.from_triples(TRIPLES[:2], entities, relations)
    model = nn.ComplEx(5, 3, 4)
    with pytest.raises(kgfast.KgfastError, match="known was built for"):
        model.rank(TRIPLES, "tail", known)
    with pytest.raises(kgfast.KgfastError, match="known was built for"):
        kgfast.rank(model.entities, model.relations, TRIPLES, score="complex", side="tail", known=known)
    with pytest.raises(kgfast.KgfastError, match="known was built for"):
        steps.NegativeSamplingStep(model, optim.RowSGD(model.parameters()), negatives=2, known=known, filter="mask")


@pytest.mark.parametrize("similarity", ["dot", "l2"])
def test_answers_may_come_in_any_order_and_twice(similarity):
    generator = torch.Generator().manual_seed(0)
    query, table = torch.randn(2, 6, generator=generator), torch.randn(40, 6, generator=generator)
    gradients = []
    for ids in ([3, 20, 7], [20, 3, 3, 20, 7]):
        leaf = query.clone().requires_grad_()
        targets = (torch.tensor([0, len(ids) - 1, len(ids)]), torch.tensor(ids))
        total, _ = kgfast.multitask_loss([kgfast.Term(leaf, table, targets, similarity=similarity)])
        total.backward()
        gradients.append((total.detach(), leaf.grad))
    for one, two in zip(*gradients, strict=True):
        assert torch.equal(one, two)
    with pytest.raises(kgfast.KgfastError, match="offsets"):
        kgfast.multitask_loss([kgfast.Term(query, table, (torch.tensor([0, 2, 1]), torch.tensor([3])))])


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_weights_are_finite_and_positive(value):
    model = nn.DistMult(5, 3, 4)
    weights = torch.tensor([1.0, value, 1.0, 1.0])
    with pytest.raises(kgfast.KgfastError, match=r"weights\[1\]"):
        kgfast.negative_sampling_loss(
            model.entities, model.relations, TRIPLES, TRIPLES, score="distmult", side="tail", weights=weights
        )


def test_alias_tables_do_not_depend_on_threads():
    weights = torch.randint(1, 1000, (200_000,), generator=torch.Generator().manual_seed(1)).double() ** 0.75
    tables, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        tables.append(kgfast.reference.alias_table(weights))
    torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*tables, strict=True))


def test_seeds_of_64_bits_and_wrong_ones():
    options = dict(side="tail", seed=2**64 - 5)
    ours, eager = (kgfast.sample_negatives(TRIPLES, 7, 5, **options, impl=impl) for impl in ("cpu", "reference"))
    assert torch.equal(ours, eager)
    with pytest.raises(kgfast.KgfastError, match="seed=None"):
        kgfast.sample_negatives(TRIPLES, 7, 5, side="tail", seed=None)
