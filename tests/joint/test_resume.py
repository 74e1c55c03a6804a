"""A joint run that was stopped, in whatever way, and resumed ends with the bits of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from joint_helpers import joint_config, run_joint, write_towns
from training_helpers import same_bits

from kgfast.data import KnowledgeGraph
from kgfast.errors import CheckpointError
from kgfast.joint import checkpoint
from kgfast.joint import loop as joint_loop
from kgfast.joint.config import JointConfig
from kgfast.run import loop as run_loop

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_towns(tmp_path_factory.mktemp("data") / "towns", countries=4, towns=4)


@pytest.fixture(scope="module")
def graph(data):
    return KnowledgeGraph.load(data, cache=False)


class Stop(Exception):
    pass


def stop_at(monkeypatch, index, action):
    """Before step `index`."""
    call = joint_loop.Step.__call__

    def stopping(self, at, *arguments):
        if at == index:
            action()
        return call(self, at, *arguments)

    monkeypatch.setattr(joint_loop.Step, "__call__", stopping)


def assert_same_run(first, second, graph):
    """Equal parameters, memory, weights, optimizer states and results."""
    one, other = (checkpoint.read(Path(config.out), config, graph) for config in (first, second))
    assert same_bits(one.model, other.model) and same_bits(one.weights, other.weights)
    for name in one.optimizers:
        assert same_bits(one.optimizers[name], other.optimizers[name]), name
    for name in ("step", "batches", "last", "validated_step"):
        assert getattr(one.position, name) == getattr(other.position, name), name
    found = [json.loads((Path(config.out) / "metrics.json").read_text()) for config in (first, second)]
    assert found[0]["tasks"] == found[1]["tasks"]
    for config in (first, second):
        lines = [json.loads(line) for line in (Path(config.out) / "history.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines if "losses" in line]
        assert steps == sorted(set(steps))


SETTINGS = [
    dict(tasks=("mlm", "link", "qa"), entities="hybrid", weighting={"method": "uncertainty"}, validate_every=4),
    dict(tasks=("clm", "link"), backbone=dict(kind="gpt", hidden=16, layers=1, heads=2, max_length=24),
         mixing="proportional", weighting={"method": "dwa", "every": 3}, entities="text"),
    dict(tasks=("mlm", "nsp", "link"), sharing="soft", weighting={"method": "gradnorm", "every": 2}, accumulate=2,
         table_optimizer="adamw", table_lr=0.01),
    dict(tasks=("mlm", "link"), sharing=dict(mode="routed", experts=2, top_k=1), weighting={"surgery": "pcgrad"},
         entities="hybrid", lr_schedule="cosine", relations={"kind": "hybrid", "refresh": 2}),
    dict(tasks=("clm", "mention", "link"), backbone=dict(kind="gpt", hidden=16, layers=1, heads=2, max_length=24),
         entities="hybrid", sharing="soft"),
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=["uncertainty", "dwa", "gradnorm", "pcgrad", "mention"])
def test_a_crash_at_any_step(graph, tmp_path, monkeypatch, settings):
    whole = joint_config(tmp_path / "whole", steps=9, **settings)
    run_joint(whole, graph)
    monkeypatch.setattr(run_loop, "CHECKPOINT_SHARE", 0)
    cut = whole.replace(out=str(tmp_path / "cut"), checkpoint_every=1e-9)

    def crash():
        raise Stop

    for index in (2, 6):
        with monkeypatch.context() as patch:
            stop_at(patch, index, crash)
            with pytest.raises(Stop):
                run_joint(cut, graph, resume=index > 2)
        assert checkpoint.read(Path(cut.out), cut, graph).position.step == index
    run_joint(cut, graph, resume=True)
    assert_same_run(whole, cut, graph)


def test_a_polite_signal_leaves_a_checkpoint(graph, tmp_path, monkeypatch):
    config = joint_config(tmp_path / "run", ("mlm", "link"), steps=8)
    with monkeypatch.context() as patch:
        stop_at(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt, match="go on with resume"):
            run_joint(config, graph)
    _, printed = run_joint(config, graph, resume=True)
    assert "at step 4" in printed


def test_more_steps_go_on_where_the_run_ended(graph, tmp_path):
    whole = joint_config(tmp_path / "whole", ("mlm", "link"), steps=8, entities="text")
    run_joint(whole, graph)
    cut = whole.replace(out=str(tmp_path / "cut"))
    run_joint(cut.replace(steps=5), graph)
    run_joint(cut, graph, resume=True)
    assert_same_run(whole, cut, graph)


KILLED = """
import sys
from kgfast.joint import loop
from kgfast.joint.config import JointConfig
from kgfast.run import loop as run_loop
train = loop.JointTraining.train_until_stop
def told(self):
    print("ready", flush=True)
    return train(self)
