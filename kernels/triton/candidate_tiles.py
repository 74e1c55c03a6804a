"""Losses over all candidates, tile by tile: what the kernels of one loss and of several tasks share.

    softmax: log sum_c e^(s_c) - sum_c y_c s_c     bce: mean_c of softplus(s_c) - y_c s_c

over the candidates c that compete; y = answer_label at each answer (softmax: divided by their number) + smooth_label
everywhere. All compete but the known ones that are no answers. With known ones, known_scale[b] is C / (number that
compete), as smooth_label and the mean are made for C. For several tasks OBJECTIVE is read on the device.
"""

import triton
import triton.language as tl

from kgfast.registry import Objective

from .sampling import contains
from .scores import coefficient
from .tiles import BEYOND, first_at_least, next_column, score_tile, subtract_at_ids, sum_at_ids

SOFTMAX = tl.constexpr(int(Objective.SOFTMAX))

# ---- softmax or binary cross-entropy -------------------------------------------------------------------------


@triton.jit
def label_of_answers(answer_label, start, stop, OBJECTIVE, ACC: tl.constexpr):
    """What each of a row's answers [start, stop) has beside smooth_label."""
    label = tl.zeros_like(start).to(ACC) + answer_label
    if OBJECTIVE == SOFTMAX:
        label = answer_label / (stop - start).to(ACC)
    return label


@triton.jit
def store_partial_sums(scores, inside, max_ptrs, sum_ptrs, kept, OBJECTIVE):
    """softmax: max_c s_c and sum_c e^(s_c - max). bce: sum_c softplus(s_c). -inf adds nothing to either sum."""
    if OBJECTIVE == SOFTMAX:
        scores = tl.where(inside, scores, float("-inf"))
        top = tl.max(scores, 1)
        tl.store(max_ptrs, top, mask=kept)
        scores = tl.exp(scores - tl.where(top == float("-inf"), 0.0, top)[:, None])  # no row of -inf alone is NaN
    else:
        scores = tl.where(inside, tl.maximum(scores, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(scores))), 0.0)
    tl.store(sum_ptrs, tl.sum(scores, 1), mask=kept)


@triton.jit
def join_partial_sums(top, sum, max_ptrs, other_sum, kept, OBJECTIVE):
    """(max, sum) of two parts."""
    if OBJECTIVE == SOFTMAX:
        other = tl.load(max_ptrs, mask=kept, other=float("-inf"))
        now = tl.maximum(top, other)
        shift = tl.where(now == float("-inf"), 0.0, now)
        sum = sum * tl.exp(top - shift) + other_sum * tl.exp(other - shift)
        top = now
    else:
        sum += other_sum
    return top, sum


@triton.jit
def score_gradient(scores, smooth_label, log_sum_exp_ptr, read_row, batch, OBJECTIVE):
    """dL/ds but for the labels of answers: softmax(s), or sigma(s), less smooth_label."""
    if OBJECTIVE == SOFTMAX:
        largest, log_sum = tl.load(log_sum_exp_ptr + read_row), tl.load(log_sum_exp_ptr + batch + read_row)
        value = tl.exp(scores - largest[:, None] - log_sum[:, None]) - smooth_label
    else:
        value = 1.0 / (1.0 + tl.exp(-scores)) - smooth_label
    return value


# ---- candidates that compete ----------------------------------------------------------------------------------


