"""Losses over all candidates, and their gradients, without a [B, C] matrix of scores.

Forward: `partial_log_sum_exp` keeps of each tile of scores (largest, sum of exponentials, sum of labels times scores)
per row, and `finish_losses` joins those, a panel of columns at a time, into a running log-sum-exp. Backward, a panel at
a time again: `candidate_score_gradients` makes the scores once more and turns them into dL/dscore, in a bounded
workspace; `row_gradients` (gradients.py) multiplies those with the table (query gradient, added up over the panels) and
with the queries (the panel's part of the table gradient, written once). No atomics: results do not depend on the order
in which programs run. Rows that count are listed first (`compact`), others cost nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kgfast.core.sums import sum_dtype
from kgfast.registry import Objective

from .active_rows import gather_active, list_active
from .candidate_tiles import join_losses, known_scales, log_sum_exp_tile, score_gradient_tile
from .configurations import arithmetic, bits, tiles
from .gradients import bias_gradient, row_gradients
from .launching import (
    ceil_div,
    coordinates,
    fresh,
    gradient_blocks,
    gradient_operand,
    is_product,
    panels,
    score_blocks,
    score_operand,
    transposes,
    view_of,
    workspace_bytes,
)
from .tiles import number, tile_of

# ---- kernels: which tile is whose ----------------------------------------------------------------------------


@triton.jit(do_not_specialize=["panel_begin", "panel_end", "batch"])
def partial_log_sum_exp(
    query_ptr, query_stride_row, query_stride_dim,  # [B, D]: the active rows
    table_ptr, table_stride_row, table_stride_dim,  # [.., D]: candidates [panel_begin, panel_end)
    bias_ptr,  # [C]
    starts_ptr, ends_ptr, answer_ids_ptr,  # [B], [B], [..]
    known_starts_ptr, known_ends_ptr, known_ids_ptr, known_scale_ptr,  # [B], [B], [..], [B]
    active_rows_ptr, num_active_ptr,  # [B], [1]
    max_ptr, sum_ptr, label_ptr,  # [1 + tiles, B]
    panel_begin, panel_end, batch, dim, answer_label_bits: tl.int64, smooth_label_bits: tl.int64,
    HAS_BIAS: tl.constexpr, HAS_KNOWN: tl.constexpr, OBJECTIVE: tl.constexpr, SMOOTH: tl.constexpr,
    SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row_tile, tile = tile_of(tl.program_id(0), tl.cdiv(batch, BLOCK_B), tl.cdiv(panel_end - panel_begin, BLOCK_C))
    num_active = tl.load(num_active_ptr)
    if row_tile * BLOCK_B < num_active:
        part = (tile + 1) * batch
        log_sum_exp_tile(
            query_ptr=query_ptr, query_stride_row=query_stride_row, query_stride_dim=query_stride_dim,
            table_ptr=table_ptr, table_stride_row=table_stride_row, table_stride_dim=table_stride_dim,
            bias_ptr=bias_ptr, starts_ptr=starts_ptr, ends_ptr=ends_ptr, answer_ids_ptr=answer_ids_ptr,
            known_starts_ptr=known_starts_ptr, known_ends_ptr=known_ends_ptr, known_ids_ptr=known_ids_ptr,
            known_scale_ptr=known_scale_ptr, active_rows_ptr=active_rows_ptr, num_active=num_active,
            max_ptr=max_ptr + part, sum_ptr=sum_ptr + part, label_ptr=label_ptr + part, row_tile=row_tile,
            panel_begin=panel_begin, offset=tile * BLOCK_C, panel_end=panel_end, dim=dim,
            answer_label=number(answer_label_bits, ACC), smooth_label=number(smooth_label_bits, ACC),
            HAS_BIAS=HAS_BIAS, HAS_KNOWN=HAS_KNOWN, OBJECTIVE=OBJECTIVE, SMOOTH=SMOOTH, SIMILARITY=SIMILARITY, ACC=ACC,
            INPUT_PRECISION=INPUT_PRECISION, BLOCK_B=BLOCK_B, BLOCK_C=BLOCK_C, BLOCK_D=BLOCK_D,
        )  # fmt: skip


@triton.jit(do_not_specialize=["num_tiles", "batch", "count"])
def finish_losses(
    weights_ptr,  # [B]
    known_scale_ptr,  # [B]
    active_rows_ptr, num_active_ptr,  # [B], [1]
    max_ptr, sum_ptr, label_ptr,  # [1 + tiles, B]
    losses_ptr,  # [B]
    log_sum_exp_ptr,  # [2, B]
    num_tiles, batch, count, BEGIN: tl.constexpr, LAST: tl.constexpr, HAS_KNOWN: tl.constexpr,
    OBJECTIVE: tl.constexpr, ACC: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    join_losses(
        weights_ptr=weights_ptr, known_scale_ptr=known_scale_ptr, active_rows_ptr=active_rows_ptr,
        num_active=tl.load(num_active_ptr), max_ptr=max_ptr, sum_ptr=sum_ptr, label_ptr=label_ptr,
        losses_ptr=losses_ptr, log_sum_exp_ptr=log_sum_exp_ptr, block=tl.program_id(0), num_tiles=num_tiles,
        batch=batch, count=count, BEGIN=BEGIN, LAST=LAST, HAS_KNOWN=HAS_KNOWN, OBJECTIVE=OBJECTIVE, ACC=ACC,
        BLOCK_B=BLOCK_B,
    )  # fmt: skip


@triton.jit(do_not_specialize=["panel_begin", "panel_end", "batch"])
def candidate_score_gradients(
    query_ptr, query_stride_row, query_stride_dim,  # [B, D]: the active rows
    table_ptr, table_stride_row, table_stride_dim,  # [.., D]: candidates [panel_begin, panel_end)
    bias_ptr,  # [C]
    starts_ptr, ends_ptr, answer_ids_ptr,  # [B], [B], [..]
    known_starts_ptr, known_ends_ptr, known_ids_ptr, known_scale_ptr,  # [B], [B], [..], [B]
    active_rows_ptr, num_active_ptr,  # [B], [1]
    weights_ptr,  # [B]
    max_weight_ptr,  # [1]
    log_sum_exp_ptr,  # [2, B]
    grad_scores_ptr, grad_stride_row,  # [B, ..]
    panel_begin, panel_end, batch, dim, answer_label_bits: tl.int64, smooth_label_bits: tl.int64,
    HAS_BIAS: tl.constexpr, HAS_KNOWN: tl.constexpr, OBJECTIVE: tl.constexpr,
    SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row_tile, tile = tile_of(tl.program_id(0), tl.cdiv(batch, BLOCK_B), tl.cdiv(panel_end - panel_begin, BLOCK_C))
    num_active = tl.load(num_active_ptr)
    if row_tile * BLOCK_B < num_active:
        score_gradient_tile(
            query_ptr=query_ptr, query_stride_row=query_stride_row, query_stride_dim=query_stride_dim,
            table_ptr=table_ptr, table_stride_row=table_stride_row, table_stride_dim=table_stride_dim,
            bias_ptr=bias_ptr, starts_ptr=starts_ptr, ends_ptr=ends_ptr, answer_ids_ptr=answer_ids_ptr,
            known_starts_ptr=known_starts_ptr, known_ends_ptr=known_ends_ptr, known_ids_ptr=known_ids_ptr,
            known_scale_ptr=known_scale_ptr, active_rows_ptr=active_rows_ptr, num_active=num_active,
            weights_ptr=weights_ptr, max_weight=tl.load(max_weight_ptr), log_sum_exp_ptr=log_sum_exp_ptr,
            grad_scores_ptr=grad_scores_ptr, grad_stride_row=grad_stride_row, row_tile=row_tile,
            panel_begin=panel_begin, offset=tile * BLOCK_C, panel_end=panel_end, batch=batch, dim=dim,
            answer_label=number(answer_label_bits, ACC), smooth_label=number(smooth_label_bits, ACC),
            HAS_BIAS=HAS_BIAS, HAS_KNOWN=HAS_KNOWN, OBJECTIVE=OBJECTIVE, SIMILARITY=SIMILARITY, ACC=ACC,
            INPUT_PRECISION=INPUT_PRECISION, BLOCK_B=BLOCK_B, BLOCK_C=BLOCK_C, BLOCK_D=BLOCK_D,
        )  # fmt: skip


# ---- launches ------------------------------------------------------------------------------------------------


def known_operands(known, starts, ends, answers, count: int, allocate, acc) -> dict:
    """The arguments of known candidates, (starts, ends, ids) or None."""
    if known is None:
        return dict(known_starts_ptr=None, known_ends_ptr=None, known_ids_ptr=None, known_scale_ptr=None)
    scale = allocate("known_scale", (len(starts),), acc)
    lists = dict(zip(("known_starts_ptr", "known_ends_ptr", "known_ids_ptr"), known, strict=True))
    known_scales[(len(starts),)](
        starts_ptr=starts,
        ends_ptr=ends,
        answer_ids_ptr=answers,
        **lists,
        known_scale_ptr=scale,
        count=count,
        BLOCK_N=128,
        num_warps=1,
    )
    return lists | dict(known_scale_ptr=scale)


def mean_factor(objective: int, count: int) -> float:
    """What the kernels' dL/dscore are multiplied by: bce is a mean over the candidates."""
    return 1.0 if objective == Objective.SOFTMAX else 1.0 / count


