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
        (TRIPLES.short(), "int16"),
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


NUMPY_INTEGERS = [np.int64, np.int32, np.uint8]


@pytest.mark.parametrize("kind", NUMPY_INTEGERS)
def test_integers_of_numpy_are_integers(kind):
    """Seeds, steps, counts, k and sizes: what a loop over an array hands in."""
    plain = kgfast.sample_negatives(TRIPLES, 4, 5, side="tail", seed=3, step=2, shared=2)
    asked = kgfast.sample_negatives(TRIPLES, kind(4), kind(5), side="tail", seed=kind(3), step=kind(2), shared=kind(2))
    assert torch.equal(plain, asked)
    model = nn.DistMult(kind(5), kind(3), kind(4), seed=1)
    tables = model.entities.detach(), model.relations.detach()
    options = dict(score="distmult", side="tail")
    sampler = kgfast.NegativeSampler(kind(3), seed=kind(7), step=kind(1))
    losses = [kgfast.negative_sampling_loss(*tables, TRIPLES, one, **options)
              for one in (sampler, kgfast.NegativeSampler(3, seed=7, step=1))]  # fmt: skip
    assert torch.equal(*losses)
    for one, two in zip(*(kgfast.topk(*tables, TRIPLES, k, **options) for k in (kind(2), 2)), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(*(kgfast.linear_cross_entropy(*tables[:1] * 2, torch.arange(5), ignore_index=k)
                         for k in (kind(100), 100)))  # fmt: skip
    steps.NegativeSamplingStep(model, optim.RowSGD(model.parameters()), negatives=kind(2), seed=kind(3))(
        TRIPLES, kind(0)
    )


@pytest.mark.parametrize("value", [True, 2.0, "2", None, 2 + 0j, torch.tensor([1, 2])])
def test_what_is_no_integer_is_named(value):
    calls = {
        "num_negatives": lambda: kgfast.sample_negatives(TRIPLES, value, 5, side="tail", seed=0),
        "num_entities": lambda: kgfast.sample_negatives(TRIPLES, 2, value, side="tail", seed=0),
        "seed": lambda: kgfast.sample_negatives(TRIPLES, 2, 5, side="tail", seed=value),
        "step": lambda: kgfast.sample_negatives(TRIPLES, 2, 5, side="tail", seed=0, step=value),
        "shared": lambda: kgfast.sample_negatives(TRIPLES, 2, 5, side="tail", seed=0, shared=value),
        "k": lambda: kgfast.topk(torch.ones(5, 4), torch.ones(3, 4), TRIPLES, value, score="distmult", side="tail"),
        "dim": lambda: nn.DistMult(5, 3, value),
        "ignore_index": lambda: kgfast.linear_cross_entropy(
            *[torch.ones(5, 4)] * 2, torch.arange(5), ignore_index=value
        ),
        "negatives": lambda: steps.NegativeSamplingStep(*of_a_step(), negatives=value),
        "index": lambda: steps.NegativeSamplingStep(*of_a_step(), negatives=2)(TRIPLES, value),
    }
    for name, call in calls.items():
        with pytest.raises(kgfast.KgfastError, match=f"^{name}="):
            call()


def of_a_step():
    model = nn.DistMult(5, 3, 4)
    return model, optim.RowSGD(model.parameters())


@pytest.mark.parametrize("value", [None, "1x", [1.0], torch.ones(2), float("nan"), float("inf"), True])
def test_what_is_no_finite_number_is_named(value):
    tables = torch.ones(5, 4), torch.ones(3, 4)
    options = dict(score="distmult", side="tail")
    calls = {
        "margin": lambda: kgfast.negative_sampling_loss(*tables, TRIPLES, TRIPLES, margin=value, **options),
        "adversarial_temperature": lambda: kgfast.negative_sampling_loss(
            *tables, TRIPLES, TRIPLES, adversarial_temperature=value, **options
        ),
        "label_smoothing": lambda: kgfast.one_vs_all_loss(*tables, TRIPLES, label_smoothing=value, **options),
        "lr": lambda: optim.RowSGD([torch.nn.Parameter(tables[0])], lr=value),
        "query_dropout": lambda: steps.OneVsAllStep(*of_a_step(), query_dropout=value),
        "regularizer_weight": lambda: steps.OneVsAllStep(*of_a_step(), regularizer_weight=value),
    }
    for name, call in calls.items():
        with pytest.raises(kgfast.KgfastError, match=f"^{name}="):
            call()


@pytest.mark.parametrize("name", ["margin", "adversarial_temperature"])
def test_a_number_that_wants_a_gradient_is_refused(name):
    """It would stay without one."""
    value = torch.tensor(1.0, requires_grad=True)
    tables = torch.ones(5, 4), torch.ones(3, 4)
    with pytest.raises(kgfast.KgfastError, match=f"{name} requires a gradient"):
        kgfast.negative_sampling_loss(*tables, TRIPLES, TRIPLES, score="distmult", side="tail", **{name: value})
    plain, taken = (
        kgfast.negative_sampling_loss(*tables, TRIPLES, TRIPLES, score="distmult", side="tail", **{name: one})
        for one in (1.0, torch.tensor(1.0))
    )
    assert torch.equal(plain, taken)


@pytest.mark.parametrize("side", ["Tail", "tails", "both", "", 3, None])
@pytest.mark.parametrize("reciprocal", [False, True])
def test_a_side_that_is_misspelt_is_no_head(reciprocal, side):
    """A reciprocal model asks for heads as tails; what is neither is refused by it as by any other."""
    model = nn.ComplEx(5, 3, 4, reciprocal=reciprocal)
    known = kgfast.KnownTriples.from_triples(TRIPLES, 5, 3)
    calls = (
        lambda: model.rank(TRIPLES, side),
        lambda: model.rank(TRIPLES, side, known),
        lambda: model.topk(TRIPLES, 2, side),
        lambda: model.topk(TRIPLES, 2, side, known),
        lambda: model.score_candidates(TRIPLES, side),
    )
    for call in calls:
        with pytest.raises(kgfast.KgfastError, match="^side=.* is unknown: it is one of tail, head"):
            call()
    with pytest.raises(kgfast.KgfastError, match="^side="):
        steps.OneVsAllStep(model, optim.RowSGD(model.parameters()), side=side if side != "both" else "Both")


@pytest.mark.parametrize("size", [(6, 11, 8), (64, 1000, 130)], ids=["small", "large"])
@pytest.mark.parametrize(
    "bias, message",
    [
        ([0.0], "bias must be a torch.Tensor, not list"),
        (torch.zeros(3), r"bias has shape \[3\]; one for each of \d+ rows"),
        ("ids", "bias is torch.int64 on cpu; torch.float32"),
        ("sparse", "bias must be a dense tensor"),
    ],
)
def test_a_wrong_bias_is_named_at_every_size(size, bias, message):
    """Torch's own product serves the small head, a kernel the large one."""
    rows, classes, dim = size
    bias = {"ids": torch.ones(classes).long(), "sparse": torch.ones(classes).to_sparse()}.get(
        bias if isinstance(bias, str) else "", bias
    )
    with pytest.raises(kgfast.KgfastError, match=message):
        kgfast.linear_cross_entropy(
            torch.ones(rows, dim), torch.ones(classes, dim), torch.zeros(rows).long(), bias=bias
        )


@pytest.mark.parametrize("size", [(6, 11, 8), (64, 1000, 130)], ids=["small", "large"])
def test_a_bias_of_another_dtype_is_cast_at_every_size(size):
    rows, classes, dim = size
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*s, generator=generator) for s in ((rows, dim), (classes, dim), (classes,)))
    targets = torch.zeros(rows).long()
    ours = kgfast.linear_cross_entropy(hidden, weight, targets, bias=bias.double())
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(hidden @ weight.T + bias, targets))


