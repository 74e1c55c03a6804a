"""What a training run is told: one validated, frozen model, and how files and command lines become one.

Precedence, lowest first: defaults < recipe < YAML file < key=value pairs < named options.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from kgfast.errors import ConfigError
from kgfast.reference import SCORES
from kgfast.run import settings
from kgfast.run.settings import boolean, canonical, parse_pairs
from kgfast.train.recipes import recipe_values

DEFAULT_EPOCHS = 100


class TrainConfig(settings.Settings):
    """Settings of `kgfast train`. Those without an option of their own are given as key=value.

    `TrainConfig(data="world", recipe="complex-n3", dim=100)` fills from the recipe what is not given. Any
    wrong key or value raises ConfigError, which names the key, the value and what is allowed. Without
    `epochs` and `minutes` training lasts 100 epochs; with both, whichever ends first.
    """

    data: str = Field(description="dataset folder, single file of triples, or the name of a built-in graph")
    recipe: str | None = Field(None, description="name of a whole configuration, which the other settings override")
    out: str | None = Field(None, description="folder of the run; by default a new one under runs/")
    resume: bool = Field(False, description="continue from the checkpoint in `out`")

    model: Literal[tuple(SCORES)] = Field("complex", description="score function (transe means transe_l1)")
    dim: int = Field(256, gt=0, description="real numbers in the row of an entity")
    reciprocal: bool = Field(False, description="rank heads as tails of a second set of relations")
    init_scale: float | None = Field(None, gt=0, description="scale of the initial tables; by default the model's own")
    precision: Literal["float32", "float64", "bf16"] = Field(
        "float32", description="number type of the tables; bf16: of the dot products with all entities, tables float32"
    )

    candidates: Literal["sampled", "all"] = Field("sampled", description="answers a triple is held against")
    objective: Literal["logistic", "softmax", "bce", "margin"] = Field("logistic", description="loss")
    side: Literal["alternate", "both", "tail", "head"] = Field(
        "both", description="which side of a triple is asked for"
    )
    margin: float = Field(0.0, description="margin of the logistic and the margin loss")
    adversarial_temperature: float = Field(
        0.0, ge=0, description="weight hard negatives by softmax(temperature * score)"
    )
    negatives: int = Field(256, gt=0, description="sampled negatives per triple (or per list of shared ones)")
    negative_sharing: Literal["none", "chunk", "batch"] = Field("none", description="who shares a list of negatives")
    negative_chunk: int = Field(256, gt=0, description="triples which share a list of negatives")
    negative_filter: Literal["none", "mask", "redraw"] = Field("none", description="what is done with true negatives")
    negative_power: float = Field(0.0, ge=0, description="draw entities by frequency to this power; 0 is uniform")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing over all candidates")
    all_answers: bool = Field(False, description="every answer known in train is right, not the triple's own alone")
    relation_weight: float = Field(0.0, ge=0, description="weight of predicting the relation from head and tail")
    subsampling: bool = Field(False, description="weight triples by 1/sqrt(frequency of their two queries)")
    regularizer: Literal["none", "n3", "l2"] = Field("none", description="penalty on the rows of a batch")
    regularizer_weight: float = Field(0.0, ge=0, description="weight of the penalty")
    query_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the query")

    optimizer: Literal["row_adagrad", "adagrad", "adam", "sgd"] = Field("row_adagrad", description="optimizer of rows")
    lr: float = Field(0.1, gt=0, description="learning rate")
    lr_schedule: Literal["constant", "linear", "cosine", "step"] = Field("constant", description="course of the lr")
    lr_final: float = Field(0.1, ge=0, le=1, description="part of the lr which is left at the end of a schedule")
    lr_step_at: float = Field(0.5, gt=0, lt=1, description="part of training after which `step` falls to lr_final")
    warmup: int = Field(0, ge=0, description="steps over which the lr rises from nothing")
    batch_size: int = Field(1024, gt=0, description="triples a step")
    epochs: int | None = Field(None, gt=0, description="passes over the triples")
    minutes: float | None = Field(
        None, gt=0, description="bound on training with its validations; the final evaluation comes after it"
    )

    validate_every: int = Field(0, ge=0, description="epochs between validations; the best tables are kept; 0 is never")
    validate_triples: int = Field(0, ge=0, description="valid triples asked in a validation, drawn once; 0 is all")
    early_stopping_patience: int = Field(
        0, ge=0, description="stop after so many validations without a better MRR; 0: no"
    )
    checkpoint_every: float = Field(1.0, gt=0, description="minutes between checkpoints")
    seed: int = Field(0, ge=0, lt=2**63, description="the one source of all randomness")
    threads: int | None = Field(None, gt=0, description="CPU threads; by default torch's")
    device: str = Field(
        "auto",
        pattern=settings.DEVICE,
        validate_default=True,
        description="cpu, cuda or cuda:N; auto: cuda if there is one",
    )
    tables: Literal["device", "host"] = Field(
        "device", description="host: tables stay in host memory and each step's rows are fetched to the device"
    )
    tensorboard: bool = Field(True, description="write TensorBoard events into the run's folder")

    @property
    def table_device(self) -> str:
        """Where the tables and the optimizer's state are."""
        return "cpu" if self.tables == "host" else self.device

    def __init__(self, /, **values: Any) -> None:
        refuse_unknown(values)
        if values.get("recipe") is not None:
            values = {**recipe_values(values["recipe"]), **values}
        if values.get("epochs") is None and values.get("minutes") is None:
            values["epochs"] = DEFAULT_EPOCHS
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(settings.explain(error, TrainConfig)) from None
        check_combination(self)

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with some settings changed, checked as a whole again."""
        return TrainConfig(**{**self.model_dump(), **changes})

    def save(self, path: str | os.PathLike) -> None:
        """Write the settings which have an effect as YAML (to a temporary name, then renamed)."""
        left_out = {"resume", *unused(self)}
        values = {key: value for key, value in self.model_dump().items() if key not in left_out}
        settings.write_yaml(path, values)

    @classmethod
    def load(cls, path: str | os.PathLike) -> TrainConfig:
        """Read what `save` wrote, or any YAML file of settings."""
        return resolve(path)


def resolve(
    file: str | os.PathLike | None = None,
    pairs: Iterable[str] = (),
    options: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """A TrainConfig from a YAML file, `key=value` pairs and named options (None means not given).

    Precedence, lowest first: defaults < recipe < file < pairs < options. With `resume`, the settings of the
    run in `out` take the place of a file which is not given. A setting given here that has no effect beside
    the others is an error.
    """
    named = {canonical(key): value for key, value in (options or {}).items() if value is not None}
    paired = parse_pairs(pairs)
    refuse_unknown(named)
    refuse_unknown(paired)
    above = {**paired, **named}
    if file is None and boolean(above.get("resume", False)) and above.get("out") is not None:
        saved = Path(str(above["out"])) / "config.yaml"
        file = saved if saved.exists() else None
    values = {**(read_yaml(file) if file is not None else {}), **above}
    config = TrainConfig(**values)
    without_effect = unused(config)
    for key in values:
        if key in without_effect and getattr(config, key) != TrainConfig.model_fields[key].default:
            raise ConfigError(f"{key}={values[key]!r} has no effect: {without_effect[key]}")
    return config


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """The settings in a YAML file, keys checked; ConfigError names the file."""
    values = settings.read_yaml(path)
    try:
        refuse_unknown(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return values


def refuse_unknown(values: Iterable[str]) -> None:
    """ConfigError for the first key that is no setting, with the nearest ones."""
    settings.refuse_unknown(values, TrainConfig.model_fields)


def unused(config: TrainConfig) -> dict[str, str]:
    """Settings that have no effect beside the others, each with the reason."""
    reasons: dict[str, str] = {}
    if config.candidates == "all":
        keys = ("negatives", "negative_sharing", "negative_chunk", "negative_filter", "negative_power")
        reasons.update(dict.fromkeys(keys, "candidates=all samples no negatives; set candidates=sampled"))
    else:
        keys = ("label_smoothing", "all_answers", "relation_weight")
        reasons.update(dict.fromkeys(keys, "it needs candidates=all"))
        if config.negative_sharing != "chunk":
            reasons["negative_chunk"] = "it needs negative_sharing=chunk"
    if config.objective not in ("logistic", "margin"):
        keys = ("margin", "adversarial_temperature")
        reasons.update(dict.fromkeys(keys, "it needs objective=logistic or objective=margin"))
    if config.regularizer == "none":
        reasons["regularizer_weight"] = "it needs regularizer=n3 or regularizer=l2"
    if config.lr_schedule == "constant":
        reasons["lr_final"] = "it needs lr_schedule=linear, cosine or step"
    if config.lr_schedule != "step":
        reasons["lr_step_at"] = "it needs lr_schedule=step"
    if config.validate_every == 0:
        keys = ("validate_triples", "early_stopping_patience")
        reasons.update(dict.fromkeys(keys, "it needs validate_every of at least 1"))
    return reasons


def check_combination(config: TrainConfig) -> None:
    """ConfigError for settings that are right one by one and wrong together."""
    if SCORES[config.model].even_dim and config.dim % 2:
        raise ConfigError(f"dim={config.dim}: must be even for model={config.model}, whose rows are two halves")
    if config.candidates == "all" and config.objective not in ("softmax", "bce"):
        raise ConfigError(f"objective={config.objective!r}: must be 'softmax' or 'bce' with candidates=all")
    if config.candidates == "sampled" and config.negative_filter == "redraw" and config.negative_sharing != "none":
        raise ConfigError(
            f"negative_filter='redraw': must be 'none' or 'mask' with negative_sharing="
            f"{config.negative_sharing}, as a shared negative is right for some triples and wrong for others"
        )
    if config.candidates == "all" and config.relation_weight > 0 and SCORES[config.model].relation_query is None:
        raise ConfigError(
            f"relation_weight={config.relation_weight}: must be 0 for model={config.model}, which has no relation query"
        )
    if config.tables == "host" and config.candidates == "all":
        raise ConfigError("tables='host': must be 'device' with candidates=all, which reads all rows in each step")
    if config.precision == "bf16" and config.candidates != "all":
        raise ConfigError("precision='bf16': must be 'float32' or 'float64' with candidates=sampled")
    if config.regularizer != "none" and config.regularizer_weight == 0:
        raise ConfigError(f"regularizer_weight=0.0: must be positive with regularizer={config.regularizer}")
