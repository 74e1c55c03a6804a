"""Files of a checkpoint: written whole or not at all, named by a manifest with their size and CRC-32.

Tensor files of a new checkpoint get new names; what makes them count is one rename, onto the manifest. A manifest may
come from somebody else: `kgfast.run.manifest` checks all of it.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from kgfast.core.files import TEMPORARY, open_plain, plain_folder, remove_abandoned, replacing, sync, write_whole
from kgfast.errors import CheckpointError, DataError
from kgfast.run.manifest import FORMAT, MANIFEST, read_manifest

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph


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
        folder.mkdir(exist_ok=True)
        plain_folder(folder)
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
        write_whole(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the checkpoint of step {position.step} could not be written ({error}); {what_is_left(run)}"
        ) from error
    remove_leftovers(folder, files)


def what_is_left(run: str | os.PathLike) -> str:
    """Which checkpoint RUN holds after a save that failed, in words; what that one does not name is removed. The
    manifest on the disk decides: the last sync may have failed behind its rename."""
    folder = Path(run) / "checkpoint"
    try:
        manifest = previous_manifest(run)
        if folder.is_dir():
            remove_leftovers(plain_folder(folder), manifest.get("files", {}))
    except (OSError, CheckpointError) as error:
        return f"whether there is an earlier one can't be told ({error})"
    return f"the one of step {manifest['position']['step']} is intact" if manifest else "there is no earlier one"


def previous_manifest(run: str | os.PathLike) -> dict[str, Any]:
    """The manifest of the checkpoint that RUN holds; empty where it holds none."""
    return read_manifest(run) if os.path.lexists(Path(run) / "checkpoint" / MANIFEST) else {}


def graph_entry(graph: KnowledgeGraph) -> dict[str, Any]:
    keys = ("name", "fingerprint", "num_entities", "num_relations")
    return {key: getattr(graph, key) for key in keys}


def file_of_run(run: str | os.PathLike, name: str) -> Path:
    """The path of a file beside the checkpoint; CheckpointError if it is missing, or no plain file."""
    path = Path(run) / name
    try:
        open_plain(path).close()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: {run} isn't a whole run") from None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}") from error
    return path


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write and sync a safetensors file; its entry for the manifest. Memory: at most a copy of all.

    Tensors that share their memory are written as copies, or safetensors would refuse them.
    """
    copies, seen = {}, set()
    for name, tensor in tensors.items():
        place = tensor.data_ptr()
        copies[name] = (tensor.detach().clone() if place in seen else tensor.detach()).cpu().contiguous()
        seen.add(place)
    with replacing(path, durable=True) as temporary:
        try:
            save_file(copies, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error
    return describe(path)


def write_names(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Write one name a line; DataError where a name would not fit into one."""
    with replacing(path, durable=True) as temporary, temporary.open("wb") as file:
        for index, name in enumerate(names):
            if "\n" in name or "\r" in name:
                raise DataError(
                    f"{path.stem}: name {name!r} of id {index} holds a line break; {path.name} has one a line"
                )
            file.write(f"{name}\n".encode())
    return describe(path)


def describe(path: Path) -> dict[str, Any]:
    """Name, size and CRC-32 of a file."""
    checksum, size = 0, 0
    with open_plain(path) as file:
        while block := file.read(1 << 22):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
    return {"name": path.name, "bytes": size, "crc32": f"{checksum:08x}"}


def read_file(folder: Path, entry: dict[str, Any]) -> bytes:
    """The content of a file of the manifest; CheckpointError if it isn't there as it was written.

    It is read and not mapped, since a process that touches a mapped file which somebody cuts is killed.
    """
    path = folder / entry["name"]
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size) if size == entry["bytes"] else None
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read, and the checkpoint needs it: {error.strerror or error}"
        ) from error
    if content is None or len(content) != size:
        raise CheckpointError(f"{path} is damaged: bytes is {size}, {entry['bytes']} was written")
    if (found := f"{zlib.crc32(content):08x}") != entry["crc32"]:
        raise CheckpointError(f"{path} is damaged: crc32 is {found}, {entry['crc32']} was written")
    return content


def read_tensors(folder: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    """Memory: twice the file's size, then once."""
    try:
        return load(read_file(folder, entry))
    except (SafetensorError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / entry['name']} is damaged: {error}") from error


def read_names(folder: Path, entry: dict[str, Any], count: int) -> list[str]:
    """The names of `count` ids."""
    path = folder / entry["name"]
    try:
        names = read_file(folder, entry).decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if len(names) != count:
        raise CheckpointError(f"{path} has {len(names)} names, and the checkpoint is of {count}")
    if len(set(names)) < count or "" in names:
        seen = {""}
        for place, name in enumerate(names, 1):
            if name in seen:
                raise CheckpointError(f"{path} is damaged: line {place} is empty, or a name that stands above it")
            seen.add(name)
    return names


def remove_leftovers(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Delete the tensor files that no checkpoint names: earlier ones, and those of a save cut short."""
    remove_abandoned(folder)
    named = {entry["name"] for entry in files.values()}
    for path in (path for pattern in ("*.safetensors", f"*{TEMPORARY}", ".tmp*") for path in folder.glob(pattern)):
        if path.name not in named:
            path.unlink(missing_ok=True)
