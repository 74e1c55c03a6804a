"""Gradients of compiled losses are those of the same losses uncompiled: every public loss, whichever way its graph is
captured. tests/torch_matrix.sh runs this with other versions of torch too."""

import pytest
import torch

import kgfast
from kgfast import backends, testing
from kgfast.core.environment import TRITON_INTERPRETED
from kgfast.registry import ALL_OBJECTIVES, Objective

IMPL = "triton" if TRITON_INTERPRETED else "cpu"  # as in test_ops.py
CAPTURES = ("aot_eager",) if TRITON_INTERPRETED else ("eager", "aot_eager")  # with the backward; without it too
BATCH, DIM = 7, 8
LOSSES = ["score_triples", "scores of all", "scores of some"]
LOSSES += [f"{kind}-{objective}" for kind in ("own", "shared", "both") for objective in Objective.words()]
LOSSES += [f"all-{objective}" for objective in ALL_OBJECTIVES] + ["all-both"]
LOSSES += ["own-none", "shared-none", "all-none"]
LOSSES += [f"linear-{reduction}" for reduction in ("mean", "sum", "none")]
LOSSES += [f"terms-{objective}" for objective in ALL_OBJECTIVES]


def table_losses(score):
    """{name: (function of entities and relations, leaves)}."""
    case = testing.make_case(score, DIM, BATCH, 5)
    triples, own, known = case.triples, case.negatives, testing.make_known(case.triples)
    some, options = own.clamp(min=0), dict(score=score, impl=IMPL)
    losses = {
        "score_triples": lambda *t: kgfast.score_triples(*t, triples, **options),
        "scores of all": lambda *t: kgfast.score_candidates(*t, triples, side="head", **options),
        "scores of some": lambda *t: kgfast.score_candidates(*t, triples, some, **options),
        "all-both": lambda *t: kgfast.one_vs_all_loss(*t, triples, side="both", label_smoothing=0.1, **options),
    }
    sampled = dict(own=(own, "tail"), shared=(own[:2], "head"), both=(torch.stack([own, own]), "both"))
    for kind, (ids, side) in sampled.items():
        for objective in Objective.words():
            losses[f"{kind}-{objective}"] = lambda *t, ids=ids, side=side, objective=objective: (
                kgfast.negative_sampling_loss(
                    *t, triples, ids, side=side, objective=objective, margin=1.0, adversarial_temperature=0.5,
                    weights=case.weights, known=known, **options,
                )
            )  # fmt: skip
    for kind, ids in (("own", own), ("shared", own[:2])):
        losses[f"{kind}-none"] = lambda *t, ids=ids: kgfast.negative_sampling_loss(
            *t, triples, ids, side="tail", weights=case.weights, reduction="none", **options
        )
    losses["all-none"] = lambda *t: kgfast.one_vs_all_loss(*t, triples, side="head", reduction="none", **options)
    for objective in ALL_OBJECTIVES:
        losses[f"all-{objective}"] = lambda *t, objective=objective: kgfast.one_vs_all_loss(
            *t, triples, side="tail", objective=objective, known=known, **options
        )
    leaves = [case.entities, case.relations]
    return {name: (loss, leaves) for name, loss in losses.items()}


def row_losses():
    """{name: (function of hidden, weight and bias, leaves)}."""
    generator = torch.Generator().manual_seed(1)
    leaves = [torch.randn(shape, generator=generator) for shape in ((BATCH, DIM), (37, DIM), (37,))]
    targets = torch.randint(37, (BATCH,), generator=generator)
    targets[2] = -100
    losses = {}
    for reduction in ("mean", "sum", "none"):
        losses[f"linear-{reduction}"] = lambda hidden, weight, bias, reduction=reduction: kgfast.linear_cross_entropy(
            hidden, weight, targets, bias=bias, reduction=reduction, label_smoothing=0.1, impl=IMPL
        )
    for objective in ALL_OBJECTIVES:

        def terms(hidden, weight, bias, objective=objective):
            term = kgfast.Term(hidden, weight, targets, bias=bias, objective=objective)
            return kgfast.multitask_loss([term, kgfast.Term(hidden, weight, targets)], [1.0, 0.5], impl=IMPL)[0]

        losses[f"terms-{objective}"] = terms
    return {name: (loss, leaves) for name, loss in losses.items()}


def gradients(loss, leaves):
    """The value and the gradients of 3 sum of squares: what comes in backward is neither 1 nor the same everywhere."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value = loss(*leaves)
    (3 * value.square().sum()).backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


def check(loss, leaves, capture):
    torch._dynamo.reset()
    expected = gradients(loss, leaves)
    assert all(one.any() for one in expected)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):  # older torch asks for it
        compiled = torch.compile(loss, fullgraph=True, backend=capture)
        ours = gradients(compiled, leaves)
        torch.testing.assert_close(compiled(*leaves), expected[0])  # leaves that need no gradient
        with torch.no_grad():
            torch.testing.assert_close(compiled(*(leaf.clone().requires_grad_() for leaf in leaves)), expected[0])
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.no_poison
@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("name", LOSSES)
def test_compiled_gradients_of_every_loss(name, capture):
    check(*(table_losses("complex") | row_losses())[name], capture)


@pytest.mark.no_poison
@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("score", kgfast.SCORES)
def test_compiled_gradients_of_every_score(score, capture):
    check(*table_losses(score)["scores of some"], capture)


@pytest.mark.no_poison
def test_the_first_call_may_be_compiled(monkeypatch):
    """Nothing was computed before, so the backend is yet to be imported."""
    loss, leaves = row_losses()["linear-sum"]
    torch._dynamo.reset()
    monkeypatch.setattr(backends, "_made", {})
    ours = torch.compile(loss, fullgraph=True, backend="eager")(*leaves)
    torch.testing.assert_close(ours, loss(*leaves))


def test_every_loss_is_named():
    assert set(LOSSES) == {*table_losses("complex"), *row_losses()}
