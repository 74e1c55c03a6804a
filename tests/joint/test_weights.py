"""Weights of tasks and PCGrad against hand-made cases."""

import math

import pytest
import torch

from kgfast.errors import ConfigError
from kgfast.joint.balance.pcgrad import project
from kgfast.joint.balance.weights import METHODS, DynamicWeightAverage, GradNorm, UncertaintyWeights, make_weights

ALL = torch.tensor([True, True])


def test_fixed_weights_stay():
    weights = make_weights("fixed", [1.0, 0.25], every=1, temperature=1, alpha=1, lr=1)
    for step in range(5):
        weights.observe(step, torch.tensor([3.0, 1.0]), ALL)
    assert weights.weights().tolist() == [1.0, 0.25] and weights.penalty(ALL) is None


def test_uncertainty_settles_where_the_formula_says():
    weights = UncertaintyWeights([1.0, 1.0])
    losses = torch.tensor([4.0, 0.5])
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.05)
    for step in range(400):
        optimizer.zero_grad()
        ((weights.weights() * losses).sum() + weights.penalty(ALL)).backward()
        optimizer.step()
        weights.observe(step, losses, ALL)
    assert torch.allclose(weights.weights(), 1 / (2 * losses), rtol=1e-3)


def test_uncertainty_of_an_absent_task_has_no_gradient():
    weights = UncertaintyWeights([1.0, 1.0])
    present = torch.tensor([True, False])
    (weights.weights()[:1].sum() * 2 + weights.penalty(present)).backward()
    assert weights.log_variance.grad.tolist() == [-1.5, 0.0]


def test_uncertainty_stays_within_its_limits():
    weights = UncertaintyWeights([1.0])
    with torch.no_grad():
        weights.log_variance.fill_(-90.0)
    weights.observe(0, torch.zeros(1), ALL[:1])
    assert weights.log_variance.item() == -5


def test_dwa_is_the_softmax_of_the_ratios():
    weights = DynamicWeightAverage([1.0, 1.0], every=2, temperature=2.0)
    windows = [([4.0, 1.0], [2.0, 1.0]), ([1.0, 1.0], [2.0, 1.0])]  # means 3, 1, then 1.5, 1
    step = 0
    for window in windows:
        assert weights.weights().tolist() == [1.0, 1.0]
        for losses in window:
            weights.observe(step, torch.tensor(losses), ALL)
            step += 1
    ratios = torch.tensor([0.5, 1.0])
    assert torch.allclose(weights.weights(), 2 * torch.softmax(ratios / 2, 0))


def test_dwa_ignores_steps_without_the_task():
    weights = DynamicWeightAverage([1.0, 1.0], every=2)
    for step in range(4):
        losses = torch.tensor([2.0, 9.0 if step % 2 else 1.0])
        weights.observe(step, losses, torch.tensor([True, step % 2 == 0]))
    assert weights.means[0].tolist() == [2.0, 1.0]


def test_gradnorm_moves_towards_even_gradients():
    weights = GradNorm([1.0, 1.0], every=1, alpha=0.0, lr=0.01)
    norms = torch.tensor([9.0, 1.0])
    for step in range(2000):
        weights.observe(step, torch.ones(2), ALL, norms)
    found = weights.weights()
    assert found.sum().item() == pytest.approx(2.0)
    assert found[0].item() * 9 == pytest.approx(found[1].item(), rel=0.15)  # within a step of each other


def test_gradnorm_favours_the_task_that_learns_slowly():
    weights = GradNorm([1.0, 1.0], every=1, alpha=1.5, lr=0.01)
    weights.observe(0, torch.tensor([2.0, 2.0]), ALL)
    for step in range(1, 30):
        weights.observe(step, torch.tensor([2.0, 0.5]), ALL, torch.ones(2))
    slow, fast = weights.weights().tolist()
    assert slow > 1.1 > fast


@pytest.mark.parametrize("method", METHODS)
def test_state_comes_back(method):
    options = dict(every=2, temperature=2.0, alpha=1.5, lr=0.1)
    first, second = (make_weights(method, [1.0, 2.0], **options) for _ in range(2))
    for step in range(7):
        first.observe(step, torch.tensor([3.0 / (step + 1), 1.0]), ALL, torch.tensor([1.0, 3.0]))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weights(), second.weights())
    with pytest.raises(ConfigError, match="weighting='magic'"):
        make_weights("magic", [1.0], **options)


def test_pcgrad_projects_what_conflicts():
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    found = project({"a": [first], "b": [second]}, torch.Generator())[0]
    expected = (first - (-1 / 2) * second) + (second - (-1 / 1) * first)
    assert torch.allclose(found, expected)
    assert torch.dot(first - (-1 / 2) * second, second).item() == pytest.approx(0, abs=1e-7)


def test_pcgrad_leaves_the_rest_alone():
    shared, own = torch.tensor([1.0, 2.0]), torch.tensor([5.0])
    found = project({"a": [shared, own, None], "b": [shared, None, None]}, torch.Generator())
    assert torch.equal(found[0], 2 * shared) and torch.equal(found[1], own) and found[2] is None
    own_conflict = project({"a": [shared, own], "b": [-shared, None]}, torch.Generator())
    assert torch.equal(own_conflict[1], own) and math.isclose(float(own_conflict[0].abs().sum()), 0, abs_tol=1e-6)
