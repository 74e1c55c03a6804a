"""Steps as CUDA graphs: recorded once for each shape of batch, then replayed with one call.

The launches of a step cost the host more than its kernels take on a GPU. What changes from step to step (triples,
weights, the index, the optimizer's constants) lies in device memory and is written before a replay, so a replayed
step learns what the step itself would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kgfast import checks
from kgfast.errors import KgfastError
from kgfast.fused import Step

MOST = 16  # recorded shapes; batches of others run as they are


@dataclass
class Recorded:
    """A graph, the memory that it reads and where it leaves the loss."""

    graph: torch.cuda.CUDAGraph
    triples: Tensor
    weights: Tensor | None
    loss: Tensor
    buffers: dict[str, Tensor]  # of the step's workspace: one that grows later must not free them


class CapturedStep:
    """The same as `step`, a NegativeSamplingStep or OneVsAllStep on a GPU, with less work for the host.

    The first batch of a shape runs as it is (kernels are compiled), the second is recorded. Memory: a step's temporary
    tensors once more, and triples and weights of each recorded shape.
    """

    def __init__(self, step: Step):
        if step.device.type != "cuda":
            raise KgfastError(f"step: CUDA graphs need tables on a GPU, these are on {step.device}")
        self.step = step
        self.seen: set[tuple] = set()
        self.recorded: dict[tuple, Recorded] = {}
        self.pool = None  # of memory that all graphs share: they never run at the same time

    def __call__(self, triples: Tensor, index: int, weights: Tensor | None = None) -> Tensor:
        """Trains on triples [B, 3]; returns their loss before the step, a scalar."""
        step = self.step
        triples = checks.triples(triples, step.entities)
        shape = len(triples), weights is None, step.sides(index)
        if shape not in self.recorded:
            if shape not in self.seen or len(self.recorded) >= MOST or len(triples) == 0:
                self.seen.add(shape)
                return step(triples, index, weights)
            self.recorded[shape] = self.record(triples, index, weights)
        found = self.recorded[shape]
        step.check_tables()
        found.triples.copy_(triples)
        if weights is not None:
            found.weights.copy_(weights)
        step.begin(index)
        found.graph.replay()
        return found.loss.clone()

    def record(self, triples: Tensor, index: int, weights: Tensor | None) -> Recorded:
        """Records the step's launches; none of them runs."""
        step = self.step
        triples, weights = triples.clone(), None if weights is None else weights.clone()
        graph = torch.cuda.CUDAGraph()
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        step.recording = True
        try:
            with torch.cuda.device(step.device), torch.cuda.graph(graph, pool=self.pool):
                loss = step(triples, index, weights)
        finally:
            step.recording = False
        return Recorded(graph, triples, weights, loss, dict(step.workspace.buffers))
