"""A run that was stopped, in whatever way, and resumed ends with the bits of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_helpers import grouped_graph, run, same_bits, small_config, stop_at, write_dataset

from kgfast.data import KnowledgeGraph
from kgfast.run import loop as run_loop
from kgfast.train import checkpoint


@pytest.fixture(scope="module")
def graph():
    return grouped_graph()


class Stop(Exception):
    pass


def assert_same_run(first, second, graph):
    """Equal tables, optimizer state, best tables, results; a history without gaps or repeats."""
    results = []
    for config in (first, second):
        saved = checkpoint.read(config.out, config, graph)
        history = [json.loads(line) for line in (Path(config.out) / "history.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in history if "loss" in line]
        assert steps == sorted(set(steps))
        metrics = json.loads((Path(config.out) / "metrics.json").read_text())
        validations = [(line["step"], line["valid"]) for line in history if "valid" in line]
        results.append((saved, validations, metrics))
    (one, *rest), (other, *other_rest) = results
    assert same_bits(one.tables, other.tables)
    assert same_bits(one.optimizer, other.optimizer)
    assert (one.best is None) == (other.best is None)
    assert one.best is None or same_bits(one.best, other.best)
    for name in ("epoch", "batch", "step", "triples", "best_mrr", "best_step", "stale"):
        assert getattr(one.position, name) == getattr(other.position, name), name
    assert rest[0] == other_rest[0]
    for split in ("test", "valid"):
        assert rest[1][split] == other_rest[1][split]


@pytest.mark.parametrize(
    "settings",
    [
        dict(optimizer="row_adagrad"),
        dict(optimizer="adagrad", negative_sharing="chunk", negative_chunk=16),
        dict(optimizer="adam", negative_filter="redraw", lr=0.01),
        dict(optimizer="sgd", candidates="all", query_dropout=0.2),
        dict(optimizer="adagrad", candidates="all", reciprocal=True, regularizer="n3", regularizer_weight=0.01),
        dict(
            optimizer="row_adagrad",
            negative_power=0.75,
            model="transe",
            objective="logistic",
            validate_every=0,
        ),
    ],
    ids=str,
)
def test_a_crash_at_any_step(graph, tmp_path, monkeypatch, settings):
    whole = small_config(tmp_path / "whole", **settings)
    run(whole, graph)
    # A checkpoint before every step, so that the crash is in the middle of an epoch.
    monkeypatch.setattr(run_loop, "CHECKPOINT_SHARE", 0)
    cut = whole.replace(out=str(tmp_path / "cut"), checkpoint_every=1e-9)

    def crash():
        raise Stop

    for index in (3, 14, 15, 40):
        with monkeypatch.context() as patch:
            stop_at(patch, index, crash)
            with pytest.raises(Stop):
                run(cut, graph, resume=index > 3)
        assert checkpoint.read(cut.out, cut, graph).position.step == index
    run(cut, graph, resume=True)
    assert_same_run(whole, cut, graph)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_polite_signal_leaves_a_checkpoint(graph, tmp_path, monkeypatch, number, raised):
    whole = small_config(tmp_path / "whole")
    run(whole, graph)
    cut = whole.replace(out=str(tmp_path / "cut"))
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_at(patch, 20, lambda: os.kill(os.getpid(), number))
        with pytest.raises(raised):
            run(cut, graph)
    assert signal.getsignal(number) == handler
    assert checkpoint.read(cut.out, cut, graph).position.step == 21  # the step itself was not cut
    _, printed = run(cut, graph, resume=True)
    assert "at step 21" in printed
    assert_same_run(whole, cut, graph)


def test_resuming_a_finished_run_repeats_its_results(graph, tmp_path):
    config = small_config(tmp_path / "run")
    first, _ = run(config, graph)
    second, _ = run(config, graph, resume=True)
    assert first["test"] == second["test"] and first["train"]["steps"] == second["train"]["steps"]
    assert first["train"]["seconds"] == second["train"]["seconds"]


def test_more_epochs_go_on_where_the_run_ended(graph, tmp_path):
    whole = small_config(tmp_path / "whole", lr_schedule="constant", epochs=6)
    run(whole, graph)
    cut = whole.replace(out=str(tmp_path / "cut"))
    run(cut.replace(epochs=4), graph)
    run(cut, graph, resume=True)
    assert_same_run(whole, cut, graph)


def test_resume_before_the_first_checkpoint_starts_anew(graph, tmp_path):
    whole = small_config(tmp_path / "whole")
    run(whole, graph)
    cut = whole.replace(out=str(tmp_path / "cut"))
    _, printed = run(cut, graph, resume=True)
    assert "no checkpoint yet: starting from the beginning" in printed
    assert_same_run(whole, cut, graph)


def test_minutes_carry_over(graph, tmp_path, monkeypatch):
    config = small_config(tmp_path / "run", epochs=None, minutes=0.02, validate_every=0, lr_schedule="constant")

    def interrupt():
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        stop_at(patch, 5, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(config, graph)
    assert 0.5 < checkpoint.read(config.out, config, graph).position.elapsed < 1.2
    begin = time.monotonic()
    metrics, _ = run(config, graph, resume=True)
    assert time.monotonic() - begin < 5
    assert 1.0 < checkpoint.read(config.out, config, graph).position.elapsed < 2.2
    assert metrics["train"]["stopped"] == "minutes" and metrics["train"]["seconds"] < 1.7


# Steps last 2 ms at least and saving takes half of the time, so that half of the kills hit a save.
KILLED = """
import sys, time
from kgfast.run import loop as run_loop
from kgfast.train import loop, resolve
build, started = loop.build_step, []
def build_slow(*arguments):
    step = build(*arguments)
    def slow(*batch):
        time.sleep(0.002)
        loss = step(*batch)
        if not started:
            started.append(print("ready", flush=True))
        return loss
    return slow
loop.build_step = build_slow
run_loop.CHECKPOINT_SHARE = 1
loop.train(resolve(sys.argv[1]), resume=True)
"""


@pytest.mark.slow
def test_killed_six_times(graph, tmp_path):
    data = write_dataset(graph, tmp_path / "data")
    settings = dict(data=str(data), epochs=60, validate_every=10, negatives=4)
    whole = small_config(tmp_path / "whole", **settings)
    loaded = KnowledgeGraph.load(data, cache=False)
    run(whole, loaded)
    cut = whole.replace(out=str(tmp_path / "cut"), checkpoint_every=1e-9)
    cut.save(tmp_path / "cut.yaml")
    environment = os.environ | {"KGFAST_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    seed = random.randrange(10**6)
    moments = random.Random(seed)
    print(f"moments of the kills: seed {seed}")
    reached = []
    for kill in [True] * 6 + [False]:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "cut.yaml")]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
        ) as process:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            if kill:
                time.sleep(moments.uniform(0.0, 0.4))
                process.kill()
            errors = process.communicate(timeout=120)[1]
        assert process.returncode == (-signal.SIGKILL if kill else 0), errors
        saved = checkpoint.read(cut.out, cut, loaded)
        reached.append(saved.position.step if saved else 0)
    assert reached == sorted(reached) and any(0 < step < reached[-1] for step in reached)
    assert_same_run(whole, cut, loaded)
