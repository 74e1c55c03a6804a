"""What is made of ranks: mean reciprocal rank, hits, mean rank, and the mean rank against that of a random order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.errors import ConfigError

HITS = (1, 3, 10)
NAMES = {"mrr": "MRR", "mean_rank": "Mean rank", "amr": "AMR", "amri": "AMRI"}
HITS_AT = "hits@"
NORMAL_95 = 1.959964  # standard deviations to both sides of the mean that hold 95 % of a normal distribution
SAMPLED = "sampled_"  # before the name of each metric that ranks among sampled candidates


def heading(name: str) -> str | None:
    """How a table calls a metric; None for what is no metric of ranks."""
    return name.capitalize() if name.startswith(HITS_AT) else NAMES.get(name)


def headings(found: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{metric: heading} of the metrics in a result of `evaluate`, whose names begin with the prefix."""
    named = {name: heading(name.removeprefix(prefix)) for name in found}
    return {name: word for name, word in named.items() if word is not None}


HEADINGS = headings(dict.fromkeys(["mrr", *(f"{HITS_AT}{k}" for k in HITS), "mean_rank"]))


def check_hits(hits: Sequence[int]) -> tuple[int, ...]:
    """The k of hits@k, each once, in their order."""
    found = tuple(dict.fromkeys(checks.integer("hits", k, 1) for k in checks.rows("hits", hits)))
    if not found:
        raise ConfigError("hits is empty: give the k of hits@k, such as 1,3,10")
    return found


def summarize(ranks: Tensor, expected: Tensor | None = None, hits: Sequence[int] = HITS) -> dict[str, Any]:
    """mrr, hits@k and mean_rank of float64 ranks [N], N > 0.

    expected: [N], the mean rank of each query in a random order. Then also, after Berrendorf et al. 2020,

        amr = mean(rank) / mean(expected)    amri = 1 - (mean(rank) - 1) / (mean(expected) - 1)

    1 and 0 for a random order; at best amr nears 0 and amri is 1. Where nothing else competes, they are 1 and 0.
    """
    result = {"mrr": float(ranks.reciprocal().mean())}
    for k in hits:
        result[f"{HITS_AT}{k}"] = float((ranks <= k).double().mean())
    result["mean_rank"] = mean = float(ranks.mean())
    if expected is not None:
        random = float(expected.mean())
        result["amr"] = mean / random
        result["amri"] = 1 - (mean - 1) / (random - 1) if random > 1 else 0.0
    return result


def intervals(ranks: Mapping[str, Tensor], total: int, hits: Sequence[int] = HITS) -> dict[str, list[float]]:
    """{metric: [low, high]}: 95 % confidence for the mean over all `total` triples, of which `ranks` are some.

    mean +- 1.96 * sd / sqrt(n) * sqrt((total - n) / (total - 1)),    a triple's value the mean of its two sides
    """
    both = torch.stack([ranks["tail"], ranks["head"]])
    count = both.shape[1]
    shrink = math.sqrt((total - count) / max(total - 1, 1) / count)
    values = {"mrr": both.reciprocal(), **{f"{HITS_AT}{k}": (both <= k).double() for k in hits}, "mean_rank": both}
    found = {}
    for name, of_sides in values.items():
        of_triples = of_sides.mean(0)
        mean, spread = float(of_triples.mean()), float(of_triples.std()) if count > 1 else math.inf
        margin = NORMAL_95 * spread * shrink
        low, high = (1.0, math.inf) if name == "mean_rank" else (0.0, 1.0)
        found[name] = [max(low, mean - margin), min(high, mean + margin)]
    return found


def both_sides(
    ranks: Mapping[str, Tensor], expected: Mapping[str, Tensor], hits: Sequence[int] = HITS
) -> dict[str, Any]:
    """`summarize` of both sides together, and under "head" and "tail" of each alone."""
    every, chance = (torch.cat([values["tail"], values["head"]]) for values in (ranks, expected))
    sides = {side: summarize(ranks[side], expected[side], hits) for side in ("head", "tail")}
    return summarize(every, chance, hits) | sides


def prefixed(result: Any, prefix: str) -> Any:
    """The same result with a prefix before every metric, wherever it stands."""
    if isinstance(result, dict):
        return {(prefix if heading(key) else "") + key: prefixed(value, prefix) for key, value in result.items()}
    return [prefixed(part, prefix) for part in result] if isinstance(result, list) else result
