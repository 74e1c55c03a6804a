"""The public ops. Each docstring starts with the eager formula; `reference/` is that formula in code.

s(h, r, t) = similarity(query, row) (see `kgfast.reference.SCORES`). Tables are float32 or float64 (on a GPU also
bfloat16 and float16) on one device, entities [E, D], relations [R, W]; triples int64 [B, 3]. Bad arguments raise
KgfastError before anything is computed; on a GPU the check of ids waits for the device (steps of fused.py do not).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast import autograd, backends, checks, ops, reference
from kgfast.answers import known_answers, right_answers, single_answers
from kgfast.backends.cpu import OBJECTIVES, SCORES, SIDES, total
from kgfast.errors import KgfastError
from kgfast.sampling import NegativeSampler

CANDIDATE_OBJECTIVES = ("softmax", "bce")
TIES = ("optimistic", "pessimistic", "realistic")
FEW_LOGITS = 1 << 19  # the most that are ever stored
FEW_CLASSES, FEW_PRODUCTS = 32, 8_000_000  # below which torch is faster than tiles


def score_triples(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    *,
    score: str = "transe_l1",
    sparse_grad=False,
    impl=None,
) -> Tensor:
    """scores[b] = s(head_b, relation_b, tail_b): [B].

    Gradients of both tables; dense [E, D], or sparse over the touched rows with `sparse_grad`. Memory O(B D).
    """
    entities, relations, _ = checks.tables(entities, relations, score)
    triples = checks.triples(triples, entities)
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.score_triples(entities, relations, triples, score=score)
    code, _, similarity = SCORES[score]
    query = autograd.Queries.apply(entities, relations, triples, code, 0, sparse_grad, backend)
    targets = triples[:, 2:].contiguous()
    return autograd.PairScores.apply(query, entities, targets, similarity, sparse_grad, backend)[:, 0]


def score_candidates(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    candidates: Tensor | None = None,
    *,
    score: str,
    side: str = "tail",
    sparse_grad=False,
    impl=None,
) -> Tensor:
    """scores[b, k] = s with the tail (or head) of triple b replaced by candidate k: [B, C], or [B, K].

    candidates: None for all rows of the table; ids [K] for all queries, or [B, K]. The replaced column must be ids too.
    Memory: the result, and O(B D). With all candidates the gradient of the entities is dense.
    """
    entities, relations, _ = checks.tables(entities, relations, score)
    triples = checks.triples(triples, entities)
    checks.choose("side", side, SIDES)
    if candidates is not None:
        flat = isinstance(candidates, Tensor) and candidates.dim() == 1
        candidates = checks.ids("candidates", candidates, 1 if flat else 2, entities)
        if candidates.dim() == 1:
            candidates = candidates.expand(len(triples), -1).contiguous()
        elif len(candidates) != len(triples):
            raise KgfastError(f"candidates have {len(candidates)} rows for {len(triples)} triples")
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.score_candidates(entities, relations, triples, candidates, score=score, side=side)
    code, _, similarity = SCORES[score]
    query = autograd.Queries.apply(entities, relations, triples, code, SIDES[side], sparse_grad, backend)
    if candidates is None:
        return autograd.AllScores.apply(query, entities, similarity, backend)
    return autograd.PairScores.apply(query, entities, candidates, similarity, sparse_grad, backend)


def sample_negatives(
    triples: Tensor,
    num_negatives: int,
    num_entities: int,
    *,
    side: str,
    seed: int,
    step: int = 0,
    weights: Tensor | None = None,
    known=None,
    shared: int = 0,
    impl=None,
) -> Tensor:
    """ids[b, n] = floor(x num_entities / 2^32), x a word of Philox-4x32-10 keyed by seed, counted by (n, b, step).

    The same ids on every backend and for any number of threads. `weights` [num_entities]: drawn in proportion (alias
    table). `known`: known answers of the query are redrawn exactly (uniformly among the others; -1 where none is left).
    shared = c: c triples share a list, in which known ids stay. Returns int64 [B, N]; [ceil(B / c), N] where shared;
    side="both" stacks tail and head: [2, .., N]. Source: Salmon et al. 2011.
    """
    triples = checks.triples(triples, triples)
    checks.choose("side", side, (*SIDES, "both"))
    seed = checks.seed(seed)
    for name, value, lowest in (("num_negatives", num_negatives, 0), ("num_entities", num_entities, 1),
                                ("shared", shared, 0), ("step", step, 0)):  # fmt: skip
        if not isinstance(value, int | torch.SymInt) or value < lowest:
            raise KgfastError(f"{name}={value!r} must be an integer of at least {lowest}")
    if weights is not None and getattr(weights, "shape", None) != (num_entities,):
        raise KgfastError(
            f"weights have shape {list(weights.shape)}; one for each of {num_entities} entities is needed"
        )
    if num_negatives >= 2**25 or num_entities >= 2**31:
        raise KgfastError(f"num_negatives={num_negatives} must be below 2^25, num_entities={num_entities} below 2^31")
    options = dict(seed=seed, step=step, weights=weights, known=known, shared=shared)
    if side == "both":
        parts = [
            sample_negatives(triples, num_negatives, num_entities, side=one, impl=impl, **options) for one in SIDES
        ]
        return torch.stack(parts)
    starts, ends, known_ids = known_answers(None if shared else known, triples, side, num_entities)
    backend = backends.choose(impl, triples.device)
    if backend == "reference":
        return reference.sample_negatives(triples, num_negatives, num_entities, side=side, **options)
    thresholds, aliases = triples.new_empty((0,)), triples.new_empty((0,))
    if weights is not None:
        thresholds, aliases = (part.to(triples.device) for part in reference.alias_table(weights))
    lists = -(-len(triples) // shared) if shared else len(triples)
    return ops.of(backend).sample_negatives(
        triples,
        lists,
        num_negatives,
        num_entities,
        SIDES[side],
        seed,
        step,
        thresholds,
        aliases,
        starts,
        ends,
        known_ids,
    )


def _share_weights(weights, batch: int, like: Tensor) -> Tensor:
    """Weights divided by their sum: what each row's loss counts for in the mean."""
    dtype = checks.sum_dtype(like.dtype)
    if weights is None:
        return like.new_full((batch,), 1.0 / max(batch, 1), dtype=dtype)
    weights = weights.detach().to(like.device, dtype)
    sum = total(weights)
    return weights / torch.where(sum == 0, 1.0, sum)


