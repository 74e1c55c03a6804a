"""What a joint run is told: a validated, frozen model of sections, and how files and command lines become one.

Precedence, lowest first: defaults < recipe < YAML file < key=value pairs < named options. Keys of sections are written
with dots on the command line: `tasks.qa.batch_size=32`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from kgfast.errors import ConfigError
from kgfast.joint.recipes import RECIPES, joint_recipe
from kgfast.joint.tasks import TaskOptions, task_class, task_names
from kgfast.reference import SCORES
from kgfast.run import settings
from kgfast.run.settings import Section

DEFAULT_EPOCHS = 10


class EntitySection(Section):
    """Rows of entities; see `kgfast.joint.model.encoders.EntityEncoder`."""

    kind: Literal["table", "text", "hybrid"] = Field("table", description="rows from a table, from texts, or both")
    refresh: int = Field(256, gt=0, description="texts of entities that a step reads anew")


class BackboneSection(Section):
    """The Transformer: a small one from scratch, or a local folder of transformers (`path`)."""

    path: str | None = Field(None, description="folder with config.json and safetensors; the sizes below are its own")
    kind: Literal["bert", "gpt"] = Field("bert", description="tokens see their whole text, or what comes before them")
    hidden: int = Field(128, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(4, gt=0)
    intermediate: int = Field(0, ge=0, description="width inside a feed-forward layer; 0 is four times hidden")
    dropout: float = Field(0.1, ge=0, lt=1)
    max_length: int = Field(64, ge=8, description="tokens of a text at most")
    packing: Literal["auto", "packed", "padded"] = Field("auto", description="how texts lie in a batch")
    pooling: str | None = Field(None, description="mean, first or last; by default mean (bert) or last (gpt)")
    checkpoint_activations: bool = Field(False, description="compute hidden states again instead of keeping them")


class TokenizerSection(Section):
    """Trained on the data set's texts, or read from a file (`path`); a backbone's path has its own."""

    path: str | None = Field(None, description="tokenizer.json, or a folder with one")
    kind: Literal["wordpiece", "bpe"] = "wordpiece"
    vocabulary: int = Field(8000, ge=300, description="tokens at most")
    lowercase: bool = True


class CorpusSection(Section):
    """What language tasks read."""

    files: list[str] = Field([], description="text files beside the texts of entities, a paragraph a line")
    triples: bool = Field(True, description="also triples of train, put into words")
    held_out: float = Field(0.05, ge=0, lt=0.5, description="part of the documents in each of valid and test")


class SharingSection(Section):
    """How tasks share the Transformer; see `kgfast.joint.model.sharing`."""

    mode: Literal["hard", "soft", "routed"] = "hard"
    pull: Literal["l2", "cosine"] | None = Field(None, description="soft: what pulls the backbones together")
    strength: float | list[float] | None = Field(None, description="soft: of the pull, one number or one a layer")
    experts: int | None = Field(None, gt=0, description="routed: experts of a feed-forward layer")
    top_k: int | None = Field(None, gt=0, description="routed: experts that a token takes")
    gate: Literal["token", "task", "both"] | None = Field(None, description="routed: what the route depends on")
    balance_weight: float | None = Field(None, ge=0, description="routed: weight of the load-balance loss")


class WeightingSection(Section):
    """Weights of the tasks' losses; see `kgfast.joint.balance.weights`."""

    method: Literal["fixed", "uncertainty", "dwa", "gradnorm"] = "fixed"
    surgery: Literal["none", "pcgrad"] = Field("none", description="what is done with gradients that conflict")
    temperature: float = Field(2.0, gt=0, description="dwa: how even the weights are")
    alpha: float = Field(1.5, ge=0, description="gradnorm: how strongly slow tasks are favoured")
    lr: float = Field(0.025, gt=0, description="gradnorm: learning rate of the weights")
    every: int = Field(20, gt=0, description="dwa, gradnorm: steps between changes of the weights")


class MixingSection(Section):
    """Which tasks take part in a step; see `kgfast.joint.balance.mixing`."""

    method: Literal["every", "proportional", "temperature", "round_robin"] = "every"
    temperature: float = Field(2.0, ge=1, description="temperature: 1 is proportional, infinity even")
    starving_steps: int = Field(500, gt=0, description="an alarm is raised for a task absent for so many steps")


