"""What a sweep is told: the settings of its runs, which of them are searched, and how.

data: world                                    any settings of `kgfast train`
recipe: complex-n3
search:
  lr: {low: 0.01, high: 0.5, log: true}        a range: of integers where both ends are
  dim: [128, 256, 512]                         or a list to choose from
  tasks.link.n3: {low: 1.0e-5, high: 1.0e-2, log: true}
sweep:
  trials: 30                                   see `SweepSection`
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError

from kgfast.errors import ConfigError
from kgfast.joint.config import JointConfig
from kgfast.run import reading
from kgfast.run.recipes import JOINT, is_recipe
from kgfast.run.settings import RunSettings, Section
from kgfast.train.config import TrainConfig

NOT_SEARCHED = ("out", "resume", "data", "recipe", "tasks")


class SweepSection(Section):
    """How a sweep searches."""

    trials: int = Field(20, gt=0, description="runs in all, those of earlier calls included")
    metric: str | None = Field(
        None, description="what is searched for on valid, such as valid.mrr or tasks.qa.valid.hits@1"
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="tpe learns from earlier trials")
    pruner: Literal["median", "halving", "none"] = Field(
        "median", description="which runs end at a validation: median: those below the median of earlier ones there"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of what is drawn; the runs have a seed of their own")


class Range(Section):
    """Numbers from low to high, both included."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(None, gt=0)

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> list[int | float]:
        return [self.low, self.high]


Choices = list[Any]


@dataclass(frozen=True)
class Plan:
    """A sweep, checked."""

    kind: type[RunSettings]
    values: dict[str, Any]  # settings that all runs share
    search: dict[str, Range | Choices]
    sweep: SweepSection
    metric: str

    @classmethod
    def read(cls, file: str | os.PathLike, pairs: Iterable[str] = (), options: Mapping[str, Any] | None = None) -> Plan:
        """From a YAML file and `key=value` pairs, which override its settings; options are those of `sweep:`, None
        means not given. ConfigError names what is wrong, also in a setting that is searched."""
        values = reading.read_yaml(file)
        told, searched = values.pop("sweep", None) or {}, values.pop("search", None)
        if not isinstance(told, Mapping) or not isinstance(searched, Mapping) or not searched:
            wrong = "sweep" if not isinstance(told, Mapping) else "search"
            raise ConfigError(f"{file}: {wrong}: must be a section of `key: value` lines")
        joint = "tasks" in values or is_recipe(values.get("recipe"), JOINT)
        kind: type[RunSettings] = JointConfig if joint else TrainConfig
        values = kind.merge(values, kind.nest(reading.parse_pairs(pairs)))
        given = {key: value for key, value in (options or {}).items() if value is not None}
        sweep = section(SweepSection, {**told, **given}, "sweep")
        search = {reading.canonical(str(key)): searchable(str(key), value) for key, value in searched.items()}
        for key in search:
            if key in NOT_SEARCHED:
                raise ConfigError(f"search.{key}: it is no setting to search")
        plan = cls(kind, values, search, sweep, metric_of(sweep.metric, values, kind))
        plan.check()
        return plan

    def config(self, chosen: Mapping[str, Any], **more: Any) -> RunSettings:
        """The settings of one run; ConfigError where they don't go together."""
        return self.kind(**{**self.kind.merge(self.values, self.kind.nest(dict(chosen))), **more})

    def check(self) -> None:
        """ConfigError for a key or value that is wrong, or a setting that never has an effect."""
        probes = [(chosen, self.config(chosen)) for chosen in self.probes()]
        for key in self.search:
            refused = []
            for chosen, config in probes:
                try:
                    config.check_given({key: chosen[key]})
                except ConfigError as error:
                    refused.append(error)
            if len(refused) == len(probes):
                raise refused[0]

    def probes(self) -> Iterator[dict[str, Any]]:
        """Choices by which wrong keys and values show: each end of each range, the others at their first."""
        ends = {key: given.ends() if isinstance(given, Range) else given for key, given in self.search.items()}
        first = {key: values[0] for key, values in ends.items()}
        for key, values in ends.items():
            for value in values:
                yield {**first, key: value}

    def as_dict(self) -> dict[str, Any]:
        """As a file would have it."""
        search = {
            key: given.model_dump(exclude_unset=True) if isinstance(given, Range) else given
            for key, given in self.search.items()
        }
        return {**self.values, "search": search, "sweep": self.sweep.model_dump() | {"metric": self.metric}}


def section(kind: type[Section], values: Mapping[str, Any], where: str) -> Any:
    """A section from its values; ConfigError names the key."""
    values = {reading.canonical(str(key)): value for key, value in values.items()}
    reading.refuse_unknown(values, kind.model_fields, where)
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError(reading.explain(error, kind, where)) from None


def searchable(key: str, given: Any) -> Range | Choices:
    """A range or a list of choices; ConfigError where it is neither."""
    where = f"search.{key}"
    if isinstance(given, list):
        wrong = [one for one in given if not (one is None or isinstance(one, (bool, int, float, str)))]
        if not given or wrong:
            raise ConfigError(f"{where}={given!r}: must list numbers or words to choose from")
        return given
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}={reading.shortened(given)}: must be a list, or {{low: .., high: ..}}")
    found = section(Range, given, where)
    if not found.low < found.high:
        raise ConfigError(f"{where}: low={found.low} must be below high={found.high}")
    if found.log and (found.low <= 0 or found.step is not None):
        raise ConfigError(f"{where}: log needs a low above 0 and no step")
    return found


def metric_of(metric: str | None, values: Mapping[str, Any], kind: type[RunSettings]) -> str:
    """The dotted name of what is searched for; ConfigError where it isn't measured on valid."""
    if metric is None:
        joint = kind is JointConfig
        if joint and "link" not in kind(**values).tasks:  # type: ignore[attr-defined]
            raise ConfigError("sweep.metric is missing: what is searched for, such as tasks.qa.valid.hits@1")
        return "valid.mrr"
    path = metric.split(".")
    if path[0] == "valid" and len(path) == 2 or path[0] == "tasks" and len(path) == 4 and path[2] == "valid":
        return metric
    raise ConfigError(
        f"sweep.metric={metric!r}: must be valid.METRIC or, of joint runs, tasks.TASK.valid.METRIC: test is for the end"
    )
