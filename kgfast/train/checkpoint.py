"""Checkpoints in RUN/checkpoint/: killed at any moment, the process leaves the old or the new one whole.

    checkpoint.json               position, settings, the graph's fingerprint, size and CRC-32 of the files
    model-N.safetensors           the tables
    optimizer-N.safetensors       the optimizer's state
    best-N.safetensors            the tables of the best validation, if there was one
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

from kgfast.errors import CheckpointError
from kgfast.nn import KGEModel
from kgfast.run.storage import (
    file_of_run,
    graph_entry,
    previous_manifest,
    read_manifest,
    read_names,
    read_tensors,
    remove_leftovers,
    write_checkpoint,
)
from kgfast.train.build import build_model
from kgfast.train.config import TrainConfig, unused
from kgfast.train.id_maps import IdMaps

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph

# A run may go on with other values of these; all others decide what is learnt.
CHANGEABLE = {"data", "out", "resume", "epochs", "minutes", "threads", "device", "tables", "checkpoint_every",
              "early_stopping_patience", "tensorboard"}  # fmt: skip


@dataclass
class Position:
    """Where training stands, between two steps."""

    epoch: int = 0
    batch: int = 0  # of this epoch, the next to come
    step: int = 0  # of all, the next to come
    triples: int = 0  # seen so far
    seconds: float = 0.0  # spent in steps
    elapsed: float = 0.0  # with validations and checkpoints; this is what `minutes` bounds
    best_mrr: float | None = None
    best_epoch: float | None = None
    best_step: int | None = None
    validated_step: int | None = None
    stale: int = 0  # validations since the best one
    history_bytes: int = 0


@dataclass
class Checkpoint:
    """What `read` returns; tensors on the CPU."""

    position: Position
    tables: dict[str, Tensor]
    optimizer: dict[str, Tensor | int | float]
    best: dict[str, Tensor] | None


def save(
    run: str | os.PathLike,
    config: TrainConfig,
    graph: KnowledgeGraph,
    position: Position,
    model: KGEModel,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor] | None,
) -> None:
    """Write a checkpoint; CheckpointError where the disk is full, which leaves the previous one whole."""
    previous = previous_manifest(run)
    tensors, numbers = optimizer_state(optimizer)
    parts = {"model": tables(model), "optimizer": tensors}
    if best is not None:
        parts["best"] = best
    same_best = previous.get("position", {}).get("best_step") == position.best_step
    write_checkpoint(
        run, previous, graph, position, parts, unchanged=("best",) if same_best else (),
        config=config.model_dump(), optimizer={"class": type(optimizer).__name__, "numbers": numbers},
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
        position=Position(**manifest["position"]),
        tables=read_tensors(folder, files["model"]),
        optimizer={**manifest["optimizer"]["numbers"], **read_tensors(folder, files["optimizer"])},
        best=read_tensors(folder, files["best"]) if "best" in files else None,
    )


def restore(checkpoint: Checkpoint, model: KGEModel, optimizer: torch.optim.Optimizer) -> None:
    """Copy tables and optimizer state into place, bit for bit."""
    load_tables(model, checkpoint.tables)
    load_optimizer_state(optimizer, checkpoint.optimizer)


def load_optimizer_state(optimizer: torch.optim.Optimizer, values: dict[str, Tensor | int | float]) -> None:
    """Put what `optimizer_state` returned in place, bit for bit; CheckpointError where a shape differs."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in values.items():
        index, name = key.split("/", 1)
        state = optimizer.state[parameters[int(index)]]
        if isinstance(value, Tensor) and isinstance(state.get(name), Tensor):
            if state[name].shape != value.shape:
                raise CheckpointError(
                    f"optimizer state {key} has shape {list(value.shape)} in the checkpoint, "
                    f"{list(state[name].shape)} here"
                )
            state[name].copy_(value)
        else:
            state[name] = value.to(parameters[int(index)].device) if isinstance(value, Tensor) else value


def load_run(run: str | os.PathLike) -> tuple[KGEModel, IdMaps, TrainConfig]:
    """A run's model on the CPU (the best tables if validated, else the last), id maps and settings.

    CheckpointError names the file that is missing or damaged.
    """
    folder = Path(run) / "checkpoint"
    manifest = read_manifest(run)
    config = TrainConfig.load(file_of_run(run, "config.yaml"))
    files = manifest["files"]
    ids = IdMaps(*(read_names(folder, files[what]) for what in ("entities", "relations")))
    model = build_model(config.replace(device="cpu"), ids.num_entities, ids.num_relations)
    load_tables(model, read_tensors(folder, files.get("best", files["model"])))
    return model, ids, config


def tables(model: KGEModel) -> dict[str, Tensor]:
    """Both tables by name, without gradient and without a copy."""
    return {"entities": model.entities.detach(), "relations": model.relations.detach()}


def load_tables(model: KGEModel, values: dict[str, Tensor]) -> None:
    """Copy both tables into the model; CheckpointError where a shape or number type differs."""
    for name, table in tables(model).items():
        if name not in values or values[name].shape != table.shape or values[name].dtype != table.dtype:
            found = f"{list(values[name].shape)} {values[name].dtype}" if name in values else "nothing"
            raise CheckpointError(
                f"{name}: the checkpoint holds {found}, the model needs {list(table.shape)} {table.dtype}"
            )
        table.copy_(values[name])


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, int | float]]:
    """The optimizer's tensors and its plain numbers, keyed "parameter index/name"."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, int | float] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value.detach()
            elif isinstance(value, (int, float)):
                numbers[f"{index}/{name}"] = value
            else:
                raise CheckpointError(f"optimizer state {name!r} is a {type(value).__name__}, which can't be stored")
    return tensors, numbers


def check_graph(folder: Path, saved: dict[str, Any], graph: KnowledgeGraph) -> None:
    if saved["fingerprint"] != graph.fingerprint:
        here = graph_entry(graph)
        raise CheckpointError(f"{folder} is a checkpoint of {graph_text(saved)}, not of {graph_text(here)}")


def graph_text(entry: dict[str, Any]) -> str:
    size = f"{entry['num_entities']} entities, {entry['num_relations']} relations"
    return f"graph {entry['name']!r} ({size}, fingerprint {entry['fingerprint'][:12]})"


def check_config(folder: Path, saved: dict[str, Any], config: TrainConfig) -> None:
    without_effect = unused(config)
    refuse_differences(folder, [
        f"{key}={saved[key]!r} in the checkpoint, {key}={value!r} now"
        for key, value in config.model_dump().items()
        if key in saved and key not in CHANGEABLE and key not in without_effect and saved[key] != value
    ])  # fmt: skip


def refuse_differences(folder: Path, differences: list[str]) -> None:
    """CheckpointError for settings with another value than those of the checkpoint."""
    if differences:
        raise CheckpointError(f"{folder} is a checkpoint of another configuration: {'; '.join(differences)}. "
                              "Go on with its own settings, or start anew in another folder")  # fmt: skip