class JointConfig(settings.Settings):
    """Settings of a joint run. Any wrong key or value raises ConfigError with its dotted name.

    Without `steps`, `epochs` and `minutes` training lasts 10 epochs; of those given, whichever ends first counts. An
    epoch is as many steps as the longest task needs (mixing=every), or all tasks together (one task a step).
    """

    data: str = Field(description="dataset folder, or the name of a built-in graph")
    questions: str = Field("qa", min_length=1, description="question files are QUESTIONS_train.txt, _valid, _test")
    triples: float = Field(
        1.0, gt=0, le=1, description="share of the train triples that is kept, for any seed the same"
    )
    recipe: str | None = Field(None, description="name of a whole configuration, which the other settings override")
    out: str | None = Field(None, description="folder of the run; by default a new one under runs/")
    resume: bool = Field(False, description="continue from the checkpoint in `out`")

    tasks: dict[str, dict[str, Any]] = Field(description="tasks by name, each with its settings: {mlm: {}, link: {}}")
    leave_out: bool = Field(False, description="leave out tasks and texts that the data has nothing for, and say so")
    model: Literal[tuple(SCORES)] = Field("complex", description="score function (transe means transe_l1)")
    dim: int = Field(128, gt=0, description="real numbers in the row of an entity")
    reciprocal: bool = Field(False, description="rank heads as tails of a second set of relations")
    init_scale: float | None = Field(None, gt=0, description="scale of the initial tables; by default the model's own")
    entities: EntitySection = EntitySection()
    backbone: BackboneSection = BackboneSection()
    tokenizer: TokenizerSection = TokenizerSection()
    corpus: CorpusSection = CorpusSection()
    sharing: SharingSection = SharingSection()
    weighting: WeightingSection = WeightingSection()
    mixing: MixingSection = MixingSection()

    lr: float = Field(5e-4, gt=0, description="learning rate of the Transformer and the heads (AdamW)")
    weight_decay: float = Field(0.01, ge=0, description="of the Transformer and the heads")
    clip: float = Field(1.0, ge=0, description="norm that gradients of the Transformer and the heads are cut to; 0: no")
    table_optimizer: Literal["adagrad", "row_adagrad", "adam", "adamw"] = Field(
        "adagrad", description="optimizer of the entity and relation tables"
    )
    table_lr: float = Field(0.1, gt=0, description="learning rate of the tables")
    lr_schedule: Literal["constant", "linear", "cosine", "step"] = Field("linear", description="course of both rates")
    lr_final: float = Field(0.1, ge=0, le=1, description="part of the rates which is left at the end of a schedule")
    lr_step_at: float = Field(0.5, gt=0, lt=1, description="part of training after which `step` falls to lr_final")
    warmup: int = Field(50, ge=0, description="steps over which the rates rise from nothing")
    accumulate: int = Field(1, gt=0, description="batches of each task whose gradients are summed before a step")
    precision: Literal["float32", "bf16"] = Field("float32", description="bf16: the Transformer computes in bfloat16")

    steps: int | None = Field(None, gt=0, description="steps of training")
    epochs: int | None = Field(None, gt=0, description="passes over the tasks' examples")
    minutes: float | None = Field(None, gt=0, description="bound on training with its validations")
    validate_every: int = Field(0, ge=0, description="steps between evaluations on valid; 0 is never")
    checkpoint_every: float = Field(1.0, gt=0, description="minutes between checkpoints")
    seed: int = Field(0, ge=0, lt=2**63, description="the one source of all randomness")
    threads: int | None = Field(None, gt=0, description="CPU threads; by default torch's")
    device: str = Field(
        "auto", pattern=settings.DEVICE, validate_default=True, description="cpu, cuda, cuda:N, or auto: a GPU if any"
    )
    tensorboard: bool = Field(True, description="write TensorBoard events into the run's folder")

    def __init__(self, /, **values: Any) -> None:
        settings.refuse_unknown(values, JointConfig.model_fields)
        if values.get("recipe") is not None:
            values = merge(recipe_values(values["recipe"]), values)
        values = {key: value for key, value in values.items() if value is not None or key in ("steps", "minutes")}
        for name, section in SECTIONS.items():
            values[name] = read_section(name, section, values.get(name))
        if values.get("tasks") is not None:
            values["tasks"] = read_tasks(values["tasks"])
        if all(values.get(key) is None for key in ("steps", "epochs", "minutes")):
            values["epochs"] = DEFAULT_EPOCHS
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(settings.explain(error, JointConfig)) from None
        check_combination(self)

    def replace(self, **changes: Any) -> JointConfig:
        """A copy with some settings changed, checked as a whole again."""
        changed = JointConfig(**{**self.model_dump(), "recipe": None, **changes})
        return changed.model_copy(update={"recipe": self.recipe})

    def options(self, task: str) -> TaskOptions:
        """The settings of a task, its defaults filled in."""
        return task_options(task, self.tasks[task])

    def save(self, path: str | os.PathLike) -> None:
        """Write the settings as YAML (to a temporary name, then renamed), those of the recipe among them."""
        left_out = {"resume", "recipe"}
        settings.write_yaml(path, {key: value for key, value in self.model_dump().items() if key not in left_out})

    @classmethod
    def load(cls, path: str | os.PathLike) -> JointConfig:
        """Read what `save` wrote, or any YAML file of settings."""
        return resolve(path)


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in JointConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
# A section given as one word is that word for this key: `backbone: PATH`, `sharing: soft`.
SHORT = {"entities": "kind", "backbone": "path", "tokenizer": "path", "corpus": "files", "sharing": "mode",
         "weighting": "method", "mixing": "method"}  # fmt: skip


