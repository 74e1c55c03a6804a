"""What a task is, and where tasks are found: the file `tasks/NAME.py` holds the task called NAME.

A step of training, in the words used here:

    for each task of the step     batch = task.batch(step);  packed = task.requests(batch);  ids = task.entities(batch)
    once                          all texts (tasks', and entities' to refresh) -> backbone -> Encoded for each
    for each task                 terms += task.terms(model, batch, encoded)
    once                          kgfast.multitask_loss(terms, weights)
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from kgfast.errors import ConfigError, DataError
from kgfast.functional.multitask import Term
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.train.batches import generator

__all__ = ["TASKS", "Encoded", "ModelDims", "Packed", "Schedule", "Task", "TaskOptions", "Term", "generator",
           "register", "task_class", "task_names"]  # fmt: skip


@dataclass(frozen=True)
class ModelDims:
    """Sizes that a task's own parameters depend on.

    hidden: width H of the Transformer (0 without one); dim: width D of an entity row; relation_width: W of a relation
    row; vocabulary: number of tokens; causal: whether a token sees only those before it (GPT-like).
    """

    hidden: int
    dim: int
    score: str
    relation_width: int
    num_entities: int
    num_relations: int
    vocabulary: int = 0
    causal: bool = False


class TaskOptions(BaseModel):
    """Settings that every task has; a task adds its own in a subclass, which its class names as `Options`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    batch_size: int = Field(64, gt=0, description="examples of this task in a step")
    weight: float = Field(1.0, ge=0, description="weight of this task's loss where weights are fixed")


@runtime_checkable
class Task(Protocol):
    """One kind of question asked of the model. Tasks are `nn.Module`s; constructor:

        TaskClass(options: Options, graph: KnowledgeGraph, texts: TextStore | None, dims: ModelDims, seed: int)

    name: as in the config and in metrics.json.  backbone: whether it needs the Transformer.
    """

    name: ClassVar[str]
    backbone: ClassVar[bool]
    Options: ClassVar[type[TaskOptions]]

    def __len__(self) -> int:
        """Batches an epoch."""

    def batch(self, step: int) -> Any:
        """A dataclass of tensors on the CPU: a function of (seed, step) alone, which exact resume relies on."""

    def requests(self, batch: Any) -> Packed | None:
        """Texts that this batch wants encoded (None: none). Each distinct text is encoded once a step."""

    def entities(self, batch: Any) -> Tensor | None:
        """Ids of entities whose texts this batch would rather have fresh (None: no wish); repeats allowed."""

    def terms(self, model: Any, batch: Any, encoded: Encoded | None) -> list[Term]:
        """The losses of this batch; `encoded` are the hidden states of its requests, in their order."""

    def evaluate(self, model: Any, split: str) -> dict:
        """Metrics on "valid" or "test", called under torch.no_grad with the model in eval mode."""


TASKS: dict[str, type] = {}


def register(cls: type) -> type:
    """Class decorator: the task can be named in a config from now on."""
    TASKS[cls.name] = cls
    return cls


def task_names() -> list[str]:
    """Every task there is: one a file of this folder, and those registered from elsewhere."""
    return sorted({*TASKS, *(module.name for module in pkgutil.iter_modules(__path__))})


def task_class(name: str) -> type:
    """The class of a task by name; ConfigError with the names there are."""
    if name not in TASKS:
        if name not in task_names():
            raise ConfigError(f"no task {name!r}; there are {', '.join(task_names())}")
        importlib.import_module(f"{__name__}.{name}")
    return TASKS[name]


class Schedule:
    """Which of `count` examples step s sees: a permutation an epoch, from (seed, name, epoch) alone, cut in slices.

    An epoch has ceil(count / batch_size) steps, whose sizes differ by at most one.
    """

    def __init__(self, count: int, batch_size: int, seed: int, name: str):
        if count < 1:
            raise DataError(f"task {name}: there are no examples to train on")
        self.count, self.seed, self.name = count, seed, name
        self.per_epoch = -(-count // batch_size)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return self.per_epoch

    def rows(self, step: int) -> Tensor:
        """Examples of step `step`, any step in any order: int64 [B]."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = torch.randperm(self.count, generator=generator(self.seed, f"{self.name}/{epoch}"))
            self._epoch = epoch
        return self._order[index * self.count // self.per_epoch : (index + 1) * self.count // self.per_epoch]
