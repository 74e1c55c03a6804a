"""Losses and their gradients."""

import pytest

from benchmarks.cases import of


@pytest.mark.parametrize("case", of("negative_sampling_loss"), ids=str)
def test_negative_sampling_loss(case, measure):
    measure(case)


@pytest.mark.parametrize("case", of("one_vs_all_loss"), ids=str)
def test_one_vs_all_loss(case, measure):
    measure(case)


@pytest.mark.parametrize("case", of("linear_cross_entropy"), ids=str)
def test_linear_cross_entropy(case, measure):
    measure(case)


@pytest.mark.parametrize("case", of("multitask_loss"), ids=str)
def test_multitask_loss(case, measure):
    measure(case)
