"""Scores of a chunk of queries turned, where they lie, into losses and dL/dscore: the step between library products.

The formulae are those of candidate_tiles.py. One program has one row: it visits the scores once for the loss, with a
running largest score and sum of exponentials, and once more to overwrite them. Scores of known candidates become -inf
first, so that neither visit looks at their ids. Rows are padded, which lets them be read 16 bytes at a time.
"""

import triton
import triton.language as tl

from kgfast.registry import Objective

from .sampling import contains
from .tiles import number

SOFTMAX = tl.constexpr(int(Objective.SOFTMAX))
NO_ID = tl.constexpr(2**62)


@triton.jit
def mask_known(
    scores_ptr,  # [count]
    start, stop, answer_ids_ptr,  # the row's answers
    known_start, known_stop, known_ids_ptr,  # and known candidates
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Overwrites the scores of known candidates that are no answers with -inf, and returns how many there are."""
    others = 0
    for block in range(0, tl.cdiv(known_stop - known_start, BLOCK_N).to(tl.int32)):
        at = known_start + block * BLOCK_N + tl.arange(0, BLOCK_N)
        live = at < known_stop
        id = tl.load(known_ids_ptr + at, mask=live, other=-1)
        out = live & (contains(answer_ids_ptr, start, stop, id) == 0)
        nothing = tl.full((BLOCK_N,), float("-inf"), tl.float32)
        tl.store(scores_ptr + id, nothing.to(scores_ptr.dtype.element_ty), mask=out)
        others += tl.sum(out.to(tl.int32), 0)
    return others


@triton.jit
def sum_of_answers(
    scores_ptr, bias_ptr, start, stop, answer_ids_ptr, HAS_BIAS: tl.constexpr, ACC: tl.constexpr, BLOCK_N: tl.constexpr
):
    sum = tl.zeros((), ACC)
    for block in range(0, tl.cdiv(stop - start, BLOCK_N).to(tl.int32)):
        at = start + block * BLOCK_N + tl.arange(0, BLOCK_N)
        live = at < stop
        id = tl.load(answer_ids_ptr + at, mask=live, other=0)
        score = tl.load(scores_ptr + id, mask=live, other=0.0).to(ACC)
        if HAS_BIAS:
            score += tl.load(bias_ptr + id, mask=live, other=0.0).to(ACC)
        sum += tl.sum(score, 0)
    return sum


@triton.jit
def scores_from(
    scores_ptr, bias_ptr, first, count, width, HAS_BIAS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr
):
    """BLOCK scores from column `first` on, -inf beyond the last. What is read up to `width` may be anything there."""
    column = first + tl.arange(0, BLOCK)
    score = tl.load(scores_ptr + column, mask=column < width, other=0.0).to(ACC)
    if HAS_BIAS:
        score += tl.load(bias_ptr + column, mask=column < width, other=0.0).to(ACC)
    return tl.where(column < count, score, float("-inf"))


@triton.jit
def sums_of_row(
    scores_ptr, bias_ptr, count, width, HAS_BIAS: tl.constexpr, HAS_KNOWN: tl.constexpr, OBJECTIVE: tl.constexpr,
    SMOOTH: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(largest score, sum of exponentials relative to it; bce: of softplus, sum of the scores that compete)."""
    top = tl.full((), float("-inf"), ACC)
    sum = tl.zeros((), ACC)
    plain = tl.zeros((), ACC)
    for first in range(0, width, BLOCK):
        score = scores_from(scores_ptr, bias_ptr, first, count, width, HAS_BIAS, ACC, BLOCK)
        if SMOOTH:
            competes = first + tl.arange(0, BLOCK) < count
            if HAS_KNOWN:
                competes = score != float("-inf")
            plain += tl.sum(tl.where(competes, score, 0.0), 0)
        if OBJECTIVE == SOFTMAX:
            now = tl.maximum(top, tl.max(score, 0))
            shift = tl.where(now == float("-inf"), 0.0, now)  # no row of -inf alone is NaN
            sum = sum * tl.exp(top - shift) + tl.sum(tl.exp(score - shift), 0)
            top = now
        else:
            sum += tl.sum(tl.maximum(score, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(score))), 0)
    return top, sum, plain


