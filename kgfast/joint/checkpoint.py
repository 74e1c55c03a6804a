"""Checkpoints of joint runs in RUN/checkpoint/: all that a step depends on. Killed at any moment, the process leaves
the old or the new one whole (see `kgfast.run.storage`).

    checkpoint.json                position, settings, fingerprints of graph, texts and tokenizer, files
    model-N.safetensors            parameters, memory of entity texts, heads of the tasks; no frozen weights: those are
                                   in the folder of the backbone, and checkpoint.json has their sha256
    weights-N.safetensors          state of the tasks' weights
    dense-N, tables-N.safetensors  state of the two optimizers
    entities.txt, relations.txt    names, line i is id i

Beside it RUN/tokenizer.json. Random numbers need no state: each step draws from (seed, step).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from kgfast.data import KnowledgeGraph
from kgfast.errors import CheckpointError
from kgfast.joint.build import build_model, check_tokenizer, load_graph
from kgfast.joint.config import JointConfig
from kgfast.joint.model.adapt import fingerprint, frozen_weights
from kgfast.joint.model.joint_model import JointModel
from kgfast.joint.text.store import graph_texts
from kgfast.run import checkpoint as common
from kgfast.run.checkpoint import (
    check_graph,
    check_settings_file,
    differences,
    load_optimizer_state,
    optimizer_state,
    refuse_differences,
)
from kgfast.run.manifest import MANIFEST, file_entry, first_of, read_manifest, read_position
from kgfast.run.storage import (
    file_of_run,
    previous_manifest,
    read_tensors,
    remove_leftovers,
    write_checkpoint,
)

KIND = "joint"
CHANGEABLE = common.CHANGEABLE | {"recipe", "steps", "facts"}


@dataclass
class Position(common.Position):
    """Where training stands, between two steps."""

    batches: dict[str, int] = field(default_factory=dict)  # of each task, the next to come
    last: dict[str, int] = field(default_factory=dict)  # the step each task was last in
    processes: int = 1


@dataclass
class JointEntries:
    """What the manifest of a joint run holds beside that of every run."""

    texts: str
    tokenizer: str | None
    roles: dict[str, str | None] | None = None


@dataclass
class Saved:
    """What `read` returns; tensors on the CPU."""

    position: Position
    model: dict[str, Tensor]
    weights: dict[str, Tensor]
    optimizers: dict[str, dict[str, Tensor | int | float]]
    tokenizer: str | None  # its fingerprint
    roles: dict[str, str | None] | None  # its special tokens
    frozen: str | None  # the fingerprint of weights that don't learn


def texts_fingerprint(graph: KnowledgeGraph, config: JointConfig) -> str:
    """Hex sha256 of all texts and questions that a run reads."""
    digest = hashlib.sha256()
    for name, texts in graph_texts(graph).items():
        digest.update(json.dumps([name, list(texts)], ensure_ascii=False).encode())
    for name, given in (("alias", graph.entity_alias), ("template", graph.relation_template)):
        if given is not None:
            digest.update(json.dumps([name, list(given)], ensure_ascii=False).encode())
    for split, questions in graph.questions.items():
        digest.update(json.dumps([split, [list(one) for one in questions]], ensure_ascii=False).encode())
    for file in config.corpus.files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def save(
    run: Path,
    config: JointConfig,
    position: Position,
    model: JointModel,
    weights: nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    texts: str,
    frozen: str | None = None,
) -> None:
    """Write a checkpoint; CheckpointError where the disk is full, which leaves the previous one whole."""
    left_out = frozen_weights(model)
    learned = {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}
    parts, numbers = {"model": learned, "weights": weights.state_dict()}, {}
    for name, optimizer in optimizers.items():
        parts[name], numbers[name] = optimizer_state(optimizer)
    write_checkpoint(
        run, previous_manifest(run), model.graph, position, parts, kind=KIND, texts=texts,
        tokenizer=model.tokenizer.fingerprint if model.tokenizer else None,
        roles=model.tokenizer.roles if model.tokenizer else None, frozen=frozen, config=config.model_dump(),
        optimizer={"names": list(optimizers), "numbers": numbers},
    )  # fmt: skip


def read(run: Path, config: JointConfig, graph: KnowledgeGraph) -> Saved | None:
    """The checkpoint in `run` for this configuration and data, or None if there is none.

    CheckpointError where it is damaged, or of another graph, other texts or settings, or no joint run's.
    """
    folder, manifest = run / "checkpoint", previous_manifest(run)
    if not manifest:
        return None
    check_kind(folder, manifest)
    check_data(folder, manifest, graph, config)
    refuse_differences(folder, [
        f"{key}: {saved!r} in the checkpoint, {now!r} now" for key, saved, now in setting_differences(manifest, config)
    ])  # fmt: skip
    remove_leftovers(folder, manifest["files"])

    def tensors(name: str) -> dict[str, Tensor]:
        return read_tensors(folder, file_entry(run, manifest, name))

    return Saved(
        position=read_position(Position, run, manifest),
        model=tensors("model"),
        weights=tensors("weights"),
        optimizers={name: {**numbers, **tensors(name)} for name, numbers in manifest["optimizer"]["numbers"].items()},
        tokenizer=manifest["tokenizer"],
        roles=manifest.get("roles"),
        frozen=manifest.get("frozen"),
    )


def setting_differences(manifest: dict[str, Any], config: JointConfig) -> Iterator[tuple[str, Any, Any]]:
    return differences(manifest["config"], config.model_dump(), CHANGEABLE, whole=("tasks",))


def restore(saved: Saved, model: JointModel, weights: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Copy everything into place, bit for bit."""
    load_model(model, saved.model, saved.frozen)
    load_state(weights, saved.weights, "weights")
    for name, optimizer in optimizers.items():
        if name not in saved.optimizers:
            raise CheckpointError(f"the checkpoint has no state of the optimizer {name!r}")
        load_optimizer_state(optimizer, saved.optimizers[name])


