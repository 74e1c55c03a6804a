"""Every loss and score of the compiled backend against the eager specification in float64.

Values and gradients; the tolerance is the error of PyTorch. Settings cover all pairs of options for
every score and CPU level. Laws that need no specification are in test_properties.py.
"""

import pytest
import torch

import kgfast
from kgfast import reference, testing

SCORES = list(reference.SCORES)
DTYPES = (torch.float32, torch.float64)
OBJECTIVES = ("logistic", "softmax", "bce", "margin")


def evaluate(function, leaves):
    """[value, gradient of each leaf]; a value that is no scalar is probed with fixed random weights."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value = function(*leaves)
    probe = torch.rand(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value.backward(probe.to(value.dtype) if value.dim() else None)
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return [value] + [grad.to_dense() if grad.is_sparse else grad for grad in gradients]


def compare(op, leaves, call):
    """call(op, *leaves, **impl) of the compiled backend is no worse than the specification in this dtype."""
    specified = getattr(reference, op)
    truth = evaluate(lambda *wide: call(specified, *wide), [leaf.double() for leaf in leaves])
    eager = evaluate(lambda *same: call(specified, *same), leaves)
    ours = evaluate(lambda *same: call(getattr(kgfast, op), *same, impl="cpu"), leaves)
    for mine, same, wide in zip(ours, eager, truth, strict=True):
        testing.assert_no_worse(mine, same, wide)


def name_of(setting):
    words = [setting[key] for key in ("side", "objective") if key in setting]
    flags = [key for key, value in setting.items() if value is True or (key == "temperature" and value)]
    sizes = "".join(
        f"{letter}{setting[key]}"
        for letter, key in zip("BND", ("batch", "negatives", "dim"), strict=True)
        if key in setting
    )
    return "-".join([*words, *flags, "f32" if setting["dtype"] == torch.float32 else "f64", sizes])


def settings(**axes):
    return [pytest.param(setting, id=name_of(setting)) for setting in testing.pairwise(**axes)]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "setting",
    settings(
        dim=testing.DIMS,
        negatives=testing.NEGATIVES,
        batch=(7, 1),
        objective=OBJECTIVES,
        side=("tail", "head", "both"),
        temperature=(0.0, 0.7),
        weighted=(False, True),
        known=(False, True),
        shared=(False, True),
        dtype=DTYPES,
    ),
)
def test_negative_sampling_loss(level, score, setting):
    dim, batch, side, dtype = (setting[key] for key in ("dim", "batch", "side", "dtype"))
    case = testing.make_case(score, dim, batch, setting["negatives"], side=side, dtype=dtype)
    negatives = case.negatives[..., : max(batch // 3, 1), :] if setting["shared"] else case.negatives

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
            known=testing.make_known(case.triples) if setting["known"] else None,
            **impl,
        )

    compare("negative_sampling_loss", [case.entities, case.relations], call)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "setting",
    settings(
        dim=testing.DIMS,
        batch=(7, 1),
        objective=("softmax", "bce"),
        side=("tail", "head", "both"),
        label_smoothing=(0.0, 0.1),
        known=(False, True),
        dtype=DTYPES,
    ),
)
def test_one_vs_all_loss(level, score, setting):
    case = testing.make_case(score, setting["dim"], setting["batch"], 1, dtype=setting["dtype"])

    def call(op, entities, relations, **impl):
        return op(
            entities,
            relations,
            case.triples,
            score=score,
            side=setting["side"],
            objective=setting["objective"],
            label_smoothing=setting["label_smoothing"],
            known=testing.make_known(case.triples) if setting["known"] else None,
            **impl,
        )

    compare("one_vs_all_loss", [case.entities, case.relations], call)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "setting",
    settings(
        dim=testing.DIMS,
        batch=(7, 1),
        side=("tail", "head"),
        negatives=testing.NEGATIVES,
        dtype=DTYPES,
        candidates=("all", "own", "shared", "none: triples"),
    ),
)
def test_scores(level, score, setting):
    case = testing.make_case(score, setting["dim"], setting["batch"], setting["negatives"], dtype=setting["dtype"])
    ids = case.negatives.clamp(min=0)
    candidates = {"all": None, "own": ids, "shared": ids[0]}.get(setting["candidates"])

    def call(op, entities, relations, **impl):
        if op.__name__ == "score_triples":
            return op(entities, relations, case.triples, score=score, **impl)
        return op(entities, relations, case.triples, candidates, score=score, side=setting["side"], **impl)

    op = "score_triples" if setting["candidates"].startswith("none") else "score_candidates"
    compare(op, [case.entities, case.relations], call)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
def test_more_rows_than_any_tile(score, dtype):
    """Several blocks of queries, panels of candidates and threads, in all three losses."""
    case = testing.make_case(score, 20, 150, 70, num_entities=1100, dtype=dtype)
    tables = [case.entities, case.relations]
    options = dict(score=score, side="head")
    compare("one_vs_all_loss", tables, lambda op, *t, **impl: op(*t, case.triples, **options, **impl))
    for negatives in (case.negatives, case.negatives[:2]):
        compare(
            "negative_sampling_loss",
            tables,
            lambda op, *t, ids=negatives, **impl: op(*t, case.triples, ids, **options, **impl),
        )


@pytest.mark.parametrize("score", SCORES)
def test_empty_batch_is_zero_with_zero_gradients(level, score):
    case = testing.make_case(score, 6, 0, 5)
    tables = [case.entities, case.relations]
    options = dict(score=score, side="tail", impl="cpu")
    for function in (
        lambda *t: kgfast.negative_sampling_loss(*t, case.triples, case.negatives, **options),
        lambda *t: kgfast.one_vs_all_loss(*t, case.triples, **options),
        lambda *t: kgfast.score_triples(*t, case.triples, score=score, impl="cpu"),
        lambda *t: kgfast.score_candidates(*t, case.triples, **options),
    ):
        value, *gradients = evaluate(function, tables)
        assert not value.any() and value.shape in ((), (0,), (0, testing.NUM_ENTITIES))
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("score", ["transe_l1", "transe_l2", "rotate"])
def test_gradient_of_a_distance_is_zero_where_points_coincide(level, score):
    entities = torch.ones(3, 34)
    relations = torch.zeros(1, reference.SCORES[score].relation_width(34))
    triples, negatives = torch.tensor([[0, 0, 1]]), torch.tensor([[2, 2, 0, 2, 2]])
    options = dict(score=score, side="tail", impl="cpu")
    for function in (
        lambda *t: kgfast.negative_sampling_loss(*t, triples, negatives, **options),
        lambda *t: kgfast.one_vs_all_loss(*t, triples, **options),
        lambda *t: kgfast.score_candidates(*t, triples, negatives, **options),
        lambda *t: kgfast.score_candidates(*t, triples, **options),
        lambda *t: kgfast.score_triples(*t, triples, score=score, impl="cpu"),
    ):
        value, *gradients = evaluate(function, [entities, relations])
        assert torch.isfinite(value).all()
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_large_scores_neither_overflow_nor_vanish(level, objective):
    """Scores of +-1000: exponentials must be taken relative to the largest."""
    case = testing.make_case("distmult", 16, 7, 5)
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

    compare("negative_sampling_loss", tables, call)
    if objective in ("softmax", "bce"):
        compare(
            "one_vs_all_loss",
            tables,
            lambda op, *t, **impl: op(*t, case.triples, score="distmult", side="tail", objective=objective, **impl),
        )


@pytest.mark.parametrize("score", SCORES)
def test_gradcheck(score):
    case = testing.make_case(score, 4, 3, 2, num_entities=6, dtype=torch.float64)
    tables = [case.entities.requires_grad_(), case.relations.requires_grad_()]
    options = dict(score=score, side="tail", impl="cpu")
    losses = (
        lambda *t: kgfast.negative_sampling_loss(*t, case.triples, case.negatives, margin=1.0, **options),
        lambda *t: kgfast.one_vs_all_loss(*t, case.triples, **options),
        lambda *t: kgfast.score_candidates(*t, case.triples, **options),
    )
    assert all(torch.autograd.gradcheck(loss, tables, fast_mode=True) for loss in losses)


LINEAR_SETTINGS = testing.pairwise(
    dim=testing.DIMS,
    batch=(7, 1, 130),
    rows=(1, 2, 37, 1100),
    bias=(False, True),
    label_smoothing=(0.0, 0.1),
    reduction=("mean", "sum", "none"),
    ignored=(False, True),
    dtype=DTYPES,
)


@pytest.mark.parametrize("setting", LINEAR_SETTINGS, ids=lambda s: f"B{s['batch']}C{s['rows']}D{s['dim']}")
def test_linear_cross_entropy(level, setting):
    batch, rows, dim, dtype = (setting[key] for key in ("batch", "rows", "dim", "dtype"))
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*shape, generator=generator) for shape in ((batch, dim), (rows, dim), (rows,))]
    leaves[1] *= dim**-0.5
    targets = torch.randint(rows, (batch,), generator=generator)
    targets[0] = rows - 1
    if setting["ignored"]:
        targets[::2] = -100

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

    compare("linear_cross_entropy", [leaf.to(dtype) for leaf in leaves], call)


def make_terms(query, table, bias, similarity="dot"):
    """A language model's term, one with several answers, one with a bias, BCE and few targets."""
    several = (torch.tensor([0, 2, 2, 5, 6, 6, 7]), torch.tensor([1, 4, 0, 9, 10, 7, 36]))
    targets = torch.tensor([0, -100, 36, 3, 3, 20])
    return [
        kgfast.Term(query, table, targets, weight=0.5, bias=bias, name="language"),
        kgfast.Term(query, table, several, weight=2.0, name="answers"),
        kgfast.Term(query, table, targets, similarity=similarity, name="graph"),
        kgfast.Term(query[:3], table, several_head(several, 3), objective="bce", name="labels"),
    ]


