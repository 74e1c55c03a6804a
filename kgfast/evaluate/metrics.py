"""Filtered ranking: the triples of a split, both sides, every entity a candidate. What is asked to be less says so."""

import math
from typing import Any

import torch

from kgfast.core import checks
from kgfast.errors import ConfigError, DataError, KgfastError
from kgfast.evaluate.sampled import SampledRanks

HITS = (1, 3, 10)
HEADINGS = {"mrr": "MRR", "hits@1": "Hits@1", "hits@3": "Hits@3", "hits@10": "Hits@10", "mean_rank": "Mean rank"}
TIES = ("realistic", "optimistic", "pessimistic")
CATEGORIES = ("1-1", "1-n", "n-1", "n-n")
CATEGORY_THRESHOLD = 1.5  # Bordes et al. 2013, section 4.3
NORMAL_95 = 1.959964  # standard deviations to both sides of the mean that hold 95 % of a normal distribution
SAMPLED = "sampled_"  # before the name of each metric that ranks among sampled candidates


def evaluate(
    model,
    graph,
    split="test",
    *,
    batch_size=512,
    progress=None,
    ties="realistic",
    details=False,
    triples=None,
    candidates=None,
    seed=0,
):
    """Rank the right answer of every (head, relation, ?) and (?, relation, tail) among all entities.

    The other known answers (train + valid + test) are left out of the ranking. With ties, "realistic"
    is the mean of the best and the worst rank. Entities that training never saw take part like all others.

        mrr = mean(1 / rank)    hits@k = mean(rank <= k)    mean_rank = mean(rank)

    Returns a dict with mrr, hits@1, hits@3, hits@10, mean_rank and triples: on top the mean over both sides,
    under "head" and "tail" each side alone ("tail" ranks tails). `details=True` adds those of `rank_details`.
    `progress(done, total)` is called after each batch, counted in queries (two a triple).

    For graphs where all of that takes hours:
    triples     rank this many of the split's triples, drawn without repetition by `seed`. The result has "of" (the
                size of the split), "seed", and "interval" {metric: [low, high]}, which holds the metric of the whole
                split with 95 % confidence (normal approximation over triples, corrected for a finite split).
    candidates  rank among this many entities, drawn without repetition by `seed`, and the right one. That is another
                metric, easier by far: every name begins with "sampled_", and "candidates" has the number.

    Memory: two float64 a triple, and what `model.rank` needs for one batch; with `candidates` K a batch's scores
    [batch_size, K + 1] and their ids. ConfigError on unknown arguments, DataError on an empty split or a graph of
    another size, KgfastError where scores aren't finite numbers.
    """
    check_model_fits(model, graph)
    whole = split_triples(graph, split)
    if ties not in TIES:
        raise ConfigError(f"ties={ties!r}: must be one of {', '.join(TIES)}")
    if checks.integer("batch_size", batch_size, 0) < 1:
        raise ConfigError(f"batch_size={batch_size}: must be at least 1")
    checks.integer("seed", seed, 0, 2**63)
    chosen = whole if triples is None else whole[subset(len(whole), checks.integer("triples", triples, 1), seed)]
    ranker = model if candidates is None else SampledRanks(model, checks.integer("candidates", candidates, 1), seed)
    ranks = all_ranks(model, graph, chosen, batch_size=batch_size, progress=progress, ties=ties, ranker=ranker)
    result = summarize(torch.cat([ranks["tail"], ranks["head"]]))
    result["triples"] = len(chosen)
    for side in ("head", "tail"):
        result[side] = summarize(ranks[side])
    if len(chosen) < len(whole):
        result |= {"of": len(whole), "seed": seed, "interval": intervals(ranks, len(whole))}
    if details:
        result |= rank_details(graph, chosen, ranks)
    if candidates is not None:
        result = prefixed(result, SAMPLED) | {"candidates": len(ranker.candidates), "seed": seed}
    return result