@triton.jit
def known_scales(
    starts_ptr, ends_ptr, answer_ids_ptr,  # [B], [B], [..]
    known_starts_ptr, known_ends_ptr, known_ids_ptr,  # [B], [B], [..]
    known_scale_ptr,  # [B]
    count, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """known_scale[b] = count / (count - number of known candidates that are no answers); one program a row."""
    b = tl.program_id(0)
    start, stop = tl.load(starts_ptr + b), tl.load(ends_ptr + b)
    known_start, known_stop = tl.load(known_starts_ptr + b), tl.load(known_ends_ptr + b)
    others = 0
    for first in range(0, tl.cdiv(known_stop - known_start, BLOCK_N).to(tl.int32)):
        at = known_start + first * BLOCK_N + tl.arange(0, BLOCK_N)
        live = at < known_stop
        id = tl.load(known_ids_ptr + at, mask=live, other=-1)
        others += tl.sum((live & (contains(answer_ids_ptr, start, stop, id) == 0)).to(tl.int32), 0)
    scale = count.to(known_scale_ptr.dtype.element_ty) / tl.maximum(count - others, 1)
    tl.store(known_scale_ptr + b, scale)


@triton.jit
def replace_at_known(
    tile, value,  # [BLOCK_B, BLOCK_C]
    columns, first, width,  # [BLOCK_C], the tile's first id, how many ids it has
    row,  # [BLOCK_B]
    known_starts_ptr, known_ends_ptr, known_ids_ptr,  # [B], [B], [..]
    start, stop, answer_ids_ptr,  # [BLOCK_B] each, [..]
):  # fmt: skip
    """The tile with `value` at each row's known candidates that are no answers."""
    there = tl.where(known_starts_ptr.to(tl.int64) != 0, row, -1) >= 0  # in a group some tasks have none
    known_start = tl.load(known_starts_ptr + row, mask=there, other=0)
    known_stop = tl.load(known_ends_ptr + row, mask=there, other=0)
    cursor = first_at_least(known_ids_ptr, known_start, known_stop, first)
    at = next_column(known_ids_ptr, cursor, known_stop, first)
    while tl.min(at, 0) < width:
        is_answer = contains(answer_ids_ptr, start, stop, at.to(tl.int64) + first)
        place = tl.where(is_answer, BEYOND, at)
        tile = tl.where(columns[None, :] == place[:, None], value, tile)
        cursor += (at < width).to(tl.int64)
        at = next_column(known_ids_ptr, cursor, known_stop, first)
    return tile


@triton.jit
def scale_of_known(known_scale_ptr, row):
    there = tl.where(known_scale_ptr.to(tl.int64) != 0, row, -1) >= 0
    return tl.load(known_scale_ptr + row, mask=there, other=1.0)


# ---- tiles ---------------------------------------------------------------------------------------------------


@triton.jit
def score_columns(
    query_ptr, query_stride_row, query_stride_dim,  # [B, D]: the active rows
    table_ptr, table_stride_row, table_stride_dim,  # [.., D]: candidates from panel_begin on
    bias_ptr,  # [C]
    row, num_active, panel_begin, offset, width, dim,
    HAS_BIAS: tl.constexpr, SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Scores of active rows `row` and the `width` candidates from panel_begin + offset on.

    Distances read transposed tables, padded to whole tiles.
    """
    columns = tl.arange(0, BLOCK_C)
    read_column = columns
    read_row = row.to(tl.int64)
    if SIMILARITY.value.MATRIX_PRODUCT:
        read_column = tl.minimum(columns, width - 1)
        read_row = tl.minimum(row, num_active - 1).to(tl.int64)
    sum = tl.zeros((BLOCK_B, BLOCK_C), ACC)
    if HAS_BIAS:  # only dot products have one; to begin with it costs no registers later
        there = tl.where(bias_ptr.to(tl.int64) != 0, width, 0)  # in a group some tasks have none
        bias = tl.load(bias_ptr + panel_begin + offset + columns, mask=columns < there, other=0.0)
        sum += bias.to(ACC)[None, :]
    table_ptr += tl.cast(offset, tl.int64) * table_stride_row
    return score_tile(
        sum=sum, query_ptr=query_ptr, query_stride_row=query_stride_row, query_stride_dim=query_stride_dim,
        rows=read_row, table_ptr=table_ptr, table_stride_row=table_stride_row, table_stride_dim=table_stride_dim,
        columns=read_column, dim=dim, SIMILARITY=SIMILARITY, ACC=ACC, INPUT_PRECISION=INPUT_PRECISION, BLOCK_D=BLOCK_D,
    )  # fmt: skip


@triton.jit
def log_sum_exp_tile(
    query_ptr, query_stride_row, query_stride_dim,  # [B, D]: the active rows
    table_ptr, table_stride_row, table_stride_dim,  # [.., D]: candidates [panel_begin, panel_end)
    bias_ptr,  # [C]
    starts_ptr, ends_ptr, answer_ids_ptr,  # [B], [B], [..]
    known_starts_ptr, known_ends_ptr, known_ids_ptr, known_scale_ptr,  # [B], [B], [..], [B]
    active_rows_ptr, num_active,
    max_ptr, sum_ptr, label_ptr,  # [B]: of this tile
    row_tile, panel_begin, offset, panel_end, dim, answer_label, smooth_label,
    HAS_BIAS: tl.constexpr, HAS_KNOWN: tl.constexpr, OBJECTIVE, SMOOTH: tl.constexpr,
    SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """What the loss needs of the candidates from panel_begin + offset on: per row the largest score and the sum of
    exponentials (bce: of softplus), and sum_c y_c s_c."""
    place = row_tile * BLOCK_B + tl.arange(0, BLOCK_B)
    row = tl.load(active_rows_ptr + tl.minimum(place, num_active - 1)).to(tl.int64)
    columns = tl.arange(0, BLOCK_C)
    first = panel_begin + offset
    width = tl.minimum(panel_end - first, BLOCK_C)
    scores = score_columns(
        query_ptr=query_ptr, query_stride_row=query_stride_row, query_stride_dim=query_stride_dim, table_ptr=table_ptr,
        table_stride_row=table_stride_row, table_stride_dim=table_stride_dim, bias_ptr=bias_ptr, row=place,
        num_active=num_active, panel_begin=panel_begin, offset=offset, width=width, dim=dim, HAS_BIAS=HAS_BIAS,
        SIMILARITY=SIMILARITY, ACC=ACC, INPUT_PRECISION=INPUT_PRECISION, BLOCK_B=BLOCK_B, BLOCK_C=BLOCK_C,
        BLOCK_D=BLOCK_D,
    )  # fmt: skip
    start, stop = tl.load(starts_ptr + row), tl.load(ends_ptr + row)
    label = label_of_answers(answer_label, start, stop, OBJECTIVE, ACC)
    cursor = first_at_least(answer_ids_ptr, start, stop, first)
    labelled, cursor = sum_at_ids(scores, columns, first, width, answer_ids_ptr, cursor, stop, ACC)
    labelled *= label
    inside = (columns < width)[None, :]
    if SMOOTH:
        if HAS_KNOWN:
            scores = replace_at_known(
                tile=scores, value=0.0, columns=columns, first=first, width=width, row=row,
                known_starts_ptr=known_starts_ptr, known_ends_ptr=known_ends_ptr, known_ids_ptr=known_ids_ptr,
                start=start, stop=stop, answer_ids_ptr=answer_ids_ptr,
            )  # fmt: skip
            smooth_label *= scale_of_known(known_scale_ptr, row)
        labelled += smooth_label * tl.sum(tl.where(inside, scores, 0.0), 1)
    if HAS_KNOWN:
        scores = replace_at_known(
            tile=scores, value=float("-inf"), columns=columns, first=first, width=width, row=row,
            known_starts_ptr=known_starts_ptr, known_ends_ptr=known_ends_ptr, known_ids_ptr=known_ids_ptr,
            start=start, stop=stop, answer_ids_ptr=answer_ids_ptr,
        )  # fmt: skip
    kept = place < num_active
    tl.store(label_ptr + place, labelled, mask=kept)
    store_partial_sums(scores, inside, max_ptr + place, sum_ptr + place, kept, OBJECTIVE)


@triton.jit
def join_losses(
    weights_ptr,  # [B]
    known_scale_ptr,  # [B]
    active_rows_ptr, num_active,
    max_ptr, sum_ptr, label_ptr,  # [1 + tiles, B]: of a panel's tiles from 1 on, at 0 of the panels before
    losses_ptr,  # [B]
    log_sum_exp_ptr,  # [2, B]: the largest score, and the logarithm of the sum relative to it
    block, num_tiles, batch, count, BEGIN, LAST, HAS_KNOWN: tl.constexpr, OBJECTIVE, ACC: tl.constexpr,
    BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Joins the sums of a panel's tiles and, where BEGIN is 0 and not 1, those at 0: at 0 again, or for the LAST panel
    as losses and log-sum-exps. Returns BLOCK_B rows' losses, 0 where there is no row."""
    place = block * BLOCK_B + tl.arange(0, BLOCK_B)
    kept = place < num_active
    row = tl.load(active_rows_ptr + place, mask=kept, other=0).to(tl.int64)
    top = tl.full((BLOCK_B,), float("-inf"), ACC)
    sum = tl.zeros((BLOCK_B,), ACC)
    labelled = tl.zeros((BLOCK_B,), ACC)
    for tile in range(BEGIN, num_tiles + 1):
        at = tile * batch + place
        part = tl.load(sum_ptr + at, mask=kept, other=0.0)
        labelled += tl.load(label_ptr + at, mask=kept, other=0.0)
        top, sum = join_partial_sums(top, sum, max_ptr + at, part, kept, OBJECTIVE)
    loss = tl.zeros((BLOCK_B,), ACC)
    if LAST:
        if OBJECTIVE == SOFTMAX:
            logarithm = tl.log(tl.where(kept, sum, 1.0))
            # apart: their sum would round off what large scores differ by
            tl.store(log_sum_exp_ptr + place, top, mask=kept)
            tl.store(log_sum_exp_ptr + batch + place, logarithm, mask=kept)
            loss = tl.where(kept, top, 0.0) - labelled + logarithm
        else:
            loss = (sum - labelled) / count
            if HAS_KNOWN:
                loss *= scale_of_known(known_scale_ptr, row)
        loss *= tl.load(weights_ptr + row, mask=kept, other=0.0).to(ACC)
        loss = tl.where(kept, loss, 0.0)
        tl.store(losses_ptr + row, loss, mask=kept)
    else:
        tl.store(max_ptr + place, top, mask=kept)
        tl.store(sum_ptr + place, sum, mask=kept)
        tl.store(label_ptr + place, labelled, mask=kept)
    return loss


@triton.jit
def score_gradient_tile(
    query_ptr, query_stride_row, query_stride_dim,  # [B, D]: the active rows
    table_ptr, table_stride_row, table_stride_dim,  # [.., D]: candidates [panel_begin, panel_end)
    bias_ptr,  # [C]
    starts_ptr, ends_ptr, answer_ids_ptr,  # [B], [B], [..]
    known_starts_ptr, known_ends_ptr, known_ids_ptr, known_scale_ptr,  # [B], [B], [..], [B]
    active_rows_ptr, num_active,
    weights_ptr,  # [B]
    max_weight,
    log_sum_exp_ptr,  # [2, B]
    grad_scores_ptr, grad_stride_row,  # [B, ..]: candidates [panel_begin, panel_end), then zeros
    row_tile, panel_begin, offset, panel_end, batch, dim, answer_label, smooth_label,
    HAS_BIAS: tl.constexpr, HAS_KNOWN: tl.constexpr, OBJECTIVE,
    SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dL/dscore (bce: times C) of the candidates from panel_begin + offset on, relative to the largest weight, for L2
    divided by the score. Relative, because 1/batch of a probability is no number of float16."""
    place = row_tile * BLOCK_B + tl.arange(0, BLOCK_B)
    row = tl.load(active_rows_ptr + tl.minimum(place, num_active - 1)).to(tl.int64)
    start, stop = tl.load(starts_ptr + row), tl.load(ends_ptr + row)
    label = label_of_answers(answer_label, start, stop, OBJECTIVE, ACC)
    columns = tl.arange(0, BLOCK_C)
    first = panel_begin + offset
    width = tl.minimum(panel_end - first, BLOCK_C)
    scores = score_columns(
        query_ptr=query_ptr, query_stride_row=query_stride_row, query_stride_dim=query_stride_dim, table_ptr=table_ptr,
        table_stride_row=table_stride_row, table_stride_dim=table_stride_dim, bias_ptr=bias_ptr, row=place,
        num_active=num_active, panel_begin=panel_begin, offset=offset, width=width, dim=dim, HAS_BIAS=HAS_BIAS,
        SIMILARITY=SIMILARITY, ACC=ACC, INPUT_PRECISION=INPUT_PRECISION, BLOCK_B=BLOCK_B, BLOCK_C=BLOCK_C,
        BLOCK_D=BLOCK_D,
    )  # fmt: skip
    if HAS_KNOWN:
        scale = scale_of_known(known_scale_ptr, row)
        smooth_label = (smooth_label * scale)[:, None]
    read_row = tl.minimum(place, num_active - 1)
    value = score_gradient(scores, smooth_label, log_sum_exp_ptr, read_row, batch, OBJECTIVE)
    cursor = first_at_least(answer_ids_ptr, start, stop, first)
    value = subtract_at_ids(value, label, columns, first, width, answer_ids_ptr, cursor, stop)
    weight = tl.load(weights_ptr + row).to(ACC) / max_weight
    if HAS_KNOWN:
        if OBJECTIVE != SOFTMAX:
            weight *= scale  # the mean is over those that compete
    value = coefficient(value * weight[:, None], scores, SIMILARITY)
    value = tl.where((columns < width)[None, :], value, 0.0)  # zeros in the padding
    if HAS_KNOWN:
        value = replace_at_known(
            tile=value, value=0.0, columns=columns, first=first, width=width, row=row,
            known_starts_ptr=known_starts_ptr, known_ends_ptr=known_ends_ptr, known_ids_ptr=known_ids_ptr,
            start=start, stop=stop, answer_ids_ptr=answer_ids_ptr,
        )  # fmt: skip
    grad_ptrs = grad_scores_ptr + offset + place[:, None] * grad_stride_row + columns[None, :]
    inside = (place < num_active)[:, None] & (columns < grad_stride_row - offset)[None, :]
    tl.store(grad_ptrs, value.to(grad_scores_ptr.dtype.element_ty), mask=inside)
