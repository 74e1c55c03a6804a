"""Files of a checkpoint: written whole or not at all, named by a manifest with their size and CRC-32.

Tensor files of a new checkpoint get new names; what makes them count is one rename, onto the manifest.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kgfast.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph

FORMAT = 1
MANIFEST = "checkpoint.json"


def write_checkpoint(
    run: str | os.PathLike,
    previous: dict[str, Any],
    graph: KnowledgeGraph,
    position: Any,
    tensors: Mapping[str, dict[str, Tensor]],
    *,
    unchanged: Container[str] = (),
    **entries: Any,
) -> None:
    """Write `tensors`, a file each, then the manifest: graph, position (a dataclass) and `entries`.

    previous: what `previous_manifest` returned; its files stay where they are `unchanged`. CheckpointError where the
    disk is full, which leaves the previous checkpoint whole.
    """
    folder, old = Path(run) / "checkpoint", previous.get("files", {})
    number = previous.get("number", 0) + 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for what, names in (("entities", graph.entity_names), ("relations", graph.relation_names)):
            files[what] = old[what] if what in old else write_names(folder / f"{what}.txt", names)
        for name, values in tensors.items():
            kept = name in unchanged and name in old
            files[name] = old[name] if kept else write_tensors(folder / f"{name}-{number}.safetensors", values)
        manifest = {
            "format": FORMAT, "number": number, "graph": graph_entry(graph), "position": asdict(position), **entries,
            "files": files,
        }  # fmt: skip
        sync(folder)
        write_durably(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    except (OSError, SafetensorError) as error:
        remove_leftovers(folder, old)
        earlier = f"the one of step {previous['position']['step']} is intact" if previous else "there is no earlier one"
        raise CheckpointError(
            f"{folder}: the checkpoint of step {position.step} could not be written ({error}); {earlier}"
        ) from error
    remove_leftovers(folder, files)


def previous_manifest(run: str | os.PathLike) -> dict[str, Any]:
    """The manifest of the checkpoint that RUN holds; empty where it holds none."""
    return read_manifest(run) if (Path(run) / "checkpoint" / MANIFEST).exists() else {}


def read_manifest(run: str | os.PathLike) -> dict[str, Any]:
    """checkpoint.json as it is; CheckpointError names it if it is missing or damaged."""
    path = Path(run) / "checkpoint" / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{run} holds no checkpoint ({path} is missing)") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    needed = {"format", "number", "graph", "config", "position", "optimizer", "files"}
    if not isinstance(manifest, dict) or not needed <= manifest.keys():
        raise CheckpointError(f"{path} is damaged: it isn't the description of a checkpoint")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"{path}: format {manifest['format']}, this version reads {FORMAT}")
    return manifest


def graph_entry(graph: KnowledgeGraph) -> dict[str, Any]:
    keys = ("name", "fingerprint", "num_entities", "num_relations")
    return {key: getattr(graph, key) for key in keys}


def file_of_run(run: str | os.PathLike, name: str) -> Path:
    """The path of a file beside the checkpoint; CheckpointError if it is missing."""
    path = Path(run) / name
    if not path.exists():
        raise CheckpointError(f"{path} is missing: {run} isn't a whole run")
    return path


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write and sync a safetensors file; its entry for the manifest. Memory: at most a copy of all.

    Tensors that share their memory are written as copies, or safetensors would refuse them.
    """
    path.touch()
    mode = path.stat().st_mode
    copies, seen = {}, set()
    for name, tensor in tensors.items():
        place = tensor.data_ptr()
        copies[name] = (tensor.detach().clone() if place in seen else tensor.detach()).cpu().contiguous()
        seen.add(place)
    save_file(copies, path, metadata={"format": "pt"})
    path.chmod(mode)  # some versions of safetensors leave files that only their owner can read
    sync(path)
    return describe(path)


def write_names(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Write one name a line; DataError where a name would not fit into one."""
    for index, name in enumerate(names):
        if "\n" in name or "\r" in name:
            raise DataError(f"{path.stem}: name {name!r} of id {index} holds a line break; {path.name} has one a line")
    write_durably(path, "".join(f"{name}\n" for name in names).encode())
    return describe(path)


def write_durably(path: Path, content: bytes) -> None:
    """Write to a temporary name, sync, rename, sync the folder."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def describe(path: Path) -> dict[str, Any]:
    """Name, size and CRC-32 of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return {"name": path.name, "bytes": path.stat().st_size, "crc32": f"{checksum:08x}"}


def check_file(folder: Path, entry: dict[str, Any]) -> Path:
    """The path of a file of the manifest; CheckpointError if it isn't there as it was written."""
    path = folder / entry["name"]
    try:
        found = describe(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read, and the checkpoint needs it: {error.strerror or error}"
        ) from error
    for what in ("bytes", "crc32"):
        if found[what] != entry[what]:
            raise CheckpointError(f"{path} is damaged: {what} is {found[what]}, {entry[what]} was written")
    return path


def read_tensors(folder: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    path = check_file(folder, entry)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def read_names(folder: Path, entry: dict[str, Any]) -> list[str]:
    return check_file(folder, entry).read_bytes().decode().split("\n")[:-1]


def remove_leftovers(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Delete the tensor files that no checkpoint names: earlier ones, and those of a save cut short."""
    named = {entry["name"] for entry in files.values()}
    for path in (path for pattern in ("*.safetensors", "*.tmp", ".tmp*") for path in folder.glob(pattern)):
        if path.name not in named:
            path.unlink(missing_ok=True)
