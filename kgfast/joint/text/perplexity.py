"""Perplexity: exp of the mean loss a token, summed over batches without logits."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kgfast.functional.multitask import Term, multitask_loss


def perplexity(terms: Iterable[Term]) -> dict[str, float]:
    """{"perplexity", "loss", "tokens"} over batches of one task, each a term with the targets of its queries."""
    total, tokens = 0.0, 0
    for term in terms:
        count = len(term.query)
        if count:
            total += float(multitask_loss([term])[1][0]) * count
            tokens += count
    if not tokens:
        return {"perplexity": math.nan, "loss": math.nan, "tokens": 0}
    return {"perplexity": math.exp(min(total / tokens, 700.0)), "loss": total / tokens, "tokens": tokens}
