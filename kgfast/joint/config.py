"""What a joint run is told: sections, tasks by name, and words for them.

Keys of sections are written with dots on the command line: `tasks.qa.batch_size=32`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from kgfast.errors import ConfigError
from kgfast.joint.sections import (
    SHORT,
    BackboneSection,
    CorpusSection,
    EntitySection,
    MixingSection,
    RelationSection,
    SharingSection,
    TokenizerSection,
    WeightingSection,
    read_section,
)
from kgfast.joint.tasks import TASKS, TaskOptions, task_class, task_names
from kgfast.run import reading
from kgfast.run.optimizers import TABLE_OPTIMIZERS
from kgfast.run.recipes import JOINT, is_recipe, joint_recipe
from kgfast.run.settings import Course, Dim, OneOf, RunSettings, Section, Warmup


class JointConfig(RunSettings):
    """Settings of a joint run.

    Without `steps`, `epochs` and `minutes` training lasts 10 epochs; of those given, whichever ends first counts. An
    epoch is as many steps as the longest task needs (mixing=every), or all tasks together (one task a step).
    """

    default_epochs = 10
    ends = ("steps", "epochs", "minutes")

    questions: str = Field(
        "qa",
        min_length=1,
        description="question files are QUESTIONS_train.txt, _valid, _test; names between commas: all of theirs",
    )
    triples: float = Field(
        1.0, gt=0, le=1, description="share of the train triples that is kept, for any seed the same"
    )
    tasks: dict[str, dict[str, Any]] = Field(description="tasks by name, each with its settings: {mlm: {}, link: {}}")
    leave_out: bool = Field(False, description="leave out tasks and texts that the data has nothing for, and say so")
    entities: EntitySection = EntitySection()
    relations: RelationSection = RelationSection()
    backbone: BackboneSection = BackboneSection()
    tokenizer: TokenizerSection = TokenizerSection()
    corpus: CorpusSection = CorpusSection()
    sharing: SharingSection = SharingSection()
    weighting: WeightingSection = WeightingSection()
    mixing: MixingSection = MixingSection()

    facts: int = Field(
        500, ge=0, description="held-out facts of a split that the language model is asked for at the end; 0: none"
    )
    dim: Dim = 128
    lr: float = Field(5e-4, gt=0, description="learning rate of the Transformer and the heads (AdamW)")
    lr_schedule: Course = "linear"
    warmup: Warmup = 50
    weight_decay: float = Field(0.01, ge=0, description="of the Transformer and the heads")
    clip: float = Field(1.0, ge=0, description="norm that gradients of the Transformer and the heads are cut to; 0: no")
    table_optimizer: Annotated[str, AfterValidator(OneOf(TABLE_OPTIMIZERS))] = Field(
        "adagrad", description="optimizer of the entity and relation tables"
    )
    table_lr: float = Field(0.1, gt=0, description="learning rate of the tables, which has the same course")
    accumulate: int = Field(1, gt=0, description="batches of each task whose gradients are summed before a step")
    precision: Literal["float32", "bf16"] = Field("float32", description="bf16: the Transformer computes in bfloat16")

    steps: int | None = Field(None, gt=0, description="steps of training")
    validate_every: int = Field(0, ge=0, description="steps between evaluations on valid; 0 is never")

    def options(self, task: str) -> TaskOptions:
        """The settings of a task, its defaults filled in."""
        return task_options(task, self.tasks[task])

    @classmethod
    def recipe_values(cls, name: str) -> dict[str, Any]:
        return joint_recipe(name)

    @classmethod
    def nest(cls, pairs: dict[str, Any]) -> dict[str, Any]:
        """{"a.b": 1} is {"a": {"b": 1}}; a word for a section may stand beside other keys of it, in any order."""
        nested = {key: value for key, value in pairs.items() if "." not in key}
        for key, value in pairs.items():
            if "." in key:
                put(nested, key, value)
        return nested

    @classmethod
    def merge(cls, below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
        return merge(below, above)

    @classmethod
    def prepare(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = {key: value for key, value in values.items() if value is not None or key in cls.ends}
        for name, section in SECTIONS.items():
            values[name] = read_section(name, section, values.get(name))
        if values.get("tasks") is not None:
            given = by_name(values["tasks"])
            values["tasks"] = {
                name: task_options(name, one).model_dump(mode="json", exclude_unset=True) for name, one in given.items()
            }
        return values

    def unsaved(self) -> Iterable[str]:
        return ("recipe",)  # its settings are among those saved

    def check_combination(self) -> None:
        if not self.tasks:
            raise ConfigError(f"tasks: at least one is needed; there are {', '.join(task_names())}")
        super().check_combination()
        backbone, mixing = self.backbone, self.mixing.method
        if backbone.hidden % backbone.heads:
            raise ConfigError(
                f"backbone.hidden={backbone.hidden}: must be a multiple of backbone.heads={backbone.heads}"
            )
        check_adaptation(backbone, self.sharing.mode)
        if self.entities.kind == "text" and getattr(self.entities, "from") is not None:
            raise ConfigError("entities.from has no effect with entities.kind=text, which has no table")
        kind = "hybrid" if self.relations.kind == "hybrid" else self.entities.kind
        for name, given in self.tasks.items():
            for key, reason in task_class(name).unused_options(kind).items():
                if key in given:
                    raise ConfigError(f"tasks.{name}.{key} has no effect {reason}")
        belongs = {"soft": ("pull", "strength"), "routed": ("experts", "top_k", "gate", "balance_weight"), "hard": ()}
        for key, value in self.sharing.model_dump(exclude={"mode"}, exclude_none=True).items():
            if key not in belongs[self.sharing.mode]:
                raise ConfigError(f"sharing.{key}={value!r} has no effect with sharing.mode={self.sharing.mode}")
        if self.weighting.surgery == "pcgrad" and mixing != "every":
            raise ConfigError(
                f"weighting.surgery='pcgrad' needs mixing.method=every: with {mixing} a step has one task"
            )
        if self.weighting.method == "gradnorm" and mixing != "every":
            raise ConfigError(
                f"weighting.method='gradnorm' compares the tasks of a step: it needs mixing.method=every, not {mixing}"
            )


def check_adaptation(backbone: BackboneSection, sharing: str) -> None:
    """ConfigError where what shall learn of a pretrained Transformer doesn't fit what else is said of it."""
    given = {"freeze": backbone.freeze is not False, "lora": backbone.lora is not None}
    for name in (name for name, used in given.items() if used):
        if backbone.path is None:
            raise ConfigError(f"backbone.{name} needs backbone.path: one from scratch has learned nothing yet")
        whole = name == "lora" or backbone.freeze != "embeddings"
        if sharing == "routed" and whole:
            raise ConfigError(f"backbone.{name} and sharing.mode=routed don't go together: experts learn in all layers")
        if sharing == "soft" and (name == "lora" or backbone.freeze is True):
            raise ConfigError(
                f"backbone.{name} and sharing.mode=soft don't go together: the frozen weights of all tasks are the same"
            )
    if all(given.values()) and backbone.freeze is not True:
        raise ConfigError(f"backbone.freeze={backbone.freeze!r} has no effect with backbone.lora, which freezes all")


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in JointConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
resolve = JointConfig.resolve


