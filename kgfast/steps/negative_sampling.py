"""The training step of sampled negatives, whose ids it draws itself."""

from __future__ import annotations

from torch import Tensor

from kgfast.backends.operands import Ranges, RowPass
from kgfast.core import checks
from kgfast.core.known import KnownTriples
from kgfast.core.sums import sum_dtype, total
from kgfast.nn import KGEModel
from kgfast.optim import RowOptimizer
from kgfast.registry import Objective
from kgfast.steps.draws import Draws
from kgfast.steps.step import Columns, SideBatch, Step, check_model


class NegativeSamplingStep(Step):
    """One step of negative sampling (see `kgfast.negative_sampling_loss` for objectives), with the ids drawn here.

    Args:
        model: what is trained; its tables must stay where they are.
        optimizer: one of `kgfast.optim` that has the model's tables.
        negatives: how many for each triple.
        sharing: "none": every triple has its own; "chunk": `chunk` triples share a list; "batch": all do.
        chunk: how many triples share a list.
        objective: "logistic", "softmax", "bce" or "margin".
        margin: of logistic and margin.
        adversarial_temperature: above 0, negatives that score high count more.
        side: which column is asked for: "tail", "head", "both", or "alternate" from step to step.
        seed: the key of all draws, beside the step's index.
        negative_power: p > 0 draws entities in proportion to count^p; 0: uniformly.
        entity_counts: int64 [E], how often each entity occurs; needed where negative_power is above 0.
        known: the graph's triples, which `filter` is about.
        filter: known answers among the negatives are "mask": masked, "redraw": drawn again (own lists only), "none":
            left.
        regularizer: the penalty on the rows of a batch, "n3" or "l2"; None: none.
        regularizer_weight: what the penalty is multiplied with.
        query_dropout: the part of the queries' numbers that are set to 0, below 1.
        impl: the backend, "cpu", "triton" or "cuda"; None: that of the model's device.
    """

    def __init__(
        self, model: KGEModel, optimizer: RowOptimizer, *, negatives: int, sharing: str = "none", chunk: int = 256,
        objective: str = "logistic", margin: float = 0.0, adversarial_temperature: float = 0.0,
        side: str = "alternate", seed: int = 0, negative_power: float = 0.0, entity_counts: Tensor | None = None,
        known: KnownTriples | None = None, filter: str = "none", regularizer: str | None = None,
        regularizer_weight: float = 0.0, query_dropout: float = 0.0, impl: str | None = None,
    ):  # fmt: skip
        check_model(model)
        self.objective = Objective.of(objective, "objective")
        dtype = sum_dtype(model.entities.dtype)
        self.margin, self.temperature = checks.weighting(margin, adversarial_temperature, dtype)
        self.draws = Draws(model, negatives=negatives, sharing=sharing, chunk=chunk, power=negative_power,
                           entity_counts=entity_counts, known=known, filter=filter, seed=seed)  # fmt: skip
        super().__init__(model, optimizer, side=side, seed=seed, regularizer=regularizer,
                         regularizer_weight=regularizer_weight, query_dropout=query_dropout, impl=impl)  # fmt: skip

    def train_batch(self, triples: Tensor, columns: Columns, index: int, weights: Tensor | None) -> Tensor:
        batches = self.side_batches(triples, index)
        shares = self.shares(weights, len(triples), len(batches))
        self.begin(index)  # after what can be refused
        known = self.draws.known_ranges(batches)
        negatives = self.draws.draw(self.backend, batches, known, self.counted(index), self.workspace)
        return self.train(batches, columns, self.draws.masked(known), negatives, index, shares)

    def train(
        self, batches: list[SideBatch], columns: Columns, masked: Ranges, negatives: Tensor, index: int, shares: Tensor
    ) -> Tensor:  # fmt: skip
        """The step after `begin`, when its ids are drawn; masked: ranges of the known answers that have no part."""
        query, mask = self.queries(batches, index)
        update = self.updates["entities"]
        starts, ends, ids = masked
        losses, d_query, pairs, coefficients, d_negatives = self.backend.sampled_loss(
            query, self.entities, columns.targets, negatives, starts, ends, ids, shares, self.similarity,
            self.objective, self.margin, self.temperature, True, allocate=self.workspace, check=False,
            extra_ids=[columns.anchors, columns.targets] if self.regularizes else [columns.anchors], update=update,
        )  # fmt: skip
        d_anchor, d_relation = self.adjoints(d_query, mask, batches)
        extras = [(columns.anchors, d_anchor), *self.regularize(columns, d_anchor, d_relation)]
        if len(negatives) != len(query):  # shared
            extras.append((negatives.view(-1), d_negatives.flatten(0, 1)))
        self.backend.reduce_tables(
            [
                RowPass(query, self.entities, pairs, coefficients, extras, self.similarity, update),
                self.extra_rows(self.relations, [(columns.relations, d_relation)], self.updates["relations"]),
            ]
        )
        return total(losses)
