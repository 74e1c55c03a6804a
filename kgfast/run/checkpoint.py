"""What checkpoints of both kinds of training hold and refuse; how their files are written: `kgfast.run.storage`."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kgfast.errors import CheckpointError
from kgfast.run.storage import graph_entry

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph

# A run may go on with other values of these; all others decide what is learnt.
CHANGEABLE = {
    "data", "out", "resume", "epochs", "minutes", "threads", "device", "checkpoint_every", "tensorboard", "trackers",
}  # fmt: skip


@dataclass
class Position:
    """Where training stands, between two steps."""

    step: int = 0  # of all, the next to come
    seconds: float = 0.0  # spent in steps
    elapsed: float = 0.0  # with validations and checkpoints; this is what `minutes` bounds
    validated_step: int | None = None
    history_bytes: int = 0


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


def load_optimizer_state(optimizer: torch.optim.Optimizer, values: Mapping[str, Tensor | int | float]) -> None:
    """Put what `optimizer_state` returned in place, bit for bit; CheckpointError where a shape differs."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in values.items():
        index, _, name = key.partition("/")
        if not (index.isdecimal() and int(index) < len(parameters)) or not isinstance(value, (Tensor, int, float)):
            raise CheckpointError(f"optimizer state {key!r} in the checkpoint is none of this optimizer's")
        parameter = parameters[int(index)]
        state = optimizer.state[parameter]
        if not isinstance(value, Tensor):
            state[name] = value
            continue
        present = isinstance(state.get(name), Tensor)
        shape = state[name].shape if present else parameter.shape if value.dim() else value.shape
        if value.shape != shape:
            raise CheckpointError(
                f"optimizer state {key} has shape {list(value.shape)} in the checkpoint, {list(shape)} here"
            )
        if present:
            state[name].copy_(value)
        else:
            state[name] = value.to(parameter.device)


def check_graph(folder: Path, saved: dict[str, Any], graph: KnowledgeGraph) -> None:
    """CheckpointError where the checkpoint is of another graph."""
    if saved["fingerprint"] != graph.fingerprint:
        here = graph_entry(graph)
        raise CheckpointError(f"{folder} is a checkpoint of {graph_text(saved)}, not of {graph_text(here)}")


def graph_text(entry: dict[str, Any]) -> str:
    size = f"{entry['num_entities']} entities, {entry['num_relations']} relations"
    return f"graph {entry['name']!r} ({size}, fingerprint {entry['fingerprint'][:12]})"


def differences(
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    ignored: Container[str],
    whole: Container[str] = (),
    path: str = "",
) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, saved value, value now) of the settings that differ, section by section.

    Neither `ignored` settings count nor those that the checkpoint does not know. `whole`: sections that are one value.
    """
    for key, value in now.items():
        if (not path and key in ignored) or key not in saved:
            continue
        if isinstance(value, dict) and isinstance(saved[key], dict) and key not in whole:
            yield from differences(saved[key], value, ignored, whole, f"{path}{key}.")
        elif saved[key] != json.loads(json.dumps(value)):
            yield f"{path}{key}", saved[key], value


def check_settings_file(run: str | os.PathLike, found: Iterable[tuple[str, Any, Any]]) -> None:
    """CheckpointError where config.yaml differs from the settings that the checkpoint was trained with."""
    told = [f"{key} was {saved!r} in training and is {now!r} now" for key, saved, now in found]
    if told:
        raise CheckpointError(f"{Path(run) / 'config.yaml'} was changed: {'; '.join(told)}")


def refuse_differences(folder: Path, found: list[str]) -> None:
    """CheckpointError for settings with another value than those of the checkpoint."""
    if found:
        raise CheckpointError(f"{folder} is a checkpoint of another configuration: {'; '.join(found)}. "
                              "Go on with its own settings, or start anew in another folder")  # fmt: skip
