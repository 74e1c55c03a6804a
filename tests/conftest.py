"""Fixtures of all tests: NaN in fresh memory, every CPU level of the machine, thread counts put back."""

import os

import pytest

# Before torch loads OpenMP: threads that wait give their core up soon, as the tests may share the machine.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch  # noqa: E402

from kgfast import testing  # noqa: E402
from kgfast.backends.cpu import _C  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="one case of every test that is not marked slow")


def pytest_collection_modifyitems(config, items):
    """For --quick: the last case of each test, which has the machine's best instructions and the odd shapes."""
    if config.getoption("--quick"):
        last = {(item.path, item.cls, getattr(item, "originalname", item.name)): item for item in items}
        kept = {item for item in last.values() if not item.get_closest_marker("slow")}
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


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


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """A cache of graphs that is empty, and the test's own."""
    monkeypatch.setenv("KGFAST_CACHE", str(tmp_path_factory.mktemp("cache")))
