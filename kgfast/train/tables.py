"""Tables and optimizer state in memory, whole: what a run trains where they fit there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kgfast.train import checkpoint
from kgfast.train.batches import Batches, batches_of
from kgfast.train.build import build_model, build_optimizer
from kgfast.train.config import TrainConfig

if TYPE_CHECKING:
    from kgfast.data import KnowledgeGraph
    from kgfast.nn import KGEModel


class WholeTables:
    """The model and the optimizer of a run. `PartitionedTables` has the same methods."""

    def __init__(self, config: TrainConfig, graph: KnowledgeGraph):
        self.config, self.graph = config, graph
        self.model = build_model(config, graph.num_entities, graph.num_relations)
        self.optimizer = build_optimizer(config, self.model)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        checkpoint.restore(saved, self.model, self.optimizer)

    def batches(self, step: Any) -> Batches:
        """The batches of the training triples for this step."""
        return batches_of(self.config, self.graph)

    def save(self, run: Path, position: checkpoint.Position, best: dict[str, Tensor] | None) -> None:
        checkpoint.save(run, self.config, self.graph, position, self.model, self.optimizer, best)

    def trained(self, run: Path, position: checkpoint.Position) -> KGEModel:
        """The model as it is evaluated; nothing is trained afterwards."""
        return self.model

    def close(self) -> None:
        """Nothing is open."""
