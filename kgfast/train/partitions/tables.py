"""Tables of a run that are partitioned: the entities' and their optimizer state on disk, a few partitions in memory."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kgfast.errors import CheckpointError, ConfigError
from kgfast.nn import KGEModel
from kgfast.registry import find_score
from kgfast.run.checkpoint import load_optimizer_state
from kgfast.run.manifest import MANIFEST
from kgfast.run.memory import amount
from kgfast.train import checkpoint
from kgfast.train.build import build_optimizer, dtype_of, load_table, places
from kgfast.train.config import TrainConfig
from kgfast.train.partitions.batches import GroupedBatches
from kgfast.train.partitions.buffer import Buffer
from kgfast.train.partitions.files import ENTITIES, SIDES, Column, PartitionFiles, mapped, path_of
from kgfast.train.partitions.order import Cut, Order
from kgfast.train.partitions.triples import BucketedTriples

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph


class PartitionedTables:
    """A model whose table of entities is the buffer's memory: a step sees rows, whatever partition they are of."""

    def __init__(self, config: TrainConfig, graph: KnowledgeGraph, run: Path, saved: checkpoint.Checkpoint | None):
        self.config, self.graph, self.folder = config, graph, run / "checkpoint"
        if saved is not None and saved.partitions is None:
            raise CheckpointError(f"{self.folder / MANIFEST} is damaged: it tells of no partitions")
        self.cut = Cut.of(graph.num_entities, config.partitions)
        relations = graph.num_relations * (2 if config.reciprocal else 1)
        rows, dtype = places(config) * self.cut.rows, dtype_of(config)
        self.model = KGEModel.from_tables(
            torch.empty(rows, config.dim, dtype=dtype),
            torch.empty(relations, find_score(config.model).relation_width(config.dim), dtype=dtype),
            score=config.model, reciprocal=config.reciprocal, copy=False,
        )  # fmt: skip
        self.optimizer = build_optimizer(config, self.model)
        states = self.optimizer.state[self.model.entities].items()
        self.columns = {ENTITIES: self.model.entities.detach()}
        self.columns |= {f"{ENTITIES}-{name}": state for name, state in states if state.dim()}
        self.check_disk()
        columns = {name: Column.of(tensor) for name, tensor in self.columns.items()}
        self.files = PartitionFiles(self.folder, self.cut, columns, saved.partitions if saved else None)
        self.buffer = Buffer(self.files, self.columns, config.resident)
        self.triples: BucketedTriples | None = None
        if saved is None:
            self.fill()

    def check_disk(self) -> None:
        """ConfigError where there is no room for both sides of all files."""
        wanted = 0
        for name, tensor in self.columns.items():
            size = self.cut.entities * Column.of(tensor).row_bytes
            for path in (path_of(self.folder, name, side) for side in SIDES):
                wanted += size - (path.lstat().st_size if os.path.lexists(path) else 0)
        free = shutil.disk_usage(self.folder.parent).free
        if wanted > free:
            raise ConfigError(
                f"dim={self.config.dim}: the partitions of {self.cut.entities:,} entities, with the optimizer's state, "
                f"need {amount(wanted)} in {self.folder} on both sides, and {amount(free)} are free"
            )

    @torch.no_grad()
    def fill(self) -> None:
        """Write the initial rows, drawn as those of a whole table are, and state."""
        config, draws = self.config, KGEModel.generator(self.config.seed)
        options: dict[str, Any] = dict(scale=config.init_scale, generator=draws, dtype=dtype_of(config))
        for partition in range(self.cut.partitions):
            rows = self.buffer.rows(partition, 0)  # states are as they begin there
            rows[ENTITIES] = KGEModel.initial(self.cut.size(partition), config.dim, whole=self.cut.entities, **options)
            self.files.write(partition, rows)
        relations = self.model.relations
        relations.copy_(KGEModel.initial_relations(config.model, len(relations), config.dim, **options))

    @torch.no_grad()
    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Relations and their state; partitions are read when they are needed."""
        load_table(self.model.relations, "relations", saved.tables)
        load_optimizer_state(self.optimizer, saved.optimizer)

    def batches(self, step: Any) -> GroupedBatches:
        """The batches of the training triples, whose step draws among the partitions that are in memory."""
        config = self.config
        self.triples = BucketedTriples(self.graph.train, self.cut, self.folder)
        order = Order(config.partitions, config.resident, config.seed)
        return GroupedBatches(self.triples, order, self.buffer, step.draws, config.batch_size, config.seed)

    def save(self, run: Path, position: checkpoint.Position, best: dict[str, Tensor] | None) -> None:
        """A checkpoint: partitions that changed are on the disk before the manifest names them."""
        self.buffer.write_changed()
        entry = self.files.entry()
        checkpoint.save(run, self.config, self.graph, position, self.model, self.optimizer, best, partitions=entry)
        self.files.commit()

    @torch.no_grad()
    def trained(self, run: Path, position: checkpoint.Position) -> KGEModel:
        """The saved model, its table one file that is mapped. Memory of the partitions is given back."""
        for partition, side in enumerate(self.files.committed):
            if side == "b":
                rows = self.buffer.rows(partition, 0)
                self.files.read(partition, rows)
                self.files.write(partition, rows)
        self.save(run, position, None)
        self.files.remove_side_b()
        path, shape = path_of(self.folder, ENTITIES, "a"), (self.cut.entities, self.config.dim)
        relations, reciprocal = self.model.relations, self.model.reciprocal
        table = mapped(path, shape, dtype_of(self.config))
        self.close()
        self.buffer.tensors.clear()
        del self.model, self.optimizer, self.columns
        gc.collect()  # a step refers to itself
        return KGEModel.from_tables(table, relations, score=self.config.model, reciprocal=reciprocal, copy=False)

    def close(self) -> None:
        """The thread ends, files are closed."""
        self.buffer.close()
        if self.triples is not None:
            self.triples.close()