CANDIDATES = torch.tensor([3, 20, 0, 36, 5, 3])


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_candidates_and_known_answers_restrict_who_competes(several, known):
    """Answers 1, 4, 7, 9 and 10 are no candidates: each competes for its own query only."""
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*shape, generator=generator) for shape in ((6, 34), (37, 34), (37,))]
    targets = torch.tensor([0, -100, 36, 3, 3, 20])
    if several:
        targets = (torch.tensor([0, 2, 2, 5, 6, 6, 7]), torch.tensor([1, 4, 0, 9, 10, 7, 36]))
    lists = (torch.tensor([0, 1, 3, 3, 5, 6, 8]), torch.tensor([5, 0, 36, 20, 3, 9, 8, 3])) if known else None

    def call(op, query, table, bias, **impl):
        term = kgfast.Term(query, table, targets, bias=bias, candidates=CANDIDATES, known=lists)
        return op([term], **impl)[0]

    compare("multitask_loss", leaves, call)


def test_candidates_of_distances():
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*shape, generator=generator) for shape in ((6, 34), (37, 34))]
    targets = torch.tensor([0, -100, 36, 3, 3, 20])  # candidates all

    def call(op, query, table, **impl):
        term = kgfast.Term(query, table, targets, candidates=CANDIDATES, similarity="l1", objective="bce")
        return op([term], **impl)[0]

    compare("multitask_loss", leaves, call)


def several_head(lists, count):
    offsets, ids = lists
    return offsets[: count + 1], ids[: offsets[count]]


@pytest.mark.parametrize("similarity", reference.SIMILARITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("weights", [None, (1.0, 0.0, 3.0, 0.5)], ids=["own", "given"])
def test_multitask_loss(level, similarity, dtype, weights):
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((6, 34), (37, 34), (37,))]

    def call(op, query, table, bias, **impl):
        total, per_task = op(make_terms(query, table, bias, similarity), weights, **impl)
        kept.append(per_task.detach())
        return total

    kept = []
    compare("multitask_loss", leaves, call)
    truth, eager, ours = kept
    testing.assert_no_worse(ours, eager, truth)
