"""What a joint model has learned: every task on its held-out part."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from kgfast.errors import ConfigError, DataError
from kgfast.joint.model.joint_model import JointModel, evaluating

SPLITS = ("test", "valid")
HEADLINES = {"link": "mrr", "relation": "mrr", "qa": "hits@1", "mlm": "perplexity", "clm": "perplexity",
             "nsp": "accuracy", "contrast": "mrr"}  # fmt: skip
LOWER_IS_BETTER = ("perplexity", "loss", "mean_rank")


def held_out(model: JointModel, task: str, split: str) -> bool:
    """Whether the data holds anything of this task in this split."""
    if task in ("link", "relation", "contrast"):
        return len(getattr(model.graph, split)) > 0
    if task == "qa":
        return bool(model.graph.questions.get(split))
    if task == "nsp":
        return len(model.texts.corpus.following(split)) > 0
    if task in ("mlm", "clm"):
        return len(model.texts.corpus.spans(split, model.texts.max_length - 2)) > 0
    return True


@torch.no_grad()
def evaluate_tasks(model: JointModel, split: str, tasks: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """{task: metrics} on "valid" or "test"; tasks that the data holds nothing of are left out. Texts of entities are
    read with the weights of now. Numbers that aren't finite are None."""
    if split not in SPLITS:
        raise ConfigError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    names = [name for name in (tasks or model.tasks) if held_out(model, name, split)]
    if not names:
        raise DataError(f"{model.graph.name} holds nothing in {split} for any of the tasks {', '.join(model.tasks)}")
    with evaluating(model):
        model.refresh()
        return {name: plain(model.tasks[name].evaluate(model, split)) for name in names}


def plain(value: Any) -> Any:
    """Numbers as JSON has them."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def headline(task: str, metrics: dict[str, Any]) -> tuple[str, float | None]:
    """(name, value) of the one number that stands for a task."""
    name = HEADLINES.get(task) or next(key for key, value in metrics.items() if isinstance(value, float))
    return name, metrics.get(name)


def numbers_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """The numbers on top, without what lies behind them."""
    return {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