@triton.jit
def write_gradients(
    scores_ptr, bias_ptr, start, stop, answer_ids_ptr, top, log_sum, label, smooth_label, factor, count, width,
    HAS_BIAS: tl.constexpr, HAS_KNOWN: tl.constexpr, OBJECTIVE: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """scores = factor * (softmax(s), or sigma(s), less labels), 0 where a candidate does not compete and in padding."""
    cursor = start
    id = tl.load(answer_ids_ptr + cursor, mask=cursor < stop, other=NO_ID)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)
        score = scores_from(scores_ptr, bias_ptr, first, count, width, HAS_BIAS, ACC, BLOCK)
        if OBJECTIVE == SOFTMAX:
            value = tl.exp(score - top - log_sum) - smooth_label
        else:
            value = 1.0 / (1.0 + tl.exp(-score)) - smooth_label
        while id < first + BLOCK:
            value -= tl.where(column == id.to(tl.int32), label, 0.0)
            cursor += 1
            id = tl.load(answer_ids_ptr + cursor, mask=cursor < stop, other=NO_ID)
        competes = column < count
        if HAS_KNOWN:
            competes &= score != float("-inf")
        value = tl.where(competes, value * factor, 0.0)
        tl.store(scores_ptr + column, value.to(scores_ptr.dtype.element_ty), mask=column < width)


@triton.jit(do_not_specialize=["first_place", "count"])
def loss_in_place(
    scores_ptr, width,  # [rows, width]: of the active rows from first_place on
    bias_ptr,  # [width]
    starts_ptr, ends_ptr, answer_ids_ptr,  # [B], [B], [..]
    known_starts_ptr, known_ends_ptr, known_ids_ptr,  # [B], [B], [..]
    active_rows_ptr, num_active_ptr,  # [B], [1]
    weights_ptr,  # [B]
    losses_ptr,  # [B]
    first_place, count, answer_label_bits: tl.int64, smooth_label_bits: tl.int64,
    HAS_BIAS: tl.constexpr, HAS_KNOWN: tl.constexpr, OBJECTIVE: tl.constexpr, SMOOTH: tl.constexpr,
    GRADIENT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """losses[row] = weights[row] * loss, and with GRADIENT scores = dL/dscore; zeros from num_active on and in
    columns from `count` on. width: a multiple of 16."""
    place = tl.program_id(0)
    scores_ptr += place.to(tl.int64) * width
    if first_place + place < tl.load(num_active_ptr):
        row = tl.load(active_rows_ptr + first_place + place).to(tl.int64)
        start, stop = tl.load(starts_ptr + row), tl.load(ends_ptr + row)
        scale = tl.full((), 1.0, ACC)
        if HAS_KNOWN:
            known_start, known_stop = tl.load(known_starts_ptr + row), tl.load(known_ends_ptr + row)
            others = mask_known(
                scores_ptr, start, stop, answer_ids_ptr, known_start, known_stop, known_ids_ptr, BLOCK_N
            )
            scale = count.to(ACC) / tl.maximum(count - others, 1).to(ACC)
            tl.debug_barrier()  # what other threads have masked
        label = number(answer_label_bits, ACC)
        if OBJECTIVE == SOFTMAX:
            label /= tl.maximum(stop - start, 1).to(ACC)
        smooth_label = number(smooth_label_bits, ACC) * scale
        labelled = label * sum_of_answers(scores_ptr, bias_ptr, start, stop, answer_ids_ptr, HAS_BIAS, ACC, BLOCK_N)
        top, sum, plain = sums_of_row(
            scores_ptr, bias_ptr, count, width, HAS_BIAS, HAS_KNOWN, OBJECTIVE, SMOOTH, ACC, BLOCK
        )
        if SMOOTH:
            labelled += smooth_label * plain
        factor = tl.load(weights_ptr + row).to(ACC)
        log_sum = tl.zeros((), ACC)
        if OBJECTIVE == SOFTMAX:
            log_sum = tl.log(sum)
            loss = top - labelled + log_sum
        else:
            loss = sum - labelled
            factor *= scale / count.to(ACC)
        tl.store(losses_ptr + row, loss * factor)
        if GRADIENT:
            tl.debug_barrier()  # answers are read before they are overwritten
            write_gradients(
                scores_ptr, bias_ptr, start, stop, answer_ids_ptr, top, log_sum, label, smooth_label, factor, count,
                width, HAS_BIAS, HAS_KNOWN, OBJECTIVE, ACC, BLOCK,
            )  # fmt: skip
    else:
        if GRADIENT:
            for first in range(0, width, BLOCK):
                column = first + tl.arange(0, BLOCK)
                zeros = tl.zeros((BLOCK,), scores_ptr.dtype.element_ty)
                tl.store(scores_ptr + column, zeros, mask=column < width)
