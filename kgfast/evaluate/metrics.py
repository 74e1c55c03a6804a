"""Filtered ranking: the triples of a split, both sides, every entity a candidate. What is asked to be less says so."""

from typing import Any

import torch

from kgfast.core import checks
from kgfast.errors import ConfigError, DataError, KgfastError
from kgfast.evaluate.baselines import baselines
from kgfast.evaluate.examples import examples
from kgfast.evaluate.measures import HITS, SAMPLED, both_sides, check_hits, intervals, prefixed, summarize
from kgfast.evaluate.sampled import SampledRanks
from kgfast.evaluate.seen import by_seen

TIES = ("realistic", "optimistic", "pessimistic")
CATEGORIES = ("1-1", "1-n", "n-1", "n-n")
CATEGORY_THRESHOLD = 1.5  # Bordes et al. 2013, section 4.3
DETAILS = ("per_relation", "per_category", "histogram", "entities", "relations", "baselines", "examples")
AT_ONCE = 1 << 24  # numbers of a table that are looked at together


def evaluate(
    model, graph, split="test", *, batch_size=512, progress=None, ties="realistic", details=False, triples=None,
    candidates=None, seed=0, hits=HITS, seen=False, kept=None,
):  # fmt: skip
    """Rank the right answer of every (head, relation, ?) and (?, relation, tail) among all entities.

    The other known answers (train + valid + test) are left out of the ranking. With ties, "realistic"
    is the mean of the best and the worst rank. Entities that training never saw take part like all others.

        mrr = mean(1 / rank)    hits@k = mean(rank <= k), k one of `hits`    mean_rank = mean(rank)
        amr = mean_rank / E    amri = 1 - (mean_rank - 1) / (E - 1)    E = mean((n + 1) / 2)

    Of a query n entities compete: E is the mean rank of a random order (docs/metrics.md).

    Returns a dict with these and triples: on top over both sides, under "head" and "tail" each side alone ("tail" ranks
    tails). `details=True` adds those of `rank_details`, `seen=True` "by_seen", those of `kgfast.evaluate.seen.by_seen`.
    Details have "baselines" and "examples" too (the files of these names), unless candidates are drawn.
    `progress(done, total)` is called after each batch, counted in queries (two a triple). `kept` is a
    `kgfast.evaluate.kept.KeptRanks`: an evaluation that takes long and was stopped goes on from there.

    For graphs where all of that takes hours:
    triples     rank this many of the split's triples, drawn without repetition by `seed`. The result has "of" (the
                size of the split), "seed", and "interval" {metric: [low, high]}, which holds the metric of the whole
                split with 95 % confidence (normal approximation over triples, corrected for a finite split; of all
                but amr and amri).
    candidates  rank among this many entities, drawn without repetition by `seed`, and the right one. That is another
                metric, easier by far: every name begins with "sampled_", and "candidates" has the number.

    Memory: four float64 a triple, and what `model.rank` needs for one batch; with `candidates` K a batch's scores
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
    hits = check_hits(hits)
    ranker = model if candidates is None else SampledRanks(model, checks.integer("candidates", candidates, 1), seed)
    known = graph.known().to(model.entities.device)
    options = dict(batch_size=batch_size, progress=progress, ties=ties)
    begun = None
    if kept is not None:
        begun = kept.begin(model, graph.fingerprint, chosen, ties=ties, candidates=candidates, seed=seed)
    ranks = all_ranks(model, graph, chosen, ranker=ranker, known=known, kept=kept, begun=begun, **options)
    expected = expected_ranks(known, chosen, competing if candidates is None else ranker.competing, batch_size)
    result = both_sides(ranks, expected, hits) | {"triples": len(chosen)}
    if len(chosen) < len(whole):
        result |= {"of": len(whole), "seed": seed, "interval": intervals(ranks, len(whole), hits)}
    if details:
        others = {} if candidates else without_model(graph, chosen.cpu(), ranks, known.to("cpu"), hits)
        result |= rank_details(graph, chosen, ranks) | others
    if seen:
        result["by_seen"] = by_seen(graph, chosen, ranks)
    if candidates is not None:
        result = prefixed(result, SAMPLED) | {"candidates": len(ranker.candidates), "seed": seed}
    return result


def without_model(graph, triples, ranks, known, hits):
    """What the same queries give without a model, and those of them that say most."""
    found, by_frequency = baselines(graph, triples, known, hits)
    return {"baselines": found, "examples": examples(graph, triples, ranks, by_frequency)}


def subset(total, count, seed):
    """`count` of `total` rows (all of them where there are no more), drawn without repetition, in ascending order."""
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


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
        rows = getattr(model, name)
        parts = rows.split(max(1, AT_ONCE // rows.shape[1]))  # a copy of a mapped table may be too large
        bad = sum(int((~torch.isfinite(part)).any(dim=1).sum()) for part in parts)
        if bad:
            raise KgfastError(f"model.{name} has {bad} rows that aren't finite: training diverged, try a lower lr")


@torch.no_grad()
def all_ranks(
    model, graph, triples, *, batch_size=512, progress=None, ties="realistic", ranker=None, known=None, kept=None,
    begun=None,
):  # fmt: skip
    """Filtered ranks {"tail": [M], "head": [M]}, float64 on the CPU, in the order of `triples`.

    ranker: what has the method `rank` of a model, by default the model itself; known: by default the graph's. kept,
    begun: where ranks are kept meanwhile, and what its `begin` gave.
    """
    ranker = ranker or model
    device = model.entities.device
    check_finite(model)
    known = graph.known().to(device) if known is None else known
    total = 2 * len(triples)
    empty = {side: torch.full((len(triples),), torch.nan, dtype=torch.float64) for side in ("tail", "head")}
    ranks, done = begun or (empty, 0)
    training = model.training
    model.eval()
    try:
        for start in range(done, len(triples), batch_size):
            batch = triples[start : start + batch_size].to(device)
            scores = model.score_triples(batch)
            if not bool(torch.isfinite(scores).all()):
                row = start + int((~torch.isfinite(scores)).nonzero()[0])
                raise KgfastError(f"the score of triple {triples[row].tolist()} isn't finite: training diverged")
            for side in ranks:
                ranks[side][start : start + len(batch)] = ranker.rank(batch, side, known=known, ties=ties).cpu()
            if kept is not None:
                kept.keep(ranks)
            if progress is not None:
                progress(2 * min(start + batch_size, len(triples)), total)
    finally:
        model.train(training)
    return ranks


def competing(triples, side, known):
    """How many entities compete for each query, int64 [B]: the right answer, and all that are no known answer."""
    starts, ends = known.lookup(triples, side)
    return known.num_entities + 1 - (ends - starts)


def expected_ranks(known, triples, competing, batch_size):
    """{"tail": [M], "head": [M]}: the mean rank (n + 1) / 2 of each query in a random order of the n that compete."""
    parts = triples.to(known.device).split(batch_size)
    counts = {side: torch.cat([competing(part, side, known) for part in parts]) for side in ("tail", "head")}
    return {side: (values.double().cpu() + 1) / 2 for side, values in counts.items()}


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