def subset(total, count, seed):
    """`count` of `total` rows (all of them where there are no more), drawn without repetition, in ascending order."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def intervals(ranks, total):
    """{metric: [low, high]}: 95 % confidence for the mean over all `total` triples, of which `ranks` are some.

    mean +- 1.96 * sd / sqrt(n) * sqrt((total - n) / (total - 1)),    a triple's value the mean of its two sides
    """
    both = torch.stack([ranks["tail"], ranks["head"]])
    count = both.shape[1]
    shrink = math.sqrt((total - count) / max(total - 1, 1) / count)
    values = {"mrr": both.reciprocal(), **{f"hits@{k}": (both <= k).double() for k in HITS}, "mean_rank": both}
    found = {}
    for name, of_sides in values.items():
        of_triples = of_sides.mean(0)
        mean, spread = float(of_triples.mean()), float(of_triples.std()) if count > 1 else math.inf
        margin = NORMAL_95 * spread * shrink
        low, high = (1.0, math.inf) if name == "mean_rank" else (0.0, 1.0)
        found[name] = [max(low, mean - margin), min(high, mean + margin)]
    return found


def prefixed(result, prefix):
    """The same result with a prefix before every metric, wherever it stands."""
    if isinstance(result, dict):
        return {prefix + key if key in HEADINGS else key: prefixed(value, prefix) for key, value in result.items()}
    return [prefixed(part, prefix) for part in result] if isinstance(result, list) else result


def split_triples(graph, split):
    """The triples [M, 3] of a named split; an error that says what there is where it's unknown or empty."""
    if split not in ("train", "valid", "test"):
        raise ConfigError(f"split={split!r}: must be one of train, valid, test")
    triples = getattr(graph, split)
    if len(triples) == 0:
        filled = [name for name in ("train", "valid", "test") if len(getattr(graph, name))]
        raise DataError(
            f"graph {graph.name!r} has no {split} triples to evaluate; it has: {', '.join(filled) or 'none'}"
        )
    return triples


def check_model_fits(model, graph):
    """Raise DataError unless the model was made for as many entities and relations as the graph has."""
    for name, value, example in (("model", model, "kgfast.nn.KGEModel"), ("graph", graph, "kgfast.KnowledgeGraph")):
        if not hasattr(value, "num_entities") or not hasattr(value, "num_relations"):
            raise ConfigError(f"{name} must be a {name} such as {example}, not {type(value).__name__}")
    for what in ("num_entities", "num_relations"):
        have, want = getattr(model, what), getattr(graph, what)
        if have != want:
            raise DataError(
                f"the model has {what} = {have}, graph {graph.name!r} has {want}: they don't belong together"
            )


def check_finite(model):
    """Every comparison with NaN is false, so a diverged model would rank everything first: refuse instead."""
    for name in ("entities", "relations"):
        bad = int((~torch.isfinite(getattr(model, name))).any(dim=1).sum())
        if bad:
            raise KgfastError(f"model.{name} has {bad} rows that aren't finite: training diverged, try a lower lr")


@torch.no_grad()
def all_ranks(model, graph, triples, *, batch_size=512, progress=None, ties="realistic", ranker=None):
    """Filtered ranks {"tail": [M], "head": [M]}, float64 on the CPU, in the order of `triples`.

    ranker: what has the method `rank` of a model, by default the model itself.
    """
    ranker = ranker or model
    device = model.entities.device
    check_finite(model)
    known = graph.known().to(device)
    total = 2 * len(triples)
    ranks = {side: torch.empty(len(triples), dtype=torch.float64) for side in ("tail", "head")}
    training = model.training
    model.eval()
    try:
        for start in range(0, len(triples), batch_size):
            batch = triples[start : start + batch_size].to(device)
            scores = model.score_triples(batch)
            if not bool(torch.isfinite(scores).all()):
                row = start + int((~torch.isfinite(scores)).nonzero()[0])
                raise KgfastError(f"the score of triple {triples[row].tolist()} isn't finite: training diverged")
            for side in ranks:
                ranks[side][start : start + len(batch)] = ranker.rank(batch, side, known=known, ties=ties).cpu()
            if progress is not None:
                progress(2 * min(start + batch_size, len(triples)), total)
    finally:
        model.train(training)
    return ranks


def summarize(ranks):
    """mrr, hits@k and mean_rank of float64 ranks [N], N > 0."""
    result = {"mrr": float(ranks.reciprocal().mean())}
    for k in HITS:
        result[f"hits@{k}"] = float((ranks <= k).double().mean())
    result["mean_rank"] = float(ranks.mean())
    return result


