"""A checkpoint from somebody else is data: whatever its description says, the answer is an error that names it."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from training_helpers import grouped_graph, run, small_config

from kgfast.errors import CheckpointError, ConfigError
from kgfast.run.storage import describe
from kgfast.train import checkpoint, load_run


@pytest.fixture(scope="module")
def graph():
    return grouped_graph()


@pytest.fixture
def finished(graph, tmp_path):
    config = small_config(tmp_path / "run", epochs=1)
    run(config, graph)
    return Path(config.out)


def rewrite(run, change):
    """Change the description of a checkpoint; its files' entries are in `manifest["files"]`."""
    path = run / "checkpoint" / "checkpoint.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def put(*keys, value):
    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


NAMES = ["../../secret", "/etc/passwd", "sub/file", "..", ".", "", "a\\b", "nul\0", 7, None, ["model"]]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_are_bare(finished, name):
    rewrite(finished, put("files", "best", "name", value=name))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged: files\.best\.name"):
        load_run(finished)


def tempt(kind, folder):
    """Something under the name of the tables that is no plain file of the folder."""
    path = folder / next(folder.glob("best-*")).name
    size = path.stat().st_size
    path.rename(folder.parent / "outside")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"link": folder.parent / "outside", "zero": "/dev/zero", "loop": path}[kind])
    return path, size


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "zero", "loop"])
def test_what_is_no_plain_file_is_not_read(finished, kind):
    path, _ = tempt(kind, finished / "checkpoint")
    with pytest.raises(CheckpointError, match=f"{path.name} can't be read"):
        load_run(finished)


CHANGES = {
    "size": put("files", "best", "bytes", value=10**18),
    "negative size": put("files", "best", "bytes", value=-1),
    "checksum": put("files", "best", "crc32", value="zz"),
    "no tables": lambda manifest: [manifest["files"].pop(name) for name in ("best", "model")],
    "no names": lambda manifest: manifest["files"].pop("entities"),
    "files": put("files", value=[]),
    "config": put("config", value="dim"),
    "graph": put("graph", "num_entities", value="many"),
    "entities": put("graph", "num_entities", value=10**12),
    "position": put("position", "step", value=-3),
    "position of another kind": put("position", value={"step": 1, "epoch": "first"}),
    "optimizer": put("optimizer", value=None),
    "numbers": put("optimizer", "numbers", value={"0/other": [1]}),
    "number": put("optimizer", "numbers", value={"99/step": 1}),
    "no number": put("optimizer", "numbers", value={"step": 1}),
    "kind": put("kind", value="joint"),
    "format": put("format", value=[1]),
    "history": put("position", "history_bytes", value=-1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_descriptions_that_make_no_sense(graph, finished, what):
    rewrite(finished, CHANGES[what])
    config = small_config(finished, epochs=1)
    errors = []
    for use in (lambda: load_run(finished), lambda: run(config, graph, resume=True)):
        try:
            use()
        except (CheckpointError, ConfigError) as error:
            errors.append(str(error))
    assert errors and all("checkpoint" in error for error in errors)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 50_000, b"\x00" * 9, b"1" * 5000, b"NaN"])
def test_descriptions_that_are_none(finished, content):
    (finished / "checkpoint" / "checkpoint.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged"):
        load_run(finished)


@pytest.mark.parametrize("target", ["/dev/zero", "elsewhere"])
def test_a_description_that_is_a_link(finished, target):
    path = finished / "checkpoint" / "checkpoint.json"
    path.rename(finished / "elsewhere")
    path.symlink_to(target if target.startswith("/") else finished / target)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json can't be read: it is a link"):
        load_run(finished)


@pytest.mark.parametrize("tensors", [
    {}, {"entities": torch.zeros(3, 2)}, {"entities": torch.zeros(0), "relations": torch.zeros(0)},
])  # fmt: skip
def test_tables_of_another_shape(finished, tensors):
    path = next((finished / "checkpoint").glob("best-*"))
    save_file(tensors, path)
    rewrite(finished, lambda manifest: manifest["files"].update(best=describe(path)))
    with pytest.raises(CheckpointError, match="the checkpoint holds"):
        load_run(finished)


def test_optimizer_state_of_another_shape(graph, finished):
    path = next((finished / "checkpoint").glob("optimizer-*"))
    tensors = {f"{key}x": value for key, value in load_file(path).items()} | {"0/more": torch.zeros(2, 2, 2)}
    save_file(tensors, path)
    rewrite(finished, lambda manifest: manifest["files"].update(optimizer=describe(path)))
    with pytest.raises(CheckpointError, match="optimizer state [01]/.* has shape"):
        run(small_config(finished, epochs=1), graph, resume=True)


def test_no_link_and_no_name_costs_memory(finished):
    """Sizes are compared before a byte is read."""
    path = next((finished / "checkpoint").glob("best-*"))
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a hole: no disk, but a read would fill the memory
    with pytest.raises(CheckpointError, match=r"is damaged: bytes is 1099511627776"):
        load_run(finished)


def settings(finished, **changes):
    path = finished / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


@pytest.mark.parametrize("changes", [dict(model="simple"), dict(reciprocal=True), dict(dim=32), dict(seed=1)])
def test_settings_changed_since(finished, changes):
    settings(finished, **changes)
    (name, value), *_ = changes.items()
    with pytest.raises(CheckpointError, match=rf"config\.yaml was changed: {name} was .* in training and is {value!r}"):
        load_run(finished)


def test_settings_that_a_run_may_change(finished):
    settings(finished, threads=2, epochs=9, data="moved/there")
    (finished / "config.yaml").write_text("# a note\n" + (finished / "config.yaml").read_text())
    load_run(finished)


def test_a_file_cut_after_it_was_read(graph, finished):
    """Tensors of a checkpoint are in memory: whatever becomes of the file, the process lives."""
    saved = checkpoint.read(finished, small_config(finished, epochs=1), graph)
    before = saved.tables["entities"].sum()
    for path in (finished / "checkpoint").glob("*.safetensors"):
        os.truncate(path, 0)
    assert saved.tables["entities"].sum() == before


@pytest.mark.parametrize(("lines", "wrong"), [({3: "e0"}, 4), ({0: ""}, 1), ({1: "e0", 5: ""}, 2)])
def test_names_that_are_no_names(finished, lines, wrong):
    """One that stands twice would answer for two."""
    path = finished / "checkpoint" / "entities.txt"
    names = [f"e{place}" for place in range(len(path.read_text().splitlines()))]
    for place, name in lines.items():
        names[place] = name
    path.write_text("".join(f"{name}\n" for name in names))
    rewrite(finished, put("files", "entities", value=describe(path)))
    with pytest.raises(CheckpointError, match=rf"entities\.txt is damaged: line {wrong} is empty, or a name that"):
        load_run(finished)