class CandidateLoss:
    """The launches of one loss, and what they share: operands, panels of columns, a workspace.

    The workspace holds a panel's partial sums going forward, its dL/dscore going backward.
    """

    def __init__(self, query, table, bias, starts, ends, answers, weights, similarity: int, objective: int,
                 smoothing: float, known, allocate, active_query):  # fmt: skip
        self.query, self.table, self.bias, self.weights, self.active_query = query, table, bias, weights, active_query
        self.similarity, self.objective, self.allocate = similarity, objective, allocate
        (self.batch, self.dim), self.count, self.dtype = query.shape, len(table), query.dtype
        self.acc = sum_dtype(self.dtype)
        self.kind = arithmetic(self.dtype, similarity)
        self.max_weight = allocate("max_weight", (1,), self.acc)
        self.log_sum_exp = allocate("log_sum_exp", (2, self.batch), self.acc)
        self.active = dict(
            active_rows_ptr=allocate("active_rows", (self.batch,), torch.int32).zero_(),
            num_active_ptr=allocate("num_active", (1,), torch.int32),
        )
        list_active(weights, starts, ends, objective, self.max_weight, **self.active)
        gather_active(query, *self.active.values(), active_query)
        self.known = known_operands(known, starts, ends, answers, self.count, allocate, self.acc)
        self.sizes = tiles("scores", self.dtype, similarity, query.device, self.batch)
        self.tile_operands = dict(
            **score_operand("query", active_query, similarity, self.sizes.rows),
            bias_ptr=bias,
            starts_ptr=starts,
            ends_ptr=ends,
            answer_ids_ptr=answers,
            **self.known,
            **self.active,
            batch=self.batch,
            dim=self.dim,
            answer_label_bits=bits(1.0 - smoothing),
            smooth_label_bits=bits(smoothing / self.count),
            HAS_BIAS=len(bias) > 0,
            HAS_KNOWN=known is not None,
            OBJECTIVE=int(objective),
            **self.kind,
            **score_blocks(self.sizes),
        )

    def plan(self, gradient: bool) -> None:
        """Panels of columns that fit the workspace, which is made here."""
        batch, columns, item = self.batch, self.sizes.columns, self.dtype.itemsize
        product = is_product(self.similarity)
        budget = workspace_bytes(batch, self.count, self.dim)
        each = 3 * batch * self.acc.itemsize / columns + (0 if product else self.dim * item)
        self.forward_panels = panels(self.count, each, budget, columns)
        self.num_sums = 1 + ceil_div(self.forward_panels[0][1], columns)
        self.grad_dtype = self.dtype if product else self.acc
        self.copies = transposes(self.table, self.similarity)
        each = batch * self.grad_dtype.itemsize + (self.dim * item if self.copies or not product else 0)
        self.backward_panels = panels(self.count, each, budget, max(columns, 16)) if gradient else []
        self.grad_width = ceil_div(self.backward_panels[0][1], 16) * 16 if gradient else 0
        forward = 3 * self.num_sums * batch * self.acc.itemsize
        backward = batch * self.grad_width * self.grad_dtype.itemsize
        self.workspace = self.allocate("workspace", (max(forward, backward),), torch.uint8)

    def table_operand(self, begin: int, end: int) -> dict:
        panel = score_operand("table", self.table[begin:end], self.similarity, self.sizes.columns)
        return panel | dict(panel_begin=begin, panel_end=end)

    def tile_grid(self, columns: int) -> tuple[int]:
        return (ceil_div(self.batch, self.sizes.rows) * ceil_div(columns, self.sizes.columns),)

    def forward(self, losses, smooth: bool) -> None:
        """Fills losses [B] and the log-sum-exps."""
        sums = view_of(self.workspace, (3 * self.num_sums, self.batch), self.acc).split(self.num_sums)
        partial_sums = dict(zip(("max_ptr", "sum_ptr", "label_ptr"), sums, strict=True))
        for begin, end in self.forward_panels:
            partial_log_sum_exp[self.tile_grid(end - begin)](
                **self.tile_operands, **self.table_operand(begin, end), **partial_sums, SMOOTH=smooth
            )
            finish_losses[(ceil_div(self.batch, 32),)](
                weights_ptr=self.weights,
                known_scale_ptr=self.known["known_scale_ptr"],
                **self.active,
                **partial_sums,
                losses_ptr=losses,
                log_sum_exp_ptr=self.log_sum_exp,
                num_tiles=ceil_div(end - begin, self.sizes.columns),
                batch=self.batch,
                count=self.count,
                BEGIN=int(begin == 0),
                LAST=end == self.count,
                HAS_KNOWN=self.tile_operands["HAS_KNOWN"],
                OBJECTIVE=int(self.objective),
                ACC=self.kind["ACC"],
                BLOCK_B=32,
                num_warps=1,
            )

    def multiply(self, x, y: dict, counts, strides, sums, out, **flags) -> None:
        """The gradient of rows x from the panel's dL/dscore: counts and strides are those of x and y."""
        length = coordinates(self.dim, self.similarity)
        tile = tiles("gradients", self.dtype, self.similarity, x.device, counts[0])
        row_gradients[(ceil_div(counts[0], tile.rows) * ceil_div(length, tile.columns),)](
            grad_ptr=self.grad_scores,
            grad_stride_x=strides[0],
            grad_stride_y=strides[1],
            x_ptr=x,
            x_count=counts[0],
            **y,
            y_count=counts[1],
            **self.active,
            **self.scale,
            sums_ptr=sums,
            out_ptr=out,
            dim=self.dim,
            **flags,
            Y_TRANSPOSED=self.copies,
            FAR=False,
            **self.kind,
            **gradient_blocks(tile),
        )

    def backward(self, grad_query, grad_table, grad_bias) -> None:
        """Fills the gradients, panel by panel; grad_query may be the memory of the active queries, read until then."""
        batch, width, only = self.batch, self.grad_width, len(self.backward_panels) == 1
        self.grad_scores = view_of(self.workspace, (batch, width), self.grad_dtype)
        factor = mean_factor(self.objective, self.count)
        self.scale = dict(max_weight_ptr=self.max_weight, factor_bits=bits(factor))
        sums = grad_query
        if self.acc != self.dtype and not only:
            sums = self.allocate("grad_query_sums", (batch, self.dim), self.acc).zero_()
        queries = gradient_operand("y", self.active_query, self.similarity)
        for begin, end in self.backward_panels:
            panel, columns, out = self.table[begin:end], end - begin, grad_table[begin:end]
            candidate_score_gradients[self.tile_grid(columns)](
                **self.tile_operands,
                **self.table_operand(begin, end),
                weights_ptr=self.weights,
                max_weight_ptr=self.max_weight,
                log_sum_exp_ptr=self.log_sum_exp,
                grad_scores_ptr=self.grad_scores,
                grad_stride_row=width,
            )
            of_table = dict(ADD=False, LAST=True, X_ACTIVE=False, Y_ACTIVE=True)
            self.multiply(panel, queries, (columns, batch), (1, width), out, out, **of_table)
            if only and grad_query is self.active_query:
                grad_query.zero_()  # nobody reads the active queries any more
            of_query = dict(ADD=begin > 0, LAST=only, X_ACTIVE=True, Y_ACTIVE=False)
            rows = gradient_operand("y", panel, self.similarity)
            self.multiply(self.active_query, rows, (batch, columns), (width, 1), sums, grad_query, **of_query)
            if len(self.bias):
                bias_gradient[(ceil_div(columns, 128),)](
                    grad_ptr=self.grad_scores,
                    grad_stride_row=width,
                    num_active_ptr=self.active["num_active_ptr"],
                    **self.scale,
                    out_ptr=grad_bias[begin:end],
                    columns=columns,
                    ACC=self.kind["ACC"],
                    BLOCK_B=32,
                    BLOCK_C=128,
                )
        if not only:
            scale = self.max_weight if self.objective == Objective.SOFTMAX else self.max_weight / self.count
            torch.mul(sums, scale, out=grad_query)


