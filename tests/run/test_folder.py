"""A run's folder belongs to one process, and what lies in it is never followed."""

import os
import signal
import subprocess
import sys

import pytest
from training_helpers import grouped_graph, run, small_config

from kgfast.core import files
from kgfast.errors import CheckpointError, ConfigError
from kgfast.run.folder import run_folder
from kgfast.train import load_run, train

HOLDS = """
import sys, time
from kgfast.run.folder import run_folder
with run_folder(sys.argv[1], "run", True):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def graph():
    return grouped_graph()


@pytest.fixture
def held(tmp_path):
    """A process that trains in tmp_path/run."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_process_is_refused(graph, held, tmp_path, resume):
    with pytest.raises(ConfigError, match=rf"run': process {held.pid} on .* trains there"):
        run(small_config(tmp_path / "run"), graph, resume=resume)
    assert sorted(os.listdir(tmp_path / "run")) == [".lock"]


def test_a_process_that_died_locks_nobody_out(graph, held, tmp_path):
    held.send_signal(signal.SIGKILL)
    held.wait()
    assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {held.pid}")
    run(small_config(tmp_path / "run", epochs=1), graph)
    assert (tmp_path / "run" / ".lock").read_text() == ""


def test_two_runs_of_one_process_are_two(tmp_path):
    with run_folder(str(tmp_path / "run"), "run", False):
        with pytest.raises(ConfigError, match=f"process {os.getpid()} on"):
            with run_folder(str(tmp_path / "run"), "run", True):
                pass
        with run_folder(str(tmp_path / "other"), "run", False):
            pass
    with run_folder(str(tmp_path / "run"), "run", False):
        pass


def test_what_the_lock_says_is_not_believed(tmp_path, held):
    (tmp_path / "run" / ".lock").write_bytes(b"process 1\x1b[2J on \xff\n")
    with pytest.raises(ConfigError, match="another process trains there"):
        with run_folder(str(tmp_path / "run"), "run", True):
            pass


def test_several_processes_are_refused_on_a_graph_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE=2: training on a graph alone is one process"):
        train(small_config(tmp_path / "run", data="no such graph"))
    assert not (tmp_path / "run").exists()


def test_out_is_no_folder(graph, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="run': it is no folder"):
        run(small_config(tmp_path / "run"), graph)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "report.html"])
def test_a_link_is_replaced_and_not_followed(graph, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("mine")
    config = small_config(tmp_path / "run", epochs=1)
    if name != "metrics.json":  # which would count as a run
        (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    run(config, graph)
    if name == "metrics.json":
        (tmp_path / "run" / name).unlink()
        (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
        run(config, graph, resume=True)
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "run" / name).is_symlink()


@pytest.mark.parametrize("name", ["history.jsonl", ".lock", "checkpoint", "tensorboard"])
@pytest.mark.parametrize("target", ["mine", "nothing"])
def test_a_link_that_would_be_written_through_is_refused(graph, tmp_path, name, target):
    folder = name in ("checkpoint", "tensorboard")
    config = small_config(tmp_path / "run", epochs=1, tensorboard=name == "tensorboard")
    (tmp_path / "run").mkdir()
    mine = tmp_path / "mine" / "model-9.safetensors" if folder else tmp_path / "mine"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    (tmp_path / "run" / name).symlink_to(tmp_path / target)
    with pytest.raises((OSError, CheckpointError), match=f"{name}.*link|link.*{name}|{name}.*File exists|File exists"):
        run(config, graph, resume=True)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", ["history.jsonl", ".lock"])
def test_a_file_with_another_name_is_not_written_into(graph, tmp_path, name):
    """A hard link: what backups, and whoever packed the folder, leave behind."""
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("")
    (tmp_path / "run" / name).hardlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=rf"another name \(a hard link\).*{name}"):
        run(small_config(tmp_path / "run", epochs=1), graph, resume=True)
    assert (tmp_path / "mine").read_text() == ""


def test_a_linked_settings_file_is_not_read(graph, tmp_path):
    run(small_config(tmp_path / "run", epochs=1), graph)
    (tmp_path / "run" / "config.yaml").rename(tmp_path / "elsewhere.yaml")
    (tmp_path / "run" / "config.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(CheckpointError, match=r"config\.yaml can't be read: it is a link"):
        load_run(tmp_path / "run")


def test_temporary_files_of_dead_processes_are_removed(tmp_path):
    dead, folder = tmp_path / ".kgfast-a.0000.tmp", tmp_path / ".kgfast-b.1111.tmp"
    dead.write_text("half")
    folder.mkdir()
    (folder / "part").write_text("half")
    with files.replacing(tmp_path / "a") as busy:
        files.write_whole(tmp_path / "b", b"whole")
        assert busy.exists() and not dead.exists() and not folder.exists()
        busy.write_text("a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_errors_name_the_file_that_was_to_be(tmp_path):
    with pytest.raises(OSError, match=r"disk.*/a'$"), files.replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise OSError("the disk is gone")
    with pytest.raises(FileNotFoundError, match=r"'the name that was meant'$"), files.naming("the name that was meant"):
        (tmp_path / "nothing").rename(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_modes_are_those_of_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
