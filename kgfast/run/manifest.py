"""checkpoint.json, the description of a checkpoint: read as data that anybody may have written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kgfast.core.files import plain_folder, read_plain
from kgfast.errors import CheckpointError

FORMAT = 1
MANIFEST = "checkpoint.json"
MOST_BYTES = 1 << 26  # of the file: settings, and a few numbers for each parameter

Position = TypeVar("Position")


def bare(name: str) -> str:
    """The name of a file in the checkpoint's own folder."""
    if name in ("", ".", "..") or name != os.path.basename(name) or "\0" in name or "\\" in name:
        raise ValueError(f"{name!r} is not the bare name of a file")
    return name


class Part(BaseModel):
    """What all parts of the manifest hold to: types are as written, and what is not known here stays."""

    model_config = ConfigDict(strict=True, extra="allow")


class File(Part):
    name: Annotated[str, AfterValidator(bare)]
    bytes: int = Field(ge=0)
    crc32: str = Field(pattern="^[0-9a-f]{8}$")


class Graph(Part):
    name: str
    fingerprint: str
    num_entities: int = Field(ge=1)
    num_relations: int = Field(ge=1)


class Place(Part):
    step: int = Field(ge=0)
    history_bytes: int = Field(0, ge=0)


class Optimizer(Part):
    numbers: dict[str, Any]


class Partitions(Part):
    """Of a table that lies in files of its own: rows a partition, the side of each, CRC-32 of each by column."""

    rows: int = Field(ge=1)
    sides: str = Field(pattern="^[ab]+$")
    crc32: dict[str, list[int]]


class Manifest(Part):
    format: int
    number: int = Field(ge=0)
    graph: Graph
    config: dict[str, Any]
    position: Place
    optimizer: Optimizer
    files: dict[str, File]
    partitions: Partitions | None = None


NEEDED = {name for name, field in Manifest.model_fields.items() if field.is_required()}


def read_manifest(run: str | os.PathLike) -> dict[str, Any]:
    """checkpoint.json as it is; CheckpointError names it if it is missing or damaged."""
    path = Path(run) / "checkpoint" / MANIFEST
    try:
        plain_folder(path.parent)
        manifest = json.loads(read_plain(path, MOST_BYTES))
    except FileNotFoundError:
        raise CheckpointError(f"{run} holds no checkpoint ({path} is missing)") from None
    except OSError as error:
        raise CheckpointError(f"{error.filename or path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or not NEEDED <= manifest.keys():
        raise CheckpointError(f"{path} is damaged: it isn't the description of a checkpoint")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"{path}: format {manifest['format']!r}, this version reads {FORMAT}")
    try:
        Manifest.model_validate(manifest)
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged: {first_of(error)}") from None
    return manifest


def first_of(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    one = error.errors()[0]
    return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"


def read_position(kind: type[Position], run: str | os.PathLike, manifest: dict[str, Any]) -> Position:
    """Where training stood; CheckpointError where that is no position of this kind of training."""
    try:
        return TypeAdapter(kind).validate_python(manifest["position"])
    except ValidationError as error:
        path = Path(run) / "checkpoint" / MANIFEST
        raise CheckpointError(f"{path} is damaged: position.{first_of(error)}") from None


def file_entry(run: str | os.PathLike, manifest: dict[str, Any], what: str) -> dict[str, Any]:
    """The entry of a file; CheckpointError where the manifest names none."""
    if what not in manifest["files"]:
        raise CheckpointError(f"{Path(run) / 'checkpoint' / MANIFEST} is damaged: it names no file of {what}")
    return manifest["files"][what]
