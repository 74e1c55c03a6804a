"""What every kind of training is told in the same words, and how files and command lines become one configuration.

Precedence, lowest first: defaults < recipe < YAML file < key=value pairs < named options.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError
from kgfast.reference import SCORES
from kgfast.run import reading
from kgfast.run.trackers import NAMES as TRACKERS

ALIASES = {"transe": "transe_l1"}


@dataclass(frozen=True)
class OneOf:
    """Lets one of the words through. A table that grows is read anew for each value."""

    words: Iterable[str]

    def __call__(self, value: str) -> str:
        words = [repr(word) for word in self.words]
        if repr(value) not in words:
            expected = f"{', '.join(words[:-1])} or {words[-1]}"
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
        return value


def choices(section: type[BaseModel], name: str) -> list[str]:
    """The words that a setting may be; none where it is no choice."""
    field = section.model_fields[name]
    for rule in field.metadata:
        if isinstance(rule, AfterValidator) and isinstance(rule.func, OneOf):
            return list(rule.func.words)
    return [word for word in get_args(field.annotation) if isinstance(word, str)]


DEVICES = r"^(auto|cpu|cuda(:\d+)?)$"


def found_device(value: str) -> str:
    """A device by name; auto is the GPU where there is one."""
    if value != "auto":
        return value
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """ConfigError where the device isn't there, or is of a kind that nothing here runs on."""
    if not isinstance(device, str) or not re.match(DEVICES, device):
        raise ConfigError(f"device={device!r}: must be {RunSettings.model_fields['device'].description}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={device!r}: no CUDA device is available, use cpu")


def known_as(value: Any) -> Any:
    return ALIASES.get(value, value) if isinstance(value, str) else value


def as_word(value: Any) -> Any:
    """YAML reads yes and no as true and false."""
    return {True: "yes", False: "no", None: "auto"}[value] if value is None or isinstance(value, bool) else value


def as_texts(value: Any) -> Any:
    return [str(part) for part in value] if isinstance(value, (list, tuple)) else value


def as_words(value: Any) -> Any:
    """A list of words may be one text with commas, in brackets or without."""
    if not isinstance(value, str):
        return value or []
    return [word.strip() for word in value.removeprefix("[").removesuffix("]").split(",") if word.strip()]


def as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def some_name(value: str | None) -> str | None:
    """Not empty, which would be the folder that one is in."""
    if value == "":
        raise PydanticCustomError("name", "Input should be the name of a folder")
    return value


# Settings of both kinds of training whose defaults differ.
Dim = Annotated[int, Field(gt=0, description="real numbers in the row of an entity")]
Course = Annotated[Literal["constant", "linear", "cosine", "step"], Field(description="course of the lr")]
Warmup = Annotated[int, Field(ge=0, description="steps over which the lr rises from nothing")]


