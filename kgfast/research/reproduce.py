"""Figures that this project publishes, made again: `published.yaml` has them, with the settings that made them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import Field
from rich.console import Console

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.evaluate.spread import mean_and_spread
from kgfast.run.folder import run_folder
from kgfast.run.settings import Section
from kgfast.train import loop
from kgfast.train.config import TrainConfig

SPREADS = 3.0  # standard deviations of our seeds that a figure may be away
LEAST = 0.005  # which it may be away in any case: three seeds tell little of a spread
OF_ONE = 0.01  # and where there was one seed


class Figure(Section):
    """One number: `ours` of seeds 0, 1, .., and `theirs`, which somebody else published of a like model."""

    ours: list[float] = Field(min_length=1)
    theirs: float | None = None

    @property
    def mean(self) -> float:
        return float(mean_and_spread(self.ours)["mean"])

    @property
    def tolerance(self) -> float:
        """max(0.005, 3 sample standard deviations of our seeds); 0.01 where there was one."""
        spread = mean_and_spread(self.ours)["spread"]
        return OF_ONE if spread is None else max(LEAST, SPREADS * spread)

    def verdict(self, value: float) -> str:
        """ "within", or on which side it lies outside."""
        if abs(value - self.mean) <= self.tolerance:
            return "within"
        return "below" if value < self.mean else "above"


class Published(Section):
    """A run whose figures are published; the head of published.yaml describes the fields."""

    data: str
    triples: tuple[int, int, int]
    settings: dict[str, Any]
    figures: dict[str, Figure]
    minutes: float
    machine: str
    source: str | None = None

    def command(self, data: str | None = None) -> str:
        """What makes the run by hand."""
        pairs = (f"{key}={value}" for key, value in self.settings.items())
        return f"kgfast train {' '.join([f'data={data or self.data}', *pairs])}"


@cache
def table() -> dict[str, Published]:
    """Every run by its name."""
    text = (files("kgfast.research") / "published.yaml").read_text(encoding="utf-8")
    return {name: Published(**values) for name, values in yaml.safe_load(text).items()}


def find(name: str) -> Published:
    """The run of a name; ConfigError with the nearest ones."""
    if name not in table():
        near = difflib.get_close_matches(name, table(), n=3) or table()
        raise ConfigError(f"{name!r} is no figure that is published here; did you mean {', '.join(near)}?")
    return table()[name]


def load(name: str, config: TrainConfig, given: str | None) -> KnowledgeGraph:
    """The graph of the run, wherever it lies; DataError where it isn't there, or another one."""
    published = find(name)
    try:
        graph = config.load_graph()
    except DataError as error:
        if given is not None:
            raise
        raise DataError(f"{error}; {name} needs the data {published.data}: --data says where it lies") from None
    counts = len(graph.train), len(graph.valid), len(graph.test)
    if counts != published.triples:
        have, needed = (" / ".join(f"{count:,}" for count in those) for those in (counts, published.triples))
        raise DataError(f"{config.data} has {have} triples in train, valid and test; {name} was measured with {needed}")
    return graph


def reproduce(
    name: str, data: str | None = None, *, console: Console, out: str | None = None, seed: int = 0, **options: Any
) -> dict[str, Any]:
    """Train the run of a name as published, and hold its figures against ours.

    data: where its data lies, as `kgfast train` takes it. options: threads and device of `TrainConfig`. Returns a dict:
    name, command, run (its folder), minutes and expected_minutes of training, machine, source, figures {metric:
    measured, ours, theirs, tolerance, verdict}, and within, whether all are.
    """
    published = find(name)
    given = {key: value for key, value in options.items() if value is not None}
    config = TrainConfig(**published.settings | {"data": data or published.data, "out": out, "seed": seed} | given)
    loop.begin(config, False)
    graph = load(name, config, data)
    with run_folder(config.out, name, False) as run:
        metrics = loop.Training(config.replace(out=str(run)), graph, run, console, resume=False).run_to_end()
    found = {metric: held(figure, value_of(metrics, metric)) for metric, figure in published.figures.items()}
    return {
        "name": name, "command": published.command(data), "run": str(run), "seed": seed,
        "minutes": metrics["train"]["seconds"] / 60, "expected_minutes": published.minutes,
        "machine": published.machine, "source": published.source, "figures": found,
        "within": all(one["verdict"] == "within" for one in found.values()),
    }  # fmt: skip


def held(figure: Figure, value: float) -> dict[str, Any]:
    """A figure as measured, beside ours and theirs."""
    return {
        "measured": value, "ours": mean_and_spread(figure.ours), "theirs": figure.theirs, "tolerance": figure.tolerance,
        "verdict": figure.verdict(value),
    }  # fmt: skip


def value_of(metrics: dict[str, Any], name: str) -> float:
    """A number of metrics.json by its dotted name."""
    value: Any = metrics
    for key in name.split("."):
        value = value[key]
    return float(value)


def slips(found: dict[str, Any]) -> Iterator[str]:
    """A sentence for each figure that is outside."""
    for metric, one in found["figures"].items():
        if one["verdict"] != "within":
            mean, tolerance = one["ours"]["mean"], one["tolerance"]
            yield f"{metric} is {one['measured']:.4f}, {one['verdict']} {mean:.4f} ± {tolerance:.4f}"
