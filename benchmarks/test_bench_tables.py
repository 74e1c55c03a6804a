"""A table far larger than the caches: what counts there is random rows."""

import pytest

from benchmarks.cases import large
from benchmarks.cost import rows
from benchmarks.machine import available_bytes


@pytest.mark.parametrize("case", large(), ids=str)
def test_large(case, measure, session):
    if session.size_name == "tiny":
        pytest.skip("--size=tiny has no large tables")
    size = session.size.with_(**dict(case.changes))
    needed = 2 * rows(size.entities, size.dim) + (1 << 30)  # the table is made from numbers of its own size
    if available_bytes() < needed:
        pytest.skip(f"needs {needed >> 30} GB of free memory")
    measure(case, kind="large")
