"""What a training run on the graph alone is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from kgfast.errors import ConfigError
from kgfast.evaluate.measures import HITS
from kgfast.reference import SCORES
from kgfast.registry import ALL_OBJECTIVES, Objective, Regularizer
from kgfast.run.optimizers import ROW_OPTIMIZERS
from kgfast.run.recipes import graph_recipe
from kgfast.run.settings import OneOf, RunSettings, as_words

AUTO: Literal["auto"] = "auto"
NUMBER = TypeAdapter(Annotated[float, Field(ge=0, allow_inf_nan=False)])


def number_or_auto(value: Any) -> float | Literal["auto"]:
    if value == AUTO:
        return AUTO
    try:
        return NUMBER.validate_python(value)
    except ValidationError:
        raise PydanticCustomError("number_or_auto", "Input should be auto, or a number of at least 0") from None


class TrainConfig(RunSettings):
    """Settings of `kgfast train`. Those without an option of their own are given as key=value.

    `TrainConfig(data="world", recipe="complex-n3", dim=100)` fills from the recipe what is not given. Without
    `epochs` and `minutes` training lasts 100 epochs; with both, whichever ends first.
    """

    default_epochs = 100

    precision: Literal["float32", "float64", "bf16"] = Field(
        "float32", description="number type of the tables; bf16: of the dot products with all entities, tables float32"
    )

    candidates: Literal["sampled", "all"] = Field("sampled", description="answers a triple is held against")
    objective: Annotated[str, AfterValidator(OneOf(Objective.words()))] = Field("logistic", description="loss")
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
    label_smoothing: float = Field(0.0, ge=0, le=1, description="label smoothing over all candidates")
    all_answers: bool = Field(False, description="every answer known in train is right, not the triple's own alone")
    relation_weight: float = Field(0.0, ge=0, description="weight of predicting the relation from head and tail")
    subsampling: bool = Field(False, description="weight triples by 1/sqrt(frequency of their two queries)")
    regularizer: Annotated[str, AfterValidator(OneOf(Regularizer.words()))] = Field(
        "none", description="penalty on the rows of a batch"
    )
    regularizer_weight: Annotated[float | Literal["auto"], PlainValidator(number_or_auto)] = Field(
        0.0, description="weight of the penalty; auto: chosen on valid before training"
    )
    query_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the query")

    optimizer: Annotated[str, AfterValidator(OneOf(ROW_OPTIMIZERS))] = Field(
        "row_adagrad", description="optimizer of rows"
    )
    batch_size: int = Field(1024, gt=0, description="triples a step")

    validate_every: int = Field(0, ge=0, description="epochs between validations; the best tables are kept; 0 is never")
    validate_triples: int = Field(0, ge=0, description="valid triples asked in a validation, drawn once; 0 is all")
    early_stopping_patience: int = Field(
        0, ge=0, description="stop after so many validations without a better MRR; 0: no"
    )
    hits: Annotated[list[Annotated[int, Field(gt=0)]], BeforeValidator(as_words), Field(min_length=1)] = Field(
        list(HITS), description="k of the hits@k of the evaluation after training, such as 1,3,10"
    )
    tables: Literal["device", "host", "partitioned"] = Field(
        "device",
        description="host: tables stay in host memory and each step's rows are fetched to the device; partitioned: "
        "entities are on disk, a few partitions in memory",
    )
    partitions: int = Field(32, ge=2, description="parts that a partitioned table of entities is cut into")
    resident: int = Field(8, ge=2, description="partitions that are trained on at a time; one more is in memory")
    test_triples: int = Field(0, ge=0, description="triples of test and valid ranked at the end, drawn once; 0 is all")

    @property
    def table_device(self) -> str:
        """Where the tables and the optimizer's state are."""
        return "cpu" if self.tables == "host" else self.device

    @classmethod
    def recipe_values(cls, name: str) -> dict[str, Any]:
        return graph_recipe(name)

    def unsaved(self) -> Iterable[str]:
        return unused(self)

    def check_given(self, values: Mapping[str, Any]) -> None:
        without_effect = unused(self)
        for key in values:
            if key in without_effect and getattr(self, key) != TrainConfig.model_fields[key].default:
                raise ConfigError(f"{key}={values[key]!r} has no effect: {without_effect[key]}")

    def check_combination(self) -> None:
        super().check_combination()
        over_all = list(ALL_OBJECTIVES)
        if self.candidates == "all" and self.objective not in over_all:
            allowed = " or ".join(map(repr, over_all))
            raise ConfigError(f"objective={self.objective!r}: must be {allowed} with candidates=all")
        if self.candidates == "sampled" and self.negative_filter == "redraw" and self.negative_sharing != "none":
            raise ConfigError(
                f"negative_filter='redraw': must be 'none' or 'mask' with negative_sharing="
                f"{self.negative_sharing}, as a shared negative is right for some triples and wrong for others"
            )
        if self.candidates == "all" and self.relation_weight > 0 and SCORES[self.model].relation_query is None:
            raise ConfigError(
                f"relation_weight={self.relation_weight}: must be 0 for model={self.model}, which has no relation query"
            )
        if self.tables == "host" and self.candidates == "all":
            raise ConfigError("tables='host': must be 'device' with candidates=all, which reads all rows in each step")
        if self.tables == "partitioned":
            self.check_partitioned()
        if self.precision == "bf16" and self.candidates != "all":
            raise ConfigError("precision='bf16': must be 'float32' or 'float64' with candidates=sampled")
        if self.regularizer != "none" and self.regularizer_weight == 0:
            raise ConfigError(f"regularizer_weight=0.0: must be positive with regularizer={self.regularizer}")
        if self.regularizer == "l2" and self.regularizer_weight == AUTO:
            raise ConfigError("regularizer_weight='auto': must be a number with regularizer=l2")

    def check_partitioned(self) -> None:
        """ConfigError for what needs the whole graph or the whole table at once."""
        needed = {
            "device": ("cpu", "they are trained on the CPU"),
            "candidates": ("sampled", "a step sees a part of the entities"),
            "negative_filter": ("none", "known answers of all triples would be in memory"),
            "negative_power": (0.0, "counts of all entities would be in memory"),
            "subsampling": (False, "counts of all queries would be in memory"),
            "validate_every": (0, "the best tables would be kept a second time"),
        }
        for key, (value, reason) in needed.items():
            if getattr(self, key) != value:
                raise ConfigError(f"{key}={getattr(self, key)!r}: must be {value!r} with tables=partitioned: {reason}")
        if self.regularizer == "n3" and self.regularizer_weight == AUTO:
            raise ConfigError("regularizer_weight='auto': must be a number with tables=partitioned, as trials need all")
        if self.resident > self.partitions:
            raise ConfigError(f"resident={self.resident}: must be at most partitions={self.partitions}")


resolve = TrainConfig.resolve


def unused(config: TrainConfig) -> dict[str, str]:
    """Settings that have no effect beside the others, each with the reason."""
    reasons: dict[str, str] = {}
    keys: tuple[str, ...]
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
    if config.tables != "partitioned":
        reasons.update(dict.fromkeys(("partitions", "resident"), "it needs tables=partitioned"))
    if config.validate_every == 0:
        keys = ("validate_triples", "early_stopping_patience")
        reasons.update(dict.fromkeys(keys, "it needs validate_every of at least 1"))
    return reasons
