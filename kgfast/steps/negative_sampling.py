"""The training step of sampled negatives, whose ids it draws itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kgfast.backends.cpu import OBJECTIVES, total
from kgfast.backends.cpu import SIDES as SIDE_CODES
from kgfast.core import checks
from kgfast.errors import KgfastError
from kgfast.nn import KGEModel
from kgfast.optim import RowOptimizer
from kgfast.reference import alias_table
from kgfast.steps.step import KnownAnswers, Step, column

SHARINGS = ("none", "chunk", "batch")
FILTERS = ("none", "mask", "redraw")


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
