"""The training step of a loss over all entities."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.core.known import KnownTriples
from kgfast.core.sums import total
from kgfast.errors import KgfastError
from kgfast.functional.candidates import candidate_objective
from kgfast.nn import KGEModel
from kgfast.optim import RowOptimizer
from kgfast.registry import Memory, Objective, Similarity, Update
from kgfast.steps.step import Columns, KnownAnswers, SideBatch, Step

ExtraRows: TypeAlias = list[tuple[Tensor, Tensor]]  # ids, gradients


class OneVsAllStep(Step):
    """One step of a loss over all entities (see `kgfast.one_vs_all_loss`), if wanted with the relation-prediction head.

    Args:
        model: what is trained; its tables must stay where they are.
        optimizer: one of `kgfast.optim` that has the model's tables.
        objective: "softmax" or "bce".
        label_smoothing: the part of the label that all entities share, from 0 to 1.
        answers: triples whose answers are all right, beside the target (KvsAll); None: the target alone (1vsAll).
        side: which column is asked for: "tail", "head", "both", or "alternate" from step to step.
        seed: the key of all draws, beside the step's index.
        regularizer: the penalty on the rows of a batch, "n3" or "l2"; None: none.
        regularizer_weight: what the penalty is multiplied with.
        query_dropout: the part of the queries' numbers that are set to 0, below 1.
        relation_weight: above 0, adds that times the cross-entropy of the relation given head and tail (Chen et al.
            2021).
        bf16: whether operands of dot products are rounded to bfloat16, and summed in float32, on CPUs that have the
            instructions; tables stay float32.
        memory: "fast" or "low", as in `kgfast.one_vs_all_loss`.
        impl: the backend, "cpu", "triton" or "cuda"; None: that of the model's device.
    """

    def __init__(
        self, model: KGEModel, optimizer: RowOptimizer, *, objective: str = "softmax", label_smoothing: float = 0.0,
        answers: KnownTriples | None = None, side: str = "both", seed: int = 0, regularizer: str | None = None,
        regularizer_weight: float = 0.0, query_dropout: float = 0.0, relation_weight: float = 0.0,
        bf16: bool = False, memory: str = "fast", impl: str | None = None,
    ):  # fmt: skip
        self.objective = candidate_objective("objective", objective)
        self.memory = Memory.of(memory, "memory")
        self.smoothing = checks.finite("label_smoothing", label_smoothing, 0.0, 1.0)
        self.relation_weight = checks.finite("relation_weight", relation_weight, 0.0)
        super().__init__(model, optimizer, side=side, seed=seed, regularizer=regularizer,
                         regularizer_weight=regularizer_weight, query_dropout=query_dropout, impl=impl)  # fmt: skip
        self.answers = None if answers is None else KnownAnswers(answers, model, "answers")
        if self.relation_weight and self.score.relation_query is None:
            raise KgfastError(f"relation_weight: score {model.score!r} has no query for relations")
        self.bf16 = checks.flag("bf16", bf16)
        if self.bf16:
            reason = self.backend.bf16_reason()
            if reason is None and (self.similarity, self.dtype) != (Similarity.DOT, torch.float32):
                reason = f"score {model.score!r} on {self.dtype} has no dot product of float32 numbers to round"
            if reason:
                raise KgfastError(f"bf16=True can't serve: {reason}")

    def train_batch(self, triples: Tensor, columns: Columns, index: int, weights: Tensor | None) -> Tensor:
        """The loss that it returns is without the relation head."""
        batches = self.side_batches(triples, index)
        if self.answers:
            known = (*self.answers.ranges(batches), self.answers.ids)
            starts, ends, answers = self.backend.assert_answers(*known, columns.targets)
        else:
            places = torch.arange(len(columns.targets), device=self.device)
            starts, ends, answers = places, places + 1, columns.targets
        shares = self.shares(weights, len(triples), len(batches))
        self.begin(index)  # after what can be refused
        query, mask = self.queries(batches, index)
        losses, d_query, d_table, _ = self.backend.candidate_loss(
            query, self.entities, self.entities.new_empty(0), starts, ends, answers, shares, self.similarity,
            self.objective, self.smoothing, True, self.memory, allocate=self.workspace, check=False, bf16=self.bf16,
        )  # fmt: skip
        d_anchor, d_relation = self.adjoints(d_query, mask, batches)
        extras = [(columns.anchors, d_anchor), *self.regularize(columns, d_anchor, d_relation)]
        relation_extras = [(columns.relations, d_relation)]
        if self.relation_weight:
            entity_rows, relation_rows = self.relation_head(batches)
            extras += entity_rows
            relation_extras += relation_rows
        dense = self.backend.row_update(Update.DENSE, d_table)
        self.backend.reduce_tables(
            [
                self.extra_rows(self.entities, extras, dense),
                self.extra_rows(self.relations, relation_extras, self.updates["relations"]),
            ]
        )
        self.backend.update_all_rows(d_table, self.updates["entities"])
        return total(losses)

    def relation_head(self, batches: list[SideBatch]) -> tuple[ExtraRows, ExtraRows]:
        """Gradients of relation_weight * cross-entropy(relation | head, tail): entity rows, and all relation rows."""
        triples = torch.cat([batch.triples for batch in batches])
        heads, tails = triples[:, 0].contiguous(), triples[:, 2].contiguous()
        assert self.score.relation_query is not None
        with torch.enable_grad():
            head_rows, tail_rows = (self.entities[ids].requires_grad_() for ids in (heads, tails))
            query = self.score.relation_query(head_rows, tail_rows)
        places = torch.arange(len(triples), device=self.device)
        share = torch.full((len(triples),), self.relation_weight / len(triples), dtype=self.dtype, device=self.device)
        _, d_query, d_table, _ = self.backend.candidate_loss(
            query.detach().contiguous(), self.relations, query.new_empty(0), places, places + 1,
            triples[:, 1].contiguous(), share, self.similarity, Objective.SOFTMAX, 0.0, True, self.memory, check=False,
        )  # fmt: skip
        d_heads, d_tails = torch.autograd.grad(query, (head_rows, tail_rows), d_query)
        return (
            [(heads, d_heads.contiguous()), (tails, d_tails.contiguous())],
            [(torch.arange(len(self.relations), device=self.device), d_table)],
        )
