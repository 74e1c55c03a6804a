"""The pass over touched rows: sort the ids once, then each unique row collects its gradient and goes to its sink.

A program takes a span of the sorted entries. Rows whose entries lie within the span are finished there: a row is read
once and written once, whatever its number of pairs. A row that goes past the end of a span leaves one partial sum a
span, which `join` adds up in order; so a row that half the batch touches is shared by many programs, and no bit
depends on their timing. Bytes: the touched rows twice (with the optimizer's state), and per pair a query's row, which
is in L2; partial sums are 2 rows a span. Nothing is read back: the number of unique rows is never needed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .configurations import TYPES, sum_dtype
from .scores import DOT, MODULUS, add_slope, add_slope_modulus
from .updates import ROW_ADAGRAD, SPARSE, block_of, row_rate, update_part

MOST_EXTRAS = 4  # sources of ready rows


@triton.jit
def ready_rows(sum, rows, places, live, d, inside, dim, SUM: tl.constexpr):
    """sum plus the rows at `places` where live."""
    at = rows + places[:, None] * dim + d[None, :]
    return sum + tl.load(at, mask=live[:, None] & inside[None, :], other=0.0).to(SUM)


@triton.jit
def entries_gradient(places, begin, end, row, first, query, table, coefficients, pairs, width, x0, n0, x1, n1, x2, n2,
                     x3, n3, dim, PAIRS: tl.constexpr, EXTRAS: tl.constexpr, SIMILARITY: tl.constexpr,
                     SUM: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Numbers [first, first + BLOCK) of the gradient of table row `row` from sorted entries [begin, end)."""
    d = first + tl.arange(0, BLOCK)
    inside = d < dim
    sum = tl.zeros((ROWS, BLOCK), SUM)
    other = d
    x = tl.zeros((BLOCK,), SUM)
    x_other = x
    if PAIRS and SIMILARITY != DOT:
        x = tl.load(table + row * dim + d, mask=inside, other=0.0).to(SUM)
        if SIMILARITY == MODULUS:  # the other half of the same complex number
            half = dim // 2
            other = tl.where(d < half, d + half, d - half)
            x_other = tl.load(table + row * dim + other, mask=inside, other=0.0).to(SUM)
    for at in range(begin, end, ROWS):
        k = at + tl.arange(0, ROWS)
        place = tl.load(places + k, mask=k < end, other=-1).to(tl.int64)
        if PAIRS:
            pair = (place >= 0) & (place < pairs)
            c = tl.load(coefficients + place, mask=pair, other=0.0).to(SUM)[:, None]
            q = query + (tl.where(pair, place, 0) // width)[:, None] * dim
            both = pair[:, None] & inside[None, :]
            y = tl.load(q + d[None, :], mask=both, other=0.0).to(SUM)
            if SIMILARITY == MODULUS:
                y_other = tl.load(q + other[None, :], mask=both, other=0.0).to(SUM)
                sum, _ = add_slope_modulus(sum, sum, c, x[None, :], x_other[None, :], y, y_other)
            else:
                sum = add_slope(sum, c, x[None, :], y, SIMILARITY)
        rest = place - pairs
        if EXTRAS > 0:
            sum = ready_rows(sum, x0, rest, (rest >= 0) & (rest < n0), d, inside, dim, SUM)
        if EXTRAS > 1:
            rest -= n0
            sum = ready_rows(sum, x1, rest, (rest >= 0) & (rest < n1), d, inside, dim, SUM)
        if EXTRAS > 2:
            rest -= n1
            sum = ready_rows(sum, x2, rest, (rest >= 0) & (rest < n2), d, inside, dim, SUM)
        if EXTRAS > 3:
            rest -= n2
            sum = ready_rows(sum, x3, rest, (rest >= 0) & (rest < n3), d, inside, dim, SUM)
    return tl.sum(sum, 0)


@triton.jit
def partial_gradient(last_parts, first_parts, span, spans, first, dim, SUM: tl.constexpr, ROWS: tl.constexpr,
                     BLOCK: tl.constexpr):  # fmt: skip
    """The row that begins in `span` and ends in the last of `spans` further ones: its sums, in order."""
    d = first + tl.arange(0, BLOCK)
    inside = d < dim
    sum = tl.zeros((ROWS, BLOCK), SUM)
    for at in range(0, spans, ROWS):
        k = at + tl.arange(0, ROWS)
        sum = ready_rows(sum, first_parts, span + 1 + k.to(tl.int64), k < spans, d, inside, dim, SUM)
    return tl.sum(sum, 0) + tl.load(last_parts + span * dim + d, mask=inside, other=0.0)


@triton.jit
def reduce(ids, ranks, places, total, first_parts, last_parts, count, query, table, coefficients, pairs, width, x0, n0,
           x1, n1, x2, n2, x3, n3, rows, state1, state2, constants, dim, PAIRS: tl.constexpr, EXTRAS: tl.constexpr,
           SIMILARITY: tl.constexpr, UPDATE: tl.constexpr, SUM: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr,
           BLOCK: tl.constexpr, SINGLE: tl.constexpr):  # fmt: skip
    """Entries [SPAN * program, + SPAN): finishes the rows within, leaves partial sums of those that go beyond."""
    span = tl.program_id(0).to(tl.int64)
    start = span * SPAN
    stop = tl.minimum(start + SPAN, total)
    steps = tl.arange(0, SPAN)
    here = tl.load(ids + start + steps, mask=start + steps < stop, other=-1)
    before = tl.load(ids + start - 1, mask=start > 0, other=-1)
    after = tl.load(ids + stop, mask=stop < total, other=-1)
    begin = start
    while begin < stop:
        id = tl.load(ids + begin)
        ahead = (start + steps >= begin) & (here != id)
        end = start + tl.min(tl.where(ahead, steps, SPAN), 0)
        end = tl.minimum(end, stop)
        from_before = (begin == start) & (before == id)
        beyond = (end == stop) & (after == id)
        rate = tl.zeros((), SUM)
        # an id outside of the table reads row 0 and updates nothing: its sum is one that `join` does not ask for
        row = tl.where((id >= 0) & (id < count), id, 0).to(tl.int64)
        out = row
        if UPDATE == SPARSE:
            out = tl.load(ranks + begin)
        whole = ((from_before | beyond) == 0) & (id >= 0) & (id < count)
        if UPDATE == ROW_ADAGRAD and not SINGLE:
            if whole:
                squares = tl.zeros((BLOCK,), SUM)
                for first in range(0, dim, BLOCK):
                    g = entries_gradient(places, begin, end, row, first, query, table, coefficients, pairs, width,
                                         x0, n0, x1, n1, x2, n2, x3, n3, dim, PAIRS, EXTRAS, SIMILARITY, SUM, ROWS,
                                         BLOCK)  # fmt: skip
                    squares += g * g
                rate = row_rate(state1, constants, row, tl.sum(squares, 0), dim, SUM)
        for first in range(0, dim, BLOCK):
            g = entries_gradient(places, begin, end, row, first, query, table, coefficients, pairs, width, x0, n0,
                                 x1, n1, x2, n2, x3, n3, dim, PAIRS, EXTRAS, SIMILARITY, SUM, ROWS,
                                 BLOCK)  # fmt: skip
            if whole:
                if UPDATE == ROW_ADAGRAD and SINGLE:
                    rate = row_rate(state1, constants, row, tl.sum(g * g, 0), dim, SUM)
                update_part(rows, state1, state2, constants, out, first, dim, g, rate, UPDATE, SUM, BLOCK)
            else:
                d = first + tl.arange(0, BLOCK)
                parts = last_parts
                if from_before:
                    parts = first_parts
                tl.store(parts + span * dim + d, g, mask=d < dim)
        begin = end


@triton.jit
def join(ids, ranks, total, first_parts, last_parts, count, rows, state1, state2, constants, dim, UPDATE: tl.constexpr,
         SUM: tl.constexpr, SPAN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The row that begins in this span and goes beyond it, if there is one."""
    span = tl.program_id(0).to(tl.int64)
    start = span * SPAN
    stop = start + SPAN
    if stop < total:
        row = tl.load(ids + stop).to(tl.int64)
        crosses = (tl.load(ids + stop - 1) == row) & (row >= 0) & (row < count)
        begins = (tl.load(ids + start) != row) | (tl.load(ids + start - 1, mask=start > 0, other=-1) != row)
        if crosses & begins:
            low, high = span + 1, tl.cast((total - 1) // SPAN, tl.int64)  # the last span that begins with this row
            while low < high:
                middle = (low + high + 1) // 2
                if tl.load(ids + middle * SPAN) == row:
                    low = middle
                else:
                    high = middle - 1
            spans = (low - span).to(tl.int32)
            out = row
            if UPDATE == SPARSE:
                out = tl.load(ranks + stop)
            rate = tl.zeros((), SUM)
            if UPDATE == ROW_ADAGRAD:
                squares = tl.zeros((BLOCK,), SUM)
                for first in range(0, dim, BLOCK):
                    g = partial_gradient(last_parts, first_parts, span, spans, first, dim, SUM, ROWS, BLOCK)
                    squares += g * g
                rate = row_rate(state1, constants, row, tl.sum(squares, 0), dim, SUM)
            for first in range(0, dim, BLOCK):
                g = partial_gradient(last_parts, first_parts, span, spans, first, dim, SUM, ROWS, BLOCK)
                update_part(rows, state1, state2, constants, out, first, dim, g, rate, UPDATE, SUM, BLOCK)


def launch(dim: int) -> dict:
    """Tiles of a few entries by a block of numbers: 2,048 numbers in four warps."""
    block = block_of(dim)
    return dict(ROWS=max(1, min(8, 2048 // block)), BLOCK=block, num_warps=min(4, max(1, block // 128)))


def span_of(total: int) -> int:
    """Entries a program: short ones fill the device, long ones leave fewer partial sums."""
    return 16 if total < 1 << 14 else 32 if total < 1 << 17 else 128


def sort(sources) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids ascending, where each stood among the sources one after the other); equal ids keep their order."""
    flat = [ids.reshape(-1) for ids in sources if ids.numel()]
    return torch.sort(torch.cat(flat).to(torch.int32), stable=True)


def reduce_rows(query, table, ids, coefficients, extras, similarity: int, update: int, rows, state1, state2, constants,
                allocate, sorted_ids=None, ranks=None) -> None:  # fmt: skip
    """Gradients of the pairs (query b, ids[b, k], coefficients[b, k]) and of `extras` (ids, rows), summed a row, into
    a sink. ids outside of the table count for nothing. sorted_ids: what `sort` returned, where it is known already."""
    dim, pairs = table.shape[1], ids.numel()
    used = [(own, part) for own, part in extras if own.numel()]
    if pairs + sum(own.numel() for own, _ in used) == 0:
        return
    if len(used) > MOST_EXTRAS:
        raise ValueError(f"{len(used)} sources of ready rows; {MOST_EXTRAS} are possible")
    order, places = sort([ids, *(own for own, _ in used)]) if sorted_ids is None else sorted_ids
    total, wide = len(order), sum_dtype(table.dtype)
    sources = [part for own, part in used for part in (part, own.numel())]
    sources += [table, 0] * (MOST_EXTRAS - len(used))
    span = span_of(total)
    spans = triton.cdiv(total, span)
    first_parts, last_parts = (allocate(name, (spans, dim), wide) for name in ("first_parts", "last_parts"))
    shared = dict(UPDATE=update, SUM=TYPES[wide], SPAN=span, **launch(dim))
    sink = rows, state1, state2, constants
    ranks = order if ranks is None else ranks
    reduce[(spans,)](order, ranks, places, total, first_parts, last_parts, len(table), query, table, coefficients,
                     pairs, max(ids.shape[-1], 1), *sources, *sink, dim, PAIRS=pairs > 0, EXTRAS=len(used),
                     SIMILARITY=similarity, SINGLE=dim <= shared["BLOCK"], **shared)  # fmt: skip
    if spans > 1:
        join[(spans,)](order, ranks, total, first_parts, last_parts, len(table), *sink, dim, **shared)