def negative_sampling_loss(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    negatives: Tensor | NegativeSampler,
    *,
    score: str,
    side: str,
    objective: str = "logistic",
    margin: float = 0.0,
    adversarial_temperature: float = 0.0,
    weights: Tensor | None = None,
    known=None,
    sparse_grad=False,
    impl=None,
) -> Tensor:
    """Weighted mean over triples of f(s+, s_1 .. s_N), s_n the negatives' scores, w = softmax(a s_n) without gradient.

    f = logistic: (-log sigma(margin + s+) - sum_n w_n log sigma(-margin - s_n)) / 2        (Sun et al. 2019, eq. 5, 6)
        softmax:  -s+ + log(e^{s+} + sum_n e^{s_n})
        bce:      mean of softplus(-s+), softplus(s_1), .. over the 1 + N labels
        margin:   sum_n w_n max(0, margin - s+ + s_n)                                       (Bordes et al. 2013, eq. 1)
    a = `adversarial_temperature`; w_n = 1/N where a = 0. No gradient flows to `weights`.
    negatives: int64 ids [B, N], or [G, N] with G < B, of which row b uses list b G // B, or a `NegativeSampler`. An
    id that is -1, the target, or a known answer (`known`) has no part in any sum. side="both" is the mean of both
    sides' losses (ids [2, .., N], tails first).
    Returns a scalar; 0 for an empty batch. Memory O(B D + B N) and the touched rows ([E, D] unless `sparse_grad`).
    """
    entities, relations, _ = checks.tables(entities, relations, score)
    triples = checks.triples(triples, entities)
    checks.choose("side", side, (*SIDES, "both"))
    checks.choose("objective", objective, OBJECTIVES)
    margin = checks.finite("margin", margin)
    temperature = checks.finite("adversarial_temperature", adversarial_temperature, lowest=0.0)
    if isinstance(negatives, NegativeSampler):
        sampler = negatives
        known = sampler.known if known is None else known
        negatives = sample_negatives(
            triples, sampler.num_negatives, len(entities), side=side, seed=sampler.seed, step=sampler.step,
            weights=sampler.weights, known=sampler.known, shared=sampler.shared, impl=impl,
        )  # fmt: skip
    negatives = checks.ids("negatives", negatives, 3 if side == "both" else 2, entities)
    options = dict(score=score, objective=objective, margin=margin, adversarial_temperature=temperature,
                   weights=weights, known=known, impl=impl)  # fmt: skip
    if side == "both":
        if len(negatives) != 2:
            raise KgfastError(f"negatives for both sides must have shape [2, .., N], not {list(negatives.shape)}")
        losses = [
            negative_sampling_loss(entities, relations, triples, ids, side=one, sparse_grad=sparse_grad, **options)
            for one, ids in zip(SIDES, negatives, strict=True)
        ]
        return (losses[0] + losses[1]) / 2
    batch, groups = len(triples), len(negatives)
    if groups > batch or (groups == 0 and batch > 0):
        raise KgfastError(f"negatives have {groups} lists for {batch} triples; 1 to {batch} are possible")
    if weights is not None:
        weights = checks.weights(weights, batch)
    starts, ends, known_ids = known_answers(known, triples, side, len(entities), len(relations))
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        options.pop("impl")
        return reference.negative_sampling_loss(entities, relations, triples, negatives, side=side, **options)
    code, _, similarity = SCORES[score]
    return autograd.SampledLoss.apply(
        entities, relations, triples, negatives, starts, ends, known_ids, _share_weights(weights, batch, entities),
        code, SIDES[side], (similarity, OBJECTIVES.index(objective), margin, temperature), sparse_grad, backend,
    )  # fmt: skip


