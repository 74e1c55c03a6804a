"""Checkpoints in RUN/checkpoint/: killed at any moment, the process leaves the old or the new one whole.

    checkpoint.json               position, settings, the graph's fingerprint, size and CRC-32 of the files
    model-N.safetensors           the tables
    optimizer-N.safetensors       the optimizer's state
    best-N.safetensors            the tables of the best validation, if there was one
    entities-a.table, ..          of partitioned tables, in place of the entities in the files above
    entities.txt, relations.txt   names, line i is id i

How they are written: `kgfast.run.storage`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kgfast.data.names import Names
from kgfast.errors import CheckpointError
from kgfast.nn import KGEModel
from kgfast.registry import find_score
from kgfast.run import checkpoint as common
from kgfast.run.checkpoint import (
    check_graph,
    check_settings_file,
    differences,
    load_optimizer_state,
    optimizer_state,
    refuse_differences,
)
from kgfast.run.manifest import file_entry, read_manifest, read_position
from kgfast.run.memory import Need, check_memory
from kgfast.run.storage import (
    file_of_run,
    previous_manifest,
    read_names,
    read_tensors,
    remove_leftovers,
    write_checkpoint,
)
from kgfast.train.auto import Choice
from kgfast.train.build import build_model, dtype_of, load_table, load_tables, tables
from kgfast.train.config import TrainConfig, unused
from kgfast.train.id_maps import IdMaps
from kgfast.train.partitions.files import Column, opened_table
from kgfast.train.partitions.order import Cut

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph

CHANGEABLE = common.CHANGEABLE | {"tables", "early_stopping_patience", "hits"}


@dataclass
class Position(common.Position):
    """Where training stands, between two steps."""

    epoch: int = 0
    batch: int = 0  # of this epoch, the next to come
    triples: int = 0  # seen so far
    best_mrr: float | None = None
    best_epoch: float | None = None
    best_step: int | None = None
    stale: int = 0  # validations since the best one
    choice: Choice | None = None  # of settings that are `auto`


@dataclass
class Checkpoint:
    """What `read` returns; tensors on the CPU."""

    position: Position
    tables: dict[str, Tensor]
    optimizer: dict[str, Tensor | int | float]
    best: dict[str, Tensor] | None
    partitions: dict[str, Any] | None = None  # where those of a partitioned table are


def save(
    run: str | os.PathLike,
    config: TrainConfig,
    graph: KnowledgeGraph,
    position: Position,
    model: KGEModel,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor] | None,
    partitions: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint; CheckpointError where the disk is full, which leaves the previous one whole. With
    `partitions` the rows of entities and their state are on the disk already."""
    previous = previous_manifest(run)
    tensors, numbers = optimizer_state(optimizer)
    parts, entries = {"model": tables(model), "optimizer": tensors}, {}
    if partitions is not None:
        entries["partitions"] = partitions
        del parts["model"]["entities"]
        parts["optimizer"] = {
            key: value for key, value in tensors.items() if not key.startswith("0/") or not value.dim()
        }
    if best is not None:
        parts["best"] = best
    same_best = previous.get("position", {}).get("best_step") == position.best_step
    write_checkpoint(
        run, previous, graph, position, parts, unchanged=("best",) if same_best else (),
        config=config.model_dump(), optimizer={"class": type(optimizer).__name__, "numbers": numbers},
        **entries,
    )  # fmt: skip


def read(run: str | os.PathLike, config: TrainConfig, graph: KnowledgeGraph) -> Checkpoint | None:
    """The checkpoint in `run` for this configuration and graph, or None if there is none.

    CheckpointError names the file that is damaged, or both values where the checkpoint is of another graph
    or setting.
    """
    folder, manifest = Path(run) / "checkpoint", previous_manifest(run)
    if not manifest:
        return None
    check_graph(folder, manifest["graph"], graph)
    check_config(folder, manifest["config"], config)
    files = manifest["files"]
    remove_leftovers(folder, files)
    return Checkpoint(
        position=read_position(Position, run, manifest),
        tables=read_tensors(folder, file_entry(run, manifest, "model")),
        optimizer={
            **manifest["optimizer"]["numbers"], **read_tensors(folder, file_entry(run, manifest, "optimizer")),
        },
        best=read_tensors(folder, files["best"]) if "best" in files else None,
        partitions=manifest.get("partitions"),
    )  # fmt: skip


def restore(saved: Checkpoint, model: KGEModel, optimizer: torch.optim.Optimizer) -> None:
    """Copy tables and optimizer state into place, bit for bit."""
    load_tables(model, saved.tables)
    load_optimizer_state(optimizer, saved.optimizer)


def load_run(run: str | os.PathLike) -> tuple[KGEModel, IdMaps, TrainConfig]:
    """A run's model on the CPU (the best tables if validated, else the last), id maps and settings.

    CheckpointError names the file that is missing or damaged, or was changed since.
    """
    folder, manifest = Path(run) / "checkpoint", read_manifest(run)
    if "kind" in manifest:
        raise CheckpointError(f"{folder} is of a {manifest['kind']} run, not of a run on the graph alone")
    config = TrainConfig.load(file_of_run(run, "config.yaml"))
    check_settings_file(run, differences(manifest["config"], config.model_dump(), CHANGEABLE | unused(config).keys()))
    ids = IdMaps(*(
        Names(read_names(folder, file_entry(run, manifest, what), manifest["graph"][f"num_{what}"]))
        for what in ("entities", "relations")
    ))  # fmt: skip
    saved = read_tensors(folder, file_entry(run, manifest, "best" if "best" in manifest["files"] else "model"))
    if manifest.get("partitions") is not None:
        return partitioned_model(folder, config, ids, saved, manifest["partitions"]), ids, config
    model = build_model(config.replace(device="cpu"), ids.num_entities, ids.num_relations)
    load_tables(model, saved)
    return model, ids, config


def partitioned_model(
    folder: Path, config: TrainConfig, ids: IdMaps, saved: dict[str, Tensor], partitions: dict[str, Any]
) -> KGEModel:
    """The model of a partitioned table, which is mapped where the run has ended."""
    column, cut = Column((config.dim,), dtype_of(config)), Cut(ids.num_entities, partitions["rows"])
    if len({*partitions["sides"]}) > 1:
        what = f"the partitions of {ids.num_entities:,} entities, two files until {folder.parent} has ended,"
        check_memory([Need(f"dim={config.dim}", what, ids.num_entities * column.row_bytes)])
    relations = ids.num_relations * (2 if config.reciprocal else 1)
    second = torch.empty(relations, find_score(config.model).relation_width(config.dim), dtype=column.dtype)
    load_table(second, "relations", saved)
    table = opened_table(folder, cut, column, partitions)
    return KGEModel.from_tables(table, second, score=config.model, reciprocal=config.reciprocal, copy=False)


def check_config(folder: Path, saved: dict[str, Any], config: TrainConfig) -> None:
    changeable = CHANGEABLE | unused(config).keys()
    if "partitioned" in (saved.get("tables"), config.tables):
        changeable -= {"tables"}
    found = differences(saved, config.model_dump(), changeable)
    refuse_differences(folder, [f"{key}={old!r} in the checkpoint, {key}={now!r} now" for key, old, now in found])
