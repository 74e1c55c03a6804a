"""Checkpoints in RUN/checkpoint/: killed at any moment, the process leaves the old or the new one whole.

    checkpoint.json               position, settings, the graph's fingerprint, size and CRC-32 of the files
    model-N.safetensors           the tables
    optimizer-N.safetensors       the optimizer's state
    best-N.safetensors            the tables of the best validation, if there was one
    entities.txt, relations.txt   names, line i is id i

Data files of a new checkpoint get new names; what makes them count is one rename, onto checkpoint.json.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from kgfast.errors import CheckpointError
from kgfast.nn import KGEModel
from kgfast.train.build import build_model
from kgfast.train.config import TrainConfig, unused
from kgfast.train.id_maps import IdMaps
from kgfast.train.storage import (
    read_names,
    read_tensors,
    remove_leftovers,
    sync,
    write_durably,
    write_names,
    write_tensors,
)

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph

FORMAT = 1
MANIFEST = "checkpoint.json"
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
    folder = Path(run) / "checkpoint"
    previous = read_manifest(run) if (folder / MANIFEST).exists() else {}
    number = previous.get("number", 0) + 1
    old = previous.get("files", {})
    tensors, numbers = optimizer_state(optimizer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for what, names in (("entities", graph.entity_names), ("relations", graph.relation_names)):
            files[what] = old[what] if what in old else write_names(folder / f"{what}.txt", names)
        files["model"] = write_tensors(folder / f"model-{number}.safetensors", tables(model))
        files["optimizer"] = write_tensors(folder / f"optimizer-{number}.safetensors", tensors)
        if best is not None:
            unchanged = previous.get("position", {}).get("best_step") == position.best_step and "best" in old
            files["best"] = old["best"] if unchanged else write_tensors(folder / f"best-{number}.safetensors", best)
        manifest = {
            "format": FORMAT, "number": number,
            "graph": graph_entry(graph),
            "config": config.model_dump(), "position": asdict(position),
            "optimizer": {"class": type(optimizer).__name__, "numbers": numbers}, "files": files,
        }  # fmt: skip
        sync(folder)
        write_durably(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    except (OSError, SafetensorError) as error:
        remove_leftovers(folder, old)
        kept = f"the one of step {previous['position']['step']} is intact" if previous else "there is no earlier one"
        raise CheckpointError(
            f"{folder}: the checkpoint of step {position.step} could not be written ({error}); {kept}"
        ) from error
    remove_leftovers(folder, files)


def read(run: str | os.PathLike, config: TrainConfig, graph: KnowledgeGraph) -> Checkpoint | None:
    """The checkpoint in `run` for this configuration and graph, or None if there is none.

    CheckpointError names the file that is damaged, or both values where the checkpoint is of another graph
    or setting.
    """
    folder = Path(run) / "checkpoint"
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(run)
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
    settings = Path(run) / "config.yaml"
    if not settings.exists():
        raise CheckpointError(f"{settings} is missing: {run} isn't a whole run")
    config = TrainConfig.load(settings)
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


def check_graph(folder: Path, saved: dict[str, Any], graph: KnowledgeGraph) -> None:
    if saved["fingerprint"] != graph.fingerprint:
        here = graph_entry(graph)
        raise CheckpointError(f"{folder} is a checkpoint of {graph_text(saved)}, not of {graph_text(here)}")


def graph_entry(graph: KnowledgeGraph) -> dict[str, Any]:
    keys = ("name", "fingerprint", "num_entities", "num_relations")
    return {key: getattr(graph, key) for key in keys}


def graph_text(entry: dict[str, Any]) -> str:
    size = f"{entry['num_entities']} entities, {entry['num_relations']} relations"
    return f"graph {entry['name']!r} ({size}, fingerprint {entry['fingerprint'][:12]})"


def check_config(folder: Path, saved: dict[str, Any], config: TrainConfig) -> None:
    without_effect = unused(config)
    differences = [
        f"{key}={saved[key]!r} in the checkpoint, {key}={value!r} now"
        for key, value in config.model_dump().items()
        if key in saved and key not in CHANGEABLE and key not in without_effect and saved[key] != value
    ]
    if differences:
        raise CheckpointError(f"{folder} is a checkpoint of another configuration: {'; '.join(differences)}. "
                              "Go on with its own settings, or start anew in another folder")  # fmt: skip