def one_vs_all_loss(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    *,
    score: str,
    side: str,
    objective: str = "softmax",
    label_smoothing: float = 0.0,
    known=None,
    impl=None,
) -> Tensor:
    """Mean over the batch of f(scores of all entities, right answers).

    f = softmax: -sum_c y_c log softmax(s)_c, y = (1 - e) / (number of answers) at each + e / C  (Lacroix et al. 2018)
        bce:     mean_c of -y_c log sigma(s_c) - (1 - y_c) log sigma(-s_c), y = (1 - e) at each answer + e / C
    e = `label_smoothing`. The target is the answer (1vsAll); with `known` all known answers of the query are (KvsAll).
    side="both" is the mean of both sides. Memory O(B D) and 20 MB of scores at most, whatever B and C; the gradient of
    the entities is dense [E, D], as every row has one.
    """
    entities, relations, _ = checks.tables(entities, relations, score)
    triples = checks.triples(triples, entities)
    checks.choose("side", side, (*SIDES, "both"))
    checks.choose("objective", objective, CANDIDATE_OBJECTIVES)
    smoothing = checks.finite("label_smoothing", label_smoothing, lowest=0.0, highest=1.0)
    options = dict(score=score, objective=objective, label_smoothing=smoothing, known=known)
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.one_vs_all_loss(entities, relations, triples, side=side, **options)
    if side == "both":
        losses = [one_vs_all_loss(entities, relations, triples, side=one, impl=impl, **options) for one in SIDES]
        return (losses[0] + losses[1]) / 2
    code, _, similarity = SCORES[score]
    query = autograd.Queries.apply(entities, relations, triples, code, SIDES[side], False, backend)
    return autograd.CandidateLoss.apply(
        query, entities, entities.new_empty((0,)),
        *right_answers(known, triples, side, len(entities), len(relations), backend),
        _share_weights(None, len(triples), entities), (similarity, OBJECTIVES.index(objective), smoothing), backend,
    )  # fmt: skip


