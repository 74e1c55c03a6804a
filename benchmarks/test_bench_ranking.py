"""Ranks and best answers."""

import pytest

from benchmarks.cases import of


@pytest.mark.parametrize("case", of("rank"), ids=str)
def test_rank(case, measure):
    measure(case)


@pytest.mark.parametrize("case", of("topk"), ids=str)
def test_topk(case, measure):
    measure(case)