def resolve(
    file: str | os.PathLike | None = None,
    pairs: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
) -> JointConfig:
    """A JointConfig from a YAML file, `key=value` pairs (dots lead into sections) and named options (None: not given).

    Precedence, lowest first: defaults < recipe < file < pairs < options. With `resume`, the settings of the run in
    `out` take the place of a file which is not given.
    """
    named = {settings.canonical(key): value for key, value in (options or {}).items() if value is not None}
    paired = nest(settings.parse_pairs(pairs))
    settings.refuse_unknown(named, JointConfig.model_fields)
    settings.refuse_unknown(paired, JointConfig.model_fields)
    above = merge(paired, named)
    if file is None and settings.boolean(above.get("resume", False)) and above.get("out") is not None:
        saved = Path(str(above["out"])) / "config.yaml"
        file = saved if saved.exists() else None
    values = above
    if file is not None:
        written = settings.read_yaml(file)
        try:
            settings.refuse_unknown(written, JointConfig.model_fields)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
        values = merge(written, above)
    return JointConfig(**values)


def is_joint(file: str | os.PathLike | None, pairs: Iterable[str], options: Mapping[str, Any]) -> bool:
    """Whether these words of a command line ask for a joint run."""
    pairs = list(pairs)
    paired = settings.parse_pairs(pairs)
    if (options.get("recipe") or paired.get("recipe")) in RECIPES or any(key.startswith("tasks.") for key in paired):
        return True
    out = options.get("out") or paired.get("out")
    resumed = options.get("resume") or settings.boolean(paired.get("resume", False))
    if file is None and resumed and out is not None and (Path(out) / "config.yaml").exists():
        file = Path(out) / "config.yaml"
    if file is None:
        return False
    values = settings.read_yaml(file)
    return "tasks" in values or values.get("recipe") in RECIPES


