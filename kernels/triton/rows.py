"""The pass over touched rows: sort the ids once, then each unique row collects its gradient and goes to its sink.

A program takes a span of the sorted entries. Rows whose entries lie within the span are finished there: a row is read
once and written once, whatever its number of pairs. A row that goes past the end of a span leaves one partial sum a
span, which `join_spans` adds up in order; so a row that half the batch touches is shared by many programs, and no bit
depends on their timing. Bytes: the touched rows twice (with the optimizer's state), and per pair a query's row, which
is in L2; partial sums are 2 rows a span. Nothing is read back: the number of unique rows is never needed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kgfast.core.sums import sum_dtype

from .configurations import TYPES
from .scores import SimilarityFormulae
from .updates import UpdateRule, block_of, update_numbers

MOST_EXTRAS = 4  # sources of extra rows: gradients that are ready


@triton.jit
def add_rows(sum, rows_ptr, places, live, d, inside, dim, ACC: tl.constexpr):
    """sum plus the rows at `places` where live."""
    row_ptrs = rows_ptr + places[:, None] * dim + d[None, :]
    return sum + tl.load(row_ptrs, mask=live[:, None] & inside[None, :], other=0.0).to(ACC)


@triton.jit
def id_at(entries_ptr, place, first_id, mask):
    """The table's row that the entry at `place` names, counted from the table's first: its upper half; -1 unmasked."""
    found = tl.load(entries_ptr.to(tl.pointer_type(tl.int32)) + 2 * place + 1, mask=mask, other=-1)
    return tl.where(mask, found - first_id, -1)


@triton.jit
def position_at(entries_ptr, place, first_position, mask):
    """Where the entry at `place` stood before sorting: its lower half; -1 unmasked."""
    found = tl.load(entries_ptr.to(tl.pointer_type(tl.uint32)) + 2 * place, mask=mask, other=0)
    return tl.where(mask, found.to(tl.int64) - first_position, -1)


@triton.jit
def entries_gradient(
    entries_ptr, first_position, begin, end, row, first,
    query_ptr,  # [B, D]
    table_ptr,  # [C, D]
    coefficients_ptr, pairs, width,  # [B, K], B K, K
    extra0_ptr, extra1_ptr, extra2_ptr, extra3_ptr,  # [count, D] each
    extra0_count, extra1_count, extra2_count, extra3_count,
    dim, HAS_PAIRS: tl.constexpr, EXTRAS: tl.constexpr, SIMILARITY: tl.constexpr, ACC: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Numbers [first, first + BLOCK_D) of the gradient of table row `row` from sorted entries [begin, end): the sum of
    c[b, k] ds(query[b], row)/drow over its pairs, and of its extra rows."""
    d = first + tl.arange(0, BLOCK_D)
    inside = d < dim
    sum = tl.zeros((BLOCK_K, BLOCK_D), ACC)
    other = d
    x = tl.zeros((BLOCK_D,), ACC)
    x_other = x
    MATRIX_PRODUCT: tl.constexpr = SIMILARITY.value.MATRIX_PRODUCT  # whose gradient does not depend on x
    if HAS_PAIRS and not MATRIX_PRODUCT:
        x = tl.load(table_ptr + row * dim + d, mask=inside, other=0.0).to(ACC)
        if SIMILARITY.value.COMPLEX:  # the other half of the same complex number
            half = dim // 2
            other = tl.where(d < half, d + half, d - half)
            x_other = tl.load(table_ptr + row * dim + other, mask=inside, other=0.0).to(ACC)
    for at in range(begin, end, BLOCK_K):
        k = at + tl.arange(0, BLOCK_K)
        place = position_at(entries_ptr, k, first_position, k < end)
        if HAS_PAIRS:
            pair = (place >= 0) & (place < pairs)
            c = tl.load(coefficients_ptr + place, mask=pair, other=0.0).to(ACC)[:, None]
            query = tl.where(pair, place, 0).to(tl.uint32) // tl.cast(width, tl.uint32)  # 64 bits divide slowly
            q_ptrs = query_ptr + query.to(tl.int64)[:, None] * dim
            both = pair[:, None] & inside[None, :]
            y = tl.load(q_ptrs + d[None, :], mask=both, other=0.0).to(ACC)
            y_other = y
            if SIMILARITY.value.COMPLEX:
                y_other = tl.load(q_ptrs + other[None, :], mask=both, other=0.0).to(ACC)
            sum, _ = SIMILARITY.value.add_gradient(sum, sum, c, x[None, :], x_other[None, :], y, y_other)
        rest = place - pairs
        if EXTRAS > 0:
            sum = add_rows(sum, extra0_ptr, rest, (rest >= 0) & (rest < extra0_count), d, inside, dim, ACC)
        if EXTRAS > 1:
            rest -= extra0_count
            sum = add_rows(sum, extra1_ptr, rest, (rest >= 0) & (rest < extra1_count), d, inside, dim, ACC)
        if EXTRAS > 2:
            rest -= extra1_count
            sum = add_rows(sum, extra2_ptr, rest, (rest >= 0) & (rest < extra2_count), d, inside, dim, ACC)
        if EXTRAS > 3:
            rest -= extra2_count
            sum = add_rows(sum, extra3_ptr, rest, (rest >= 0) & (rest < extra3_count), d, inside, dim, ACC)
    return tl.sum(sum, 0)


