"""What a run would take of the machine, before its graph is there: memory by part, and time and bytes written from some
seconds of measurement with its own settings.

Time is that of steps on tables which are as large as memory allows, or as the graph needs, and far larger than caches.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from kgfast.core import checks
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError
from kgfast.nn import KGEModel
from kgfast.run.memory import Need, amount, free_memory, resident_bytes
from kgfast.train.auto import SHARE, START
from kgfast.train.batches import Batches, frequency_weights
from kgfast.train.build import build_model, build_optimizer, launched_step, step_needs, table_need
from kgfast.train.config import AUTO, TrainConfig

IDS, KEY = 24, 8  # bytes of a triple, and of a number that sorts it
SHUFFLED = IDS + KEY  # a triple's place in the order of an epoch, and its copy there
WEIGHED, WEIGHING = 8, 4 * KEY  # its weight twice, and what counting its queries takes for a while
INDEXED = 4 * KEY  # a triple as a known answer of both sides, with its queries
INDEXING = IDS + 6 * KEY  # what sorting them takes for a while
NAME = 24  # bytes of a name of twelve letters, with its place and its order
SAMPLE_ROWS, SAMPLE_TRIPLES, SAMPLE_BYTES = 2_000_000, 1_000_000, 1 << 28
SECONDS = 3.0  # of steps
RANKED = 64  # triples
Sample = tuple[KnowledgeGraph, KGEModel]


class GraphSize(NamedTuple):
    """How large a graph is; `held_out`: triples of valid and test together."""

    entities: int
    relations: int
    triples: int
    held_out: int = 0


@dataclass
class Plan:
    """Bytes by part while training runs and on top of them while it is evaluated; seconds, None where not measured."""

    size: GraphSize
    training: list[Need]
    evaluation: list[Need]
    free: int | None
    steps_per_epoch: int
    step_seconds: float | None = None
    epoch_seconds: float | None = None
    training_seconds: float | None = None
    evaluation_seconds: float | None = None
    checkpoint_bytes: int = 0
    checkpoint_seconds: float | None = None

    @property
    def training_bytes(self) -> int:
        return sum_of(self.training)

    @property
    def peak_bytes(self) -> int:
        return self.training_bytes + sum_of(self.evaluation)

    @property
    def fits(self) -> bool:
        return self.free is None or self.peak_bytes - self.training[0].size <= self.free

    def advice(self) -> list[str]:
        """What would make it fit, or be faster, each with what it brings."""
        lines = []
        if not self.fits and self.free is not None:
            tables = self.training[1].size
            rest = self.peak_bytes - tables - self.training[0].size
            if rest < self.free:
                share = (self.free - rest) / tables
                lines.append(f"It doesn't fit: {share:.0%} of the tables would, as by a smaller dim.")
            else:
                lines.append(f"It doesn't fit: without any table it takes {amount(rest)}.")
        if self.evaluation_seconds and self.training_seconds and self.evaluation_seconds > self.training_seconds:
            lines.append("The final evaluation takes longer than training: hold fewer triples out.")
        return lines


def plan(
    config: TrainConfig,
    size: GraphSize,
    *,
    measure: bool = True,
    libraries: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """What a run with these settings on a graph of this size takes; `measure`: its time too, which `say` announces.
    libraries: what `libraries_bytes` said, where this process has read a graph since.

    ConfigError where the sizes are no graph's.
    """
    size = GraphSize(*(checks.integer(name, value, 0 if name == "held_out" else 1) for name, value in zip(
        GraphSize._fields, size, strict=True
    )))  # fmt: skip
    searched = config.regularizer_weight == AUTO
    if searched:
        config = config.replace(regularizer_weight=START)
    if config.device != "cpu":
        raise ConfigError(f"device={config.device!r}: must be cpu, which is what can be planned")
    if config.tables == "partitioned":
        raise ConfigError("tables='partitioned': must be 'device' or 'host', which is what can be planned")
    base = Need("", "Python and the libraries", libraries_bytes(config) if libraries is None else libraries)
    found = Plan(
        size, [base, *training_needs(config, size)], evaluation_needs(size), free_memory(),
        steps_per_epoch=-(-size.triples // config.batch_size),
    )  # fmt: skip
    found.checkpoint_bytes = table_need(config, size.entities, size.relations, training=True).size
    steps = step_needs(config, size.triples)
    if measure:
        sample = sample_of(config, size)
        worked = measure_steps(config, found, sample, say)
        steps = [max(Need("", "what a step works with", worked), Need("", "what a step makes", sum_of(steps)),
                     key=lambda need: need.size)]  # fmt: skip
        if searched and found.training_seconds is not None:
            found.training_seconds *= 1 + 1 / SHARE
        say("measuring ranks and the disk")
        found.evaluation_seconds = size.held_out * ranking_seconds(size, sample)
        found.checkpoint_seconds = found.checkpoint_bytes / disk_rate(config.out)
    found.training += steps
    return found


def sum_of(needs: list[Need]) -> int:
    return sum(need.size for need in needs)


def libraries_bytes(config: TrainConfig) -> int:
    """What Python, torch and kgfast take before there is a graph."""
    build_optimizer(config, build_model(config, 2, 1))  # loads what torch loads late
    return resident_bytes()


# ---- memory -----------------------------------------------------------------------------------------------------


def training_needs(config: TrainConfig, size: GraphSize) -> list[Need]:
    """What is held from the first step to the last."""
    needs = [
        table_need(config, size.entities, size.relations, training=True),
        Need("", "the triples", IDS * (size.triples + size.held_out)),
        Need("", "the triples in the order of an epoch", SHUFFLED * size.triples),
        Need("", "the names", NAME * (size.entities + size.relations)),
    ]
    if config.subsampling:
        needs.append(Need("subsampling=true", "weights of the triples", (WEIGHED + WEIGHING) * size.triples))
    if config.negative_filter != "none" or config.all_answers:
        name = "all_answers=true" if config.all_answers else f"negative_filter={config.negative_filter}"
        needs.append(Need(name, "known answers", INDEXED * size.triples))
    return needs


def evaluation_needs(size: GraphSize) -> list[Need]:
    """What the final evaluation takes beside all that."""
    return [Need("", "known answers and their sorting", (INDEXED + INDEXING) * (size.triples + size.held_out))]


# ---- time -------------------------------------------------------------------------------------------------------


def sample_of(config: TrainConfig, size: GraphSize) -> Sample:
    """A graph of the same kind, as large as a quarter of the free memory allows, and its model."""
    allowed = (free_memory() or 1 << 33) // 4
    row = table_need(config, 1, 1, training=True).size
    entities = max(2, min(size.entities, SAMPLE_ROWS, allowed // row))
    relations, triples = min(size.relations, 10_000), min(size.triples, SAMPLE_TRIPLES)
    random = torch.Generator().manual_seed(config.seed)

    def ids(count: int) -> torch.Tensor:  # some are far more frequent than others, as in graphs
        return (torch.rand(triples, generator=random) ** 2 * count).long().clamp(max=count - 1)

    columns = torch.stack([ids(entities), ids(relations), ids(entities)], 1)
    graph = KnowledgeGraph.from_arrays(columns, num_entities=entities, num_relations=relations)
    return graph, build_model(config, entities, relations)


def measure_steps(config: TrainConfig, found: Plan, sample: Sample, say: Callable[[str], None]) -> int:
    """Fills in the seconds of a step, of an epoch and of training; the bytes that steps work with."""
    size = found.size
    say(f"measuring steps for {SECONDS:.0f} seconds")
    graph, model = sample
    step = launched_step(config, model, build_optimizer(config, model), graph)
    weights = frequency_weights(graph.train, graph.num_entities) if config.subsampling else None
    batches = Batches(graph.train, weights, config.batch_size, config.seed)
    start = time.perf_counter()
    batches.begin(0)
    shuffling = (time.perf_counter() - start) / len(graph.train)
    times: list[float] = []
    before = resident_bytes()
    while sum(times) < SECONDS or len(times) < 3:
        index = len(times)
        triples, of_triples = batches[index % batches.per_epoch]
        start = time.perf_counter()
        step(triples, index, of_triples)
        times.append(time.perf_counter() - start)
    found.step_seconds = statistics.median(times[1:])
    if config.candidates == "all":
        found.step_seconds *= size.entities / graph.num_entities
    found.epoch_seconds = found.steps_per_epoch * found.step_seconds + shuffling * size.triples
    bound = 60 * config.minutes if config.minutes else None
    whole = config.epochs * found.epoch_seconds if config.epochs else bound
    found.training_seconds = whole if bound is None or whole is None else min(whole, bound)
    return max(resident_bytes() - before, 0)


def ranking_seconds(size: GraphSize, sample: Sample) -> float:
    """Of one triple, both sides, among all entities."""
    graph, model = sample
    triples = graph.train[:RANKED]
    times = []
    for _ in range(2):
        start = time.perf_counter()
        for side in ("tail", "head"):
            model.rank(triples, side)
        times.append((time.perf_counter() - start) / len(triples))
    return min(times) * size.entities / graph.num_entities


def disk_rate(out: str | None) -> float:
    """Bytes a second that the disk of a run's folder takes."""
    place = Path(out or "runs").absolute()
    while not place.is_dir():
        place = place.parent
    with tempfile.TemporaryFile(dir=place if os.access(place, os.W_OK) else None) as file:
        block = os.urandom(1 << 22)
        start = time.perf_counter()
        for _ in range(SAMPLE_BYTES // len(block)):
            file.write(block)
        os.fsync(file.fileno())
        return SAMPLE_BYTES / (time.perf_counter() - start)
