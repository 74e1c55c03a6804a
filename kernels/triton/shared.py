"""Losses over lists of negatives that many queries share: tiles of queries against a list.

Dots run on the tensor cores. `scores` writes the [B, N] scores (-inf where masked), `objective` makes them dL/dscore a
row at a time, and the tiles of slopes multiply those with the list's rows (query gradient) and with the queries (the
rows' gradient). Lists g and queries b belong together where g = b G // B. Memory: the scores B N, the lists' rows
G N D; float32 and distances: transposed copies of lists and queries; where lists are few, up to 16 G N D of sums
over parts of the queries.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl

from . import configurations
from .configurations import GROUP, arithmetic, bits, constants, sum_dtype, tiles
from .launching import block, ceil_div, transposes
from .objectives import LOWEST, exponents, first_top, negative_term, outcome, weights_of
from .pairs import chained
from .sampled import MASKED, weighed
from .sampling import contains
from .scores import DOT, MODULUS, accumulate, accumulate_modulus, add_slope, add_slope_modulus, finish
from .tiles import number, place_of, score_tile, slope_tile

SLOPES = ("ROWS", "WIDTH", "DEPTH")


@triton.jit
def rows_of(group, batch, groups):
    """First query of a group, and the first of the next."""
    wide = group.to(tl.int64)
    return (wide * batch + groups - 1) // groups, ((wide + 1) * batch + groups - 1) // groups


@triton.jit
def scores(query, q_row, q_d, lists, t_list, t_row, t_d, out, batch, groups, count, dim, row_tiles,
           SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
           COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """out[b, n] of one tile; `lists` are the lists' rows, [G, N, D] by strides."""
    group = tl.program_id(1)
    begin, stop = rows_of(group, batch, groups)
    row_tile, column_tile = place_of(tl.program_id(0), row_tiles, tl.cdiv(count, COLUMNS), GROUP)
    here = (stop - begin).to(tl.int32) - row_tile * ROWS
    if here > 0:
        begin += row_tile * ROWS
        place = tl.arange(0, ROWS)
        columns = tl.arange(0, COLUMNS)
        first = column_tile * COLUMNS
        width = tl.minimum(count - first, COLUMNS)
        row = tl.minimum(place, here - 1)
        read = columns
        if SIMILARITY == DOT:
            read = tl.minimum(columns, width - 1)
        lists += group.to(tl.int64) * t_list + tl.cast(first, tl.int64) * t_row
        score = score_tile(tl.zeros((ROWS, COLUMNS), SUM), query + begin * q_row, q_row, q_d, row, lists, t_row, t_d,
                           read, dim, SIMILARITY, SUM, PRECISION, ROWS, COLUMNS, DEPTH)  # fmt: skip
        target = out + begin * count + first + place[:, None] * count + columns[None, :]
        tl.store(target, score, mask=(place < here)[:, None] & (columns < width)[None, :])


