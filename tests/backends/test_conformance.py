"""Every loss and score of every backend against the eager specification in float64: values and gradients.

The tolerance is the error of PyTorch. Settings cover all pairs of options for every score on every lane
(helpers/lanes.py): the CPU's instruction sets, the CUDA kernels on the host, Triton's in their interpreter
(test_interpreter.py), and on a GPU

    pytest tests/backends --impl triton --device cuda

Rows, draws, ranks and training steps: the other test_conformance files. Laws that need no specification:
functional/test_properties.py.
"""

import pytest
import torch
from lanes import SCORES

import kgfast
from kgfast import reference, testing
from kgfast.core.checks import REDUCTIONS
from kgfast.registry import ALL_OBJECTIVES, Objective, Similarity

SIDES = ("tail", "head")


@pytest.mark.axes(
    "dim",
    "negatives",
    "batch",
    "dtype",
    score=SCORES,
    objective=Objective.words(),
    side=(*SIDES, "both"),
    temperature=(0.0, 0.7),
    weighted=(False, True),
    known=(False, True),
    shared=(False, True),
    sparse=(False, True),
    reduction=REDUCTIONS,
)
def test_negative_sampling_loss(lane, setting):
    score, batch, side, dtype = (setting[key] for key in ("score", "batch", "side", "dtype"))
    case = lane.case(score, setting["dim"], batch, setting["negatives"], side=side, dtype=dtype)
    negatives = case.negatives[..., : -(-batch // 3), :] if setting["shared"] else case.negatives

    def call(op, entities, relations, **impl):
        return op(
            entities,
            relations,
            case.triples,
            negatives,
            score=score,
            side=side,
            objective=setting["objective"],
            margin=1.5,
            adversarial_temperature=setting["temperature"],
            weights=case.weights.to(entities.dtype) if setting["weighted"] else None,
            known=lane.known(case.triples) if setting["known"] else None,
            reduction=setting["reduction"],
            **impl,
            **(dict(sparse_grad=setting["sparse"]) if impl else {}),
        )

    lane.compare("negative_sampling_loss", [case.entities, case.relations], call)


@pytest.mark.lanes(tiles=True)
@pytest.mark.axes(
    "dim",
    "batch",
    "dtype",
    score=SCORES,
    objective=tuple(ALL_OBJECTIVES),
    side=(*SIDES, "both"),
    label_smoothing=(0.0, 0.1),
    known=(False, True),
    reduction=REDUCTIONS,
)
def test_one_vs_all_loss(lane, setting):
    score, dtype = setting["score"], setting["dtype"]
    case = lane.case(score, setting["dim"], setting["batch"], 1, dtype=dtype)

    def call(op, entities, relations, **impl):
        return op(
            entities,
            relations,
            case.triples,
            score=score,
            side=setting["side"],
            objective=setting["objective"],
            label_smoothing=setting["label_smoothing"],
            known=lane.known(case.triples) if setting["known"] else None,
            reduction=setting["reduction"],
            **impl,
        )

    lane.compare("one_vs_all_loss", [case.entities, case.relations], call)


def compare_scores(lane, setting, candidates):
    """`score_candidates` of all rows, of every query's own or of shared ones; or `score_triples`."""
    score, dtype = setting["score"], setting["dtype"]
    case = lane.case(score, setting["dim"], setting["batch"], setting.get("negatives", 1), dtype=dtype)
    ids = {"all": None, "own": case.negatives.clamp(min=0), "shared": case.negatives[0].clamp(min=0)}.get(candidates)

    def call(op, entities, relations, **impl):
        options = dict(score=score, **impl, **(dict(sparse_grad=setting.get("sparse", False)) if impl else {}))
        if candidates == "none: triples":
            return op(entities, relations, case.triples, **options)
        return op(entities, relations, case.triples, ids, side=setting["side"], **options)

    op = "score_triples" if candidates == "none: triples" else "score_candidates"
    lane.compare(op, [case.entities, case.relations], call)


@pytest.mark.axes(
    "dim",
    "batch",
    "negatives",
    "dtype",
    score=SCORES,
    side=SIDES,
    candidates=("own", "shared", "none: triples"),
    sparse=(False, True),
)
def test_scores_of_chosen_rows(lane, setting):
    compare_scores(lane, setting, setting["candidates"])


@pytest.mark.lanes(tiles=True)
@pytest.mark.axes("dim", "batch", "dtype", score=SCORES, side=SIDES)
def test_scores_of_all_rows(lane, setting):
    compare_scores(lane, setting, "all")


@pytest.mark.lanes(tiles=True, widest=True, slow=False)
@pytest.mark.axes("dtype", score=SCORES)
def test_more_rows_than_any_tile(lane, setting):
    """Several blocks of queries, panels of candidates and threads, in all three losses."""
    case = lane.case(setting["score"], 20, 150, 70, num_entities=1100, dtype=setting["dtype"])
    tables = [case.entities, case.relations]
    options = dict(score=setting["score"], side="head")
    lane.compare("one_vs_all_loss", tables, lambda op, *t, **impl: op(*t, case.triples, **options, **impl))
    for negatives in (case.negatives, case.negatives[:2]):
        lane.compare(
            "negative_sampling_loss",
            tables,
            lambda op, *t, ids=negatives, **impl: op(*t, case.triples, ids, **options, **impl),
        )


def losses_and_scores(lane, triples, negatives, score):
    """Functions of two tables: every public one that the lane has."""
    options = dict(score=score, impl=lane.impl)
    chosen = negatives.clamp(min=0)
    return [
        lambda *t: kgfast.negative_sampling_loss(*t, triples, negatives, side="tail", **options),
        lambda *t: kgfast.score_triples(*t, triples, **options),
        lambda *t: kgfast.score_candidates(*t, triples, chosen, side="tail", **options),
    ] + lane.tiles * [
        lambda *t: kgfast.one_vs_all_loss(*t, triples, side="tail", **options),
        lambda *t: kgfast.score_candidates(*t, triples, side="tail", **options),
    ]


@pytest.mark.axes(score=SCORES)
def test_empty_batch_is_zero_with_zero_gradients(lane, setting):
    case = lane.case(setting["score"], 6, 0, 5)
    for function in losses_and_scores(lane, case.triples, case.negatives, setting["score"]):
        value, *gradients = testing.evaluate(function, [case.entities, case.relations])
        assert not value.any() and value.shape in ((), (0,), (0, 5), (0, lane.entities))
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("score", ["transe_l1", "transe_l2", "rotate"])
def test_gradient_of_a_distance_is_zero_where_points_coincide(lane, score):
    entities, relations = lane.on(torch.ones(3, 34), torch.zeros(1, reference.SCORES[score].relation_width(34)))
    triples, negatives = lane.on(torch.tensor([[0, 0, 1]]), torch.tensor([[2, 2, 0, 2, 2]]))
    for function in losses_and_scores(lane, triples, negatives, score):
        value, *gradients = testing.evaluate(function, [entities, relations])
        assert torch.isfinite(value).all()
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("objective", Objective.words())
def test_large_scores_neither_overflow_nor_vanish(lane, objective):
    """Scores of +-1000: exponentials must be taken relative to the largest."""
    case = lane.case("distmult", 16, 7, 5)
    tables = [case.entities * 30, case.relations]

    def call(op, *tables, **impl):
        return op(
            *tables,
            case.triples,
            case.negatives,
            score="distmult",
            side="tail",
            objective=objective,
            margin=2.0,
            adversarial_temperature=1.0,
            **impl,
        )

    lane.compare("negative_sampling_loss", tables, call)
    if objective in ALL_OBJECTIVES and lane.tiles:
        lane.compare(
            "one_vs_all_loss",
            tables,
            lambda op, *t, **impl: op(*t, case.triples, score="distmult", side="tail", objective=objective, **impl),
        )


@pytest.mark.lanes(tiles=True, widest=True, slow=False, impls=("cpu", "triton"))
@pytest.mark.axes(score=SCORES)
def test_gradcheck(lane, setting):
    case = lane.case(setting["score"], 4, 3, 2, num_entities=6, dtype=torch.float64)
    tables = [case.entities.requires_grad_(), case.relations.requires_grad_()]
    options = dict(score=setting["score"], side="tail", impl=lane.impl)
    losses = (
        lambda *t: kgfast.negative_sampling_loss(*t, case.triples, case.negatives, margin=1.0, **options),
        lambda *t: kgfast.one_vs_all_loss(*t, case.triples, **options),
        lambda *t: kgfast.score_candidates(*t, case.triples, **options),
    )
    assert all(torch.autograd.gradcheck(loss, tables, fast_mode=True) for loss in losses)


@pytest.mark.lanes(tiles=True)
@pytest.mark.axes(
    "dim",
    "queries",
    "rows",
    "dtype",
    bias=(False, True),
    label_smoothing=(0.0, 0.1),
    reduction=("mean", "sum", "none"),
    ignored=(False, True),
)
def test_linear_cross_entropy(lane, setting):
    batch, rows, dim, dtype = (setting[key] for key in ("queries", "rows", "dim", "dtype"))
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*shape, generator=generator) for shape in ((batch, dim), (rows, dim), (rows,))]
    leaves[1] *= dim**-0.5
    targets = torch.randint(rows, (batch,), generator=generator)
    targets[0] = rows - 1
    if setting["ignored"]:
        targets[::2] = -100
    (targets,) = lane.on(targets)

    def call(op, hidden, weight, bias, **impl):
        return op(
            hidden,
            weight,
            targets,
            bias=bias if setting["bias"] else None,
            reduction=setting["reduction"],
            label_smoothing=setting["label_smoothing"],
            **impl,
        )

    lane.compare("linear_cross_entropy", [leaf.to(dtype) for leaf in leaves], call)


