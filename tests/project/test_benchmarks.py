"""The harness of benchmarks/: cases check and run at their smallest, rows are whole, a wrong result leaves none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import machine
from benchmarks.cases import CASES, find, large, scaling
from benchmarks.ceilings import floor
from benchmarks.cost import Cost, pairs
from benchmarks.inputs import SIZES, zipf
from benchmarks.timing import rounds_for
from benchmarks.worker import Worker, WorkerError

ROOT = Path(__file__).parents[2]
ONE_OF_EACH = list({case.op: case for case in CASES}.values())


@pytest.mark.no_poison
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_a_case_of_every_op_checks_and_runs(case):
    work = case.build(SIZES["tiny"])
    work.check()
    for name, call in work.providers.items():
        if name != "compile":
            call()
    assert work.cost.bytes > 0 and work.units > 0


def test_every_public_op_has_a_case():
    import kgfast

    ops = {"score_triples", "score_candidates", "sample_negatives", "negative_sampling_loss", "one_vs_all_loss"}
    ops |= {"linear_cross_entropy", "multitask_loss", "rank", "topk"}
    assert all(hasattr(kgfast, op) for op in ops)
    assert ops | {"row_optimizer", "NegativeSamplingStep", "OneVsAllStep"} == {case.op for case in CASES}


def test_names_find_their_cases():
    for case in [*CASES, *scaling(), *large()]:
        assert find(str(case)) == case
    with pytest.raises(ValueError, match="no case 'rank/nothing'"):
        find("rank/nothing")


@pytest.mark.no_poison
def test_a_wrong_result_is_refused(monkeypatch):
    import kgfast

    right = kgfast.score_triples
    monkeypatch.setattr(kgfast, "score_triples", lambda *args, **options: right(*args, **options) + 1e-3)
    with pytest.raises(AssertionError):
        find("score_triples/distmult").build(SIZES["tiny"]).check()


def test_floor_is_what_binds():
    rates = {"arithmetic": 100.0, "stream": 10.0}
    assert floor(10**9, 0, "stream", rates) == (0.1, "memory")
    assert floor(0, 10**11, "stream", rates) == (1.0, "arithmetic")
    assert pairs(10, 4, "dot") == 80 and pairs(10, 4, "dot", gradient=True) == 240
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)


def test_rounds_and_zipf():
    assert rounds_for({"kgfast": 100.0}, 1.0) == 5 and rounds_for({"kgfast": 1e-6}, 1.0) == 200
    drawn = zipf(50, 20_000, torch.Generator().manual_seed(0)).bincount(minlength=50)
    assert drawn.min() > 0 and drawn.max() > 5 * drawn.median()


def test_peak_above_sees_a_temporary():
    peak = machine.peak_above(lambda: torch.ones(1 << 24).sum())
    if peak is None:
        pytest.skip("this system does not tell")
    assert 60 << 20 < peak < 200 << 20


def test_rows_are_appended_and_read(tmp_path):
    path = tmp_path / "folder" / "rows.jsonl"
    machine.append([{"a": 1}], path)
    machine.append([{"a": 2}], path)
    assert [row["a"] for row in machine.read(path)] == [1, 2]
    path.write_text('{"a": 1}\n{broken\n')
    with pytest.raises(ValueError, match=r"rows.jsonl:2"):
        machine.read(path)


@pytest.mark.slow
def test_a_run_keeps_rows_and_is_drawn(tmp_path):
    rows = tmp_path / "rows.jsonl"
    options = ["--size", "tiny", "--threads", "1", "--seconds", "0.01", "--results", str(rows)]
    options += ["-k", "score_triples or row_adagrad"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_XDIST_WORKER", None)  # benchmarks don't run side by side
    run = [sys.executable, "-m", "pytest", str(ROOT / "benchmarks"), *options]
    subprocess.run(run, cwd=ROOT, env=environment, check=True, capture_output=True)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert found[0]["kind"] == "ceilings"
    for row in found[1:]:
        assert row["seconds"] > 0 and row["fraction"] >= 0 and row["commit"] and row["versions"]["torch"]
    assert {row["provider"] for row in found[1:]} >= {"kgfast", "reference"}
    (tmp_path / "docs").mkdir()
    draw = [sys.executable, "-m", "benchmarks.plot", str(rows), "--out", str(tmp_path / "docs")]
    subprocess.run(draw, cwd=ROOT, check=True, capture_output=True)
    assert "score_triples/transe_l1" in (tmp_path / "docs" / "benchmarks.md").read_text()
    assert len(list((tmp_path / "docs").rglob("*.svg"))) == 2


@pytest.mark.slow
def test_workers_check_time_and_tell_errors():
    job = dict(kind="train/shared", score="distmult", size="tiny", dim=16, batch=48, negatives=8, test=8, threads=1)
    for contestant in ("Kgfast", "Torch"):
        worker = Worker(f"benchmarks.peers.contestants:{contestant}", folder=ROOT)
        try:
            assert worker.ask("prepare", **job) == {"units": 48, "unit": "triples"}
            assert worker.ask("window", seconds=0.01) > 0
            with pytest.raises(WorkerError, match="ValueError: command 'dance'"):
                worker.ask("dance")
        finally:
            worker.close()
