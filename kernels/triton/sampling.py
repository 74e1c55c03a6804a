"""Negatives and dropout from counters: Philox-4x32-10, the same ids as csrc/include/kgfast/sampling.h bit for bit.

A draw costs some 100 integer operations for four ids and 8 bytes an id; known answers add a binary search each. The
step is read from the device, so that a captured graph draws other ids each time it is replayed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .scores import HEAD
from .tiles import split_program


@triton.jit
def below(word, bound):
    """A 32-bit word as an integer below `bound` (< 2^31)."""
    return (word.to(tl.uint64) * bound.to(tl.uint64) >> 32).to(tl.int64)


@triton.jit
def below_wide(word, bound):
    """As below(), of bounds < 2^63."""
    word = word.to(tl.int64)
    return word * (bound >> 32) + ((word * (bound & 4294967295)).to(tl.uint64) >> 32).to(tl.int64)


@triton.jit
def known_range(starts_ptr, ends_ptr, row, HAS_KNOWN: tl.constexpr):
    """[start, end) of a row's known answers."""
    if HAS_KNOWN:
        return tl.load(starts_ptr + row), tl.load(ends_ptr + row)
    else:
        return tl.zeros((), tl.int64), tl.zeros((), tl.int64)


@triton.jit
def contains(ids_ptr, start, end, value):
    """Whether the ascending ids[start:end] hold each value."""
    low = tl.zeros_like(value) + start
    high = tl.zeros_like(value) + end
    last = high
    while tl.max(high - low) > 0:
        middle = (low + high) // 2
        undecided = low < high
        smaller = undecided & (tl.load(ids_ptr + middle, mask=undecided, other=0) < value)
        low = tl.where(smaller, middle + 1, low)
        high = tl.where(undecided & (smaller == 0), middle, high)
    return (low < last) & (tl.load(ids_ptr + low, mask=low < last, other=-1) == value)


@triton.jit
def nth_unknown(j, ids_ptr, start, end):
    """The j-th id that is not among the ascending ids[start:end]."""
    low = tl.zeros_like(j)
    high = tl.zeros_like(j) + (end - start)
    while tl.max(high - low, 0) > 0:
        middle = (low + high) // 2
        undecided = low < high
        passed = undecided & (tl.load(ids_ptr + start + middle, mask=undecided, other=0) - middle <= j)
        low = tl.where(passed, middle + 1, low)
        high = tl.where(undecided & (passed == 0), middle, high)
    return j + low


@triton.jit
def weight_of(sums_ptr, id):
    """(the weights before an id, its own), from the sums up to each id."""
    before = tl.load(sums_ptr + id - 1, mask=id > 0, other=0)
    return before, tl.load(sums_ptr + id) - before


@triton.jit
def weighted_unknown(word, sums_ptr, entities, ids_ptr, start, end):
    """The id that is not among the ascending ids[start:end] and in whose weight the part word / 2^32 of all such
    weights lies; -1 where they are 0."""
    left = tl.load(sums_ptr + entities - 1)
    for at in range(start, end):
        _, own = weight_of(sums_ptr, tl.load(ids_ptr + at))
        left -= own
    place = below_wide(word, left)
    for at in range(start, end):
        before, own = weight_of(sums_ptr, tl.load(ids_ptr + at))
        place = tl.where(before <= place, place + own, place)  # once before > place, so it stays: weights are >= 0
    low = tl.zeros_like(place)
    high = low + entities
    while tl.max(high - low, 0) > 0:
        middle = (low + high) // 2
        undecided = low < high
        passed = undecided & (tl.load(sums_ptr + middle, mask=undecided, other=0) <= place)
        low = tl.where(passed, middle + 1, low)
        high = tl.where(undecided & (passed == 0), middle, high)
    return tl.where(left == 0, -1, low)


@triton.jit
def words(seed, block, row, step, SIDE: tl.constexpr, attempt):
    side = 2147483648 if SIDE == HEAD else 0
    c0 = (block.to(tl.int64) + side + (attempt << 24)).to(tl.uint32)
    zero = tl.zeros_like(c0)
    c1 = zero + row.to(tl.uint32)
    c2 = zero + step.to(tl.uint32)
    c3 = zero + (step >> 32).to(tl.uint32)
    return tl.philox(seed, c0, c1, c2, c3)


@triton.jit
def choose_word(place, x0, x1, x2, x3):
    return tl.where(place == 0, x0, tl.where(place == 1, x1, tl.where(place == 2, x2, x3)))


