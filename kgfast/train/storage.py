"""Files of a checkpoint: written whole or not at all, named by a manifest with their size and CRC-32."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kgfast.errors import CheckpointError, DataError


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write and sync a safetensors file; its entry for the manifest. Memory: at most a copy of all."""
    path.touch()
    mode = path.stat().st_mode
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
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
