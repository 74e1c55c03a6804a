"""Checkpoints: whole or not at all, and refused with a reason when damaged or of something else."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_helpers import grouped_graph, run, same_bits, small_config, write_dataset

from kgfast.errors import CheckpointError
from kgfast.run import storage
from kgfast.train import checkpoint, load_run


@pytest.fixture(scope="module")
def graph():
    return grouped_graph()


@pytest.fixture
def finished(graph, tmp_path):
    """A run of 4 epochs: its configuration."""
    config = small_config(tmp_path / "run", epochs=4)
    run(config, graph)
    return config


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_what_is_saved_comes_back(graph, finished):
    saved = checkpoint.read(finished.out, finished, graph)
    assert saved.position.epoch == 4 and saved.position.batch == 0
    model = load_run(finished.out)[0]
    assert same_bits({name: table for name, table in checkpoint.tables(model).items()}, saved.best)
    names = contents(Path(finished.out) / "checkpoint")
    assert {"checkpoint.json", "entities.txt", "relations.txt"} <= names.keys()
    assert not any(name.endswith((".pkl", ".pt", ".bin")) for name in names)
    assert names["entities.txt"].decode().split("\n")[7] == "entity 7"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), storage.SafetensorError("full")])
@pytest.mark.parametrize("fails_at", [0, 1])
def test_disk_full_keeps_the_old_checkpoint(graph, finished, monkeypatch, error, fails_at):
    folder = Path(finished.out) / "checkpoint"
    before = contents(folder)
    calls = []

    def full(tensors, path, **options):
        calls.append(path)
        if len(calls) > fails_at:
            Path(path).write_bytes(b"part of a file")
            raise error
        save_file(tensors, path, **options)

    save_file = storage.save_file
    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(
        CheckpointError, match=r"could not be written \(.*(No space|full).*the one of step \d+ is intact"
    ):
        run(finished.replace(epochs=6), graph, resume=True)
    assert contents(folder) == before


def test_disk_full_while_the_description_is_written(graph, finished, monkeypatch):
    folder = Path(finished.out) / "checkpoint"
    before = contents(folder)

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoint.os,
            "replace",
            lambda a, b: full(a, b) if "checkpoint.json" in str(b) else os.rename(a, b),
        )
        with pytest.raises(CheckpointError, match="No space left"):
            run(finished.replace(epochs=6), graph, resume=True)
    assert contents(folder) == before
    run(finished.replace(epochs=6), graph, resume=True)


FILE_LIMIT = """
import resource, sys
from kgfast.train import resolve, train
config = resolve(None, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
train(config)
"""


@pytest.mark.slow
def test_a_file_that_the_system_refuses(graph, tmp_path):
    data = write_dataset(graph, tmp_path / "data")
    out = tmp_path / "run"
    settings = [
        f"data={data}",
        f"out={out}",
        "epochs=1",
        "dim=2000",
        "negatives=4",
        "tensorboard=false",
        "threads=1",
    ]
    environment = os.environ | {"KGFAST_CACHE": str(tmp_path / "cache")}
    ended = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT, *settings],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert "CheckpointError" in last and "could not be written" in last and "there is no earlier one" in last
    assert not list((out / "checkpoint").glob("*.safetensors")) and not list((out / "checkpoint").glob(".tmp*"))


@pytest.mark.parametrize("kind", ["model", "optimizer", "best"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damage_is_named(graph, finished, kind, damage):
    path = next((Path(finished.out) / "checkpoint").glob(f"{kind}-*.safetensors"))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-10])
    elif damage == "flipped":
        content[-3] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=path.name):
        run(finished.replace(epochs=6), graph, resume=True)
    if kind == "best":  # the tables that load_run reads
        with pytest.raises(CheckpointError, match=path.name):
            load_run(finished.out)


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b"[]", b"{}", b"\xff\xfe"])
def test_damaged_description_is_named(graph, finished, content):
    path = Path(finished.out) / "checkpoint" / "checkpoint.json"
    path.write_bytes(content)
    for read in (lambda: run(finished, graph, resume=True), lambda: load_run(finished.out)):
        with pytest.raises(CheckpointError, match=r"checkpoint\.json.*damaged"):
            read()


def test_a_later_format_is_refused(graph, finished):
    path = Path(finished.out) / "checkpoint" / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        load_run(finished.out)


def test_another_graph_is_refused(finished):
    other = grouped_graph(seed=1)
    with pytest.raises(
        CheckpointError, match=r"of graph 'arrays' \(72 entities.*not of graph 'arrays' \(72 entities"
    ) as caught:
        run(finished, other, resume=True)
    assert other.fingerprint[:12] in str(caught.value)


def test_another_configuration_is_refused(graph, finished):
    with pytest.raises(CheckpointError, match="dim=16 in the checkpoint, dim=32 now; .*seed=0 in .*, seed=5 now"):
        run(finished.replace(dim=32, seed=5), graph, resume=True)
    run(finished.replace(epochs=5, minutes=9, threads=2), graph, resume=True)


def test_leftovers_of_a_killed_save_are_removed(graph, finished):
    folder = Path(finished.out) / "checkpoint"
    for name in ("model-99.safetensors", "checkpoint.json.tmp", ".tmpAbCdEf"):
        (folder / name).write_bytes(b"half")
    run(finished, graph, resume=True)
    names = contents(folder).keys()
    assert not {"model-99.safetensors", "checkpoint.json.tmp", ".tmpAbCdEf"} & names
    assert len([name for name in names if name.endswith(".safetensors")]) == 3


def test_names_of_more_than_a_line_are_refused(graph, tmp_path):
    from kgfast.errors import DataError

    class Named:
        entity_names = ["a", "b\nc"]

    with pytest.raises(DataError, match=r"name 'b\\nc' of id 1 holds a line break"):
        storage.write_names(tmp_path / "entities.txt", Named.entity_names)


def test_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_run(tmp_path)


def test_odd_optimizer_state_is_refused():
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    optimizer.state[parameter]["what"] = object()
    with pytest.raises(CheckpointError, match="'what' is a object"):
        checkpoint.optimizer_state(optimizer)