def rank_details(graph, triples, ranks):
    """What lies behind the means: a dict with

    per_relation  a list over the relations of the split, most frequent first: relation, category, METRICS
    per_category  "1-1", "1-n", "n-1", "n-n" -> relations, METRICS; "not in train" where there are such
    histogram     edges [n + 1], tail [n], head [n]: the number of ranks with edge[i] <= rank < edge[i + 1]
    entities      "seen" (both entities occur in train) and "unseen" (one doesn't) -> METRICS
    relations     "seen" (it occurs in train) and "unseen" -> METRICS

    METRICS are triples, mrr and hits@10 over both sides, and under "head" and "tail" each side's.
    """
    triples = triples.cpu()
    categories = relation_categories(graph)
    relations = triples[:, 1]
    per_relation = []
    for relation in relations.unique().tolist():
        entry = {"relation": str(graph.relation_names[relation]), "category": categories[relation]}
        per_relation.append(entry | group_metrics(ranks, relations == relation))
    per_relation.sort(key=lambda entry: (-entry["triples"], entry["relation"]))

    per_category = {}
    for category in (*CATEGORIES, "not in train"):
        members = [relation for relation, its in enumerate(categories) if its == category]
        chosen = torch.isin(relations, torch.tensor(members, dtype=torch.int64))
        if chosen.any():
            per_category[category] = {"relations": len(relations[chosen].unique())} | group_metrics(ranks, chosen)

    in_train = torch.zeros(graph.num_entities, dtype=torch.bool)
    in_train[graph.train[:, [0, 2]].flatten().cpu()] = True
    related = torch.zeros(graph.num_relations, dtype=torch.bool)
    related[graph.train[:, 1].cpu()] = True
    return {
        "per_relation": per_relation,
        "per_category": per_category,
        "histogram": histogram(ranks, graph.num_entities),
        "entities": seen_and_unseen(ranks, in_train[triples[:, 0]] & in_train[triples[:, 2]]),
        "relations": seen_and_unseen(ranks, related[relations]),
    }


def seen_and_unseen(ranks, seen):
    """{"seen": METRICS, "unseen": METRICS} of the triples that a bool [M] parts, as far as there are such."""
    return {name: group_metrics(ranks, rows) for name, rows in (("seen", seen), ("unseen", ~seen)) if rows.any()}


def group_metrics(ranks, chosen):
    """The METRICS of rank_details for the triples chosen by a bool [M] (at least one)."""
    sides = {side: summarize(values[chosen]) for side, values in ranks.items()}
    result: dict[str, Any] = {"triples": int(chosen.sum())}
    for key in ("mrr", "hits@10"):
        result[key] = (sides["tail"][key] + sides["head"][key]) / 2
    for side in ("head", "tail"):
        result[side] = {key: sides[side][key] for key in ("mrr", "hits@10")}
    return result


def relation_categories(graph):
    """For each relation id "1-1", "1-n", "n-1" or "n-n", or "not in train".

    "1-n": a head has at least 1.5 tails on average over the training triples; "n-1": a tail has 1.5 heads.
    """
    head, relation, tail = graph.train.cpu().unbind(1)
    count = torch.bincount(relation, minlength=graph.num_relations)

    def distinct(entity):
        pairs = (relation * graph.num_entities + entity).unique()
        return torch.bincount(pairs // graph.num_entities, minlength=graph.num_relations)

    many_tails = (count >= CATEGORY_THRESHOLD * distinct(head)).tolist()
    many_heads = (count >= CATEGORY_THRESHOLD * distinct(tail)).tolist()
    return [
        ("n" if heads else "1") + "-" + ("n" if tails else "1") if used else "not in train"
        for used, heads, tails in zip(count.tolist(), many_heads, many_tails, strict=True)
    ]


def histogram(ranks, num_entities):
    """Counts of ranks in bins that widen by half decades: 1, 2, 3, 4-9, 10-29, 30-99, ... num_entities."""
    edges = [1, 2, 3, 4]
    step = 10
    while edges[-1] <= num_entities:
        edges.append(step)
        step = step * 3 if str(step)[0] == "1" else step // 3 * 10
    bounds = torch.tensor(edges, dtype=torch.float64)
    result = {"edges": edges}
    for side, values in ranks.items():
        bins = torch.bucketize(values, bounds, right=True) - 1
        result[side] = torch.bincount(bins, minlength=len(edges) - 1).tolist()
    return result