def frozen_fingerprint(model: JointModel) -> str | None:
    """Hex sha256 of the weights that stay as they are; None where all learn."""
    frozen = frozen_weights(model)
    return fingerprint(frozen) if frozen else None


def load_model(model: JointModel, tensors: dict[str, Tensor], frozen: str | None) -> None:
    """What the run learned, beside frozen weights that are in place already; CheckpointError where those are others."""
    if frozen_fingerprint(model) != frozen:
        raise CheckpointError(
            "the frozen weights of backbone.path are not those that the run was trained beside: the folder holds "
            "another model now"
        )
    load_state(model, {**frozen_weights(model), **tensors}, "model")
    model.has_read = True


def load_state(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """CheckpointError names the first tensor that is missing, too many, or of another shape or kind of numbers."""
    expected = module.state_dict()
    for name in [*expected, *tensors]:
        found, wanted = tensors.get(name), expected.get(name)
        if found is None or wanted is None or found.shape != wanted.shape:
            shapes = ["nothing" if one is None else str(list(one.shape)) for one in (found, wanted)]
            raise CheckpointError(f"{what}.{name}: the checkpoint holds {shapes[0]}, the model needs {shapes[1]}")
        if found.is_floating_point() != wanted.is_floating_point():
            raise CheckpointError(f"{what}.{name}: the checkpoint holds {found.dtype}, the model needs {wanted.dtype}")
    module.load_state_dict(tensors)


def check_kind(folder: Path, manifest: dict[str, Any]) -> None:
    if manifest.get("kind") != KIND:
        raise CheckpointError(f"{folder} is of a run on the graph alone, not of a joint run")
    try:
        TypeAdapter(JointEntries).validate_python(manifest)
    except ValidationError as error:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: {first_of(error)}") from None


def check_data(folder: Path, manifest: dict[str, Any], graph: KnowledgeGraph, config: JointConfig) -> None:
    check_graph(folder, manifest["graph"], graph)
    if manifest["texts"] != texts_fingerprint(graph, config):
        raise CheckpointError(
            f"{folder} was trained on other texts or questions than {graph.name} has now; the triples are the same"
        )


def load_run(run: str | os.PathLike, data: str | None = None) -> tuple[JointModel, JointConfig]:
    """A run's model on the CPU in eval mode, texts of entities read anew, and its settings.

    `data`: where the run's data lies now. CheckpointError names what is missing, damaged, or of another run.
    """
    run = Path(run)
    folder, manifest = run / "checkpoint", read_manifest(run)
    check_kind(folder, manifest)
    config = JointConfig.load(file_of_run(run, "config.yaml")).replace(device="cpu")
    check_settings_file(run, setting_differences(manifest, config))
    graph = load_graph(config, data)
    check_data(folder, manifest, graph, config)
    if manifest["tokenizer"] is not None:
        file_of_run(run, "tokenizer.json")
    saved = read_tensors(folder, file_entry(run, manifest, "model"))
    model = build_model(config, graph, run)
    check_tokenizer(model.tokenizer, manifest["tokenizer"], manifest.get("roles"), str(run))
    load_model(model, saved, manifest.get("frozen"))
    model.eval()
    model.refresh()
    return model, config
