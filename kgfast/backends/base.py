"""The contract of all backends: their ops, what is checked, and which buffers the results lie in.

A public method stands here once: it checks what memory may hold (ids, ranges), allocates the results, and calls the
backend's kernel, the method of the same name with an underscore before it. So backends can't differ in names, arguments
or checks; a kernel that a backend lacks is an error when the backend is made, never a silent detour.

Tables are [C, D], queries [B, D]; similarity, objective, side and score are the codes of registry.py. Results are
made by `allocate(name, shape, dtype)`: new memory, or the workspace of a training step. With check=False nothing waits
for the device: then the caller has checked, or the assert_ methods do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kgfast.backends.operands import (
    Allocate,
    CandidateInputs,
    Constants,
    Extra,
    Ranges,
    RowPass,
    RowUpdate,
    Sampled,
    SampledInputs,
    Workspace,
    adam_rate,
)
from kgfast.core import checks
from kgfast.core.sums import sum_dtype
from kgfast.errors import KgfastError
from kgfast.reference.scores import adjoint
from kgfast.registry import Memory, Regularizer, Score, Side, Update, score_at


class Backend(ABC):
    """One way to run the ops. Kernels of a subclass are named by an underscore; everything else is the contract."""

    name: ClassVar[str]
    shares_launches: ClassVar[bool] = False  # whether `task_losses` puts several tasks into one launch

    # ---- where it runs ---------------------------------------------------------------------------------------

    def why_not(self, device: str | None) -> str | None:
        """None if it can serve tensors on a `device` type (None: any device here), else the reason."""
        raise NotImplementedError

    def workspace(self, device: torch.device) -> Workspace:
        return Workspace(device)

    def allocator(self, allocate: Allocate | None, like: Tensor) -> Allocate:
        """`allocate`, or one that makes new memory beside `like`."""
        return allocate or (lambda name, shape, dtype: torch.empty(shape, dtype=dtype, device=like.device))

    def bf16_reason(self) -> str | None:
        """None if products of float32 tables can round their operands to bfloat16, else why not."""
        return "on a GPU the tables' own dtype says it: make the model with dtype=torch.bfloat16"

    def use_huge_pages(self, tensor: Tensor) -> bool:
        """Puts a large tensor's memory on huge pages where that can be and helps; its contents and address stay."""
        return False

    def check_table(self, name: str, table: Tensor) -> None:  # noqa: B027  most read all that checks.table lets through
        """KgfastError for a table that this backend's kernels for rows can't read."""

    # ---- checks that a step makes ----------------------------------------------------------------------------

    @abstractmethod
    def assert_triples(self, triples: Tensor, entities: int, relations: int, inverse: int) -> Tensor:
        """The columns of a step's triples, whose ids are checked; a GPU's may not wait for the answer. int64 [5, B]:
        heads, tails, heads, relations, relations + inverse, so that two sides are one behind the other."""

    @abstractmethod
    def assert_weights(self, weights: Tensor, count: int, like: torch.dtype) -> Tensor: ...

    @abstractmethod
    def assert_answers(self, starts: Tensor, ends: Tensor, ids: Tensor, targets: Tensor):
        """`answers` for a step, whose targets are among their known answers."""

    # ---- queries ---------------------------------------------------------------------------------------------

    def queries(self, entities, relations, triples, score: int, side: int, *, allocate=None, check=True) -> Tensor:
        """[B, D]: tail_query(head, relation) or head_query(tail, relation) of every triple."""
        if check:
            checks.triple_range(triples, len(entities), len(relations))
        self.check_table("entities", entities)
        spec, side = score_at(score), Side(side)
        out = self.allocator(allocate, entities)("query", (len(triples), entities.shape[1]), entities.dtype)
        if spec.operator is None:
            out.copy_(spec.query(side)(entities[triples[:, side.anchor]], relations[triples[:, 1]]))
        else:
            self._queries(entities, relations, triples, spec, side, out)
        return out

    def queries_adjoint(self, d_query, entities, relations, triples, score: int, side: int, *, allocate=None):
        """Gradients of (the known entities' rows [B, D], the relations' rows [B, W]) from that of the queries."""
        self.check_table("entities", entities)
        spec, side = score_at(score), Side(side)
        allocate, wide = self.allocator(allocate, entities), sum_dtype(entities.dtype)
        d_anchor = allocate("d_anchor", (len(triples), entities.shape[1]), wide)
        d_relation = allocate("d_relation", (len(triples), relations.shape[1]), wide)
        if spec.operator is None:
            known, relation = entities[triples[:, side.anchor]], relations[triples[:, 1]]
            for out, found in zip(
                (d_anchor, d_relation), adjoint(d_query, known, relation, spec.query(side)), strict=True
            ):
                out.copy_(found)
        else:
            self._queries_adjoint(d_query, entities, relations, triples, spec, side, d_anchor, d_relation)
        return d_anchor, d_relation

    @abstractmethod
    def _queries(self, entities, relations, triples, score: Score, side: Side, out) -> None: ...

    @abstractmethod
    def _queries_adjoint(
        self, d_query, entities, relations, triples, score: Score, side: Side, d_anchor, d_relation
    ) -> None: ...

    # ---- scores of pairs and of all rows ---------------------------------------------------------------------

    def pair_scores(self, query, table, ids, similarity: int) -> Tensor:
        """[B, K]: scores of each query against the rows `ids` [B, K]."""
        checks.id_range("candidates", ids, len(table))
        self.check_table("table", table)
        scores = torch.empty(ids.shape, dtype=sum_dtype(table.dtype), device=query.device)
        self._pair_scores(query, table, ids, similarity, scores)
        return scores

    def pair_query_gradient(self, g, scores, query, table, ids, similarity: int) -> tuple[Tensor, Tensor]:
        """(coefficients of the pairs [B, K], gradient of the queries [B, D]) from g = dL/dscore [B, K]."""
        self.check_table("table", table)
        coefficients = torch.empty_like(scores)
        d_query = torch.zeros(query.shape, dtype=scores.dtype, device=query.device)
        self._pair_query_gradient(g, scores, query, table, ids, similarity, coefficients, d_query)
        return coefficients, d_query

    @abstractmethod
    def _pair_scores(self, query, table, ids, similarity: int, scores) -> None: ...

    @abstractmethod
    def _pair_query_gradient(self, g, scores, query, table, ids, similarity: int, coefficients, d_query) -> None: ...

    @abstractmethod
    def all_scores(self, query, table, similarity: int) -> Tensor:
        """[B, C]: scores of each query against every row."""

    @abstractmethod
    def all_scores_gradient(self, g, scores, query, table, similarity: int) -> tuple[Tensor, Tensor]:
        """Gradients of (queries, table) from g = dL/dscore [B, C]."""

    # ---- losses ----------------------------------------------------------------------------------------------

    def sampled_loss(
        self, query, table, targets, negatives, starts, ends, known, weights, similarity: int, objective: int,
        margin: float, temperature: float, gradient: bool, *, allocate=None, check=True,
        extra_ids: Sequence[Tensor] | None = None, update: RowUpdate | None = None,
    ) -> Sampled:  # fmt: skip
        """Losses of the targets against `negatives`: ids [B, N], or [G, N] shared; -1, the target and known answers are
        masked. Without gradient only the losses are filled.

        A step names the ids of the extra rows that its row pass will get, and their update: then a backend may sort the
        ids here, and update rows that occur once while it reads them.
        """
        if check:
            checks.id_range("negatives", negatives, len(table), lowest=-1)
            checks.csr_range("known", starts, ends, known, len(table))
        self.check_table("table", table)
        (batch, dim), (groups, count) = query.shape, negatives.shape
        allocate, wide = self.allocator(allocate, query), sum_dtype(table.dtype)
        width = 1 + count if groups == batch else 1
        lists = (groups, count) if gradient and groups != batch else (0, 0)
        out = Sampled(
            losses=allocate("losses", (batch,), wide),
            d_query=allocate("d_query", (batch if gradient else 0, dim), wide),
            pairs=allocate("ids", (batch, width), torch.int64),
            coefficients=allocate("coefficients", (batch, width), wide),
            d_negatives=allocate("d_negatives", (*lists, dim), wide),
        )
        inputs = SampledInputs(query, table, targets, negatives, starts, ends, known, weights)
        options = (similarity, objective, margin, temperature, gradient)
        return out._replace(pairs=self._sampled_loss(inputs, options, out, allocate, extra_ids, update))

    @abstractmethod
    def _sampled_loss(self, inputs, options, out: Sampled, allocate: Allocate, extra_ids, update):
        """Fills `out` and returns its pairs."""

    def candidate_loss(
        self, query, table, bias, starts, ends, answers, weights, similarity: int, objective: int, smoothing: float,
        gradient: bool, memory: int = Memory.FAST, *, known: Ranges | None = None, allocate=None, check=True,
        bf16=False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """(losses [B], weighted; d_query, d_table [C, D], d_bias [C], empty without gradient) of the answers against
        all rows. Rows of weight 0 cost nothing. bf16: operands of dot products are rounded to bfloat16, sums stay
        float32; KgfastError where `bf16_reason` has one. known: rows that do not compete, unless they are answers.
        memory: what a GPU keeps of the scores; the CPU's kernels keep little in any case."""
        if bf16 and self.bf16_reason():
            raise KgfastError(f"bf16=True can't serve: {self.bf16_reason()}")
        if check:
            checks.csr_range("targets", starts, ends, answers, len(table))
            if known is not None:
                checks.csr_range("known", *known, len(table))
        inputs = CandidateInputs(query, table, bias, starts, ends, answers, weights)
        options = similarity, objective, smoothing, gradient
        return self._candidate_loss(inputs, options, known, allocate, bf16=bf16, memory=Memory(memory), wait=check)

    @abstractmethod
    def _candidate_loss(
        self, inputs, options, known: Ranges | None, allocate: Allocate | None, *, bf16: bool, memory: Memory,
        wait: bool,
    ):  # fmt: skip
        """wait: what lies on the device may be read back."""

    @abstractmethod
    def answers(self, starts, ends, ids, targets) -> tuple[Tensor, Tensor, Tensor]:
        """CSR of the known answers of each query and its target: (starts, ends, ids), ids ascending within a query."""

    def task_losses(self, tasks: Sequence[tuple]):
        """(losses [T], what `task_gradients` takes) of several tasks in one launch; a task is the arguments of
        `candidate_loss` up to the weights, objective, smoothing and known, for dot products, all of one dtype."""
        raise NotImplementedError

    def task_gradients(self, group, g: Tensor):
        """(d_query, d_table, d_bias) of every task from dL/dloss [T]."""
        raise NotImplementedError

    # ---- the pass over touched rows --------------------------------------------------------------------------

    def row_update(
        self, rule: Update, rows: Tensor, states: tuple[Tensor, ...] = (), *, lr=0.0, eps=0.0, beta1=0.0, beta2=0.0,
        step=0, last: RowUpdate | None = None,
    ) -> RowUpdate:  # fmt: skip
        """Where a row pass puts its gradients. last: what this returned the step before; its memory is used again."""
        rate = adam_rate(lr, beta1, beta2, step, sum_dtype(rows.dtype)) if rule is Update.ADAM else 0.0
        return self._row_update(rule, rows, states, Constants(lr, eps, beta1, beta2, rate, step), last)

    @abstractmethod
    def _row_update(self, rule: Update, rows: Tensor, states: tuple, constants: Constants, last) -> RowUpdate: ...

    @abstractmethod
    def reduce_rows(
        self, query, table, pairs, coefficients, extras: Sequence[Extra], similarity: int, update: RowUpdate, *,
        allocate=None,
    ) -> None:  # fmt: skip
        """Each row named by `pairs` (as `sampled_loss` left them, or ids [B, K]) or by `extras` collects its gradient
        and is updated, once, whatever the number of threads."""

    def reduce_tables(self, passes: Sequence[RowPass]) -> None:
        """`reduce_rows` of several tables; a GPU sorts their ids together."""
        for one in passes:
            self.reduce_rows(*one)

    def table_gradient(self, query, table, ids, coefficients, extra_ids, extra_rows, similarity: int) -> Tensor:
        """Gradient of the whole table [C, D] from pairs and ready rows."""
        d_table = torch.zeros_like(table)
        update = self.row_update(Update.DENSE, d_table)
        self.reduce_rows(query, table, ids, coefficients, [(extra_ids, extra_rows)], similarity, update)
        return d_table

    @abstractmethod
    def table_gradient_rows(self, query, table, ids, coefficients, extra_ids, extra_rows, similarity: int):
        """(distinct ids, their gradient rows): as many as there are, so this waits for the device."""

    @abstractmethod
    def update_all_rows(self, gradients, update: RowUpdate) -> None:
        """Updates every row by its gradient [C, D]."""

    def add_regularizer(self, kind: Regularizer, parts: int, weight: float, table, ids, gradients) -> None:
        """gradients[m] += d/dx of weight * (|x|^3 | x^2) at x = table[ids[m]]; parts 2: rows are complex numbers."""
        if kind is not Regularizer.NONE:
            self._add_regularizer(kind, parts, weight, table, ids, gradients)

    @abstractmethod
    def _add_regularizer(self, kind: Regularizer, parts: int, weight: float, table, ids, gradients) -> None: ...

    # ---- draws, ranks ----------------------------------------------------------------------------------------

    def sample_negatives(
        self, lists: int, count: int, entities: int, side: int, seed: int, step, weights, starts, ends,
        known, *, allocate=None, check=True,
    ) -> Tensor:  # fmt: skip
        """ids [lists, count] by Philox from (seed, step, row, column). step: a number, or an int64 tensor [1] on the
        device, which a captured graph reads each time. weights: what `reference.draw_table` makes; empty: none."""
        if check:
            checks.csr_range("known", starts, ends, known, entities)
        ids = self.allocator(allocate, known)("negatives", (lists, count), torch.int64)
        if ids.numel():
            self._sample_negatives(ids, entities, Side(side), seed, step, weights, starts, ends, known)
        return ids

    @abstractmethod
    def _sample_negatives(
        self, ids, entities: int, side: Side, seed: int, step, weights, starts, ends, known
    ) -> None: ...

    @abstractmethod
    def dropout_mask(self, shape, rate: float, seed: int, index, dtype, device) -> Tensor:
        """0, or 1 / (1 - rate), of step `index` (a number, or where the device reads it)."""

    def rank(self, query, table, targets, starts, ends, known, similarity: int) -> tuple[Tensor, Tensor, Tensor]:
        """(rows with a greater score, others with the same score, the target's score), known answers left out."""
        checks.id_range("targets", targets, len(table))
        checks.csr_range("known", starts, ends, known, len(table))
        greater, equal, scores = self._rank(query, table, targets, starts, ends, known, similarity)
        checks.no_nan(scores)
        return greater, equal, scores

    def topk(self, query, table, starts, ends, excluded, k: int, similarity: int) -> tuple[Tensor, Tensor]:
        """(scores, ids) [B, k] of the best rows that are not excluded, best first, ties by lower id."""
        checks.csr_range("exclude", starts, ends, excluded, len(table))
        scores, ids = self._topk(query, table, starts, ends, excluded, k, similarity)
        checks.no_nan(scores)
        return scores, ids

    @abstractmethod
    def _rank(self, query, table, targets, starts, ends, known, similarity: int): ...

    @abstractmethod
    def _topk(self, query, table, starts, ends, excluded, k: int, similarity: int): ...
