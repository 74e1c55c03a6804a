"""What a joint model has learned: every task on its held-out part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from kgfast.errors import ConfigError, DataError
from kgfast.joint.model.joint_model import JointModel, evaluating

SPLITS = ("test", "valid")


@torch.no_grad()
def evaluate_tasks(
    model: JointModel,
    split: str,
    tasks: Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """{task: metrics} on "valid" or "test"; tasks that the data holds nothing of are left out. Texts of entities are
    read with the weights of now. Numbers that aren't finite are None. `progress(done, total)` counts tasks."""
    if split not in SPLITS:
        raise ConfigError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    names = [name for name in (tasks or model.tasks) if model.tasks[name].can_evaluate(split)]
    if not names:
        raise DataError(f"{model.graph.name} holds nothing in {split} for any of the tasks {', '.join(model.tasks)}")
    with evaluating(model):
        model.refresh()
        found = {}
        for done, name in enumerate(names, 1):
            found[name] = plain(model.tasks[name].evaluate(model, split))
            if progress is not None:
                progress(done, len(names))
        return found


def plain(value: Any) -> Any:
    """Numbers as JSON has them."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def numbers_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """The numbers on top, without what lies behind them."""
    return {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
