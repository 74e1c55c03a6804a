"""Steps as CUDA graphs: recorded once for each shape of batch, then replayed with one call.

The launches of a step cost the host more than its kernels take on a GPU. What changes from step to step (triples,
weights, the index, the optimizer's constants) lies in device memory and is written before a replay, so a replayed
step learns what the step itself would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.errors import KgfastError
from kgfast.steps.step import Step, step_index

MOST = 16  # recorded shapes; batches of others run as they are


@dataclass
class Recorded:
    """A graph, the memory that it reads and where it leaves the loss."""

    graph: torch.cuda.CUDAGraph
    triples: Tensor
    weights: Tensor | None
    loss: Tensor
    addresses: tuple  # of the optimizer's state and constants
    buffers: dict[str, Tensor]  # of the step's workspace: one that grows later must not free them


class CapturedStep:
    """A step on a GPU with less work for the host; it learns the same bits.

    The first batch of a shape runs as it is (kernels are compiled), the second is recorded. What a step was made with
    (margin, regularizer, ..) must stay; rates and optimizer state may change. Memory: a step's temporary tensors once
    more, and for each recorded shape triples, weights, and workspace that was outgrown since.

    Args:
        step: a NegativeSamplingStep or a OneVsAllStep.
    """

    def __init__(self, step: Step):
        if not isinstance(step, Step):
            raise KgfastError(f"step must be a NegativeSamplingStep or a OneVsAllStep, not {type(step).__name__}")
        if step.device.type != "cuda":
            raise KgfastError(f"step: CUDA graphs need tables on a GPU, these are on {step.device}")
        self.step = step
        self.ready: set[tuple] = set()  # shapes whose kernels are compiled and loaded
        self.recorded: dict[tuple, Recorded] = {}
        self.pool: Any = None  # of memory that all graphs share: they never run at the same time

    def __call__(self, triples: Tensor, index: int, weights: Tensor | None = None) -> Tensor:
        """Trains on a batch; returns its loss before the step, a scalar.

        Args:
            triples: ids [B, 3] of (head, relation, tail), int64 or int32.
            index: counts the steps; with the seed it is all the randomness.
            weights: [B], what each triple counts for in the mean; None: all alike.
        """
        with self.step.lock:
            self.step.streams.begin()
            return self.replayed(triples, step_index(index), weights)

    def replayed(self, triples: Tensor, index: int, weights: Tensor | None) -> Tensor:
        """The step by its graph, which is recorded first where there is none yet."""
        step = self.step
        triples = checks.triples(triples, step.entities, copy=False)
        # weights that a step refuses have a shape that never gets ready
        about = type(weights), getattr(weights, "shape", None)
        shape = len(triples), about, step.sides(index), torch.get_float32_matmul_precision()
        if isinstance(weights, Tensor):
            weights = weights.detach().to(step.device, step.dtype)
        if shape not in self.ready or len(triples) == 0 or (shape not in self.recorded and len(self.recorded) >= MOST):
            # copies are aligned as those of a recording are: kernels differ by that
            loss = step(triples.clone(), index, None if weights is None else weights.clone())
            self.ready.add(shape)
            return loss
        step.check_tables()
        if shape not in self.recorded:  # before the optimizer counts: recording may fail
            self.recorded[shape] = self.record(triples, index, weights)
        step.begin(index)
        if self.recorded[shape].addresses != step.addresses():
            self.recorded.clear()  # the optimizer's state was replaced
            try:
                self.recorded[shape] = self.record(triples, index, weights)
            except BaseException:
                step.take_back()
                raise
        found = self.recorded[shape]
        found.triples.copy_(triples)
        if weights is not None and found.weights is not None:
            found.weights.copy_(weights)
        found.graph.replay()
        return found.loss.clone()

    def record(self, triples: Tensor, index: int, weights: Tensor | None) -> Recorded:
        """Records the step's launches; none of them runs. Where that fails the step is as it was."""
        step = self.step
        triples, weights = triples.clone(), None if weights is None else weights.clone()
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(step.device)
        buffers = dict(step.workspace.buffers)
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        own: dict[str, Any] = dict(pool=self.pool, stream=torch.cuda.Stream(step.device))
        own["capture_error_mode"] = "thread_local"
        step.recording = True
        with torch.cuda.device(step.device):
            try:
                with torch.cuda.graph(graph, **own):
                    loss = step(triples, index, weights)
            except BaseException:
                torch.cuda.set_stream(before)  # where ending the recording fails, torch leaves its stream in place
                step.workspace.buffers = buffers  # not those of the graph's memory
                self.pool = None  # whose recording may not have ended; graphs that are recorded keep theirs
                raise
            finally:
                step.recording = False
        return Recorded(graph, triples, weights, loss, step.addresses(), dict(step.workspace.buffers))
