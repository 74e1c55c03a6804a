"""From a configuration and a graph to the three parts of a training step: model, optimizer, training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kgfast.errors import CheckpointError
from kgfast.nn import KGEModel
from kgfast.optim import RowOptimizer
from kgfast.registry import RULES, find_score
from kgfast.run.memory import Need, check_memory, outsized
from kgfast.run.optimizers import ROW_OPTIMIZERS, with_state
from kgfast.run.settings import check_device
from kgfast.steps import CapturedStep, HostTablesStep, NegativeSamplingStep, OneVsAllStep, Step
from kgfast.train.config import AUTO, TrainConfig

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph


def build_model(config: TrainConfig, num_entities: int, num_relations: int) -> KGEModel:
    """The model with its initial tables, a function of the seed, on the device of the tables."""
    check_device(config.device)
    check_memory([table_need(config, num_entities, num_relations)], config.table_device)
    model = KGEModel(
        num_entities,
        num_relations,
        config.dim,
        score=config.model,
        reciprocal=config.reciprocal,
        init_scale=config.init_scale,
        seed=config.seed,
        dtype=dtype_of(config),
    )
    return model.to(config.table_device)


def tables(model: KGEModel) -> dict[str, Tensor]:
    """Both tables by name, without gradient and without a copy."""
    return {"entities": model.entities.detach(), "relations": model.relations.detach()}


def load_tables(model: KGEModel, values: dict[str, Tensor]) -> None:
    """Copy both tables into the model; CheckpointError where a shape or number type differs."""
    for name, table in tables(model).items():
        load_table(table, name, values)


def load_table(table: Tensor, name: str, values: dict[str, Tensor]) -> None:
    """Copy one of them."""
    if name not in values or values[name].shape != table.shape or values[name].dtype != table.dtype:
        found = f"{list(values[name].shape)} {values[name].dtype}" if name in values else "nothing"
        raise CheckpointError(
            f"{name}: the checkpoint holds {found}, the model needs {list(table.shape)} {table.dtype}"
        )
    table.copy_(values[name])


def dtype_of(config: TrainConfig) -> torch.dtype:
    """Of the tables."""
    return torch.float64 if config.precision == "float64" else torch.float32


def places(config: TrainConfig) -> int:
    """Partitions that are in memory: those that are trained on, and the next one."""
    return min(config.resident + 1, config.partitions)


def table_need(config: TrainConfig, num_entities: int, num_relations: int, training: bool = False) -> Need:
    """The memory of the tables; `training`: with the optimizer's state, and the best tables where those are kept."""
    relations, width = num_relations * (2 if config.reciprocal else 1), find_score(config.model).relation_width
    held = num_entities
    if config.tables == "partitioned":
        held = min(held, places(config) * -(-num_entities // config.partitions))
    numbers = held * config.dim + relations * width(config.dim)
    copies = 1
    if training:
        states = RULES[config.optimizer].states.values()
        state = sum(not one_a_row for one_a_row in states)
        searched = config.regularizer == "n3" and config.regularizer_weight == AUTO  # what its trials share is kept
        copies = max(copies + state + (config.validate_every > 0), 2 * (copies + state) if searched else 0)
    what = f"the tables of {held:,} entities and {relations:,} relations"
    size = copies * numbers * (8 if config.precision == "float64" else 4)
    return Need(f"dim={config.dim}", what + ", with the optimizer's state," * training, size)


def step_needs(config: TrainConfig, triples: int) -> list[Need]:
    """The memory of what a step makes of its batch."""
    item, sides = (8 if config.precision == "float64" else 4), (2 if config.side == "both" else 1)
    batch = min(config.batch_size, triples)
    size = 3 * sides * batch * config.dim * item
    needs = [Need(outsized(config, "dim", "batch_size"), "the queries of a batch", size)]
    if config.candidates == "sampled":
        lists = {"none": batch, "chunk": -(-batch // config.negative_chunk), "batch": 1}[config.negative_sharing]
        ids, pairs = sides * lists * config.negatives, sides * batch * config.negatives
        rows = 0 if config.negative_sharing == "none" else ids * config.dim
        what = f"the negatives of {batch:,} triples"
        needs.append(Need(outsized(config, "negatives", "batch_size"), what, 8 * ids + item * (pairs + rows)))
    return needs


def check_training_memory(config: TrainConfig, graph: KnowledgeGraph) -> None:
    """ConfigError, before anything is made, where the run has no room."""
    tables = table_need(config, graph.num_entities, graph.num_relations, training=True)
    steps = step_needs(config, len(graph.train))
    if config.table_device == config.device:
        check_memory([tables, *steps], config.device)
    else:
        check_memory([tables], config.table_device)
        check_memory(steps, config.device)


def build_optimizer(config: TrainConfig, model: KGEModel) -> RowOptimizer:
    """The row optimizer over both tables."""
    return with_state(ROW_OPTIMIZERS[config.optimizer]([model.entities, model.relations], lr=config.lr))


def build_step(
    config: TrainConfig, model: KGEModel, optimizer: RowOptimizer, graph: KnowledgeGraph
) -> Callable[..., Tensor]:
    """The step `step(triples, index, weights=None) -> loss` over the graph's training triples; captured as CUDA
    graphs where tables are on a GPU."""
    step = launched_step(config, model, optimizer, graph)
    return CapturedStep(step) if isinstance(step, Step) and config.table_device.startswith("cuda") else step


def launched_step(
    config: TrainConfig, model: KGEModel, optimizer: RowOptimizer, graph: KnowledgeGraph
) -> Step | HostTablesStep:
    """The step as its kernels are launched one by one."""
    shared: dict[str, Any] = dict(
        objective=config.objective,
        side=config.side,
        seed=config.seed,
        query_dropout=config.query_dropout,
        regularizer=None if config.regularizer == "none" else config.regularizer,
        regularizer_weight=config.regularizer_weight if config.regularizer != "none" else 0.0,
    )
    if config.candidates == "all":
        return OneVsAllStep(
            model,
            optimizer,
            label_smoothing=config.label_smoothing,
            relation_weight=config.relation_weight,
            answers=graph.known("train").to(config.table_device) if config.all_answers else None,
            bf16=config.precision == "bf16",
            **shared,
        )
    weighted = config.objective in ("logistic", "margin")
    counts = None
    if config.negative_power > 0:
        ends = graph.train[:, [0, 2]].reshape(-1)
        counts = torch.bincount(ends, minlength=graph.num_entities).to(config.table_device)
    step = partial(HostTablesStep, device=config.device) if config.tables == "host" else NegativeSamplingStep
    return step(
        model,
        optimizer,
        negatives=config.negatives,
        sharing=config.negative_sharing,
        chunk=config.negative_chunk,
        margin=config.margin if weighted else 0.0,
        adversarial_temperature=config.adversarial_temperature if weighted else 0.0,
        negative_power=config.negative_power,
        entity_counts=counts,
        filter=config.negative_filter,
        known=graph.known("train").to(config.table_device) if config.negative_filter != "none" else None,
        **shared,
    )
