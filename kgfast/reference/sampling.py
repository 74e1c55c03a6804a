"""Negatives from counters: Philox-4x32-10 keyed by the seed, counted by (column, row, step).

Every id is a function of (seed, step, side, row, column) alone, so that every backend draws the same ones
whatever its threads. 32-bit words are carried in int64: products wrap modulo 2^64, which keeps every bit that
is used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kgfast.core.known import KnownTriples
from kgfast.errors import KgfastError

MASK32 = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
HEAD_SIDE = 1 << 31  # added to counter[0], so that the two sides draw different ids
ATTEMPT_SHIFT = 24  # attempt a of a redraw adds a << 24 to counter[0]
MAX_ATTEMPTS = 63


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> Tensor:
    """Philox-4x32-10 (Salmon et al. 2011): four int64 tensors that hold 32-bit words -> [.., 4] words."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        high0, high1 = (p0 >> 32) & MASK32, (p1 >> 32) & MASK32
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, p1 & MASK32, high0 ^ c3 ^ k1, p0 & MASK32
        k0, k1 = (k0 + WEYL[0]) & MASK32, (k1 + WEYL[1]) & MASK32
    return torch.stack([c0, c1, c2, c3], dim=-1)


def random_words(
    num_rows: int,
    num_columns: int,
    *,
    side: str,
    seed: int,
    step: int,
    attempt: int = 0,
    words: int = 1,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw (row, column) takes `words` (1 or 2) consecutive words, of counter (words*column // 4, row, step).

    Returns int64 [num_rows, num_columns, words] in [0, 2^32).
    """
    rows, columns = torch.arange(num_rows, device=device), torch.arange(num_columns, device=device)
    first = words * columns
    counter0 = first // 4 + (attempt << ATTEMPT_SHIFT) + (HEAD_SIDE if side == "head" else 0)
    step_words = torch.tensor([step & MASK32, (step >> 32) & MASK32], device=device)
    blocks = philox(
        (counter0[None, :], rows[:, None], step_words[0], step_words[1]),
        (seed & MASK32, (seed >> 32) & MASK32),
    )  # [R, N, 4]
    positions = first[:, None] % 4 + torch.arange(words, device=device)  # [N, words]
    return blocks.gather(2, positions.expand(num_rows, num_columns, words))


def scale(word: Tensor, size: Tensor | int) -> Tensor:
    """floor(word * size / 2^32): a 32-bit word -> [0, size), size < 2^63, by the high halves of 64-bit products."""
    return word * (size >> 32) + ((word * (size & MASK32) >> 32) & MASK32)


def scaled_weights(weights: Tensor) -> Tensor:
    """weights times a power of two, which changes no ratio, so that the largest is about 1: their sums are finite.
    weights: real [C], finite, >= 0, sum > 0."""
    weights = weights.detach().to("cpu", torch.float64)
    wrong = (~torch.isfinite(weights) | (weights < 0)).nonzero()
    if len(wrong):
        place = wrong[0].tolist()
        raise KgfastError(f"weights{place} is {float(weights[tuple(place)])}; weights must be finite numbers >= 0")
    if not bool((weights > 0).any()):
        raise KgfastError(f"weights: the sum of {len(weights)} weights is 0; one at least must be > 0")
    exponent = math.frexp(float(weights.max()))[1]
    return weights * 2.0 ** -(exponent // 2) * 2.0 ** -(exponent - exponent // 2)


def draw_table(weights: Tensor) -> Tensor:
    """int64 [3, C], on the CPU: thresholds and aliases of `alias_table`, and for draws that avoid some ids the sums of
    the weights up to each id, in units of 2^-62 of all; a weight > 0 counts as one unit at least."""
    scaled = scaled_weights(weights)
    units = (scaled * (2.0**62 / scaled.cumsum(0)[-1])).long()
    sums = torch.where(weights.detach().cpu() > 0, units.clamp(min=1), 0).cumsum(0)
    return torch.stack([*alias_table(weights), sums])


def alias_table(weights: Tensor) -> tuple[Tensor, Tensor]:
    """(thresholds, aliases) int64 [C]: bucket c gives c where a word is < thresholds[c], else aliases[c].

    P(c) = (thresholds[c] + sum over b with aliases[b] = c of 2^32 - thresholds[b]) / (2^32 C) = weights[c] /
    sum. One sweep over the rows below the mean (deficit 1 - p) and the others (excess p - 1), in order of id:
    a row below is filled by the row above whose excess is in turn; that one's own shortage is filled by the
    next row above. weights: real [C], finite, >= 0, sum > 0. Memory O(C).
    """
    weights = scaled_weights(weights)
    mass = weights * (weights.numel() / weights.cumsum(0)[-1])  # one order, whatever the number of threads
    below, above = (mass < 1).nonzero().squeeze(1), (mass >= 1).nonzero().squeeze(1)
    if len(above) == 0:  # only rounding can put every row below the mean: all are equal
        below, above = above, below
    deficits, excesses = (1 - mass[below]).cumsum(0), (mass[above] - 1).clamp(min=0).cumsum(0)
    keep, aliases = mass.clamp(max=1.0), torch.arange(weights.numel())
    # a row below: the first row above that has excess left when its turn comes
    before = torch.cat([deficits.new_zeros(1), deficits])[:-1]
    aliases[below] = above[torch.searchsorted(excesses, before, right=True).clamp(max=len(above) - 1)]
    # a row above that had something, except the last: the first row below that takes all of it, or more
    overdrawn = torch.searchsorted(deficits, excesses[:-1])
    short = ((overdrawn < len(below)) & (excesses[:-1] > 0)).nonzero().squeeze(1)
    keep[above] = 1.0
    keep[above[short]] = 1 - (deficits[overdrawn[short]] - excesses[short])
    aliases[above[short]] = above[short + 1]
    thresholds = (keep.clamp(0, 1) * 2.0**32).long().clamp(max=MASK32)
    return thresholds, aliases


def known_mask(known: KnownTriples, triples: Tensor, side: str, num_entities: int) -> Tensor:
    """mask[b, c] = c is a known answer of query b: bool [B, num_entities]."""
    starts, ends = known.lookup(triples, side)
    ids = known.ids(side)
    mask = torch.zeros(len(triples), num_entities, dtype=torch.bool, device=triples.device)
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        mask[row, ids[start:end]] = True
    return mask


def draw_complement(words: Tensor, answers: Tensor) -> Tensor:
    """The j-th id that is no known answer of b, j = floor(word * (C - k_b) / 2^32): [B, N]; -1 if k_b = C."""
    ids = torch.full_like(words, -1)
    for row, known in enumerate(answers):
        unknown = (~known).nonzero().squeeze(1)
        if len(unknown):
            ids[row] = unknown[scale(words[row], len(unknown))]
    return ids


def draw_weighted_complement(words: Tensor, answers: Tensor, sums: Tensor) -> Tensor:
    """The id, no known answer of b, in whose weight the part word / 2^32 of all such weights lies: [B, N]; -1 where
    they are 0. sums [C]: of `draw_table`."""
    ids = torch.full_like(words, -1)
    units = sums.diff(prepend=sums.new_zeros(1))
    for row, known in enumerate(answers):
        left = units.masked_fill(known, 0).cumsum(0)
        if int(left[-1]):
            ids[row] = torch.searchsorted(left, scale(words[row], left[-1]), right=True)
    return ids


def sample_negatives(
    triples: Tensor,
    num_negatives: int,
    num_entities: int,
    *,
    side: str,
    seed: int,
    step: int = 0,
    weights: Tensor | None = None,
    known: KnownTriples | None = None,
    shared: int = 0,
) -> Tensor:
    """id[b, n] = floor(x * num_entities / 2^32), x the Philox word of (seed, step, side, b, n).

    known: drawn uniformly from the ids that are no known answer of the query (-1 where there are none).
    weights [num_entities]: drawn in proportion to them, by `draw_table`; with known, a known id is drawn
    again, up to 63 times, then once from the complement, by its weights (-1 where those are 0). shared = c >
    0: one list for c triples, in which known ids stay. Returns int64 [B, N], [ceil(B / c), N] if shared;
    side="both" stacks tail and head: [2, .., N].
    """
    if side == "both":
        options: dict[str, Any] = dict(seed=seed, step=step, weights=weights, known=known, shared=shared)
        sides = [sample_negatives(triples, num_negatives, num_entities, side=s, **options) for s in ("tail", "head")]
        return torch.stack(sides)
    num_lists = -(-len(triples) // shared) if shared else len(triples)
    table = None if weights is None else draw_table(weights).to(triples.device)

    def words(count: int, attempt: int) -> Tensor:
        options: dict[str, Any] = dict(side=side, seed=seed, step=step, attempt=attempt, device=triples.device)
        return random_words(num_lists, num_negatives, words=count, **options)

    def draw(attempt: int) -> Tensor:
        if table is None:
            return scale(words(1, attempt)[..., 0], num_entities)
        thresholds, aliases, _ = table
        bucket_word, keep_word = words(2, attempt).unbind(2)
        bucket = scale(bucket_word, num_entities)
        return torch.where(keep_word < thresholds[bucket], bucket, aliases[bucket])

    if known is None or shared:
        return draw(0)
    answers = known_mask(known, triples, side, num_entities)
    if table is None:
        return draw_complement(words(1, 0)[..., 0], answers)
    ids = draw(0)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        ids = torch.where(answers.gather(1, ids), draw(attempt), ids)
    rest = draw_weighted_complement(words(1, MAX_ATTEMPTS + 1)[..., 0], answers, table[2])
    return torch.where(answers.gather(1, ids), rest, ids)