@triton.jit(do_not_specialize=["seed", "count", "entities"])
def draw_negatives(
    ids_ptr,  # [lists, count]
    seed: tl.int64,
    step_ptr,  # [1]
    count, entities,
    thresholds_ptr, aliases_ptr, sums_ptr,  # [entities]: an alias table, and the weights up to each id
    known_starts_ptr, known_ends_ptr, known_ids_ptr,  # [lists], [lists], [..]
    SIDE: tl.constexpr, WEIGHTED: tl.constexpr, HAS_KNOWN: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """ids[list, column] of one list and BLOCK_N columns."""
    row, part = split_program(tl.program_id(0), tl.cdiv(count, BLOCK_N))
    column = part * BLOCK_N + tl.arange(0, BLOCK_N)
    step = tl.load(step_ptr)
    size = tl.zeros((BLOCK_N,), tl.int64) + entities
    start, end = known_range(known_starts_ptr, known_ends_ptr, row, HAS_KNOWN)
    if WEIGHTED:
        id = tl.zeros((BLOCK_N,), tl.int64)
        waiting = column < count
        attempt = tl.zeros((), tl.int64)
        while (attempt < 64) & (tl.max(waiting.to(tl.int32), 0) > 0):
            x0, x1, x2, x3 = words(seed, column // 2, row, step, SIDE, attempt)
            odd = column % 2 == 1
            bucket = below(tl.where(odd, x2, x0), size)
            keep = tl.where(odd, x3, x1).to(tl.int64) < tl.load(thresholds_ptr + bucket, mask=waiting, other=0)
            drawn = tl.where(keep, bucket, tl.load(aliases_ptr + bucket, mask=waiting, other=0))
            id = tl.where(waiting, drawn, id)
            if HAS_KNOWN:
                waiting &= contains(known_ids_ptr, start, end, drawn)
            else:
                waiting &= False
            attempt += 1
        if HAS_KNOWN:
            if tl.max(waiting.to(tl.int32), 0) > 0:
                x0, x1, x2, x3 = words(seed, column // 4, row, step, SIDE, tl.full((), 64, tl.int64))
                word = choose_word(column % 4, x0, x1, x2, x3)
                rest = weighted_unknown(word, sums_ptr, entities, known_ids_ptr, start, end)
                id = tl.where(waiting, rest, id)
    else:
        x0, x1, x2, x3 = words(seed, column // 4, row, step, SIDE, tl.zeros((), tl.int64))
        word = choose_word(column % 4, x0, x1, x2, x3)
        if HAS_KNOWN:
            id = nth_unknown(below(word, tl.maximum(size - (end - start), 0)), known_ids_ptr, start, end)
        else:
            id = below(word, size)
    if HAS_KNOWN:
        id = tl.where(end - start >= size, -1, id)
    tl.store(ids_ptr + row.to(tl.int64) * count + column, id, mask=column < count)


@triton.jit(do_not_specialize=["seed"])
def draw_dropout(
    out_ptr,  # [size]
    seed: tl.int64,
    step_ptr,  # [1]
    size, rate, scale, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = scale where a uniform number is >= rate, else 0."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    step = tl.load(step_ptr)
    zero = tl.zeros((BLOCK,), tl.uint32)
    low, high = at.to(tl.uint32), (at >> 32).to(tl.uint32)
    x0, _, _, _ = tl.philox(seed, low, high, zero + step.to(tl.uint32), zero + (1 << 31))
    keep = x0.to(tl.float64) * (1.0 / 4294967296.0) >= rate
    tl.store(out_ptr + at, tl.where(keep, scale, 0.0).to(out_ptr.dtype.element_ty), mask=at < size)


@triton.jit
def find_targets(
    known_starts_ptr, known_ends_ptr, known_ids_ptr,  # [B], [B], [..]
    targets_ptr,  # [B]
    out_ptr,  # [B], bool
    count, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """out[b] = whether the known answers of row b hold its target."""
    row = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    live = row < count
    start = tl.load(known_starts_ptr + row, mask=live, other=0)
    end = tl.load(known_ends_ptr + row, mask=live, other=0)
    target = tl.load(targets_ptr + row, mask=live, other=0)
    tl.store(out_ptr + row, contains(known_ids_ptr, start, end, target), mask=live)


# ---- launches ------------------------------------------------------------------------------------------------


def on_device(step, device):
    """The step where a kernel reads it: given as such, or as a number."""
    return step if isinstance(step, torch.Tensor) else torch.full((1,), step, dtype=torch.int64, device=device)


def signed(seed: int) -> int:
    seed %= 2**64
    return seed - 2**64 if seed >= 2**63 else seed


def sample(ids, seed: int, step, entities: int, side: int, weights, starts, ends, known) -> None:
    """Fills ids [lists, count]; empty tensors stand for no weights and nothing known."""
    thresholds, aliases, sums = weights if len(weights) else [weights] * 3
    lists, count = ids.shape
    if ids.numel():
        block = min(1024, max(16, triton.next_power_of_2(count)))
        draw_negatives[(lists * triton.cdiv(count, block),)](
            ids_ptr=ids,
            seed=signed(seed),
            step_ptr=on_device(step, ids.device),
            count=count,
            entities=entities,
            thresholds_ptr=thresholds,
            aliases_ptr=aliases,
            sums_ptr=sums,
            known_starts_ptr=starts,
            known_ends_ptr=ends,
            known_ids_ptr=known,
            SIDE=int(side),
            WEIGHTED=len(thresholds) > 0,
            HAS_KNOWN=len(starts) > 0,
            BLOCK_N=block,
            num_warps=1 if block <= 128 else 4,
        )


def dropout_mask(out, rate: float, seed: int, step) -> None:
    if out.numel():
        draw_dropout[(triton.cdiv(out.numel(), 1024),)](
            out_ptr=out,
            seed=signed(seed),
            step_ptr=on_device(step, out.device),
            size=out.numel(),
            rate=rate,
            scale=1 / (1 - rate),
            BLOCK=1024,
        )


def held(starts, ends, ids, targets):
    """Whether each query's known answers hold its target: bool [B]."""
    out = torch.empty(targets.shape, dtype=torch.bool, device=targets.device)
    if len(targets):
        find_targets[(triton.cdiv(len(targets), 128),)](
            known_starts_ptr=starts,
            known_ends_ptr=ends,
            known_ids_ptr=ids,
            targets_ptr=targets,
            out_ptr=out,
            count=len(targets),
            BLOCK_B=128,
        )
    return out
