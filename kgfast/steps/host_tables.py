"""Negative sampling for tables larger than the GPU: tables and optimizer state stay in host memory.

A step draws its ids on the CPU, fetches the rows they name to the device, trains there as `NegativeSamplingStep` does,
over a small table of these rows alone, and writes them back. Rows keep the order of their ids, so it learns what a step
over the whole table would. No row is fetched twice in a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast.core.csr import as_csr, places_among
from kgfast.errors import KgfastError
from kgfast.nn import KGEModel
from kgfast.optim import RowOptimizer
from kgfast.steps.negative_sampling import NegativeSamplingStep


class HostTablesStep:
    """`NegativeSamplingStep` for a model and an optimizer on the CPU, computed on `device`; options are the same.

    Device memory: rows and state that a step can name, at most sides * (lists * negatives + 2 batch) of them, and the
    step's own buffers; host memory: a pinned copy of these rows besides the tables. Each step moves its rows and state
    once in either direction over the bus and waits for the device. Tables may be read between steps.
    """

    def __init__(self, model: KGEModel, optimizer: RowOptimizer, *, device, **options):
        if model.entities.device.type != "cpu":
            raise KgfastError(
                f"model must be on the CPU, from where its rows are fetched; it is on {model.entities.device}"
            )
        self.model, self.optimizer, self.device, self.options = model, optimizer, torch.device(device), options
        # impl is of the device; sides, draws and known answers are made by the CPU's
        self.host = NegativeSamplingStep(model, optimizer, **{**options, "impl": None})
        self.batch = 0  # the largest there is room for
        self.make_room(1)

    def make_room(self, batch: int) -> None:
        """Tables, optimizer and step on the device, for batches of up to `batch` triples."""
        sides = 2 if self.host.side == "both" else 1
        named = sides * (self.host.lists(batch) * self.host.negatives + 2 * batch)
        sizes = min(len(self.model.entities), named), min(len(self.model.relations), sides * batch)
        with torch.device("meta"):
            local = KGEModel(*sizes, self.model.dim, score=self.model.score, dtype=self.model.entities.dtype)
        local.to_empty(device=self.device)
        groups, pairs = [], []
        for name in ("entities", "relations"):
            pairs.append((getattr(self.model, name), getattr(local, name)))
            groups.append({**self.optimizer.group_of(pairs[-1][0]), "params": [pairs[-1][1]]})
        self.local_optimizer = type(self.optimizer)(groups)
        self.local_optimizer.ensure_state()
        self.local = LocalStep(local, self.local_optimizer, self.host, self.options)
        self.mirrors = [self.mirrored(*pair) for pair in pairs]
        self.batch = batch

    def mirrored(self, param, local) -> list[Mirror]:
        """The rows of a table and of its state."""
        state, local_state = self.optimizer.state[param], self.local_optimizer.state[local]
        local_state["step"] = state["step"]  # one counter, which the update advances
        names = [name for name in local_state if name != "step"]
        return [Mirror(param.detach(), local.detach()), *(Mirror(state[name], local_state[name]) for name in names)]

    def __call__(self, triples: Tensor, index: int, weights: Tensor | None = None) -> Tensor:
        """Trains on triples [B, 3] (CPU); returns their loss before the step, a scalar on the device."""
        triples = self.host.check(triples)
        if len(triples) == 0:
            return torch.zeros((), dtype=self.host.dtype, device=self.device)
        if len(triples) > self.batch:
            self.make_room(len(triples))
        for group, kept in zip(self.local_optimizer.param_groups, self.groups(), strict=True):
            group.update({name: value for name, value in kept.items() if name != "params"})
        parts = self.host.parts(triples, index)
        weights = None if weights is None else weights.to(self.device)
        shares = self.local.shares(weights, len(triples), len(parts))
        known = self.host.known_ranges(parts)
        negatives = self.host.draw(parts, len(triples), known, index)
        ends = torch.cat([triples[:, [0, 2]] for triples, _ in parts])
        entities, places = self.compact(torch.cat([negatives.view(-1), ends.view(-1)]))
        relations, relation_places = self.compact(torch.cat([triples[:, 1] for triples, _ in parts]))
        for ids, mirrors in zip((entities, relations), self.mirrors, strict=True):
            for mirror in mirrors:
                mirror.fetch(ids)
        local_negatives, local_ends = places.split([negatives.numel(), ends.numel()])
        local_ends = local_ends.view(-1, 2)
        local = torch.stack([local_ends[:, 0], relation_places, local_ends[:, 1]], 1)
        sides = [side for _, side in parts]
        self.local.begin(index)
        loss = self.local.train(
            list(zip(local.split(len(triples)), sides, strict=True)),
            self.local_known(known, entities), local_negatives.view(negatives.shape), index, shares,
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

    def local_known(self, known, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ranges and ids of known answers that are among `rows`, as places there."""
        if self.host.filter != "mask":
            return (self.local.none,) * 3
        offsets, places = places_among(rows, *as_csr(*known))
        return tuple(part.to(self.device) for part in (offsets[:-1], offsets[1:], places))


class LocalStep(NegativeSamplingStep):
    """The step over the fetched rows: negatives and known answers come with each batch."""

    def __init__(self, model: KGEModel, optimizer: RowOptimizer, host: NegativeSamplingStep, options: dict):
        drawn = ("known", "filter", "negative_power", "entity_counts")
        super().__init__(model, optimizer, **{name: value for name, value in options.items() if name not in drawn})
        self.filter = host.filter


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