class Section(BaseModel):
    """Settings that are validated, frozen, and known by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def check_numbers(cls, value: Any, given: ValidationInfo) -> Any:
        kinds = get_args(annotation := cls.model_fields[given.field_name or ""].annotation) or (annotation,)
        if isinstance(value, bool) and bool not in kinds and {int, float}.intersection(kinds):
            raise PydanticCustomError("number", "Input should be a number, not yes or no")
        return value

    @field_validator("*")
    @classmethod
    def check_texts(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                reading.check_text(text)
        return value


class RunSettings(Section):
    """Settings of every run. Any wrong key or value raises ConfigError, which names the key, the value and what is
    allowed. A kind of training adds its own, and says what its recipes are and which settings don't go together.
    """

    default_epochs: ClassVar[int]
    ends: ClassVar[Sequence[str]] = ("epochs", "minutes")  # one of them is given, or training lasts default_epochs

    data: Annotated[str, BeforeValidator(as_text)] = Field(
        description="dataset folder, single file of triples, or the name of a built-in graph"
    )
    header: Annotated[Literal["auto", "yes", "no"], BeforeValidator(as_word)] = Field(
        "auto", description="whether the first line of separated text names columns; auto: its words tell"
    )
    columns: Annotated[str | list[str] | None, BeforeValidator(as_texts)] = Field(
        None, description="which columns are head, relation and tail: a,b,c by name, or number from 1"
    )
    recipe: str | None = Field(None, description="name of a whole configuration, which the other settings override")
    out: Annotated[str | None, BeforeValidator(as_text), AfterValidator(some_name)] = Field(
        None, description="folder of the run; by default a new one under runs/"
    )
    resume: bool = Field(False, description="continue from the checkpoint in `out`")

    model: Annotated[str, BeforeValidator(known_as), AfterValidator(OneOf(SCORES))] = Field(
        "complex", description="score function (transe means transe_l1)"
    )
    dim: Dim = 256
    reciprocal: bool = Field(False, description="rank heads as tails of a second set of relations")
    init_scale: float | None = Field(None, gt=0, description="scale of the initial tables; by default the model's own")

    lr: float = Field(0.1, gt=0, description="learning rate")
    lr_schedule: Course = "constant"
    lr_final: float = Field(0.1, ge=0, le=1, description="part of the lr which is left at the end of a schedule")
    lr_step_at: float = Field(0.5, gt=0, lt=1, description="part of training after which `step` falls to lr_final")
    warmup: Warmup = 0
    epochs: int | None = Field(None, gt=0, description="passes over the examples")
    minutes: float | None = Field(
        None, gt=0, description="bound on training with its validations; the final evaluation comes after it"
    )

    checkpoint_every: float = Field(1.0, gt=0, description="minutes between checkpoints")
    seed: int = Field(0, ge=0, lt=2**63, description="the one source of all randomness")
    threads: int | None = Field(None, gt=0, description="CPU threads; by default torch's")
    device: Annotated[str, AfterValidator(found_device)] = Field(
        "auto",
        pattern=DEVICES,
        validate_default=True,
        description="cpu, cuda or cuda:N; auto: cuda if there is one",
    )
    tensorboard: bool = Field(True, description="write TensorBoard events into the run's folder")
    trackers: Annotated[list[Annotated[str, AfterValidator(OneOf(TRACKERS))]], BeforeValidator(as_words)] = Field(
        [], description="other programs that are told of the run: wandb, mlflow, trackio"
    )

    def __init__(self, /, **values: Any) -> None:
        kind = type(self)
        reading.refuse_unknown(values, kind.model_fields)
        if values.get("recipe") is not None:
            values = kind.merge(kind.recipe_values(values["recipe"]), values)
        values = kind.prepare(values)
        if all(values.get(end) is None for end in kind.ends):
            values["epochs"] = kind.default_epochs
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(reading.explain(error, kind)) from None
        self.check_combination()

    def load_graph(self, source: str | None = None) -> KnowledgeGraph:
        """The graph in `data`, or in `source`, where it lies elsewhere now."""
        return KnowledgeGraph.load(source or self.data, header=self.header, columns=self.columns)

    @classmethod
    def resolve(
        cls,
        file: str | os.PathLike | None = None,
        pairs: Iterable[str] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Settings from a YAML file, `key=value` pairs and named options (None means not given).

        Precedence, lowest first: defaults < recipe < file < pairs < options. With `resume`, the settings of the run
        in `out` take the place of a file which is not given.
        """
        named = {reading.canonical(key): value for key, value in (options or {}).items() if value is not None}
        paired = cls.nest(reading.parse_pairs(pairs))
        reading.refuse_unknown(named, cls.model_fields)
        reading.refuse_unknown(paired, cls.model_fields)
        values = cls.merge(paired, named)
        saved = None
        if file is None and reading.boolean(values.get("resume", False)):
            if values.get("out") is None:
                raise ConfigError("resume: needs out=RUN, the folder of the run to go on with")
            saved = reading.settings_of_run(values["out"])
            if saved is None and values.get("data") is None:
                raise ConfigError(f"out={values['out']!r} holds no config.yaml: give the settings of the run again")
        source = saved if file is None else file
        if source is not None:
            values = cls.merge(cls.read_file(source, of_run=file is None), values)
        config = cls(**values)
        if config.resume and config.out is not None:
            reading.settings_of_run(config.out)
        config.check_given(values)
        return config

    @classmethod
    def read_file(cls, path: str | os.PathLike, *, of_run: bool = False) -> dict[str, Any]:
        """The settings in a YAML file, keys checked; ConfigError names the file."""
        values = reading.read_yaml(path, of_run=of_run)
        try:
            reading.refuse_unknown(values, cls.model_fields)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        return values

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read what `save` wrote, or any YAML file of settings."""
        return cls.resolve(path)

    def save(self, path: str | os.PathLike) -> None:
        """Write the settings as YAML (whole or not at all)."""
        left_out = {"resume", *self.unsaved()}
        reading.write_yaml(path, {key: value for key, value in self.model_dump().items() if key not in left_out})

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed, checked as a whole again."""
        changed = type(self)(**{**self.model_dump(), "recipe": None, **changes})
        return changed if "recipe" in changes else changed.model_copy(update={"recipe": self.recipe})

    # What a kind of training says of its own

    @classmethod
    def recipe_values(cls, name: str) -> dict[str, Any]:
        """The settings of a recipe; ConfigError names the recipes there are."""
        raise NotImplementedError

    @classmethod
    def nest(cls, pairs: dict[str, Any]) -> dict[str, Any]:
        """Values by key from `key=value` pairs."""
        return pairs

    @classmethod
    def merge(cls, below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
        """`above` over `below`."""
        return {**below, **above}

    @classmethod
    def prepare(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Short ways to say things become the long ones, before values are checked."""
        return values

    def check_combination(self) -> None:
        """ConfigError for settings that are right one by one and wrong together."""
        if SCORES[self.model].even_dim and self.dim % 2:
            raise ConfigError(f"dim={self.dim}: must be even for model={self.model}, whose rows are two halves")

    def check_given(self, values: Mapping[str, Any]) -> None:
        """ConfigError for what was given and has no effect."""

    def unsaved(self) -> Iterable[str]:
        """Settings that `save` leaves out."""
        return ()
