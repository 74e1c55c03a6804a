"""What a task is: all that a step, a run, its tables and its report need to know of one.

A step of training, in the words used here:

    for each task of the step     batch = task.batch(step);  packed = task.requests(batch);  ids = task.entities(batch)
    once                          all texts (tasks', and entities' to refresh) -> backbone -> Encoded for each
    for each task                 terms += task.terms(model, batch, encoded)
    once                          kgfast.multitask_loss(terms, weights)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kgfast.errors import DataError
from kgfast.functional.multitask import LossTerm, Term
from kgfast.joint.model.packed import Packed
from kgfast.pages.blocks import Example
from kgfast.run.seeds import generator
from kgfast.run.settings import Section

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph
    from kgfast.joint.text.store import TextStore


@dataclass(frozen=True)
class ModelDims:
    """Sizes that a task's own parameters depend on.

    hidden: width H of the Transformer (0 without one); dim: width D of an entity row; relation_width: W of a relation
    row; vocabulary: number of tokens; causal: whether a token sees only those before it (GPT-like); embedding: width of
    a token's embedding; relation_rows: R, or 2 R where relations have rows of their own for heads;
    entities_read: whether texts are part of entity rows; frozen: whether the Transformer doesn't learn.
    """

    hidden: int
    dim: int
    score: str
    relation_width: int
    num_entities: int
    num_relations: int
    vocabulary: int = 0
    embedding: int = 0
    causal: bool = False
    relation_rows: int = 0
    entities_read: bool = False
    frozen: bool = False


class TaskOptions(Section):
    """Settings that every task has; a task adds its own in a subclass, which its class names as `Options`."""

    batch_size: int = Field(64, gt=0, description="examples of this task in a step")
    weight: float = Field(1.0, ge=0, description="weight of this task's loss where weights are fixed")


@dataclass(frozen=True)
class Shown:
    """What the report shows of single answers: examples by title, a line that says what they are, and {word: value}
    to compare the task's one number with."""

    examples: Mapping[str, Sequence[Example]]
    note: str = ""
    beside: Mapping[str, float] = field(default_factory=dict)


class Told:
    """How the metrics under a name of metrics.json are told."""

    name: ClassVar[str]  # as in the config and in metrics.json

    headline: ClassVar[str | None] = None  # the one that stands for all; None: the first number
    columns: ClassVar[Mapping[str, str]] = {}  # of its table: metric and heading; {}: all numbers on top
    lower_is_better: ClassVar[tuple[str, ...]] = ("perplexity", "loss", "mean_rank", "amr")

    @classmethod
    def headline_of(cls, metrics: Mapping[str, Any]) -> tuple[str, float | None]:
        """(name, value) of the one number that stands for the task."""
        name = cls.headline or next(key for key, value in metrics.items() if isinstance(value, float))
        return name, metrics.get(name)

    @classmethod
    def beside_of(cls, metrics: Mapping[str, Any]) -> Mapping[str, float]:
        """{word: value}: what the one number is to be compared with, as far as the metrics hold it."""
        return {}

    @classmethod
    def columns_of(cls, metrics: Mapping[str, Any]) -> Mapping[str, str]:
        """{metric: heading} of the task's table."""
        return cls.columns or {key: key for key, value in metrics.items() if isinstance(value, (int, float))}

    @classmethod
    def groups_of(cls, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(name, metrics) of the parts that a table shows under the whole."""
        yield from ()


class Task(nn.Module, Told, ABC):
    """One kind of question asked of the model. It may have parameters of its own."""

    Options: ClassVar[type[TaskOptions]] = TaskOptions

    # What it needs
    backbone: ClassVar[bool] = False  # the Transformer
    reads_corpus: ClassVar[bool] = False  # `texts.corpus`
    reads_mentions: ClassVar[bool] = False  # of entities, in the corpus

    options: Any  # of the class that `Options` names
    texts: Any  # a TextStore; None where nothing reads texts

    def __init__(
        self, options: TaskOptions, graph: KnowledgeGraph, texts: TextStore | None, dims: ModelDims, seed: int
    ):
        super().__init__()
        self.options, self.graph, self.texts, self.seed = options, graph, texts, seed

    def schedule_over(self, count: int) -> None:
        """Train on `count` examples, which `self.schedule.rows(step)` deals out."""
        self.schedule = Schedule(count, self.options.batch_size, self.seed, self.name)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.schedule)

    @abstractmethod
    def batch(self, step: int) -> Any:
        """A dataclass of tensors on the CPU: a function of (seed, step) alone, which exact resume relies on."""

    def requests(self, batch: Any) -> Packed | None:
        """Texts that this batch wants encoded (None: none). Each distinct text is encoded once a step."""
        return None

    def entities(self, batch: Any) -> Tensor | None:
        """Ids of entities whose texts this batch would rather have fresh (None: no wish); repeats allowed."""
        return None

    def entity_inputs(self, model: Any) -> Callable[[Tensor], Tensor] | None:
        """Ids [n] -> vectors [n, E] that enter the Transformer where texts mention these entities (None: none does)."""
        return None

    @abstractmethod
    def terms(self, model: Any, batch: Any, encoded: Any) -> Sequence[Term | LossTerm]:
        """The losses of this batch; `encoded` are the hidden states of its requests, in their order (None: none)."""

    @abstractmethod
    def evaluate(self, model: Any, split: str) -> dict[str, Any]:
        """Metrics on "valid" or "test", called under torch.no_grad with the model in eval mode."""

    def shown(self, model: Any, split: str) -> Shown | None:
        """Single answers for the report, called as `evaluate` is; None: it has none."""
        return None

    def can_evaluate(self, split: str) -> bool:
        """Whether the data holds anything to evaluate on in a split."""
        return len(getattr(self.graph, split)) > 0

    @classmethod
    def lacks(cls, graph: KnowledgeGraph, config: Any) -> str | None:
        """What the task needs and the data has none of, in words; None: it can be trained."""
        return None

    @classmethod
    def unused_options(cls, entities: str) -> Mapping[str, str]:
        """Options that have no effect where rows of entities are of this kind, each with the reason; hybrid
        relations count as hybrid."""
        return {}


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


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