def candidate_loss(query, table, bias, starts, ends, answers, weights, similarity: int, objective: int,
                   smoothing: float, gradient: bool, allocate=None, known=None):  # fmt: skip
    """losses [B] (weighted) and, with gradient, dL/dquery [B, D], dL/dtable [C, D], dL/dbias [C]. Rows of weight 0 cost
    nothing. known: (starts, ends, ids) of candidates that do not compete unless they are answers, as if they were not
    in the table: no part in any sum, gradient 0. ids ascend within a row, once each, and are not checked.

    losses have the dtype of the sums: float32 for 16-bit tables. Memory: the gradients, `workspace_bytes`, active
    queries [B, D] (16-bit dots: in the memory of the query gradient), float32 sums [B, D] where the query gradient is
    16-bit and there are several panels; distances, and float32 dots on Hopper: transposed queries and a panel of
    transposed rows. Reads nothing back from the device.
    """
    allocate = allocate or fresh(query.device)
    (batch, dim), count, dtype = query.shape, len(table), query.dtype
    losses = allocate("losses", (batch,), sum_dtype(dtype)).zero_()
    grad_query = allocate("d_query", (batch if gradient else 0, dim), dtype).zero_()
    grad_table = allocate("d_table", (count if gradient else 0, dim), dtype)
    grad_bias = allocate("d_bias", (len(bias) if gradient else 0,), dtype)
    if batch == 0 or count == 0:
        return losses, grad_query, grad_table.zero_(), grad_bias.zero_()
    spare = (
        gradient and is_product(similarity) and sum_dtype(dtype) != dtype
    )  # the query gradient is written last there
    active_query = grad_query if spare else allocate("active_query", (batch, dim), dtype)
    loss = CandidateLoss(query, table, bias, starts, ends, answers, weights, similarity, objective, smoothing, known,
                         allocate, active_query)  # fmt: skip
    loss.plan(gradient)
    loss.forward(losses, smooth=smoothing != 0)
    if gradient:
        loss.backward(grad_query, grad_table, grad_bias)
    return losses, grad_query, grad_table, grad_bias