def is_joint(file: str | os.PathLike | None, pairs: Iterable[str], options: Mapping[str, Any]) -> bool:
    """Whether these words of a command line ask for a joint run."""
    pairs = list(pairs)
    paired = reading.parse_pairs(pairs)
    if (options.get("recipe") or paired.get("recipe")) in JOINT or any(key.split(".")[0] == "tasks" for key in paired):
        return True
    out = options.get("out") or paired.get("out")
    resumed = options.get("resume") or reading.boolean(paired.get("resume", False))
    saved = reading.settings_of_run(out) if file is None and resumed and out is not None else None
    source = saved if file is None else file
    if source is None:
        return False
    values = reading.read_yaml(source, of_run=file is None)
    return "tasks" in values or is_recipe(values.get("recipe"), JOINT)


class Dotted(dict):
    """A section, or tasks, of which single values stood behind dotted keys: what is below them stays."""


class Whole(dict):
    """A section, or tasks, of which a word said all: dotted keys beside it add to that, and nothing below counts."""


def put(nested: dict[str, Any], key: str, value: Any) -> None:
    """nested["a"]["b"] = value for the key "a.b"."""
    first, *path, last = key.split(".")
    if first in nested and not isinstance(nested[first], dict):
        nested[first] = as_whole(first, nested[first])
    place = nested
    for part in (first, *path):
        place = place.setdefault(part, Dotted())
        if not isinstance(place, dict):
            raise ConfigError(f"{key}={value!r}: {part} has a value already")
    place[last] = value


def as_whole(name: str, value: Any) -> Any:
    """What one word for a section (`sharing=routed`), or names of tasks (`tasks=link,qa`), stand for."""
    if name == "tasks":
        return Whole(by_name(value))
    if name in SHORT:
        return Whole() if value is None else Whole({SHORT[name]: value})
    return value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section. Tasks given by name in a file are the tasks of the run."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Whole):
            merged[key] = dict(value)
            continue
        if isinstance(value, Mapping) and key in SHORT and not isinstance(merged.get(key), Mapping) and merged.get(key):
            merged[key] = {SHORT[key]: merged[key]}
        inner = merged.get(key)
        if key == "tasks" and isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = {name: merge(as_options(inner.get(name)), as_options(one)) for name, one in value.items()}
            if isinstance(value, Dotted):  # single settings of tasks, from the command line: the others stay
                merged[key] = {**{name: as_options(one) for name, one in inner.items()}, **merged[key]}
        elif isinstance(inner, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(inner, value)
        else:
            merged[key] = value
    return merged


def as_options(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def by_name(value: Any) -> dict[str, Any]:
    """Tasks by name with the settings that were given; a list of names stands for tasks without any."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, list):
        value = {str(name): {} for name in value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"tasks={reading.shortened(value)}: must be tasks by name, such as {{mlm: {{}}, link: {{}}}}")
    return dict(value)


def task_options(name: str, values: Mapping[str, Any] | None) -> TaskOptions:
    """The settings of the task `name`, checked; ConfigError names the tasks or settings there are."""
    if name not in TASKS and name not in task_names():
        raise ConfigError(f"tasks.{name}: there is no such task; there are {', '.join(task_names())}")
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"tasks.{name}={reading.shortened(values)}: must be a section of settings, {{}} for none")
    made = task_class(name).Options
    reading.refuse_unknown(map(str, values or {}), made.model_fields, f"tasks.{name}")
    try:
        return made(**(values or {}))
    except ValidationError as error:
        raise ConfigError(reading.explain(error, made, f"tasks.{name}")) from None
