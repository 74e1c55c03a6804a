"""Gradients of the fused losses: once and no more, the same however often they are asked for, of the ids that were
checked, and under torch.func."""

import numpy as np
import pytest
import torch

import kgfast
from kgfast import testing
from kgfast.registry import ALL_OBJECTIVES, Objective

SIDES = ("tail", "head", "both")
OVER_ALL = tuple(ALL_OBJECTIVES)
KINDS = ["score_triples", "scores of all", "scores of some"]
KINDS += [
    f"{kind}-{side}-{objective}" for kind in ("own", "shared") for side in SIDES for objective in Objective.words()
]
KINDS += [f"all-{side}-{objective}" for side in SIDES for objective in OVER_ALL]
KINDS += [
    "own-tail-logistic-none",
    "shared-both-softmax-none",
    "own-head-bce-sum",
    "all-both-softmax-none",
    "all-tail-bce-sum",
]
KINDS += [f"linear-{reduction}" for reduction in ("mean", "sum", "none")]
KINDS += [f"terms-{objective}-{rivals}" for objective in OVER_ALL for rivals in ("all", "known", "candidates")]
FEW = ["score_triples", "scores of all", "scores of some", "own-tail-logistic", "shared-both-softmax", "all-tail-bce",
       "own-tail-logistic-none", "shared-both-softmax-none", "all-both-softmax-none",
       "linear-mean", "linear-none", "terms-softmax-all", "terms-softmax-known"]  # fmt: skip
TILES = ("all", "scores of all", "linear", "terms")  # kinds of losses over all candidates


def make_loss(lane, kind, score="distmult", sparse=False):
    """(a scalar function of two leaves, the leaves, the ids that it reads) of a public loss."""
    kind, *words = kind.split("-")
    case = lane.case(score, 6, 5, 4, side=words[0] if words and words[0] in SIDES else "tail")
    tables, triples, own = [case.entities, case.relations], case.triples, case.negatives
    some = own.clamp(min=0)
    targets = triples[:, 2].contiguous()
    known = tuple(lane.on(torch.tensor([0, 1, 2, 2, 4, 5]), torch.tensor([5, 0, 2, 7, 9])))
    options = dict(score=score, impl=lane.impl)
    sparsely = dict(sparse_grad=True) if sparse else {}

    def linear(hidden, weight):
        return kgfast.linear_cross_entropy(hidden, weight, targets, reduction=words[0], impl=lane.impl).sum()

    def terms(query, table):
        rivals = {"known": dict(known=known), "candidates": dict(candidates=some[0])}.get(words[1], {})
        term = kgfast.Term(query, table, targets, objective=words[0], **rivals)
        return kgfast.multitask_loss([term, term], [1.0, 0.5], impl=lane.impl)[0]

    if kind in ("own", "shared", "all"):
        side, objective, *reduction = words
        options |= dict(side=side, objective=objective, reduction=reduction[0] if reduction else "mean")

    def sampled(*t):
        ids = own[..., :2, :] if kind == "shared" else own
        return kgfast.negative_sampling_loss(*t, triples, ids, margin=1.0, **options, **sparsely).sum()

    def over_all(*t):
        return kgfast.one_vs_all_loss(*t, triples, **options).sum()

    functions = {
        "score_triples": lambda *t: kgfast.score_triples(*t, triples, **options, **sparsely).square().sum(),
        "scores of all": lambda *t: kgfast.score_candidates(*t, triples, side="head", **options).square().sum(),
        "scores of some": lambda *t: kgfast.score_candidates(*t, triples, some, **options, **sparsely).square().sum(),
        "own": sampled, "shared": sampled, "all": over_all, "linear": linear, "terms": terms,
    }  # fmt: skip
    if kind in ("linear", "terms"):
        hidden = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).to(lane.device)
        return functions[kind], [hidden, tables[0]], [targets, *known, some]
    return functions[kind], tables, [triples, own, some]


def skip_without_tiles(lane, kind):
    if not lane.tiles and kind.startswith(TILES):
        pytest.skip("without tiles there is no loss over all candidates")


def fresh(leaves):
    return [leaf.detach().clone().requires_grad_() for leaf in leaves]


@pytest.mark.lanes(widest=True, slow=False)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", [0, 1])
def test_a_gradient_of_a_gradient_is_refused(lane, kind, wanted):
    """Whichever way it is asked for. create_graph itself is allowed: a loop may set it and never use the graph."""
    skip_without_tiles(lane, kind)
    function, leaves, _ = make_loss(lane, kind)
    leaves = fresh(leaves)
    first = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
    once = torch.autograd.grad(function(*leaves), leaves)
    for one, plain in zip(first, once, strict=True):
        assert torch.equal(one, plain)
    total = function(*leaves) + first[wanted].pow(2).sum()
    for leaf in leaves:
        with pytest.raises(RuntimeError, match="impl='reference'"):
            torch.autograd.grad(total, leaf, retain_graph=True, allow_unused=True)
    with pytest.raises(RuntimeError, match="impl='reference'"):
        total.backward()


@pytest.mark.lanes(widest=True, slow=False)
@pytest.mark.parametrize("kind", ["score_triples", "scores of some", "own-tail-logistic", "shared-both-softmax"])
def test_a_gradient_of_a_sparse_gradient_is_refused(lane, kind):
    function, leaves, _ = make_loss(lane, kind, sparse=True)
    leaves = fresh(leaves)
    first = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
    assert first[0].is_sparse
    with pytest.raises(RuntimeError, match="impl='reference'"):
        torch.autograd.grad(first[0].to_dense().pow(2).sum(), leaves[0])


