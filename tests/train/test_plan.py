"""What a run would take: memory as runs have it, time that follows the sizes, what is wrong named."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from kgfast.data import prepare
from kgfast.errors import ConfigError, KgfastError
from kgfast.train import plan as planning
from kgfast.train.config import TrainConfig
from kgfast.train.plan import GraphSize, plan

SIZE = GraphSize(2000, 7, 5000, 100)


def settings(**more):
    return TrainConfig(data="planned", dim=16, batch_size=256, negatives=4, threads=1, device="cpu", **more)


def test_memory_follows_the_sizes():
    one, two = (plan(settings(), GraphSize(*(n * count for count in SIZE)), measure=False) for n in (1, 2))
    assert all(b.size in (a.size, 2 * a.size) for a, b in zip(one.training[1:], two.training[1:], strict=True))
    wider = plan(settings().replace(dim=32), SIZE, measure=False)
    tables = {found.training[1].size for found in (wider, plan(settings(), SIZE, measure=False))}
    assert max(tables) == 2 * min(tables) == (2000 + 7) * 32 * 4
    assert plan(settings(optimizer="adam"), SIZE, measure=False).checkpoint_bytes == 3 * min(tables)


def test_what_does_not_fit_is_told():
    found = plan(settings().replace(dim=512), GraphSize(86_054_151, 14_824, 304_727_650), measure=False)
    assert found.training[1].size > 176e9 and found.steps_per_epoch == -(-304_727_650 // 256)
    assert not found.fits and "doesn't fit" in found.advice()[0]


def test_time_is_measured(monkeypatch):
    monkeypatch.setattr(planning, "SECONDS", 0.1)
    monkeypatch.setattr(planning, "SAMPLE_BYTES", 1 << 23)
    found = plan(settings(epochs=3), SIZE)
    assert found.steps_per_epoch == 20
    assert found.training_seconds == pytest.approx(3 * found.epoch_seconds)
    assert found.epoch_seconds > 20 * found.step_seconds > 0
    assert found.evaluation_seconds > 0 and found.checkpoint_seconds > 0
    n3 = settings(epochs=3, regularizer="n3", regularizer_weight="auto")  # and the search, of a fifth of the steps
    found = plan(n3, SIZE)
    assert found.training_seconds == pytest.approx(3.6 * found.epoch_seconds)
    assert plan(settings(minutes=0.001), SIZE).training_seconds == pytest.approx(0.06)


@pytest.mark.parametrize(
    "size, message",
    [(GraphSize(0, 1, 1), "entities"), (GraphSize(1, 1, 1, -1), "held_out"), (GraphSize(2, 1, 1.5), "triples")],
)
def test_sizes_that_no_graph_has(size, message):
    with pytest.raises(KgfastError, match=message):
        plan(settings(), size)


def test_a_device_that_can_not_be_planned():
    with pytest.raises(ConfigError, match="device"):
        plan(settings().model_copy(update={"device": "cuda"}), SIZE)


@pytest.mark.slow
def test_a_run_takes_what_was_planned(tmp_path):
    """Peak memory within a tenth, of a graph that is mapped and tables that count."""
    random = np.random.default_rng(0)
    columns = {
        name: random.integers(0, count, 400_000)
        for name, count in (("head", 150_000), ("relation", 20), ("tail", 150_000))
    }
    prepare(pa.table({name: pa.array(ids).cast(pa.string()) for name, ids in columns.items()}), tmp_path / "graph")
    words = ["dim=256", "batch_size=512", "negatives=8", "epochs=1", "threads=1", "device=cpu", "tensorboard=no"]

    def call(*command):
        done = subprocess.run([sys.executable, "-m", "kgfast", *command, "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    planned = call("plan", f"data={tmp_path / 'graph'}", *words)
    taken = call("train", f"data={tmp_path / 'graph'}", *words, "--out", str(tmp_path / "run"))
    assert planned["training_bytes"] == pytest.approx(taken["train"]["peak_memory_bytes"], rel=0.1)