def test_weights_that_are_no_tensor_are_named():
    with pytest.raises(kgfast.KgfastError, match="weights must be a torch.Tensor, not list"):
        kgfast.sample_negatives(TRIPLES, 4, 2, side="tail", seed=0, weights=[1.0, 1.0])
    with pytest.raises(kgfast.KgfastError, match="weights are list"):
        kgfast.negative_sampling_loss(torch.ones(5, 4), torch.ones(3, 4), TRIPLES, TRIPLES, score="distmult",
                                      side="tail", weights=[1.0] * 4)  # fmt: skip


def test_a_step_beyond_64_bits_is_named():
    with pytest.raises(kgfast.KgfastError, match="^step="):
        kgfast.sample_negatives(TRIPLES, 4, 5, side="tail", seed=0, step=2**64)
    last = kgfast.sample_negatives(TRIPLES, 4, 5, side="tail", seed=0, step=2**64 - 1)
    assert torch.equal(
        last, kgfast.sample_negatives(TRIPLES, 4, 5, side="tail", seed=0, step=2**64 - 1, impl="reference")
    )


def negated(value):
    """The same number as a view that torch keeps as its negative; of one number it is contiguous all the same."""
    return torch.complex(value, -value).conj().imag


def test_a_number_that_is_kept_as_its_negative():
    table, triples = torch.tensor([[0.5]]), torch.tensor([[0, 0, 0]])
    assert negated(table).is_neg() and negated(table).is_contiguous()
    options = dict(score="distmult", impl="cpu")
    relation = torch.tensor([[3.0]])
    assert float(kgfast.score_triples(negated(table), negated(relation), triples, **options)) == 0.75
    leaf = table.clone().requires_grad_()
    kgfast.score_triples(leaf, relation, triples, **options).backward(negated(torch.ones(1)))
    assert leaf.grad.tolist() == [[3.0]]
    param = torch.nn.Parameter(table.clone())
    param.grad = negated(torch.ones(1, 1))
    kgfast.optim.RowSGD([param], lr=0.25).step()
    assert param.tolist() == [[0.25]]
