"""Scores and sampled ids."""

import pytest

from benchmarks.cases import of


@pytest.mark.parametrize("case", of("score_triples"), ids=str)
def test_score_triples(case, measure):
    measure(case)


@pytest.mark.parametrize("case", of("score_candidates"), ids=str)
def test_score_candidates(case, measure):
    measure(case)


@pytest.mark.parametrize("case", of("sample_negatives"), ids=str)
def test_sample_negatives(case, measure):
    measure(case)
