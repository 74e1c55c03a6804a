"""Row optimizers and whole training steps."""

import pytest

from benchmarks.cases import of


@pytest.mark.parametrize("case", of("row_optimizer"), ids=str)
def test_row_optimizer(case, measure):
    measure(case)


@pytest.mark.parametrize("case", of("NegativeSamplingStep"), ids=str)
def test_negative_sampling_step(case, measure):
    measure(case)


@pytest.mark.parametrize("case", of("OneVsAllStep"), ids=str)
def test_one_vs_all_step(case, measure):
    measure(case)