@pytest.mark.lanes(widest=True, slow=False)
@pytest.mark.parametrize("kind", FEW)
def test_a_gradient_of_a_gradient_is_refused_by_torch_func(lane, kind):
    skip_without_tiles(lane, kind)
    function, leaves, _ = make_loss(lane, kind)
    first = torch.func.grad(function)
    with pytest.raises(RuntimeError, match="impl='reference'"):
        torch.func.grad(lambda *t: first(*t).pow(2).sum())(*leaves)


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize("kind", FEW)
def test_torch_func_gives_the_gradient(lane, kind):
    """The same bits, but for terms that otherwise share a launch."""
    skip_without_tiles(lane, kind)
    function, leaves, _ = make_loss(lane, kind)
    own = fresh(leaves)
    expected = [function(*own), *torch.autograd.grad(function(*own), own)]
    gradients, value = torch.func.grad_and_value(function, argnums=(0, 1))(*leaves)
    (alone,) = torch.func.grad(function, argnums=(0,))(*leaves)
    assert torch.equal(alone, gradients[0])
    together = kind.startswith("terms") and lane.backend.shares_launches
    for ours, plain in zip([value, *gradients], expected, strict=True):
        torch.testing.assert_close(ours, plain)
        assert together or torch.equal(ours, plain)


@pytest.mark.parametrize("rows, classes, dim", [(6, 11, 8), (64, 1000, 130)])
@pytest.mark.parametrize("impl", [None, "cpu"])
def test_a_small_and_a_large_head_behave_alike(rows, classes, dim, impl):
    """The small one is torch's own where no backend is named: it has second gradients too."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(count, dim, generator=generator, dtype=torch.float64) for count in (rows, classes))
    targets = torch.randint(classes, (rows,), generator=generator)
    found = torch.func.grad(lambda h: kgfast.linear_cross_entropy(h, weight, targets, impl=impl))(hidden)
    expected = torch.func.grad(lambda h: torch.nn.functional.cross_entropy(h @ weight.T, targets))(hidden)
    torch.testing.assert_close(found, expected)
    leaf = hidden.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kgfast.linear_cross_entropy(leaf, weight, targets, impl=impl), leaf,
                                      create_graph=True)  # fmt: skip
    if impl is None and rows == 6:
        (second,) = torch.autograd.grad(gradient.pow(2).sum(), leaf)
        assert second.isfinite().all() and second.any()
    else:
        with pytest.raises(RuntimeError, match="impl='reference'"):
            torch.autograd.grad(gradient.pow(2).sum(), leaf)


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize("kind", FEW)
@pytest.mark.parametrize("sparse", [False, True])
def test_a_retained_graph_gives_the_same_gradient_again(lane, kind, sparse):
    """Whatever became of the first: who balances tasks changes gradients in place."""
    skip_without_tiles(lane, kind)
    function, leaves, _ = make_loss(lane, kind, sparse=sparse)
    leaves = fresh(leaves)
    loss = function(*leaves)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    kept = [one.to_dense().clone() for one in first]
    for one in first:
        (one._values() if one.is_sparse else one).mul_(-0.1)
    for _ in range(2):
        again = torch.autograd.grad(loss, leaves, retain_graph=True)
        for ours, before in zip(again, kept, strict=True):
            assert torch.equal(ours.to_dense(), before)


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize("kind", FEW)
def test_ids_that_change_before_backward_change_nothing(lane, kind):
    """A loader fills its buffer with the next batch; the gradient is of the batch that was checked."""
    skip_without_tiles(lane, kind)
    function, leaves, _ = make_loss(lane, kind)
    expected = testing.evaluate(function, leaves)
    function, leaves, ids = make_loss(lane, kind)
    leaves = fresh(leaves)
    loss = function(*leaves)
    for one in ids:
        one.fill_(2**40)
    loss.backward()
    found = [loss.detach(), *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)]
    for ours, right in zip(found, expected, strict=True):
        assert torch.equal(ours, right)


@pytest.mark.parametrize("loss", ["triples", "own", "all"])
def test_ids_in_memory_of_numpy_may_change_too(loss):
    """Torch counts no version of what NumPy writes."""
    buffer, draws = np.array([[0, 1, 2], [3, 0, 4], [9, 2, 0]]), np.array([[1, 2], [0, 5], [8, -1]])
    entities, relations = testing.make_tables("distmult", 8, num_entities=10, num_relations=3)
    triples, ids = torch.from_numpy(buffer), torch.from_numpy(draws)
    options = dict(score="distmult", side="tail")

    def function(*tables):
        if loss == "triples":
            return kgfast.score_triples(*tables, triples, score="distmult").sum()
        if loss == "own":
            return kgfast.negative_sampling_loss(*tables, triples, ids, **options)
        return kgfast.one_vs_all_loss(*tables, triples, **options)

    expected = testing.evaluate(function, [entities, relations])
    leaves = fresh([entities, relations])
    value = function(*leaves)
    buffer[:], draws[:] = 2**40, -(2**50)
    value.backward()
    for ours, right in zip([value, *(leaf.grad for leaf in leaves)], expected, strict=True):
        assert torch.equal(ours, right)


@pytest.mark.lanes(widest=True, slow=False)
@pytest.mark.parametrize("kind", FEW)
def test_an_unused_gradient_costs_nothing_and_is_none(lane, kind):
    """Where nothing depends on the loss, and where one of the tables needs no gradient."""
    skip_without_tiles(lane, kind)
    function, leaves, _ = make_loss(lane, kind)
    leaves = fresh(leaves)
    other = leaves[0].sum()
    function(*leaves)
    other.backward()
    assert torch.equal(leaves[0].grad, torch.ones_like(leaves[0])) and leaves[1].grad is None
