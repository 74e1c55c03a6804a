"""Training steps without autograd: loss, gradients and row optimizer as few kernels, in buffers kept between steps.

A step makes the queries of a batch, runs the fused loss, and hands all row gradients to one pass that updates each
touched row in place. It depends on (tables, optimizer state, triples, seed, index) alone: that is what exact resume
relies on. A part of a step is one side: the triples as this model asks for them, and the side of the query operator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kgfast import backends, checks
from kgfast.backends.cpu import OBJECTIVES, REGULARIZERS, total
from kgfast.backends.cpu import SCORES as CODES
from kgfast.backends.cpu import SIDES as SIDE_CODES
from kgfast.errors import KgfastError
from kgfast.nn import KGEModel
from kgfast.optim import RowOptimizer
from kgfast.reference import SCORES, alias_table

SIDES = ("alternate", "both", "tail", "head")
SHARINGS = ("none", "chunk", "batch")
FILTERS = ("none", "mask", "redraw")


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


class NegativeSamplingStep(Step):
    """One step of negative sampling (see `kgfast.negative_sampling_loss` for objectives), with the ids drawn here.

    sharing: every triple has its own `negatives`, or `chunk` triples share a list, or the batch does.
    filter: known answers are masked, or redrawn (own lists only), or left. negative_power p > 0: draws entities in
    proportion to count^p.
    """

    def __init__(
        self, model: KGEModel, optimizer: RowOptimizer, *, negatives: int, sharing: str = "none", chunk: int = 256,
        objective: str = "logistic", margin: float = 0.0, adversarial_temperature: float = 0.0,
        side: str = "alternate", seed: int = 0, negative_power: float = 0.0, entity_counts: Tensor | None = None,
        known=None, filter: str = "none", regularizer: str | None = None, regularizer_weight: float = 0.0,
        query_dropout: float = 0.0, impl: str | None = None,
    ):  # fmt: skip
        super().__init__(model, optimizer, side=side, seed=seed, regularizer=regularizer,
                         regularizer_weight=regularizer_weight, query_dropout=query_dropout, impl=impl)  # fmt: skip
        checks.choose("sharing", sharing, SHARINGS)
        checks.choose("objective", objective, OBJECTIVES)
        checks.choose("filter", filter, FILTERS)
        if not 1 <= negatives < 2**25:
            raise KgfastError(f"negatives={negatives} must be at least 1 and below 2^25")
        if filter != "none" and known is None:
            raise KgfastError(f"filter={filter!r} needs known triples")
        if filter == "redraw" and sharing != "none":
            raise KgfastError(f"filter='redraw' needs sharing='none'; with sharing={sharing!r} use filter='mask'")
        if chunk < 1:
            raise KgfastError(f"chunk={chunk} must be at least 1")
        self.negatives, self.sharing, self.chunk, self.filter = negatives, sharing, chunk, filter
        self.objective = OBJECTIVES.index(objective)
        self.margin = checks.finite("margin", margin)
        self.temperature = checks.finite("adversarial_temperature", adversarial_temperature, 0.0)
        self.known = None if filter == "none" else KnownAnswers(known, model)
        self.thresholds = self.aliases = self.none
        if negative_power:
            if entity_counts is None or len(entity_counts) != model.num_entities:
                raise KgfastError("negative_power needs entity_counts, one for each entity")
            table = alias_table(entity_counts.double() ** negative_power)
            self.thresholds, self.aliases = (part.to(self.device) for part in table)

    def lists(self, batch: int) -> int:
        return {"none": batch, "chunk": math.ceil(batch / self.chunk), "batch": 1}[self.sharing]

    def __call__(self, triples: Tensor, index: int, weights: Tensor | None = None) -> Tensor:
        """Trains on triples [B, 3]; returns their loss before the step, a scalar."""
        triples = self.check(triples)
        parts, batch = self.parts(triples, index), len(triples)
        if batch == 0:
            return torch.zeros((), dtype=self.dtype, device=self.device)
        shares = self.shares(weights, batch, len(parts))
        self.begin(index)  # after what can be refused
        known = self.known_ranges(parts)
        return self.train(parts, known, self.draw(parts, batch, known, index), index, shares)

    def known_ranges(self, parts) -> tuple[Tensor, Tensor, Tensor]:
        """Known answers of the queries of all parts: starts, ends, and the ids they are ranges of."""
        return (*self.known.ranges(parts), self.known.ids) if self.known else (self.none,) * 3

    def train(self, parts, known, negatives: Tensor, index: int, shares: Tensor) -> Tensor:
        """The step after `begin`, when its ids are drawn."""
        query, mask = self.all_queries(parts, index)
        anchors, targets, relations = (column(parts, which) for which in ("anchor", "target", "relation"))
        shared = len(negatives) != len(query)
        ready = [anchors] if self.regularizer is None or self.regularizer_weight == 0 else [anchors, targets]
        sink = self.sinks["entities"]
        losses, d_query, pairs, coefficients, d_negatives = self.backend.sampled_loss(
            query, self.entities, targets, negatives, *(known if self.filter == "mask" else (self.none,) * 3),
            shares, self.similarity, self.objective, self.margin, self.temperature, True, allocate=self.workspace,
            check=False, ready=ready, into=sink,
        )  # fmt: skip
        d_anchor, d_relation = self.all_adjoints(d_query, mask, parts)
        extras = [(anchors, d_anchor), *self.regularize(anchors, targets, relations, d_anchor, d_relation)]
        if shared:
            extras.append((negatives.view(-1), d_negatives.flatten(0, 1)))
        self.backend.reduce_rows(query, self.entities, pairs, coefficients, extras, self.similarity, sink)
        self.update_relations([(relations, d_relation)])
        return total(losses)

    def draw(self, parts, batch: int, known, index: int) -> Tensor:
        """The negatives of all parts, [parts * lists, N]."""
        lists = self.lists(batch)
        for p, (_, side) in enumerate(parts):
            rows = slice(p * batch, (p + 1) * batch)
            redraw = (known[0][rows], known[1][rows], known[2]) if self.filter == "redraw" else (self.none,) * 3
            # a reciprocal model asks for tails only: its second part draws as the head side does
            draw_side = "head" if side == "head" or p == 1 else "tail"
            self.backend.sample_negatives(
                lists, self.negatives, len(self.entities), SIDE_CODES[draw_side], self.seed, self.counted(index),
                self.thresholds, self.aliases, *redraw, allocate=self.slices(p, len(parts)), check=False,
            )  # fmt: skip
        return self.joined("negatives", (len(parts) * lists, self.negatives), torch.int64)


class OneVsAllStep(Step):
    """One step of a loss over all entities (see `kgfast.one_vs_all_loss`), if wanted with the relation-prediction head.

    answers: KnownTriples of which all are right besides the target (KvsAll); None: the target alone. relation_weight:
    adds that times the cross-entropy of the relation given head and tail (Chen et al. 2021). bf16: dot products of
    operands rounded to bfloat16, summed in float32, on CPUs that have the instructions; tables stay float32.
    """

    def __init__(
        self, model: KGEModel, optimizer: RowOptimizer, *, objective: str = "softmax", label_smoothing: float = 0.0,
        answers=None, side: str = "both", seed: int = 0, regularizer: str | None = None,
        regularizer_weight: float = 0.0, query_dropout: float = 0.0, relation_weight: float = 0.0,
        bf16: bool = False, impl: str | None = None,
    ):  # fmt: skip
        super().__init__(model, optimizer, side=side, seed=seed, regularizer=regularizer,
                         regularizer_weight=regularizer_weight, query_dropout=query_dropout, impl=impl)  # fmt: skip
        checks.choose("objective", objective, ("softmax", "bce"))
        self.objective = OBJECTIVES.index(objective)
        if not 0 <= label_smoothing < 1:
            raise KgfastError(f"label_smoothing={label_smoothing} must be in [0, 1)")
        self.smoothing = label_smoothing
        self.answers = None if answers is None else KnownAnswers(answers, model)
        self.relation_weight = checks.finite("relation_weight", relation_weight, 0.0)
        self.relation_query = self.score.relation_query
        if self.relation_weight and self.relation_query is None:
            raise KgfastError(f"relation_weight: score {model.score!r} has no query for relations")
        self.precision = {"bf16": True} if bf16 else {}
        if bf16:
            reason = self.backend.bf16_reason()
            if reason is None and (self.score.similarity, self.dtype) != ("dot", torch.float32):
                reason = f"score {model.score!r} on {self.dtype} has no dot product of float32 numbers to round"
            if reason:
                raise KgfastError(f"bf16=True can't serve: {reason}")

    def __call__(self, triples: Tensor, index: int, weights: Tensor | None = None) -> Tensor:
        """Trains on triples [B, 3]; returns their loss before the step (without the relation head), a scalar."""
        triples = self.check(triples)
        parts, batch = self.parts(triples, index), len(triples)
        if batch == 0:
            return torch.zeros((), dtype=self.dtype, device=self.device)
        anchors, targets, relations = (column(parts, which) for which in ("anchor", "target", "relation"))
        if self.answers:
            ranges = self.backend.assert_answers(*self.answers.ranges(parts), self.answers.ids, targets)
        else:
            places = torch.arange(len(targets), device=self.device)
            ranges = (places, places + 1, targets)
        shares = self.shares(weights, batch, len(parts))
        self.begin(index)  # after what can be refused
        query, mask = self.all_queries(parts, index)
        losses, d_query, d_table, _ = self.backend.candidate_loss(
            query, self.entities, self.entities.new_empty(0), *ranges, shares, self.similarity, self.objective,
            self.smoothing, True, allocate=self.workspace, check=False, **self.precision,
        )  # fmt: skip
        d_anchor, d_relation = self.all_adjoints(d_query, mask, parts)
        extras = [(anchors, d_anchor), *self.regularize(anchors, targets, relations, d_anchor, d_relation)]
        relation_extras = [(relations, d_relation)]
        if self.relation_weight:
            entity_rows, relation_rows = self.relation_head(parts)
            extras += entity_rows
            relation_extras += relation_rows
        none = query.new_empty((0, 0))
        dense = self.backend.sink("dense", d_table)
        self.backend.reduce_rows(none, self.entities, none.long(), none, extras, 0, dense)
        self.backend.update_all_rows(d_table, self.sinks["entities"])
        self.update_relations(relation_extras)
        return total(losses)

    def relation_head(self, parts):
        """Gradients of relation_weight * cross-entropy(relation | head, tail): entity rows, and all relation rows."""
        triples = torch.cat([part for part, _ in parts])
        heads, tails = triples[:, 0].contiguous(), triples[:, 2].contiguous()
        with torch.enable_grad():
            head_rows, tail_rows = (self.entities[ids].requires_grad_() for ids in (heads, tails))
            query = self.relation_query(head_rows, tail_rows)
        places = torch.arange(len(triples), device=self.device)
        share = torch.full((len(triples),), self.relation_weight / len(triples), dtype=self.dtype, device=self.device)
        _, d_query, d_table, _ = self.backend.candidate_loss(
            query.detach().contiguous(), self.relations, query.new_empty(0), places, places + 1,
            triples[:, 1].contiguous(), share, self.similarity, OBJECTIVES.index("softmax"), 0.0, True, check=False,
        )  # fmt: skip
        d_heads, d_tails = torch.autograd.grad(query, (head_rows, tail_rows), d_query)
        return (
            [(heads, d_heads.contiguous()), (tails, d_tails.contiguous())],
            [(torch.arange(len(self.relations), device=self.device), d_table)],
        )