@pytest.mark.lanes(tiles=True)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_where_all_targets_are_ignored_loss_and_gradients_are_zero(lane, reduction):
    leaves = [torch.randn(rows, 6, generator=torch.Generator().manual_seed(0)) for rows in (5, 11)]
    (targets,) = lane.on(torch.full((5,), -100))

    def call(op, hidden, weight, **impl):
        return op(hidden, weight, targets, reduction=reduction, **impl)

    lane.compare("linear_cross_entropy", leaves, call)
    options = dict(reduction=reduction, impl=lane.impl)
    found = testing.evaluate(lambda *t: kgfast.linear_cross_entropy(*t, targets, **options), lane.on(*leaves))
    assert not any(one.any() for one in found)


# ---- tasks ---------------------------------------------------------------------------------------------------

TARGETS = torch.tensor([0, -100, 36, 3, 3, 20])
SEVERAL = torch.tensor([0, 2, 2, 5, 6, 6, 7]), torch.tensor([1, 4, 0, 9, 10, 7, 36])
KNOWN = torch.tensor([0, 1, 3, 3, 5, 6, 8]), torch.tensor([5, 0, 36, 20, 3, 9, 8, 3])
CANDIDATES = torch.tensor([3, 20, 0, 36, 5, 3])


def task_leaves(dtype=torch.float32):
    """Queries, a table and a bias."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((6, 34), (37, 34), (37,))]


def make_terms(lane, query, table, bias, similarity):
    """A language model's term, one with several answers, one of another similarity, one with BCE and few targets."""
    targets, *several = lane.on(TARGETS, *SEVERAL)
    few = several[0][:4], several[1][: int(several[0][3])]
    return [
        kgfast.Term(query, table, targets, weight=0.5, bias=bias, name="language"),
        kgfast.Term(query, table, tuple(several), weight=2.0, name="answers"),
        kgfast.Term(query, table, targets, similarity=similarity, name="graph"),
        kgfast.Term(query[:3], table, few, objective="bce", name="labels"),
    ]


