"""Cost as the number of negatives, reals, triples and entities grows."""

import pytest

from benchmarks.cases import scaling


@pytest.mark.parametrize("case", scaling(), ids=str)
def test_scaling(case, measure):
    measure(case, kind="scaling")
