"""What training steps share: sides, queries, dropout, regularization and the update of the tables.

A step makes the queries of a batch, runs the fused loss, and hands all row gradients to one pass that updates each
touched row in place. It depends on (tables, optimizer state, triples, seed, index) alone: that is what exact resume
relies on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kgfast import backends
from kgfast.backends.operands import RowPass, RowUpdate
from kgfast.core import checks
from kgfast.core.known import KnownTriples
from kgfast.core.sums import sum_dtype, total
from kgfast.errors import KgfastError
from kgfast.nn import KGEModel
from kgfast.optim import RowOptimizer
from kgfast.registry import Regularizer, Side, find_score
from kgfast.steps.streams import StreamOrder

SIDES = ("alternate", "both", *Side.words())


class SideBatch(NamedTuple):
    """The triples of a batch as one side asks for them: a reciprocal model asks for heads as tails."""

    triples: Tensor
    side: Side


class Columns(NamedTuple):
    """The known entities, the answers and the relations of all sides, one side after the other."""

    anchors: Tensor
    targets: Tensor
    relations: Tensor

    @classmethod
    def of(cls, columns: Tensor, sides: tuple[Side, ...]) -> Columns:
        """Of what `Backend.assert_triples` returns."""
        first, count = int(sides[0]), len(sides)
        return cls(*(columns[place : place + count].view(-1) for place in (first, first + 1, first + 3)))

    @classmethod
    def gathered(cls, batches: list[SideBatch]) -> Columns:
        places = [(side.anchor, side.answer, 1) for _, side in batches]
        columns = zip(*places, strict=True)
        return cls(*(torch.cat([b.triples[:, p] for b, p in zip(batches, one, strict=True)]) for one in columns))


def step_index(index: int) -> int:
    """The count of a step, which keys its draws."""
    return checks.integer("index", index, 0, 2**63)


def check_model(model: object) -> None:
    """What a step trains: two tables and the name of their score."""
    if not isinstance(model, KGEModel):
        raise KgfastError(f"model must be a kgfast.nn.KGEModel, not {type(model).__name__}")


class Step:
    """A step of training: a subclass says what the loss is. Several threads may call it, and on several streams of a
    GPU: they wait for one another."""

    def __init__(
        self, model: KGEModel, optimizer: RowOptimizer, *, side: str, seed: int, regularizer: str | None,
        regularizer_weight: float, query_dropout: float, impl: str | None,
    ):  # fmt: skip
        check_model(model)
        checks.choose("side", side, SIDES)
        self.regularizer = Regularizer.of("none" if regularizer is None else regularizer, "regularizer")
        self.dropout = checks.finite("query_dropout", query_dropout, 0.0)
        if self.dropout >= 1:
            raise KgfastError(f"query_dropout={query_dropout} must be in [0, 1)")
        self.regularizer_weight = checks.finite("regularizer_weight", regularizer_weight, 0.0)
        if self.regularizer is Regularizer.NONE and self.regularizer_weight:
            raise KgfastError(f"regularizer_weight={regularizer_weight} has no effect without a regularizer")
        if not isinstance(optimizer, RowOptimizer):
            raise KgfastError(f"optimizer must be one of kgfast.optim, not {type(optimizer).__name__}")
        self.model, self.optimizer, self.side, self.seed = model, optimizer, side, checks.seed(seed)
        self.score = find_score(model.score)
        self.similarity = self.score.similarity_code
        self.entities, self.relations = model.entities.detach(), model.relations.detach()
        self.device, self.dtype = self.entities.device, sum_dtype(self.entities.dtype)
        name = backends.choose(impl, self.device)
        if name == "reference":
            raise KgfastError("impl='reference' has no training steps: use its losses and kgfast.optim")
        self.backend = backends.get(name)
        # where a GPU's kernels read the step's index, so that a captured graph draws other numbers when replayed
        self.counter = None if name == "cpu" else torch.zeros(1, dtype=torch.int64, device=self.device)
        self.recording = False  # while cuda_graph.py records: what changes each step is written before a replay
        self.workspace = self.backend.workspace(self.device)
        self.updates: dict[str, RowUpdate] = {}  # of the tables, by name
        self.none = torch.empty(0, dtype=torch.int64, device=self.device)
        self.lock = threading.RLock()
        self.streams = StreamOrder(self.device, self.kept)
        for param in (model.entities, model.relations):
            optimizer.group_of(param)
        optimizer.ensure_state()
        for param in (model.entities, model.relations):
            for tensor in (param.detach(), *optimizer.state[param].values()):
                self.backend.use_huge_pages(tensor)

    def __call__(self, triples: Tensor, index: int, weights: Tensor | None = None) -> Tensor:
        """Trains on a batch; returns its loss before the step, a scalar.

        Args:
            triples: ids [B, 3] of (head, relation, tail), int64 or int32.
            index: counts the steps; with the seed it is all the randomness.
            weights: [B], what each triple counts for in the mean; None: all alike.
        """
        with self.lock:
            if not self.recording:
                self.streams.begin()
            (triples, columns), index = self.check(triples), step_index(index)
            if len(triples) == 0:
                return torch.zeros((), dtype=self.dtype, device=self.device)
            return self.train_batch(triples, Columns.of(columns, self.sides(index)), index, weights)

    def train_batch(self, triples: Tensor, columns: Columns, index: int, weights: Tensor | None) -> Tensor:
        raise NotImplementedError

    def check_tables(self) -> None:
        """The tables must still be those that the step was made for."""
        for name, seen in (("entities", self.entities), ("relations", self.relations)):
            now = getattr(self.model, name)
            if now.data_ptr() != seen.data_ptr() or now.dtype != seen.dtype or now.shape != seen.shape:
                raise KgfastError(f"model.{name} was replaced since this step was made: make a new step")

    def check(self, triples: Tensor) -> tuple[Tensor, Tensor]:
        """Triples that kernels may read and their columns, and tables that they may change."""
        self.check_tables()
        triples = checks.triples(triples, self.entities, copy=self.device.type == "cpu")
        entities, relations = self.model.num_entities, self.model.num_relations
        inverse = relations if self.model.reciprocal else 0
        return triples, self.backend.assert_triples(triples, entities, relations, inverse)

    def sides(self, index: int) -> tuple[Side, ...]:
        """The sides that step `index` trains."""
        if self.side == "alternate":
            return (Side(index % 2),)
        return (Side.TAIL, Side.HEAD) if self.side == "both" else (Side.of(self.side, "side"),)

    def side_batches(self, triples: Tensor, index: int) -> list[SideBatch]:
        return [SideBatch(*self.model.with_inverses(triples, side)) for side in self.sides(index)]

    def begin(self, index: int) -> None:
        """Writes what changes from step to step where kernels read it: the index, the optimizer's constants."""
        if self.recording:
            return
        if self.counter is not None:
            self.counter.fill_(index)
        self.updates["entities"] = self.optimizer.row_update(self.model.entities, self.backend)
        try:
            self.updates["relations"] = self.optimizer.row_update(self.model.relations, self.backend)
        except BaseException:
            self.optimizer.state[self.model.entities]["step"] -= 1
            raise

    def take_back(self) -> None:
        """Undoes the count of `begin`, where nothing was trained after it."""
        for table in (self.model.entities, self.model.relations):
            self.optimizer.state[table]["step"] -= 1

    def kept(self) -> list[Tensor]:
        """The tensors on the device that one step leaves to the next."""
        own = [self.none] if self.counter is None else [self.none, self.counter]
        of_tables = [tensor for update in self.updates.values() for _, tensor in update.named_tensors()]
        return [*own, *self.workspace.buffers.values(), *of_tables]

    def addresses(self) -> tuple:
        """Where the optimizer's state and constants lie, which a recorded step must find there again."""
        return tuple(update.address() for update in self.updates.values())  # type: ignore[attr-defined]

    def counted(self, index: int) -> int | Tensor:
        """The index as kernels take it."""
        return index if self.counter is None else self.counter

    def slices(self, place: int, count: int) -> Callable[..., Tensor]:
        """An allocator whose buffers lie one side after the other, so that all sides are one array afterwards."""
        return lambda name, shape, dtype: self.workspace(name, (count, *shape), dtype)[place]

    def shares(self, weights: Tensor | None, batch: int, sides: int) -> Tensor:
        """Each triple's part in the mean over triples and sides, [sides * batch]; refuses wrong weights."""
        if weights is None:
            return torch.full((sides * batch,), 1.0 / (batch * sides), dtype=self.dtype, device=self.device)
        weights = self.backend.assert_weights(weights, batch, self.dtype)
        sum = total(weights)
        return (weights.to(self.dtype) / (torch.where(sum == 0, 1.0, sum) * sides)).repeat(sides)

    def dropout_mask(self, shape: tuple[int, int], index: int) -> Tensor | None:
        """What queries are multiplied with: 0, or 1 / (1 - rate)."""
        if not self.dropout:
            return None
        counted = self.counted(index)
        return self.backend.dropout_mask(shape, self.dropout, self.seed, counted, self.entities.dtype, self.device)

    def queries(self, batches: list[SideBatch], index: int) -> tuple[Tensor, Tensor | None]:
        """(queries of all sides after dropout, what they were multiplied with)."""
        tables, code = (self.entities, self.relations), self.score.code
        for place, (triples, side) in enumerate(batches):
            allocate = self.slices(place, len(batches))
            self.backend.queries(*tables, triples, code, side, allocate=allocate, check=False)
        shape = len(batches) * len(batches[0].triples), self.entities.shape[1]
        query = self.workspace("query", shape, self.entities.dtype)
        mask = self.dropout_mask(shape, index)
        if mask is not None:
            query *= mask
        return query, mask

    def adjoints(self, d_query: Tensor, mask: Tensor | None, batches: list[SideBatch]) -> tuple[Tensor, Tensor]:
        """(gradients of the anchors, of the relations) of all sides, from that of the queries after dropout."""
        if mask is not None:
            d_query *= mask
        tables, code = (self.entities, self.relations), self.score.code
        d_sides = d_query.split(len(batches[0].triples))
        for place, ((triples, side), d_side) in enumerate(zip(batches, d_sides, strict=True)):
            allocate = self.slices(place, len(batches))
            self.backend.queries_adjoint(d_side, *tables, triples, code, side, allocate=allocate)
        widths = {"d_anchor": self.entities.shape[1], "d_relation": self.relations.shape[1]}
        d_anchor, d_relation = (
            self.workspace(name, (len(d_query), width), self.dtype) for name, width in widths.items()
        )
        return d_anchor, d_relation

    @property
    def regularizes(self) -> bool:
        return self.regularizer is not Regularizer.NONE and self.regularizer_weight != 0

    def regularize(self, columns: Columns, d_anchor: Tensor, d_relation: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Adds the regularizer's gradient of the batch's rows; returns (ids, rows) of the targets' own gradient."""
        if not self.regularizes:
            return []
        weight = self.regularizer_weight / len(columns.anchors)
        entity_parts, relation_parts = 1 + self.score.complex_rows, 1 + self.score.complex_relations
        d_target = self.workspace("d_target", d_anchor.shape, d_anchor.dtype).zero_()
        kind, add = self.regularizer, self.backend.add_regularizer
        add(kind, entity_parts, weight, self.entities, columns.anchors, d_anchor)
        add(kind, entity_parts, weight, self.entities, columns.targets, d_target)
        if not self.score.phases:
            add(kind, relation_parts, weight, self.relations, columns.relations, d_relation)
        return [(columns.targets, d_target)]

    def extra_rows(self, table: Tensor, extras: list[tuple[Tensor, Tensor]], update: RowUpdate) -> RowPass:
        """The pass over rows of a table whose gradients are ready."""
        none = table.new_empty((0, 0))
        return RowPass(none, table, self.none.view(0, 0), none, extras, 0, update)


class KnownAnswers:
    """Known answers of each side's queries, as ranges into one array of ids for both sides."""

    def __init__(self, known: KnownTriples | None, model: KGEModel, name: str = "known"):
        model.check_known(known, name)
        assert known is not None
        self.known = known.reciprocal() if model.reciprocal else known
        self.ids = torch.cat([self.known.ids("tail"), self.known.ids("head")])

    def ranges(self, batches: list[SideBatch]) -> tuple[Tensor, Tensor]:
        starts, ends = [], []
        for triples, side in batches:
            start, end = self.known.lookup(triples, side.word)
            shift = len(self.known.ids("tail")) if side is Side.HEAD else 0
            starts.append(start + shift)
            ends.append(end + shift)
        return torch.cat(starts), torch.cat(ends)