loop.JointTraining.train_until_stop = told
run_loop.CHECKPOINT_SHARE = 0
loop.train_joint(JointConfig.load(sys.argv[1]), resume=True)
"""


@pytest.mark.slow
def test_killed_twice(data, graph, tmp_path):
    whole = joint_config(tmp_path / "whole", ("mlm", "link"), entities="hybrid", steps=40, data=str(data))
    run_joint(whole, graph)
    cut = whole.replace(out=str(tmp_path / "cut"), checkpoint_every=1e-9)
    cut.save(tmp_path / "cut.yaml")
    environment = os.environ | {"KGFAST_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    moments = random.Random(seed := random.randrange(10**6))
    print(f"moments of the kills: seed {seed}")
    for kill in [True] * 2 + [False]:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "cut.yaml")]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
        ) as process:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            if kill:
                time.sleep(moments.uniform(0.05, 0.5))
                process.kill()
            errors = process.communicate(timeout=240)[1]
        assert process.returncode in ((-signal.SIGKILL, 0) if kill else (0,)), errors
    assert_same_run(whole, cut, graph)


@pytest.fixture(scope="module")
def finished(graph, tmp_path_factory):
    config = joint_config(tmp_path_factory.mktemp("runs") / "run", ("mlm", "link"), entities="hybrid", steps=2)
    run_joint(config, graph)
    return config


def test_a_checkpoint_of_another_data_set(finished, tmp_path):
    other = KnowledgeGraph.load(write_towns(tmp_path / "other", countries=3), cache=False)
    with pytest.raises(CheckpointError, match="is a checkpoint of graph 'towns' .* not of graph 'other'"):
        run_joint(finished, other, resume=True)


def test_a_checkpoint_of_other_texts(finished, tmp_path):
    folder = write_towns(tmp_path / "towns", countries=4, towns=4)
    (folder / "entity2desc.txt").write_text("country0\tA land.\n")
    with pytest.raises(CheckpointError, match="other texts or questions"):
        run_joint(finished, KnowledgeGraph.load(folder, cache=False), resume=True)


def test_a_checkpoint_of_other_settings(finished, graph):
    changed = finished.replace(lr=0.5, sharing="soft", backbone={**finished.backbone.model_dump(), "layers": 2})
    with pytest.raises(CheckpointError) as caught:
        run_joint(changed, graph, resume=True)
    for part in ("lr: 0.002 in the checkpoint, 0.5 now", "sharing.mode: 'hard'", "backbone.layers: 1"):
        assert part in str(caught.value)


def test_a_tokenizer_that_was_replaced(finished, graph, tmp_path):
    path = Path(finished.out) / "tokenizer.json"
    before = path.read_text()
    other = joint_config(tmp_path / "other", ("mlm",), steps=1, tokenizer={"vocabulary": 300, "kind": "bpe"})
    run_joint(other, graph)
    path.write_text((tmp_path / "other" / "tokenizer.json").read_text())
    try:
        with pytest.raises(CheckpointError, match="was trained with another tokenizer"):
            run_joint(finished, graph, resume=True)
    finally:
        path.write_text(before)


def test_special_tokens_that_were_changed(finished, graph):
    path = Path(finished.out) / "special_tokens_map.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"sep_token": "[PAD]", "eos_token": "[PAD]"}))
    try:
        with pytest.raises(CheckpointError, match=r"other special tokens: end was '\[SEP\]' and is '\[PAD\]' now"):
            run_joint(finished, graph, resume=True)
    finally:
        path.write_text(before)


def test_a_run_of_the_other_kind(finished, graph, tmp_path):
    with pytest.raises(CheckpointError, match="on the graph alone"):
        folder = tmp_path / "plain"
        (folder / "checkpoint").mkdir(parents=True)
        manifest = json.loads((Path(finished.out) / "checkpoint" / "checkpoint.json").read_text())
        (folder / "checkpoint" / "checkpoint.json").write_text(json.dumps(manifest | {"kind": "graph"}))
        run_joint(finished.replace(out=str(folder)), graph, resume=True)


def test_a_damaged_file_is_named(finished, graph):
    folder = Path(finished.out) / "checkpoint"
    path = next(folder.glob("model-*.safetensors"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
            run_joint(finished, graph, resume=True)
    finally:
        path.write_bytes(whole)
    assert JointConfig.load(Path(finished.out) / "config.yaml").tasks == finished.tasks
