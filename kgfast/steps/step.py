"""Training steps without autograd: loss, gradients and row optimizer as few kernels, in buffers kept between steps.

A step makes the queries of a batch, runs the fused loss, and hands all row gradients to one pass that updates each
touched row in place. It depends on (tables, optimizer state, triples, seed, index) alone: that is what exact resume
relies on. A part of a step is one side: the triples as this model asks for them, and the side of the query operator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast import backends
from kgfast.backends.cpu import REGULARIZERS, total
from kgfast.backends.cpu import SCORES as CODES
from kgfast.backends.cpu import SIDES as SIDE_CODES
from kgfast.core import checks
from kgfast.errors import KgfastError
from kgfast.nn import KGEModel
from kgfast.optim import RowOptimizer
from kgfast.reference import SCORES

SIDES = ("alternate", "both", "tail", "head")


class Step:
    """What both kinds of step share: sides, queries, dropout, regularization and the update of the tables."""

    def __init__(
        self, model: KGEModel, optimizer: RowOptimizer, *, side: str, seed: int, regularizer: str | None,
        regularizer_weight: float, query_dropout: float, impl: str | None,
    ):  # fmt: skip
        checks.choose("side", side, SIDES)
        checks.choose("regularizer", regularizer, REGULARIZERS)
        if not 0 <= query_dropout < 1:
            raise KgfastError(f"query_dropout={query_dropout} must be in [0, 1)")
        self.model, self.optimizer, self.side, self.seed = model, optimizer, side, seed
        self.regularizer, self.dropout = regularizer, query_dropout
        self.regularizer_weight = checks.finite("regularizer_weight", regularizer_weight, 0.0)
        self.code, _, self.similarity = CODES[model.score]
        self.entities, self.relations = model.entities.detach(), model.relations.detach()
        self.device, self.dtype = self.entities.device, checks.sum_dtype(self.entities.dtype)
        name = backends.choose(impl, self.device)
        if name == "reference":
            raise KgfastError("impl='reference' has no training steps: use its losses and kgfast.optim")
        self.backend = backends.module(name)
        # where a GPU's kernels read the step's index, so that a captured graph draws other numbers when replayed
        self.counter = None if name == "cpu" else torch.zeros(1, dtype=torch.int64, device=self.device)
        self.recording = False  # while captured.py records: what changes from step to step is written before a replay
        self.score = SCORES[model.score]
        self.workspace = self.backend.Workspace(self.device)
        self.none = torch.empty(0, dtype=torch.int64, device=self.device)
        if not isinstance(optimizer, RowOptimizer):
            raise KgfastError(f"optimizer must be one of kgfast.optim, not {type(optimizer).__name__}")
        for param in (model.entities, model.relations):
            optimizer.group_of(param)
        optimizer.ensure_state()
        for param in (model.entities, model.relations):
            for tensor in (param.detach(), *optimizer.state[param].values()):
                self.backend.use_huge_pages(tensor)

    def check_tables(self) -> None:
        """The tables must still be those that the step was made for."""
        for name, seen in (("entities", self.entities), ("relations", self.relations)):
            now = getattr(self.model, name)
            if now.data_ptr() != seen.data_ptr() or now.dtype != seen.dtype or now.shape != seen.shape:
                raise KgfastError(f"model.{name} was replaced since this step was made: make a new step")

    def check(self, triples: Tensor) -> Tensor:
        """Triples that kernels may read, and tables that they may change."""
        self.check_tables()
        triples = checks.triples(triples, self.entities)
        self.backend.assert_triples(triples, self.model.num_entities, self.model.num_relations)
        return triples

    def sides(self, index: int) -> tuple[str, ...]:
        """The sides that step `index` trains."""
        return {"alternate": (("tail", "head")[index % 2],), "both": ("tail", "head")}.get(self.side, (self.side,))

    def parts(self, triples: Tensor, index: int) -> list[tuple[Tensor, str]]:
        """(triples, operator side) of each side that this step trains."""
        return [self.model.turned(triples, side) for side in self.sides(index)]

    def begin(self, index: int) -> None:
        """Writes what changes from step to step where kernels read it: the index, the optimizer's constants."""
        if self.recording:
            return
        if self.counter is not None:
            self.counter.fill_(index)
        self.sinks = {
            name: self.optimizer.sink(getattr(self.model, name), self.backend) for name in ("entities", "relations")
        }

    def addresses(self) -> tuple:
        """Where the optimizer's state and constants lie, which a recorded step must find there again."""
        return tuple(sink.address() for sink in self.sinks.values())

    def counted(self, index: int):
        """The index as kernels take it."""
        return index if self.counter is None else self.counter

    def slices(self, part: int, parts: int):
        """An allocator whose buffers lie one part after the other, so that all parts are one array afterwards."""
        return lambda name, shape, dtype: self.workspace(name, (parts, *shape), dtype)[part]

    def joined(self, name: str, shape, dtype) -> Tensor:
        return self.workspace(name, shape, dtype)

    def shares(self, weights: Tensor | None, batch: int, parts: int) -> Tensor:
        """Each triple's part in the mean over triples and sides, [parts * batch]; refuses wrong weights."""
        if weights is None:
            return torch.full((parts * batch,), 1.0 / (batch * parts), dtype=self.dtype, device=self.device)
        weights = self.backend.assert_weights(weights, batch)
        sum = total(weights)
        return (weights.to(self.dtype) / (torch.where(sum == 0, 1.0, sum) * parts)).repeat(parts)

    def dropout_mask(self, shape, index) -> Tensor | None:
        if not self.dropout:
            return None
        return self.backend.dropout_mask(shape, self.dropout, self.seed, index, self.entities.dtype, self.device)

    def make_queries(self, triples: Tensor, side: str, allocate) -> Tensor:
        tables = self.entities, self.relations
        return self.backend.queries(*tables, triples, self.code, SIDE_CODES[side], allocate=allocate, check=False)

    def all_queries(self, parts, index: int) -> tuple[Tensor, Tensor | None]:
        """(queries of all parts after dropout, what they were multiplied with)."""
        for p, (part, side) in enumerate(parts):
            self.make_queries(part, side, self.slices(p, len(parts)))
        shape = len(parts) * len(parts[0][0]), self.entities.shape[1]
        query = self.joined("query", shape, self.entities.dtype)
        mask = self.dropout_mask(shape, self.counted(index))
        if mask is not None:
            query *= mask
        return query, mask

    def adjoint(self, d_query, triples: Tensor, side: str, allocate):
        tables = self.entities, self.relations
        return self.backend.queries_adjoint(d_query, *tables, triples, self.code, SIDE_CODES[side], allocate=allocate)

    def all_adjoints(self, d_query, mask, parts) -> tuple[Tensor, Tensor]:
        """(gradients of the anchors, of the relations) of all parts, from that of the queries after dropout."""
        if mask is not None:
            d_query *= mask
        for p, ((part, side), d_part) in enumerate(zip(parts, d_query.split(len(parts[0][0])), strict=True)):
            self.adjoint(d_part, part, side, self.slices(p, len(parts)))
        widths = {"d_anchor": self.entities.shape[1], "d_relation": self.relations.shape[1]}
        return tuple(self.joined(name, (len(d_query), width), self.dtype) for name, width in widths.items())

    def regularize(self, anchors, targets, relations, d_anchor, d_relation):
        """Adds the regularizer's gradient of the batch's rows; returns (ids, rows) of the targets' own part."""
        if self.regularizer is None or self.regularizer_weight == 0:
            return []
        weight = self.regularizer_weight / len(anchors)
        entity_parts, relation_parts = 1 + self.score.complex_rows, 1 + self.score.complex_relations
        d_target = self.workspace("d_target", d_anchor.shape, d_anchor.dtype).zero_()
        kind = self.regularizer
        add = self.backend.add_regularizer
        add(kind, entity_parts, weight, self.entities, anchors, d_anchor)
        add(kind, entity_parts, weight, self.entities, targets, d_target)
        if not self.score.phases:
            add(kind, relation_parts, weight, self.relations, relations, d_relation)
        return [(targets, d_target)]

    def update_relations(self, extras) -> None:
        none = self.relations.new_empty((0, 0))
        self.backend.reduce_rows(none, self.relations, none.long(), none, extras, 0, self.sinks["relations"])


def column(parts, which: str) -> Tensor:
    """Anchors, targets or relations of all parts, one after the other."""
    places = {"relation": (1, 1), "anchor": (0, 2), "target": (2, 0)}[which]
    return torch.cat([triples[:, places[0 if side == "tail" else 1]] for triples, side in parts])


class KnownAnswers:
    """Known answers of each part's queries, as ranges into one array of ids for both sides."""

    def __init__(self, known, model: KGEModel):
        model.check_known(known)
        self.known = known.reciprocal() if model.reciprocal else known
        self.ids = torch.cat([self.known.ids("tail"), self.known.ids("head")])

    def ranges(self, parts) -> tuple[Tensor, Tensor]:
        starts, ends = [], []
        for triples, side in parts:
            start, end = self.known.lookup(triples, side)
            shift = len(self.known.ids("tail")) if side == "head" else 0
            starts.append(start + shift)
            ends.append(end + shift)
        return torch.cat(starts), torch.cat(ends)
