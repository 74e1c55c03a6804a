"""Every write of a training fails once: the error names the file, what is there stays good, and a resumed run ends as
if nothing had been."""

import errno
import os
import pathlib
from contextlib import contextmanager
from pathlib import Path

import pytest
from training_helpers import grouped_graph, run, same_bits, small_config

from kgfast.core import files
from kgfast.errors import CheckpointError
from kgfast.run import loop as run_loop
from kgfast.run import storage
from kgfast.train import checkpoint, load_run

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
STRIDE = 17  # of the fast subset


class Faults:
    """Counts what changes files, and lets operation number `fails` end as on a full disk."""

    def __init__(self, fails):
        self.fails, self.count = fails, 0

    def step(self, *names):
        """names: what the system would tell; a write or a sync knows an open file alone."""
        self.count += 1
        if self.count - 1 == self.fails:
            raise OSError(errno.ENOSPC, "No space left on device", *map(str, names))

    def counted(self, function, applies=lambda *arguments, **options: True, named=False):
        def call(*arguments, **options):
            if applies(*arguments, **options):
                self.step(*arguments[:named])
            return function(*arguments, **options)

        return call


class CountedFile:
    """A file of which each write and cut counts."""

    def __init__(self, file, faults):
        self.file, self.write, self.truncate = file, faults.counted(file.write), faults.counted(file.truncate)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


@contextmanager
def failing(number, monkeypatch):
    faults = Faults(number)
    opened, fdopen, writes = open, os.fdopen, ("wb", "ab", "r+b")

    def counted_open(path, mode="r", **options):
        if mode in writes:
            faults.step(path)
            return CountedFile(opened(path, mode, **options), faults)
        return opened(path, mode, **options)

    def counted_fdopen(handle, mode="r", **options):
        return CountedFile(fdopen(handle, mode, **options), faults) if mode in writes else fdopen(handle, mode)

    with monkeypatch.context() as patch:
        patch.setattr(run_loop, "CHECKPOINT_SHARE", 0)  # a checkpoint before every step
        patch.setattr(files, "open", counted_open, raising=False)
        patch.setattr(os, "fdopen", counted_fdopen)
        patch.setattr(os, "open", faults.counted(os.open, lambda path, flags, *_, **__: flags & WRITING, True))
        patch.setattr(storage, "save_file", faults.counted(storage.save_file))
        patch.setattr(pathlib.Path, "write_text", faults.counted(pathlib.Path.write_text))
        patch.setattr(os, "fsync", faults.counted(os.fsync))
        patch.setattr(os, "replace", faults.counted(os.replace, named=True))
        patch.setattr(os, "mkdir", faults.counted(os.mkdir, lambda path, *_: not os.path.isdir(path), True))
        yield faults


@pytest.fixture(scope="module")
def graph():
    return grouped_graph()


def config_in(folder):
    return small_config(folder, epochs=1, batch_size=128, negatives=4, dim=8, validate_every=1, checkpoint_every=1e-9)


def outcome(config, graph):
    saved = checkpoint.read(config.out, config, graph)
    return {**saved.tables, **{f"best {name}": table for name, table in saved.best.items()}, **saved.optimizer}


def check(number, whole, graph, folder, monkeypatch):
    """One fault, and what comes after it."""
    config, out = config_in(folder), Path(folder)
    with failing(number, monkeypatch), pytest.raises((OSError, CheckpointError)) as caught:
        run(config, graph)
    assert str(out) in str(caught.value) and "No space left" in str(caught.value), f"{number}: {caught.value}"
    if (out / "checkpoint" / "checkpoint.json").exists():
        model, names, _ = load_run(out)
        assert names.num_entities == model.num_entities == graph.num_entities
        assert 0 <= checkpoint.read(out, config, graph).position.step <= 4
    else:
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            load_run(out)
    metrics, _ = run(config, graph, resume=out.exists())
    assert same_bits(outcome(config, graph), whole[0]), f"after fault {number}"
    assert [metrics[split] for split in ("test", "valid")] == whole[1]
    left = [path.name for path in out.rglob("*") if path.name.endswith(".tmp")]
    assert not left and len(list((out / "checkpoint").glob("*.safetensors"))) == 3


@pytest.fixture(scope="module")
def undisturbed(graph, tmp_path_factory):
    """(tensors and results, number of operations) of a run where nothing fails."""
    config = config_in(tmp_path_factory.mktemp("whole") / "run")
    with pytest.MonkeyPatch.context() as patch, failing(None, patch) as faults:
        metrics, _ = run(config, graph)
    return (outcome(config, graph), [metrics["test"], metrics["valid"]]), faults.count


def test_some_writes_fail(graph, undisturbed, tmp_path, monkeypatch):
    whole, count = undisturbed
    assert count > 60, "writes are no longer counted"
    for number in range(0, count, STRIDE):
        check(number, whole, graph, tmp_path / str(number), monkeypatch)


@pytest.mark.slow
def test_every_write_fails(graph, undisturbed, tmp_path, monkeypatch):
    whole, count = undisturbed
    for number in range(count):
        check(number, whole, graph, tmp_path / str(number), monkeypatch)