@pytest.mark.lanes(tiles=True)
@pytest.mark.axes("dtype", similarity=Similarity.words(), weights=("own", "given"))
def test_multitask_loss(lane, setting):
    weights = (1.0, 0.0, 3.0, 0.5) if setting["weights"] == "given" else None

    def call(op, query, table, bias, **impl):
        total, per_task = op(make_terms(lane, query, table, bias, setting["similarity"]), weights, **impl)
        kept.append(per_task.detach())
        return total

    kept = []
    lane.compare("multitask_loss", task_leaves(setting["dtype"]), call)
    truth, eager, ours = kept
    testing.assert_no_worse(ours, eager, truth)


@pytest.mark.lanes(tiles=True, widest=True)
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_candidates_and_known_answers_restrict_who_competes(lane, several, known):
    """Answers 1, 4, 7, 9 and 10 are no candidates: each competes for its own query only."""
    targets = tuple(lane.on(*SEVERAL)) if several else TARGETS.to(lane.device)
    lists = tuple(lane.on(*KNOWN)) if known else None
    (candidates,) = lane.on(CANDIDATES)

    def call(op, query, table, bias, **impl):
        term = kgfast.Term(query, table, targets, bias=bias, candidates=candidates, known=lists)
        return op([term], **impl)[0]

    lane.compare("multitask_loss", task_leaves(), call)


@pytest.mark.lanes(tiles=True, widest=True)
@pytest.mark.parametrize("objective", ALL_OBJECTIVES)
def test_candidates_of_distances(lane, objective):
    targets, candidates = lane.on(TARGETS, CANDIDATES)  # every target is a candidate

    def call(op, query, table, **impl):
        term = kgfast.Term(query, table, targets, candidates=candidates, similarity="l1", objective=objective)
        return op([term], **impl)[0]

    lane.compare("multitask_loss", task_leaves()[:2], call)
