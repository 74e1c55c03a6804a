"""Scores of all candidates as a matrix, for who asks for one, and their gradients."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .configurations import WORKSPACE_BYTES, arithmetic, bits, tiles
from .gradients import row_gradients
from .launching import (
    ceil_div,
    coordinates,
    gradient_blocks,
    gradient_operand,
    is_far,
    is_product,
    panels,
    score_blocks,
    score_operand,
    transposes,
)
from .scores import SimilarityFormulae
from .tiles import panel_scores


@triton.jit(do_not_specialize=["batch", "count"])
def score_matrix(
    query_ptr,  # [B, D]
    query_stride_row, query_stride_dim,
    table_ptr,  # [count, D]
    table_stride_row, table_stride_dim,
    out_ptr,  # [B, count]
    out_stride_row, batch, count, dim, SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[b, c] = similarity(query[b], table[c])."""
    scores, row, first, width, _ = panel_scores(
        program=tl.program_id(0), query_ptr=query_ptr, query_stride_row=query_stride_row,
        query_stride_dim=query_stride_dim, table_ptr=table_ptr, table_stride_row=table_stride_row,
        table_stride_dim=table_stride_dim, batch=batch, count=count, dim=dim, SIMILARITY=SIMILARITY, ACC=ACC,
        INPUT_PRECISION=INPUT_PRECISION, BLOCK_B=BLOCK_B, BLOCK_C=BLOCK_C, BLOCK_D=BLOCK_D,
    )  # fmt: skip
    columns = tl.arange(0, BLOCK_C)
    out_ptrs = out_ptr + first + row[:, None].to(tl.int64) * out_stride_row + columns[None, :]
    inside = (row < batch)[:, None] & (columns < width)[None, :]
    tl.store(out_ptrs, scores.to(out_ptr.dtype.element_ty), mask=inside)


def all_scores(query, table, similarity: int):
    """scores [B, C], rounded once to the dtype of the queries. Memory: for distances 64 MiB of transposed copies."""
    (batch, dim), count = query.shape, len(table)
    out = torch.empty((batch, count), dtype=query.dtype, device=query.device)
    if batch == 0 or count == 0:
        return out
    sizes = tiles("scores", query.dtype, similarity, query.device, batch)
    queries = score_operand("query", query, similarity, sizes.rows)
    each = WORKSPACE_BYTES / (count + sizes.columns) if is_product(similarity) else dim * query.element_size()
    for begin, end in panels(count, each, WORKSPACE_BYTES, sizes.columns):
        score_matrix[(ceil_div(batch, sizes.rows) * ceil_div(end - begin, sizes.columns),)](
            **queries,
            **score_operand("table", table[begin:end], similarity, sizes.columns),
            out_ptr=out[:, begin:],
            out_stride_row=count,
            batch=batch,
            count=end - begin,
            dim=dim,
            **arithmetic(query.dtype, similarity),
            **score_blocks(sizes),
        )
    return out


def all_scores_gradient(grad_scores, scores, query, table, similarity: int):
    """(dL/dquery [B, D], dL/dtable [C, D]) of dL/dscores [B, C]. Memory: for L2 a matrix like it; on Hopper, for
    float32, transposed copies of queries and table."""
    (batch, dim), count = query.shape, len(table)
    grad_query, grad_table = torch.zeros_like(query), torch.zeros_like(table)
    if batch == 0 or count == 0:
        return grad_query, grad_table
    if SimilarityFormulae.find(similarity).DIVIDES_BY_SCORE:
        grad_scores = torch.where(scores < 0, grad_scores / scores, 0.0)
    grad_scores = grad_scores.contiguous()
    length = coordinates(dim, similarity)
    for x, y, (stride_x, stride_y), out in (
        (query, table, (count, 1), grad_query),
        (table, query, (1, count), grad_table),
    ):
        # at most 64 rows: addresses of a matrix without zeros around it need registers
        tile = tiles("gradients", query.dtype, similarity, query.device, min(len(x), 64))
        row_gradients[(ceil_div(len(x), tile.rows) * ceil_div(length, tile.columns),)](
            grad_ptr=grad_scores,
            grad_stride_x=stride_x,
            grad_stride_y=stride_y,
            x_ptr=x,
            x_count=len(x),
            **gradient_operand("y", y, similarity),
            y_count=len(y),
            active_rows_ptr=None,
            num_active_ptr=None,
            max_weight_ptr=None,
            factor_bits=bits(1.0),
            sums_ptr=out,
            out_ptr=out,
            dim=dim,
            ADD=False,
            LAST=True,
            X_ACTIVE=False,
            Y_ACTIVE=False,
            Y_TRANSPOSED=transposes(y, similarity),
            FAR=is_far(max(batch, count, dim)),
            **arithmetic(query.dtype, similarity),
            **gradient_blocks(tile),
        )
    return grad_query, grad_table
