"""Batches of triples: a permutation per epoch that depends on (seed, epoch) alone, cut into slices."""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast.data import KnowledgeGraph
from kgfast.run.seeds import generator
from kgfast.train.config import TrainConfig


class Batches:
    """The batches of each epoch of `triples` [M, 3], with `weights` [M] beside them if there are any.

    An epoch is ceil(M / batch_size) batches whose sizes differ by at most one, so that no step rests on a
    handful of triples. Memory: one permuted copy of the triples and weights.
    """

    def __init__(self, triples: Tensor, weights: Tensor | None, batch_size: int, seed: int) -> None:
        self.triples, self.weights, self.seed = triples.contiguous(), weights, seed
        self.per_epoch = -(-len(triples) // batch_size)
        self._permuted = torch.empty_like(self.triples)
        self._weights = None if weights is None else torch.empty_like(weights)
        self._epoch = -1

    def steps(self, epochs: int) -> int:
        """The batches of all of these epochs."""
        return epochs * self.per_epoch

    def epochs(self, step: int) -> float:
        """The epochs that so many steps make."""
        return step / self.per_epoch

    def begin(self, epoch: int) -> None:
        """Permute for this epoch."""
        if epoch == self._epoch:
            return
        order = torch.randperm(len(self.triples), generator=generator(self.seed, epoch))
        order = order.to(self.triples.device)
        # Into the same memory each epoch: fresh pages would cost more than the copy.
        torch.index_select(self.triples, 0, order, out=self._permuted)
        if self.weights is not None:
            torch.index_select(self.weights, 0, order, out=self._weights)
        self._epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Batch `index` of the epoch: views, triples [B, 3] and weights [B] or None."""
        count = len(self.triples)
        rows = slice(index * count // self.per_epoch, (index + 1) * count // self.per_epoch)
        return self._permuted[rows], None if self._weights is None else self._weights[rows]


def batches_of(config: TrainConfig, graph: KnowledgeGraph) -> Batches:
    """The batches of a run, where its tables are."""
    triples = graph.train.to(config.table_device)
    weights = frequency_weights(triples, graph.num_entities) if config.subsampling else None
    return Batches(triples, weights, config.batch_size, config.seed)


def frequency_weights(triples: Tensor, num_entities: int) -> Tensor:
    """Weights [M] float32 with mean 1, w ~ 1 / sqrt(n(h, r) + n(r, t) + 6), n the count of a query's triples.

    This is the subsampling of the RotatE authors' code, where every count starts at 3.
    """
    heads, relations, tails = triples.unbind(1)
    total = torch.full((len(triples),), 6.0, dtype=torch.float64, device=triples.device)
    for known in (heads, tails):
        _, query, counts = torch.unique(relations * num_entities + known, return_inverse=True, return_counts=True)
        total += counts[query]
    weights = total.rsqrt()
    mean = weights.cumsum(0)[-1] / len(weights)  # in one order, whatever the number of threads
    return (weights / mean).float()