def all_counted(targets: Tensor, ignore_index: int, count: int) -> bool:
    """Whether every target is one of `count` classes, and none is ignored."""
    if targets.numel() == 0:
        return False
    low, high = (int(end) for end in torch.aminmax(targets))
    return 0 <= low and high < count and not low <= ignore_index <= high


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    impl=None,
) -> Tensor:
    """cross_entropy(hidden @ weight.T + bias, targets), without storing the logits where they are many.

    hidden [.., D], weight [C, D], targets int64 [..], bias [C]. Rows whose target is `ignore_index` are skipped, not
    masked: they cost nothing. reduction: mean over the others (0 where there are none), sum, or none ([..]).
    Memory: 20 MB of logits at most, and the gradients. On CPUs, unless `impl` is given, torch's own product and
    cross_entropy serve where they are faster: with half a million logits at most, for fewer than 32 classes or fewer
    than 8 million multiplications (64 rows, 1,000 classes, 124 numbers).
    """
    checks.choose("reduction", reduction, ("mean", "sum", "none"))
    weight = checks.table("weight", weight)
    if not isinstance(hidden, Tensor) or not isinstance(targets, Tensor) or hidden.shape[:-1] != targets.shape:
        shapes = [list(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in (hidden, targets)]
        raise KgfastError(f"hidden is {shapes[0]}, targets {shapes[1]}: hidden must be [.., D] where targets are [..]")
    shape = targets.shape
    hidden = checks.table("hidden", hidden.reshape(-1, hidden.shape[-1]))
    targets = checks.ids("targets", targets.reshape(-1), 1, weight)
    if len(hidden) != len(targets) or hidden.shape[1] != weight.shape[1] or hidden.dtype != weight.dtype:
        raise KgfastError(
            f"hidden {list(hidden.shape)} {hidden.dtype}, weight {list(weight.shape)} {weight.dtype} and targets "
            f"{list(shape)} don't fit together"
        )
    if bias is not None and bias.shape != (len(weight),):
        raise KgfastError(f"bias has shape {list(bias.shape)}; one for each of {len(weight)} rows is needed")
    smoothing = checks.finite("label_smoothing", label_smoothing, lowest=0.0, highest=1.0)
    backend = backends.choose(impl, weight.device)
    count = len(hidden) * len(weight)
    small = len(weight) < FEW_CLASSES or count * weight.shape[1] < FEW_PRODUCTS
    few = impl is None and backend == "cpu" and count <= FEW_LOGITS and small
    if few and not torch.compiler.is_compiling():
        if all_counted(targets, ignore_index, len(weight)):
            options = dict(label_smoothing=smoothing, reduction=reduction)
            with torch.autocast("cpu", enabled=False):  # what is handed in is computed with, whoever serves
                logits = torch.nn.functional.linear(hidden, weight, bias)
            losses = torch.nn.functional.cross_entropy(logits, targets, **options)
            return losses.view(shape) if reduction == "none" else losses
        backend = "reference"
    if backend == "reference":
        options = dict(bias=bias, ignore_index=ignore_index, label_smoothing=smoothing, reduction=reduction)
        with torch.autocast(weight.device.type, enabled=False):
            losses = reference.linear_cross_entropy(hidden, weight, targets, **options)
        return losses.reshape(shape if reduction == "none" else ())
    bias = weight.new_empty((0,)) if bias is None else bias.to(weight.dtype).contiguous()
    ranges, share = single_answers(targets, ignore_index, weight)
    if reduction != "mean":
        share = (share != 0).to(share.dtype)
    inputs = (hidden, weight, bias, *ranges, share, (0, OBJECTIVES.index("softmax"), smoothing), backend)
    if reduction != "none":
        return autograd.CandidateLoss.apply(*inputs)
    return autograd.CandidateLosses.apply(*inputs).reshape(shape)


def rank(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    *,
    score: str,
    side: str,
    known=None,
    ties: str = "realistic",
    impl=None,
) -> Tensor:
    """rank[b] = 1 + #{c : s_c > s_target}, c over all entities that are no other known answer: float64 [B].

    ties: optimistic as written; pessimistic adds #{c : s_c = s_target}; realistic is the mean of both. The target is
    compared with its own entry of the same tile, so rounding can't make it differ from itself. Nothing of size [B, C]
    is kept. A NaN score of a target raises; a NaN candidate counts as better. No gradient.
    """
    checks.choose("ties", ties, TIES)
    entities, relations, _ = checks.tables(entities, relations, score)
    entities, relations = entities.detach(), relations.detach()
    triples = checks.triples(triples, entities)
    checks.choose("side", side, SIDES)
    starts, ends, known_ids = known_answers(known, triples, side, len(entities), len(relations))
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.rank(entities, relations, triples, score=score, side=side, known=known, ties=ties)
    code, _, similarity = SCORES[score]
    query = ops.of(backend).queries(entities, relations, triples, code, SIDES[side])
    targets = triples[:, 2 if side == "tail" else 0].contiguous()
    greater, equal, _ = ops.of(backend).rank(query, entities, targets, starts, ends, known_ids, similarity)
    share = {"optimistic": 0.0, "pessimistic": 1.0, "realistic": 0.5}[ties]
    return 1.0 + greater.double() + share * equal.double()


def topk(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    k: int,
    *,
    score: str,
    side: str,
    exclude=None,
    impl=None,
) -> tuple[Tensor, Tensor]:
    """(scores, ids) [B, k] of the k best candidates, best first, ties by lower id; no gradient.

    exclude: KnownTriples whose answers are left out. Where fewer than k remain: score -inf, id -1. Nothing of size
    [B, C] is kept.
    """
    entities, relations, _ = checks.tables(entities, relations, score)
    entities, relations = entities.detach(), relations.detach()
    triples = checks.triples(triples, entities)
    checks.choose("side", side, SIDES)
    if not isinstance(k, int) or not 1 <= k < 2**31:
        raise KgfastError(f"k={k!r} must be an integer of at least 1 and below 2^31")
    starts, ends, excluded = known_answers(exclude, triples, side, len(entities), len(relations), "exclude")
    backend = backends.choose(impl, entities.device)
    if backend == "reference":
        return reference.topk(entities, relations, triples, k, score=score, side=side, exclude=exclude)
    code, _, similarity = SCORES[score]
    query = ops.of(backend).queries(entities, relations, triples, code, SIDES[side])
    return ops.of(backend).topk(query, entities, starts, ends, excluded, k, similarity)
