"""Filtered ranks and the best answers, by scoring every row."""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.core.known import KnownTriples
from kgfast.errors import KgfastError

from .sampling import known_mask
from .scores import COLUMN, score_candidates

# how many of the rows that tie with the target are placed before it
TIE_SHARES = {"optimistic": 0.0, "realistic": 0.5, "pessimistic": 1.0}


def refuse_nan(scores: Tensor, triples: Tensor, side: str) -> None:
    """NaN has no rank: a KgfastError names the first triple with a score that is NaN. scores [B, K]."""
    broken = scores.isnan().any(1).nonzero()
    if len(broken):
        row = int(broken[0])
        raise KgfastError(f"the score of triples[{row}] = {triples[row].tolist()} is NaN (side={side!r})")


def rank(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    *,
    score: str,
    side: str,
    known: KnownTriples | None = None,
    ties: str = "realistic",
) -> Tensor:
    """rank_b = 1 + #{c: s_c > s_target} + share * #{c != target: s_c = s_target}: float64 [B].

    share is 0 (optimistic), 1 (pessimistic) or 1/2 (realistic: the mean of both). Known answers of the query
    other than the target have no part. Scores are compared in the dtype of the tables. A target whose score
    is NaN raises; another candidate's NaN counts as greater: broken rows never improve a rank.
    """
    share = checks.pick("ties", ties, TIE_SHARES)
    scores = score_candidates(entities.detach(), relations.detach(), triples, score=score, side=side)
    target = triples[:, COLUMN[side], None]
    others = torch.ones_like(scores, dtype=torch.bool).scatter_(1, target, False)
    if known is not None:
        others &= ~known_mask(known, triples, side, scores.shape[1])
    own = scores.gather(1, target)
    refuse_nan(own, triples, side)
    greater, equal = (~(scores <= own) & others).sum(1), ((scores == own) & others).sum(1)
    return 1.0 + greater.double() + share * equal.double()


def topk(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    k: int,
    *,
    score: str,
    side: str,
    exclude: KnownTriples | None = None,
) -> tuple[Tensor, Tensor]:
    """(scores [B, k], ids int64 [B, k]): the k best answers of each query, best first, ties by lower id.

    The answer's own column of `triples` is not read. exclude: a KnownTriples, all of whose answers to the
    query are left out. Where fewer than k remain: score -inf, id -1. A NaN raises. Memory O(B C D).
    """
    scores = score_candidates(entities.detach(), relations.detach(), triples, score=score, side=side)
    refuse_nan(scores, triples, side)
    left = torch.ones_like(scores, dtype=torch.bool)
    if exclude is not None:
        left = ~known_mask(exclude, triples, side, scores.shape[1])
    best = scores.masked_fill(~left, -torch.inf).sort(dim=1, descending=True, stable=True)
    scores, ids = best.values[:, :k], best.indices[:, :k]
    ids = ids.masked_fill(~left.gather(1, ids), -1)
    missing = (0, k - scores.shape[1])  # k may exceed the number of rows
    if missing[1] > 0:
        scores = torch.nn.functional.pad(scores, missing, value=-torch.inf)
        ids = torch.nn.functional.pad(ids, missing, value=-1)
    return scores, ids
