"""What all tests share: lanes, NaN in fresh memory, every CPU level of the machine, thread counts put back."""

import os

import pytest

# Before torch loads OpenMP: threads that wait give their core up soon, as the tests may share the machine.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, each has one core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import lanes  # noqa: E402
import torch  # noqa: E402

from kgfast import testing  # noqa: E402
from kgfast.backends.cpu import _C  # noqa: E402

MARKERS = (
    "no_poison: leave torch.empty alone, as torch.compile must trace it",
    "lanes(tiles, widest, slow, impls): which lanes a test with the argument `lane` is for (helpers/lanes.py)",
    "axes(*names, **values): options of which a test with the argument `setting` tries every pair of values",
    "tsne: maps of entities are made by openTSNE, where it is installed",
    "of_backend(name): a test of one backend's inside, left out where --impl names another",
)


def pytest_addoption(parser):
    group = parser.getgroup("kgfast")
    group.addoption("--quick", action="store_true", help="one case of every test that is not marked slow")
    group.addoption("--impl", choices=("cpu", "triton", "cuda"), help="the one backend that tests of backends run")
    group.addoption("--device", choices=("cpu", "cuda"), help="where they run it; cpu unless --impl is left out")


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    lanes.lanes_of(config.getoption("--impl"), config.getoption("--device"))  # refuses what can't serve, once


def pytest_generate_tests(metafunc):
    if "lane" in metafunc.fixturenames:
        lanes.parametrize(metafunc)


def pytest_collection_modifyitems(config, items):
    """With --impl, no test of another backend's inside. With --quick, the last case of each test by each backend, which
    has the machine's best instructions and the odd shapes."""
    impl, kept = config.getoption("--impl"), set(items)
    if impl is not None:
        marks = {item: item.get_closest_marker("of_backend") for item in items}
        kept -= {item for item, mark in marks.items() if mark is not None and mark.args[0] != impl}
    if config.getoption("--quick"):
        last = {(item.path, item.cls, getattr(item, "originalname", item.name), impl_of(item)): item for item in items}
        kept &= {item for item in last.values() if not item.get_closest_marker("slow")}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
    items.sort(key=lambda item: item.path.name != "test_interpreter.py")  # minutes each: first, so that none is last


def impl_of(item):
    """The backend of a test with a lane."""
    lane = getattr(item, "callspec", None) and item.callspec.params.get("lane")
    return lane.impl if isinstance(lane, lanes.Lane) else None


@pytest.fixture
def lane(request):
    """A backend on a device, ready to serve."""
    with request.param.active() as ready:
        yield ready


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


@pytest.fixture(autouse=True)
def maps_by_axes(request):
    """Maps of entities take no seconds, but for tests that are marked `tsne`. With a patch of its own, as the fixture
    `monkeypatch` would then be older than `lane`, and put back what a lane had set."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("tsne"):
            patch.setattr("kgfast.evaluate.embedding_map.has_tsne", lambda: False)
        yield