@triton.jit(do_not_specialize=["margin", "temperature", "count"])
def objective(query, table, targets, negatives, starts, ends, known, weights, scores, g, losses, coefficients, d_query,
              groups, count, dim, margin: tl.int64, temperature: tl.int64, KNOWN: tl.constexpr,
              OBJECTIVE: tl.constexpr, WEIGHED: tl.constexpr, GRADIENT: tl.constexpr, SIMILARITY: tl.constexpr,
              SUM: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """Row b: loss; g = dL/dscore of its negatives; the target's coefficient and its part of the query's gradient.

    Scores of masked negatives become -inf in the first visit, so that the second needs no look at ids.
    """
    b = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + b)
    ids = negatives + b * groups // tl.num_programs(0) * count
    start = tl.zeros((), tl.int64)
    end = start
    if KNOWN:
        start, end = tl.load(starts + b), tl.load(ends + b)
    margin, temperature = number(margin, SUM), number(temperature, SUM)
    length = dim // 2 if SIMILARITY == MODULUS else dim
    x = query + b * dim
    y = table + target * dim
    sum = tl.zeros((WIDTH,), SUM)
    for first in range(0, length, WIDTH):
        d = first + tl.arange(0, WIDTH)
        inside = d < length
        x_a = tl.load(x + d, mask=inside, other=0.0).to(SUM)
        y_a = tl.load(y + d, mask=inside, other=0.0).to(SUM)
        if SIMILARITY == MODULUS:
            x_b = tl.load(x + length + d, mask=inside, other=0.0).to(SUM)
            y_b = tl.load(y + length + d, mask=inside, other=0.0).to(SUM)
            sum = accumulate_modulus(sum, x_a, x_b, y_a, y_b)
        else:
            sum = accumulate(sum, x_a, y_a, SIMILARITY)
    own = finish(tl.sum(sum, 0), SIMILARITY)
    top = first_top(own, OBJECTIVE)
    weight = tl.zeros((), SUM)
    value, slope, valid = weight, weight, weight
    for first in range(0, count, BLOCK):
        n = first + tl.arange(0, BLOCK)
        live = n < count
        id = tl.load(ids + n, mask=live, other=-1)
        keep = (id >= 0) & (id != target)
        if KNOWN:
            keep &= contains(known, start, end, id) == 0
        score = tl.load(scores + b * count + n, mask=keep, other=MASKED)
        tl.store(scores + b * count + n, score, mask=live & (keep == 0))
        scale = tl.full((), 1.0, SUM)
        if WEIGHED:
            now = tl.maximum(top, tl.max(tl.where(keep, exponents(score, temperature, OBJECTIVE), LOWEST), 0))
            scale = tl.exp(top - now)
            top = now
        p = weights_of(score, keep, top, temperature, OBJECTIVE, WEIGHED)
        term, term_slope = negative_term(own, score, margin, OBJECTIVE)
        weight = weight * scale + tl.sum(p, 0)
        value = value * scale + tl.sum(tl.where(keep, p * term, 0.0), 0)
        slope = slope * scale + tl.sum(tl.where(keep, p * term_slope, 0.0), 0)
        valid += tl.sum(tl.where(keep, 1.0, 0.0).to(SUM), 0)
    loss, d_target, share = outcome(own, top, weight, value, slope, valid, margin, OBJECTIVE, WEIGHED)
    of_row = tl.load(weights + b).to(SUM)
    tl.store(losses + b, loss * of_row)
    if GRADIENT:
        tl.debug_barrier()  # what the first visit has masked
        for first in range(0, count, BLOCK):
            n = first + tl.arange(0, BLOCK)
            score = tl.load(scores + b * count + n, mask=n < count, other=MASKED)
            keep = score != MASKED
            p = weights_of(score, keep, top, temperature, OBJECTIVE, WEIGHED)
            _, term_slope = negative_term(own, score, margin, OBJECTIVE)
            c = chained(tl.where(keep, p * term_slope * (share * of_row), 0.0), score, SIMILARITY)
            tl.store(g + b * count + n, c.to(g.dtype.element_ty), mask=n < count)
        c = chained(d_target * of_row, own, SIMILARITY)
        tl.store(coefficients + b, c)
        for first in range(0, length, WIDTH):
            d = first + tl.arange(0, WIDTH)
            inside = d < length
            zeros = tl.zeros((WIDTH,), SUM)
            x_a = tl.load(x + d, mask=inside, other=0.0).to(SUM)
            y_a = tl.load(y + d, mask=inside, other=0.0).to(SUM)
            if SIMILARITY == MODULUS:
                x_b = tl.load(x + length + d, mask=inside, other=0.0).to(SUM)
                y_b = tl.load(y + length + d, mask=inside, other=0.0).to(SUM)
                part, part_b = add_slope_modulus(zeros, zeros, c, x_a, x_b, y_a, y_b)
                tl.store(d_query + b * dim + length + d, part_b, mask=inside)
            else:
                part = add_slope(zeros, c, x_a, y_a, SIMILARITY)
            tl.store(d_query + b * dim + d, part, mask=inside)


