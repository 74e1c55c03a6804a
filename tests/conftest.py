"""Fixtures of all tests: NaN in fresh memory, every CPU level of the machine, thread counts put back."""

import pytest
import torch

from kgfast import testing
from kgfast.backends.cpu import _C


def pytest_configure(config):
    config.addinivalue_line("markers", "no_poison: leave torch.empty alone, as torch.compile must trace it")


@pytest.fixture(autouse=True)
def poison(request):
    """What kgfast allocates without initialising is NaN, so that a read before a write shows."""
    if request.node.get_closest_marker("no_poison"):
        yield
        return
    with testing.poison_empty():
        yield


@pytest.fixture(params=_C.cpu_levels())
def level(request):
    """The test runs once for every instruction set that the machine has."""
    before = _C.cpu_level()
    _C.set_cpu_level(request.param)
    yield request.param
    _C.set_cpu_level(before)


@pytest.fixture
def for_threads():
    """for_threads(function) -> its results with 1 and with 2 threads."""
    before = torch.get_num_threads()

    def run(function):
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(function())
        return results

    yield run
    torch.set_num_threads(before)