@triton.jit
def spans_gradient(
    first_parts_ptr, last_parts_ptr,  # [spans, D]
    span, spans, first, dim, ACC: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The row that begins in `span` and ends in the last of `spans` further ones: its sums, in order."""
    d = first + tl.arange(0, BLOCK_D)
    inside = d < dim
    sum = tl.zeros((BLOCK_K, BLOCK_D), ACC)
    for at in range(0, spans, BLOCK_K):
        k = at + tl.arange(0, BLOCK_K)
        sum = add_rows(sum, first_parts_ptr, span + 1 + k.to(tl.int64), k < spans, d, inside, dim, ACC)
    return tl.sum(sum, 0) + tl.load(last_parts_ptr + span * dim + d, mask=inside, other=0.0)


@triton.jit
def end_of_run(ids, id, begin, start, stop, SPAN: tl.constexpr):
    """The end of the entries of `id` from `begin` on, in a span's `ids`."""
    steps = tl.arange(0, SPAN)
    ahead = (start + steps >= begin) & (ids != id)
    return tl.minimum(start + tl.min(tl.where(ahead, steps, SPAN), 0), stop)


@triton.jit(do_not_specialize=["first_id", "first_position"])
def reduce_spans(  # long: one pass, whose state is in registers
    entries_ptr,  # [total]: id << 32 | position before sorting, ascending
    ranks_ptr,  # [total]: ranks of the ids among the distinct ones
    first_id, first_position,  # of the table, where several were sorted together
    total,
    first_parts_ptr, last_parts_ptr,  # [spans, D]: sums of a row that begins before its span, that goes beyond it
    count,  # C
    query_ptr,  # [B, D]
    table_ptr,  # [C, D]
    coefficients_ptr, pairs, width,  # [B, K], B K, K
    extra0_ptr, extra1_ptr, extra2_ptr, extra3_ptr,  # [count, D] each
    extra0_count, extra1_count, extra2_count, extra3_count,
    rows_ptr, state1_ptr, state2_ptr, constants_ptr,  # a sink: rows [C, D], or one for each distinct id
    dim, HAS_PAIRS: tl.constexpr, EXTRAS: tl.constexpr, SIMILARITY: tl.constexpr, UPDATE: tl.constexpr,
    ACC: tl.constexpr, SPAN: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, ONE_BLOCK: tl.constexpr,
):  # fmt: skip
    """Entries [SPAN * program, + SPAN): finishes the rows within, leaves partial sums of those that go beyond."""
    span = tl.program_id(0).to(tl.int64)
    start = span * SPAN
    stop = tl.minimum(start + SPAN, total)
    at = start + tl.arange(0, SPAN)
    ids = id_at(entries_ptr, at, first_id, at < stop)
    before = id_at(entries_ptr, start - 1, first_id, start > 0)
    after = id_at(entries_ptr, stop, first_id, stop < total)
    ONE_STEP_PER_ROW: tl.constexpr = UPDATE.value.ONE_STEP_PER_ROW
    begin = start
    while begin < stop:
        id = id_at(entries_ptr, begin, first_id, begin < stop)
        end = end_of_run(ids, id, begin, start, stop, SPAN)
        from_before = (begin == start) & (before == id)
        beyond = (end == stop) & (after == id)
        step_size = tl.zeros((), ACC)
        # an id outside of the table reads row 0 and updates nothing: its sum is one that `join_spans` does not ask for
        row = tl.where((id >= 0) & (id < count), id, 0).to(tl.int64)
        out_row = row
        if UPDATE.value.COMPACT_OUTPUT:
            out_row = tl.load(ranks_ptr + begin)
        finished = ((from_before | beyond) == 0) & (id >= 0) & (id < count)
        parts_ptr = last_parts_ptr  # a wide row's gradient waits here too: the last row of a span is the last to come
        if from_before:
            parts_ptr = first_parts_ptr
        squares = tl.zeros((BLOCK_D,), ACC)
        for first in range(0, dim, BLOCK_D):
            g = entries_gradient(
                entries_ptr=entries_ptr, first_position=first_position, begin=begin, end=end, row=row,
                first=first, query_ptr=query_ptr, table_ptr=table_ptr, coefficients_ptr=coefficients_ptr,
                pairs=pairs, width=width,
                extra0_ptr=extra0_ptr, extra1_ptr=extra1_ptr, extra2_ptr=extra2_ptr, extra3_ptr=extra3_ptr,
                extra0_count=extra0_count, extra1_count=extra1_count, extra2_count=extra2_count,
                extra3_count=extra3_count, dim=dim, HAS_PAIRS=HAS_PAIRS, EXTRAS=EXTRAS, SIMILARITY=SIMILARITY,
                ACC=ACC, BLOCK_K=BLOCK_K, BLOCK_D=BLOCK_D,
            )  # fmt: skip
            if ONE_BLOCK and finished:
                if ONE_STEP_PER_ROW:
                    step_size = UPDATE.value.row_step(state1_ptr, constants_ptr, row, tl.sum(g * g, 0), dim, ACC)
                update_numbers(
                    rows_ptr=rows_ptr, state1_ptr=state1_ptr, state2_ptr=state2_ptr, constants_ptr=constants_ptr,
                    row=out_row, first=first, dim=dim, g=g, step_size=step_size, UPDATE=UPDATE, ACC=ACC,
                    BLOCK_D=BLOCK_D,
                )  # fmt: skip
            else:
                d = first + tl.arange(0, BLOCK_D)
                tl.store(parts_ptr + span * dim + d, g, mask=d < dim)
                squares += g * g
        if not ONE_BLOCK:
            if finished:  # no number of a row is updated before its whole gradient is there, which may read all of it
                tl.debug_barrier()
                if ONE_STEP_PER_ROW:
                    step_size = UPDATE.value.row_step(state1_ptr, constants_ptr, row, tl.sum(squares, 0), dim, ACC)
                for first in range(0, dim, BLOCK_D):
                    d = first + tl.arange(0, BLOCK_D)
                    update_numbers(
                        rows_ptr=rows_ptr, state1_ptr=state1_ptr, state2_ptr=state2_ptr, constants_ptr=constants_ptr,
                        row=out_row, first=first, dim=dim,
                        g=tl.load(parts_ptr + span * dim + d, mask=d < dim, other=0.0), step_size=step_size,
                        UPDATE=UPDATE, ACC=ACC, BLOCK_D=BLOCK_D,
                    )  # fmt: skip
                tl.debug_barrier()  # before the next row's gradient takes this one's place
        begin = end


@triton.jit(do_not_specialize=["first_id"])
def join_spans(
    entries_ptr, ranks_ptr,  # [total]
    first_id, total,
    first_parts_ptr, last_parts_ptr,  # [spans, D]: sums of a row that begins before its span, that goes beyond it
    count,  # C
    rows_ptr, state1_ptr, state2_ptr, constants_ptr,  # a sink: rows [C, D], or one for each distinct id
    dim, UPDATE: tl.constexpr, ACC: tl.constexpr, SPAN: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The row that begins in this span and goes beyond it, if there is one."""
    span = tl.program_id(0).to(tl.int64)
    start = span * SPAN
    stop = start + SPAN
    if stop < total:
        row = id_at(entries_ptr, stop, first_id, stop < total).to(tl.int64)
        crosses = (id_at(entries_ptr, stop - 1, first_id, stop > 0) == row) & (row >= 0) & (row < count)
        before = id_at(entries_ptr, start - 1, first_id, start > 0)
        begins = (id_at(entries_ptr, start, first_id, start < total) != row) | (before != row)
        if crosses & begins:
            low, high = span + 1, tl.cast((total - 1) // SPAN, tl.int64)  # the last span that begins with this row
            while low < high:
                middle = (low + high + 1) // 2
                if id_at(entries_ptr, middle * SPAN, first_id, middle <= high) == row:
                    low = middle
                else:
                    high = middle - 1
            spans = (low - span).to(tl.int32)
            out_row = row
            if UPDATE.value.COMPACT_OUTPUT:
                out_row = tl.load(ranks_ptr + stop)
            step_size = tl.zeros((), ACC)
            if UPDATE.value.ONE_STEP_PER_ROW:
                squares = tl.zeros((BLOCK_D,), ACC)
                for first in range(0, dim, BLOCK_D):
                    g = spans_gradient(
                        first_parts_ptr=first_parts_ptr, last_parts_ptr=last_parts_ptr, span=span, spans=spans,
                        first=first, dim=dim, ACC=ACC, BLOCK_K=BLOCK_K, BLOCK_D=BLOCK_D,
                    )  # fmt: skip
                    squares += g * g
                step_size = UPDATE.value.row_step(state1_ptr, constants_ptr, row, tl.sum(squares, 0), dim, ACC)
            for first in range(0, dim, BLOCK_D):
                g = spans_gradient(
                    first_parts_ptr=first_parts_ptr, last_parts_ptr=last_parts_ptr, span=span, spans=spans,
                    first=first, dim=dim, ACC=ACC, BLOCK_K=BLOCK_K, BLOCK_D=BLOCK_D,
                )  # fmt: skip
                update_numbers(
                    rows_ptr=rows_ptr, state1_ptr=state1_ptr, state2_ptr=state2_ptr, constants_ptr=constants_ptr,
                    row=out_row, first=first, dim=dim, g=g, step_size=step_size, UPDATE=UPDATE, ACC=ACC,
                    BLOCK_D=BLOCK_D,
                )  # fmt: skip


# ---- launches ------------------------------------------------------------------------------------------------


def blocks(dim: int) -> dict:
    """Tiles of a few entries by a block of numbers: 2,048 numbers in four warps."""
    block = block_of(dim)
    return dict(BLOCK_K=max(1, min(8, 2048 // block)), BLOCK_D=block, num_warps=min(4, max(1, block // 128)))


def span_of(total: int) -> int:
    """Entries a program: short ones fill the device, long ones leave fewer partial sums."""
    return 16 if total < 1 << 14 else 32 if total < 1 << 17 else 128


def extra_operands(used, table) -> dict:
    """The arguments extra0_ptr, extra0_count, ..; the table stands for those that are not there."""
    sources = [(rows, ids.numel()) for ids, rows in used] + [(table, 0)] * (MOST_EXTRAS - len(used))
    pointers = {f"extra{place}_ptr": rows for place, (rows, _) in enumerate(sources)}
    return pointers | {f"extra{place}_count": count for place, (_, count) in enumerate(sources)}


def reduce_rows(query, table, ids, coefficients, extras, similarity: int, update: int, rows, state1, state2, constants,
                allocate, entries, first_id=0, first_position=0, ranks=None) -> None:  # fmt: skip
    """Gradients of the pairs (query b, ids[b, k], coefficients[b, k]) and of `extras` (ids, rows), summed a row, into
    a sink. ids outside of the table count for nothing. entries: first_id + id << 32 | first_position + position of all
    of them, pairs first, in ascending order."""
    dim, pairs = table.shape[1], ids.numel()
    used = [(own, part) for own, part in extras if own.numel()]
    if pairs + sum(own.numel() for own, _ in used) == 0:
        return
    if len(used) > MOST_EXTRAS:
        raise ValueError(f"{len(used)} sources of extra rows; {MOST_EXTRAS} are possible")
    total, acc = len(entries), sum_dtype(table.dtype)
    span = span_of(total)
    spans = triton.cdiv(total, span)
    first_parts, last_parts = (allocate(name, (spans, dim), acc) for name in ("first_parts", "last_parts"))
    shared = dict(
        entries_ptr=entries,
        ranks_ptr=entries if ranks is None else ranks,
        first_id=first_id,
        total=total,
        first_parts_ptr=first_parts,
        last_parts_ptr=last_parts,
        count=len(table),
        rows_ptr=rows,
        state1_ptr=state1,
        state2_ptr=state2,
        constants_ptr=constants,
        dim=dim,
        UPDATE=UpdateRule.find(update),
        ACC=TYPES[acc],
        SPAN=span,
        **blocks(dim),
    )
    reduce_spans[(spans,)](
        first_position=first_position,
        query_ptr=query,
        table_ptr=table,
        coefficients_ptr=coefficients,
        pairs=pairs,
        width=max(ids.shape[-1], 1),
        **extra_operands(used, table),
        HAS_PAIRS=pairs > 0,
        EXTRAS=len(used),
        SIMILARITY=SimilarityFormulae.find(similarity),
        ONE_BLOCK=dim <= shared["BLOCK_D"],
        **shared,
    )
    if spans > 1:
        join_spans[(spans,)](**shared)
