"""What can't fit is refused by the setting that asks for it, before anything is made."""

import subprocess
import sys

import pytest
import torch
from training_helpers import grouped_graph, small_config

from kgfast.errors import ConfigError
from kgfast.run import memory
from kgfast.run.memory import Need, check_memory, use_threads
from kgfast.train import train

GIB = 1 << 30


@pytest.fixture(scope="module")
def graph():
    return grouped_graph()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(dim=10**9), "dim=1000000000: "),
        (dict(dim=10**30), "dim=1000000"),
        (dict(dim=2**21, model="rescal"), "dim=2097152: the tables of 72 entities and 3 relations"),
        (dict(negatives=2**25 - 1, batch_size=10**18), "batch_size=1000000000000000000: the negatives of 450 triples"),
        (dict(negatives=10**10), "negatives=10000000000: the negatives of 64 triples"),
        (dict(threads=100_000), "threads=100000: must be from 1 to"),
        (dict(threads=10**30), "threads=1000000"),
    ],
)
def test_what_does_not_fit_is_named(graph, tmp_path, monkeypatch, settings, said):
    monkeypatch.setattr(memory, "free_memory", lambda device="cpu": 64 * GIB)
    with pytest.raises(ConfigError) as caught:
        train(small_config(tmp_path / "run", **settings), graph=graph)
    assert str(caught.value).startswith(said)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_batch_beyond_the_graph_is_the_graph(graph, tmp_path):
    assert train(small_config(tmp_path / "run", batch_size=10**18, epochs=1), graph=graph)["train"]["steps"] == 1


def test_estimates_are_from_below(graph, tmp_path, monkeypatch):
    """What is asked for is at most what a run takes."""
    asked = []
    monkeypatch.setattr("kgfast.train.build.check_memory", lambda needs, device: asked.append(needs))
    train(small_config(tmp_path / "run", epochs=1), graph=graph)
    needs = max(asked, key=len)
    tables = 4 * (72 + 3) * 16
    assert needs[0].size == tables * 2  # row_adagrad has a number a row, and validation keeps the best
    assert [need.setting for need in needs] == ["dim=16", "dim=16", "negatives=8"] or needs[2].size < 64 * 8 * 20


def test_the_largest_need_is_named():
    with pytest.raises(ConfigError, match="b=2: the second need 2 EiB of the 2 EiB"):
        check_memory([Need("a=1", "the first", 1), Need("b=2", "the second", 2**61)])
    check_memory([Need("a=1", "nothing", 0)])


def test_the_limit_of_the_process_counts():
    found = memory.free_memory()
    assert found is None or 0 < found < 2**50
    assert all(isinstance(bound, int) for bound in memory.bounds())


def test_threads_are_set():
    before = torch.get_num_threads()
    try:
        use_threads(2)
        assert torch.get_num_threads() == 2
        use_threads(None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_peak_is_the_process_own():
    """Also where the process that started it is larger, which getrusage counts."""
    program = "from kgfast.run.memory import most_resident_bytes; print(most_resident_bytes())"
    parent = torch.ones(1 << 28)  # 1 GiB
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert 1 << 26 < int(told) < parent.nbytes <= memory.most_resident_bytes()
