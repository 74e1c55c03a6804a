"""Negative sampling for tables larger than the GPU: tables and optimizer state stay in host memory.

A step draws its ids on the CPU, fetches the rows they name to the device, trains there as `NegativeSamplingStep` does,
over a small table of these rows alone, and writes them back. Rows keep the order of their ids, so it learns what a step
over the whole table would. No row is fetched twice in a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.core.csr import as_csr, places_among
from kgfast.errors import KgfastError
from kgfast.nn import KGEModel
from kgfast.optim import RowOptimizer
from kgfast.steps.negative_sampling import NegativeSamplingStep
from kgfast.steps.step import Columns, SideBatch, check_model, step_index

WHOLE = ("known", "filter", "negative_power", "entity_counts")  # options about the whole graph


class HostTablesStep:
    """`NegativeSamplingStep` for a model and an optimizer on the CPU, computed on another device.

    Device memory: rows and state that a step can name, at most sides * (lists * negatives + 2 batch) of them, and the
    step's own buffers; host memory: a pinned copy of these rows besides the tables. Each step moves its rows and state
    once in either direction over the bus and waits for the device. Tables may be read between steps.

    Args:
        model: what is trained; its tables stay in host memory.
        optimizer: one of `kgfast.optim` that has the model's tables.
        device: where it is computed.
        impl: the backend there; None: that of the device.
        options: all others of `NegativeSamplingStep`.
    """

    def __init__(
        self,
        model: KGEModel,
        optimizer: RowOptimizer,
        *,
        device: torch.device | str,
        impl: str | None = None,
        **options: Any,
    ):
        check_model(model)
        if model.entities.device.type != "cpu":
            raise KgfastError(
                f"model must be on the CPU, from where its rows are fetched; it is on {model.entities.device}"
            )
        self.model, self.optimizer, self.impl = model, optimizer, impl
        self.device = indexed(checks.device("device", device))
        # what is drawn, asked and checked is the whole graph's, on the CPU; what is trained is a table of a step's rows
        self.whole = NegativeSamplingStep(model, optimizer, **options)
        self.options = {name: value for name, value in options.items() if name not in WHOLE}
        self.batch = 0  # the largest there is room for
        self.make_room(1)

    def make_room(self, batch: int) -> None:
        """Tables, optimizer and step on the device, for batches of up to `batch` triples."""
        sides, draws = 2 if self.whole.side == "both" else 1, self.whole.draws
        named = sides * (draws.lists(batch) * draws.negatives + 2 * batch)
        sizes = min(len(self.model.entities), named), min(len(self.model.relations), sides * batch)
        with torch.device("meta"):
            rows = KGEModel(*sizes, self.model.dim, score=self.model.score, dtype=self.model.entities.dtype)
        rows.to_empty(device=self.device)
        groups, pairs = [], []
        for name in ("entities", "relations"):
            pairs.append((getattr(self.model, name), getattr(rows, name)))
            groups.append({**self.optimizer.group_of(pairs[-1][0]), "params": [pairs[-1][1]]})
        self.rows_optimizer = self.optimizer.same_for(groups)
        self.rows_optimizer.ensure_state()
        self.rows_step = NegativeSamplingStep(rows, self.rows_optimizer, impl=self.impl, **self.options)
        self.mirrors = [self.mirrored(*pair) for pair in pairs]
        self.batch = batch

    def mirrored(self, param: Tensor, rows: Tensor) -> list[Mirror]:
        """The rows of a table and of its state."""
        state, rows_state = self.optimizer.state[param], self.rows_optimizer.state[rows]
        rows_state["step"] = state["step"]  # one counter, which the update advances
        names = [name for name in rows_state if name != "step"]
        return [Mirror(param.detach(), rows.detach()), *(Mirror(state[name], rows_state[name]) for name in names)]

    def __call__(self, triples: Tensor, index: int, weights: Tensor | None = None) -> Tensor:
        """Trains on a batch; returns its loss before the step, a scalar on the device.

        Args:
            triples: ids [B, 3] of (head, relation, tail), int64 or int32, on the CPU.
            index: counts the steps; with the seed it is all the randomness.
            weights: [B], what each triple counts for in the mean; None: all alike.
        """
        with self.whole.lock:
            return self.train(triples, step_index(index), weights)

    def train(self, triples: Tensor, index: int, weights: Tensor | None) -> Tensor:
        """Fetch, train, store."""
        whole, step = self.whole, self.rows_step
        triples, _ = whole.check(triples)
        if len(triples) == 0:
            return torch.zeros((), dtype=whole.dtype, device=self.device)
        if len(triples) > self.batch:
            self.make_room(len(triples))
            step = self.rows_step
        for group, kept in zip(self.rows_optimizer.param_groups, self.groups(), strict=True):
            group.update({name: value for name, value in kept.items() if name != "params"})
        batches = whole.side_batches(triples, index)
        weights = None if weights is None else checks.weights(weights, len(triples), whole.dtype).to(self.device)
        shares = step.shares(weights, len(triples), len(batches))
        known = whole.draws.known_ranges(batches)
        negatives = whole.draws.draw(whole.backend, batches, known, index, whole.workspace)
        ends = torch.cat([batch.triples[:, [0, 2]] for batch in batches])
        entities, places = self.compact(torch.cat([negatives.view(-1), ends.view(-1)]))
        relations, relation_places = self.compact(torch.cat([batch.triples[:, 1] for batch in batches]))
        for ids, mirrors in zip((entities, relations), self.mirrors, strict=True):
            for mirror in mirrors:
                mirror.fetch(ids)
        negative_places, end_places = places.split([negatives.numel(), ends.numel()])
        end_places = end_places.view(-1, 2)
        named = torch.stack([end_places[:, 0], relation_places, end_places[:, 1]], 1).split(len(triples))
        step.begin(index)
        batches = [SideBatch(part, batch.side) for part, batch in zip(named, batches, strict=True)]
        loss = step.train(
            batches, Columns.gathered(batches),
            self.known_among(whole.draws.masked(known), entities), negative_places.view(negatives.shape), index, shares,
        )  # fmt: skip
        for ids, mirrors in zip((entities, relations), self.mirrors, strict=True):
            for mirror in mirrors:
                mirror.store(ids)
        return loss

    def groups(self) -> list[dict]:
        return [self.optimizer.group_of(param) for param in (self.model.entities, self.model.relations)]

    def compact(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The ids without repetitions, ascending, on the CPU; and where each of them stands there, on the device."""
        rows, places = torch.unique(ids.to(self.device), return_inverse=True)
        return rows.cpu(), places

    def known_among(self, known: tuple[Tensor, Tensor, Tensor], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ranges and ids of known answers that are among `rows`, as places there."""
        if not len(known[0]):
            return (self.rows_step.none,) * 3
        offsets, places = places_among(rows, *as_csr(*known))
        starts, ends, places = (part.to(self.device) for part in (offsets[:-1], offsets[1:], places))
        return starts, ends, places


def indexed(device: torch.device | str) -> torch.device:
    """The device with its number: `cuda` alone would be another one where the current device changes."""
    found = torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if str(found) == "cuda" else found


class Mirror:
    """Rows of a tensor in host memory and their place on the device."""

    def __init__(self, host: Tensor, local: Tensor):
        self.host, self.local = host, local
        # copies from and to pinned memory run beside the device's work
        self.buffer = torch.empty(local.shape, dtype=host.dtype, pin_memory=local.device.type == "cuda")

    def fetch(self, ids: Tensor) -> None:
        rows = self.buffer[: len(ids)]
        torch.index_select(self.host, 0, ids, out=rows)
        self.local[: len(ids)].copy_(rows, non_blocking=True)

    def store(self, ids: Tensor) -> None:
        rows = self.buffer[: len(ids)]
        rows.copy_(self.local[: len(ids)])
        self.host.index_copy_(0, ids, rows)