@triton.jit
def query_slopes(g, query, lists, t_list, t_row, t_d, d_query, batch, groups, count, dim, row_tiles,
                 TURNED: tl.constexpr, SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
                 ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """d_query[b] += sum_n g[b, n] d similarity(q_b, row n of its list) / dq."""
    group = tl.program_id(1)
    first, stop = rows_of(group, batch, groups)
    length = dim // 2 if SIMILARITY == MODULUS else dim
    row_tile, d_tile = place_of(tl.program_id(0), row_tiles, tl.cdiv(length, WIDTH), GROUP)
    begin = first + row_tile * ROWS
    row = begin + tl.arange(0, ROWS)
    if begin < stop:
        read = tl.minimum(row, stop - 1)
        d = d_tile * WIDTH + tl.arange(0, WIDTH)
        kept = (row < stop)[:, None] & (d < length)[None, :]
        out = d_query + row[:, None] * dim + d[None, :]
        a = tl.load(out, mask=kept, other=0.0)
        b = a
        if SIMILARITY == MODULUS:
            b = tl.load(out + length, mask=kept, other=0.0)
        rows, here = lists + group.to(tl.int64) * t_list, count
        if TURNED:
            here = tl.cdiv(count, 16) * 16
        a, b = slope_tile(a, b, g + begin * count, count, 1, stop - begin, count, query, read, rows, t_row, t_d, here,
                          count, dim, d_tile * WIDTH, SIMILARITY, SUM, PRECISION, ROWS, WIDTH, DEPTH)  # fmt: skip
        tl.store(out, a, mask=kept)
        if SIMILARITY == MODULUS:
            tl.store(out + length, b, mask=kept)


@triton.jit
def list_slopes(g, lists, query, q_group, q_row, q_d, out, batch, groups, count, dim, TURNED: tl.constexpr,
                SIMILARITY: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
                WIDTH: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """out[part, list, n] = sum over a part of the queries b of a list of g[b, n] d similarity / d row n.

    TURNED: a group's queries lie at group * q_group, transposed, with zeros up to a multiple of 16; else at their rows.
    """
    group, part = tl.program_id(1), tl.program_id(2)
    first, stop = rows_of(group, batch, groups)
    queries = (stop - first).to(tl.int32)
    share = tl.cdiv(tl.cdiv(queries, tl.num_programs(2)), 16) * 16
    offset = tl.minimum(part * share, queries)
    here = tl.minimum(queries - offset, share)
    length = dim // 2 if SIMILARITY == MODULUS else dim
    row_tile, d_tile = place_of(tl.program_id(0), tl.cdiv(count, ROWS), tl.cdiv(length, WIDTH), GROUP)
    begin = row_tile * ROWS
    place = (begin + tl.arange(0, ROWS)).to(tl.int64)
    read = tl.minimum(place, count - 1)
    zeros = tl.zeros((ROWS, WIDTH), SUM)
    rows = lists + group.to(tl.int64) * count * dim
    if TURNED:
        y, y_here = query + group.to(tl.int64) * q_group + part * share * q_row, tl.cdiv(here, 16) * 16
    else:
        y, y_here = query + (first + offset) * q_row, here
    a, b = slope_tile(zeros, zeros, g + (first + offset) * count + begin, 1, count, count - begin, here, rows, read, y,
                      q_row, q_d, y_here, here, dim, d_tile * WIDTH, SIMILARITY, SUM, PRECISION, ROWS, WIDTH,
                      DEPTH)  # fmt: skip
    d = d_tile * WIDTH + tl.arange(0, WIDTH)
    kept = (place < count)[:, None] & (d < length)[None, :]
    out += ((part * groups + group).to(tl.int64) * count + place)[:, None] * dim + d[None, :]
    tl.store(out, a, mask=kept)
    if SIMILARITY == MODULUS:
        tl.store(out + length, b, mask=kept)


def turned_by_group(rows, groups: int, multiple: int = 16):
    """(rows [B, D] as [G, D, L] with zeros, L the next multiple of the largest group; its three strides)."""
    batch, dim = rows.shape
    largest = ceil_div(batch, groups)
    width = ceil_div(largest, multiple) * multiple
    turned = rows.new_zeros((groups, dim, width))
    if batch == groups * largest:
        turned[:, :, :largest] = rows.view(groups, largest, dim).transpose(1, 2)
    else:
        first, stop = (-(-torch.arange(one, groups + one, device=rows.device) * batch // groups) for one in (0, 1))
        place = first[:, None] + torch.arange(largest, device=rows.device)
        picked = rows[place.clamp(max=batch - 1)].masked_fill_((place >= stop[:, None])[:, :, None], 0)
        turned[:, :, :largest] = picked.transpose(1, 2)
    return turned, (dim * width, 1, width)


def slope_tiles(dtype, similarity: int, device, rows: int):
    sizes = tiles("slopes", dtype, similarity, device, rows)
    return replace(sizes, columns=min(sizes.columns, 128))  # wider tiles don't fit the registers


def parts_of(programs: int, queries: int, device) -> int:
    """Into how many parts the queries of a list are cut, so that every multiprocessor has a sum to make."""
    wanted = ceil_div(2 * configurations.device_properties(device)[1], programs)
    return max(1, min(wanted, ceil_div(queries, 64), 16))


def loss(query, table, targets, negatives, starts, ends, known, weights, similarity: int, kind: int, margin: float,
         temperature: float, losses, d_query, coefficients, d_negatives, allocate) -> None:  # fmt: skip
    """Fills losses [B] and, unless d_query is empty, d_query [B, D], the targets' coefficients [B, 1] and d_negatives
    [G, N, D]."""
    (batch, dim), (groups, count), dtype = query.shape, negatives.shape, table.dtype
    if batch == 0:
        return
    gradient, wide = len(d_query) > 0, sum_dtype(dtype)
    shared = arithmetic(dtype, similarity)
    largest = -(-batch // groups)
    sizes = tiles("scores", dtype, similarity, query.device, largest)
    raw = allocate("raw_scores", (batch, count), wide)
    row_tiles = -(-largest // sizes.rows)
    column_tiles = -(-count // sizes.columns)
    lists = table.index_select(0, negatives.clamp(min=0).view(-1)).view(groups, count, dim)
    if count:
        turned, rows = (query, dim, 1), (lists, count * dim, dim, 1)
        if similarity != DOT.value:  # tiles of distances read a coordinate of many rows at once
            copy, strides = turned_by_group(lists.view(-1, dim), groups, sizes.columns)
            turned, rows = (query.t().contiguous(), 1, batch), (copy, *strides)
        scores[(row_tiles * column_tiles, groups)](
            *turned, *rows, raw, batch, groups, count, dim, row_tiles, **shared, ROWS=sizes.rows,
            COLUMNS=sizes.columns, DEPTH=sizes.depth, GROUP=GROUP, **constants(sizes),
        )  # fmt: skip
    g = raw
    if gradient and similarity == DOT.value and wide != dtype:  # tensor cores take both factors in one dtype
        g = allocate("coefficients_of_lists", (batch, count), dtype)
    visited = min(1024, triton.next_power_of_2(max(count, 1)))
    width = min(1024, max(32, triton.next_power_of_2(dim)))
    objective[(batch,)](
        query, table, targets, negatives, starts, ends, known, weights, raw, g, losses, coefficients, d_query, groups,
        count, dim, bits(margin), bits(temperature), len(starts) > 0, kind, weighed(kind, temperature), gradient,
        similarity, shared["SUM"], visited, width, num_warps=4,
    )  # fmt: skip
    if not gradient or not count:
        return
    length = dim // 2 if similarity == MODULUS.value else dim
    for_queries, for_lists = (slope_tiles(dtype, similarity, query.device, most) for most in (largest, count))
    turns = transposes(query, similarity)
    listed, by_list = (lists, (count * dim, dim, 1)), (query, (0, dim, 1))
    if turns:
        listed, by_list = turned_by_group(lists.view(-1, dim), groups), turned_by_group(query, groups)
    row_tiles = ceil_div(largest, for_queries.rows)
    query_slopes[(row_tiles * ceil_div(length, for_queries.columns), groups)](
        g, query, listed[0], *listed[1], d_query, batch, groups, count, dim, row_tiles, TURNED=turns, **shared,
        **block(for_queries, SLOPES), GROUP=GROUP,
    )  # fmt: skip
    programs = ceil_div(count, for_lists.rows) * ceil_div(length, for_lists.columns)
    parts = parts_of(programs * groups, largest, query.device)
    sums = d_negatives if parts == 1 else allocate("parts_of_lists", (parts, *d_negatives.shape), wide)
    list_slopes[(programs, groups, parts)](
        g, lists, by_list[0], *by_list[1], sums, batch, groups, count, dim, TURNED=turns, **shared,
        **block(for_lists, SLOPES), GROUP=GROUP,
    )  # fmt: skip
    if parts > 1:
        torch.sum(sums, 0, out=d_negatives)