def recipe_values(name: str) -> dict[str, Any]:
    if name not in RECIPES:
        raise ConfigError(f"recipe={name!r} is no recipe of joint training; available: {', '.join(RECIPES)}")
    return joint_recipe(name)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, section by section. Tasks given by name in a file are the tasks of the run."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and key in SHORT and not isinstance(merged.get(key), Mapping) and merged.get(key):
            merged[key] = {SHORT[key]: merged[key]}
        inner = merged.get(key)
        if key == "tasks" and isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = {name: merge(as_options(inner.get(name)), as_options(one)) for name, one in value.items()}
            if isinstance(value, Dotted):  # single settings of tasks, from the command line: the others stay
                merged[key] = {**{name: as_options(one) for name, one in inner.items()}, **merged[key]}
        else:
            merged[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


class Dotted(dict):
    """Values that stood behind dotted keys."""


def as_options(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def nest(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} is {"a": {"b": 1}}."""
    nested: dict[str, Any] = {}
    for key, value in pairs.items():
        place, *path = nested, *key.split(".")
        for part in path[:-1]:
            place = place.setdefault(part, Dotted())
            if not isinstance(place, dict):
                raise ConfigError(f"{key}={value!r}: {part} has a value already")
        place[path[-1]] = value
    return nested


def read_section(name: str, section: type[Section], value: Any) -> Section:
    """A section from a mapping, or from the one word that stands for it; ConfigError with dotted names."""
    if value is None:
        return section()
    if isinstance(value, Section):
        value = value.model_dump()
    if isinstance(value, (str, list)):
        value = {SHORT[name]: value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}={value!r}: must be a section of settings, such as {{{SHORT[name]}: ..}}")
    if name == "corpus" and isinstance(value.get("files"), str):
        value = {**value, "files": [value["files"]]}
    settings.refuse_unknown(map(str, value), section.model_fields, name)
    try:
        return section(**value)
    except ValidationError as error:
        raise ConfigError(settings.explain(error, section, name)) from None


def read_tasks(value: Any) -> dict[str, dict[str, Any]]:
    """Tasks by name with the settings that were given, checked; a list of names stands for tasks without any."""
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, list):
        value = {str(name): {} for name in value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"tasks={value!r}: must be tasks by name, such as {{mlm: {{}}, link: {{}}}}")
    return {name: task_options(name, one).model_dump(mode="json", exclude_unset=True) for name, one in value.items()}


def task_options(name: str, values: Mapping[str, Any] | None) -> TaskOptions:
    """The settings of the task `name`, checked; ConfigError names the tasks or settings there are."""
    if name not in task_names():
        raise ConfigError(f"tasks.{name}: there is no such task; there are {', '.join(task_names())}")
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"tasks.{name}={values!r}: must be a section of settings, {{}} for none")
    made = task_class(name).Options
    settings.refuse_unknown(map(str, values or {}), made.model_fields, f"tasks.{name}")
    try:
        return made(**(values or {}))
    except ValidationError as error:
        raise ConfigError(settings.explain(error, made, f"tasks.{name}")) from None


def check_combination(config: JointConfig) -> None:
    """ConfigError for settings that are right one by one and wrong together."""
    if not config.tasks:
        raise ConfigError(f"tasks: at least one is needed; there are {', '.join(task_names())}")
    if SCORES[config.model].even_dim and config.dim % 2:
        raise ConfigError(f"dim={config.dim}: must be even for model={config.model}, whose rows are two halves")
    if config.backbone.hidden % config.backbone.heads:
        raise ConfigError(
            f"backbone.hidden={config.backbone.hidden}: must be a multiple of backbone.heads={config.backbone.heads}"
        )
    if "text_weight" in config.tasks.get("link", {}) and config.entities.kind != "hybrid":
        raise ConfigError(f"tasks.link.text_weight has no effect with entities.kind={config.entities.kind}")
    belongs = {"soft": ("pull", "strength"), "routed": ("experts", "top_k", "gate", "balance_weight"), "hard": ()}
    for key, value in config.sharing.model_dump(exclude={"mode"}, exclude_none=True).items():
        if key not in belongs[config.sharing.mode]:
            raise ConfigError(f"sharing.{key}={value!r} has no effect with sharing.mode={config.sharing.mode}")
    if config.weighting.surgery == "pcgrad" and config.mixing.method != "every":
        raise ConfigError(
            f"weighting.surgery='pcgrad' needs mixing.method=every: with {config.mixing.method} a step has one task"
        )
    if config.weighting.method == "gradnorm" and config.mixing.method != "every":
        raise ConfigError(
            f"weighting.method='gradnorm' compares the tasks of a step: it needs mixing.method=every, not "
            f"{config.mixing.method}"
        )
