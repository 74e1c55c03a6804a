"""Scores in Python alone (`kgfast.register_score`): PyTorch makes their queries, the kernels of every backend the rest.

Each is held to the specification as kgfast's own scores are, and trains as the autograd step does.
"""

import pytest
import torch

import kgfast
from kgfast import nn, optim, reference, steps, testing
from kgfast.core import codes
from kgfast.reference.scores import halves
from kgfast.registry import ALL_OBJECTIVES

DIM, RELATIONS = 8, testing.NUM_RELATIONS


def quarters(x):
    return x.chunk(4, -1)


def hamilton(x, y):
    """The product of quaternions a + bi + cj + dk, rows stored as [a, b, c, d]."""
    (a, b, c, d), (e, f, g, h) = quarters(x), quarters(y)
    parts = a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g, a * g - b * h + c * e + d * f
    return torch.cat([*parts, a * h + b * g - c * f + d * e], -1)


def conjugate(x):
    a, b, c, d = quarters(x)
    return torch.cat([a, -b, -c, -d], -1)


def unit(x):
    """Quaternions of length 1."""
    length = sum(part * part for part in quarters(x)).add(1e-9).sqrt()
    return x / torch.cat([length] * 4, -1)


def turn(x, angle):
    a, b = halves(x)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


OWN = {
    # sum_d a_d h_d t_d + tanh(b_d) h_{D-1-d} t_d, the relation being [a, b]
    "mirrored": dict(
        similarity="dot",
        tail_query=lambda h, r: halves(r)[0] * h + halves(r)[1].tanh() * h.flip(-1),
        head_query=lambda t, r: halves(r)[0] * t + (halves(r)[1].tanh() * t).flip(-1),
        relation_width=lambda dim: 2 * dim,
    ),
    # Re sum_k h_k r_k conj(t_k) of quaternions, r_k of length 1 (Zhang et al. 2019)
    "quaternion": dict(
        similarity="dot",
        tail_query=lambda h, r: hamilton(h, unit(r)),
        head_query=lambda t, r: hamilton(t, conjugate(unit(r))),
        even_dim=True,
    ),
    # -sum_d |h_d + t_d - sinh(r_d)|
    "reflected": dict(
        similarity="l1",
        tail_query=lambda h, r: r.sinh() - h,
        head_query=lambda t, r: r.sinh() - t,
    ),
    # -||h e^{ir} - t||
    "turned": dict(
        similarity="l2",
        tail_query=turn,
        head_query=lambda t, r: turn(t, -r),
        relation_width=lambda dim: dim // 2,
        even_dim=True,
        phases=True,
    ),
}


@pytest.fixture(autouse=True)
def registered():
    """The scores above; what a test registers is gone after it."""
    scores, numbers = dict(codes.SCORES), list(codes._CODES)
    for name, spec in OWN.items():
        kgfast.register_score(name, **spec)
    yield
    codes.SCORES.clear()
    codes.SCORES.update(scores)
    codes._CODES[:] = numbers


@pytest.mark.parametrize("side", ["tail", "head", "both"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("score", OWN)
def test_negative_sampling_loss(lane, score, shared, side):
    objective = {"tail": "logistic", "head": "softmax", "both": "margin"}[side]
    case = lane.case(score, DIM, 5, 5, side=side)
    negatives = case.negatives[..., :2, :] if shared else case.negatives

    def call(op, *tables, **impl):
        return op(
            *tables, case.triples, negatives, score=score, side=side, objective=objective, margin=1.0,
            adversarial_temperature=0.5, weights=case.weights.to(tables[0].dtype), known=lane.known(case.triples),
            **impl,
        )  # fmt: skip

    lane.compare("negative_sampling_loss", [case.entities, case.relations], call)


@pytest.mark.lanes(tiles=True)
@pytest.mark.parametrize("objective", list(ALL_OBJECTIVES))
@pytest.mark.parametrize("score", OWN)
def test_one_vs_all_loss(lane, score, objective):
    case = lane.case(score, DIM, 5, 1)
    options = dict(score=score, side="both", objective=objective, label_smoothing=0.1, known=lane.known(case.triples))
    lane.compare(
        "one_vs_all_loss",
        [case.entities, case.relations],
        lambda op, *tables, **impl: op(*tables, case.triples, **options, **impl),
    )


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("score", OWN)
def test_scores(lane, score, sparse):
    case = lane.case(score, DIM, 5, 5)
    tables, own = [case.entities, case.relations], case.negatives.clamp(min=0)

    def triples(op, *tables, **impl):
        return op(*tables, case.triples, score=score, **impl, **(dict(sparse_grad=sparse) if impl else {}))

    def chosen(ids, side):
        def call(op, *tables, **impl):
            options = dict(score=score, side=side, **impl, **(dict(sparse_grad=sparse) if impl else {}))
            return op(*tables, case.triples, ids, **options)

        return call

    lane.compare("score_triples", tables, triples)
    lane.compare("score_candidates", tables, chosen(own, "tail"))
    lane.compare("score_candidates", tables, chosen(own[0], "head"))
    if lane.tiles:
        lane.compare("score_candidates", tables, chosen(None, "head"))


@pytest.mark.lanes(tiles=True)
@pytest.mark.parametrize("side", ["tail", "head"])
@pytest.mark.parametrize("score", OWN)
def test_rank_and_topk(lane, score, side):
    case = lane.case(score, DIM, 7, 1)
    tables = case.entities, case.relations, case.triples
    wide = (case.entities.double().cpu(), case.relations.double().cpu(), case.triples.cpu())
    known = testing.make_known(wide[2], count=30, num_entities=lane.entities)
    options = dict(score=score, side=side)
    ranks = kgfast.rank(*tables, known=known.to(lane.device), impl=lane.impl, **options)
    assert torch.equal(ranks.cpu(), reference.rank(*wide, known=known, **options))
    _, ids = kgfast.topk(*tables, 4, exclude=known.to(lane.device), impl=lane.impl, **options)
    assert torch.equal(ids.cpu(), reference.topk(*wide, 4, exclude=known, **options)[1])


def model_of(lane, score, reciprocal=False):
    return nn.KGEModel(
        lane.entities, RELATIONS, DIM, score=score, reciprocal=reciprocal, seed=3, dtype=lane.dtypes[-1]
    ).to(lane.device)


def check_step(lane, model, step, triples, loss_of):
    """One step of SGD with rate 1: the loss, and tables that show the gradient, are those of autograd."""
    tables = [table.detach().cpu().double().clone().requires_grad_() for table in (model.entities, model.relations)]
    eager = loss_of(tables)
    eager.backward()
    loss = step(triples.to(lane.device), 7)
    tolerance = 1e-9 if model.entities.dtype == torch.float64 else 2e-5
    moved = [model.entities.detach(), model.relations.detach()]
    expected = [table.detach() - table.grad for table in tables]
    for ours, right in zip([loss, *moved], [eager.detach(), *expected], strict=True):
        torch.testing.assert_close(ours.cpu().double(), right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sharing", ["none", "batch"])
@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("score", OWN)
def test_negative_sampling_step_is_the_autograd_step(lane, score, sharing, reciprocal):
    model, triples = model_of(lane, score, reciprocal), testing.make_triples(6, num_entities=lane.entities)
    rows = optim.RowSGD(model.parameters(), lr=1.0)
    step = steps.NegativeSamplingStep(model, rows, negatives=5, sharing=sharing, side="both", margin=1.0, seed=11,
                                      impl=lane.impl)  # fmt: skip

    def loss_of(tables):
        total, shared = 0.0, 6 if sharing == "batch" else 0
        for (asked, side), drawn in zip(step.side_batches(triples, 7), ("tail", "head"), strict=True):
            ids = reference.sample_negatives(asked, 5, lane.entities, side=drawn, seed=11, step=7, shared=shared)
            options = dict(score=score, side=side.word, margin=1.0)
            total = total + reference.negative_sampling_loss(*tables, asked, ids, **options)
        return total / 2

    check_step(lane, model, step, triples, loss_of)


@pytest.mark.lanes(tiles=True)
@pytest.mark.parametrize("score", OWN)
def test_one_vs_all_step_is_the_autograd_step(lane, score):
    model, triples = model_of(lane, score), testing.make_triples(6, num_entities=lane.entities)
    step = steps.OneVsAllStep(model, optim.RowSGD(model.parameters(), lr=1.0), side="both", impl=lane.impl)
    loss_of = lambda tables: reference.one_vs_all_loss(*tables, triples, score=score, side="both")  # noqa: E731
    check_step(lane, model, step, triples, loss_of)


@pytest.mark.parametrize("score", reference.SCORES)
def test_a_score_of_kgfasts_own_registered_again_gives_the_same(lane, score):
    spec = codes.SCORES[score]
    names = ("similarity", "tail_query", "head_query", "relation_query", "relation_width", "even_dim", "complex_rows",
             "phases")  # fmt: skip
    kgfast.register_score("again", **{name: getattr(spec, name) for name in names})
    case = lane.case(score, 6, 5, 5)
    tables, options = [case.entities, case.relations], dict(impl=lane.impl, side="tail")
    losses = [lambda *t, s: kgfast.negative_sampling_loss(*t, case.triples, case.negatives, score=s, **options)]
    if lane.tiles:
        losses.append(lambda *t, s: kgfast.one_vs_all_loss(*t, case.triples, score=s, **options))
    for loss in losses:
        found = [testing.evaluate(lambda *t, s=s, loss=loss: loss(*t, s=s), tables) for s in (score, "again")]
        for ours, own in zip(*found, strict=True):
            torch.testing.assert_close(own, ours, rtol=1e-5, atol=1e-6)


# ---- what is refused -----------------------------------------------------------------------------------------

GOOD = dict(similarity="dot", tail_query=lambda h, r: h * r, head_query=lambda t, r: t * r)
WRONG = {
    "sides that disagree": (
        # a translated DistMult: no query of t and r has this product with h
        dict(tail_query=lambda h, r: h * r + r),
        r"'own' doesn't fit: tail_query and head_query give different numbers for one triple \(\S+ and \S+\)",
    ),
    "a relation query that disagrees": (
        dict(relation_query=lambda h, t: h + t),
        "doesn't fit: tail_query and relation_query give different numbers",
    ),
    "queries too narrow": (
        dict(tail_query=lambda h, r: (h * r)[:, 1:]),
        r"tail_query makes \[5, 7\] torch.float64 of rows whose answers are \[5, 8\] torch.float64",
    ),
    "another dtype": (dict(head_query=lambda t, r: (t * r).float()), r"head_query makes \[5, 8\] torch.float32"),
    "no tensor": (dict(head_query=lambda t, r: 3), "head_query makes int of rows"),
    "other rows of the batch": (
        dict(tail_query=lambda h, r: (h - h.mean(0)) * r),
        "tail_query: a query depends on the other rows of its batch",
    ),
    "no gradient": (
        dict(tail_query=lambda h, r: (h * r).detach()),
        "tail_query makes queries through which no gradient flows",
    ),
    "relations of another width": (
        dict(relation_width=lambda dim: 2 * dim),
        r"tail_query fails on rows \[5, 8\] and \[5, 16\]: The size of tensor",
    ),
    "halves of odd rows": (
        dict(
            tail_query=lambda h, r: turn(h, r), head_query=lambda t, r: turn(t, -r), relation_width=lambda dim: dim // 2
        ),
        r"tail_query fails on rows \[5, 7\] and \[5, 3\]",
    ),
    "no width": (dict(relation_width=lambda dim: 0), r"relation_width\(8\)=0 must be an integer of at least 1"),
    "a broken width": (dict(relation_width=lambda dim: dim / 2), r"relation_width\(8\)=4.0 must be an integer"),
    "no function": (dict(head_query=None), r"head_query fails on rows \[5, 8\] and \[5, 8\]: 'NoneType'"),
    "an unknown similarity": (dict(similarity="l3"), "similarity='l3' is unknown: it is one of dot, l1, l2, modulus"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_with_the_reason(case):
    changes, message = WRONG[case]
    with pytest.raises(kgfast.KgfastError, match=message):
        kgfast.register_score("own", **{**GOOD, **changes})
    assert "own" not in kgfast.SCORES


@pytest.mark.parametrize("name, message", [("complex", "one of kgfast's own"), ("two words", "must be a word"),
                                           (3, "name=3 must be a word")])  # fmt: skip
def test_names_that_are_refused(name, message):
    with pytest.raises(kgfast.KgfastError, match=message):
        kgfast.register_score(name, **GOOD)


def test_a_score_registered_before_is_replaced():
    kgfast.register_score("own", **GOOD)
    before = kgfast.SCORES["own"].code
    kgfast.register_score("own", similarity="l1", tail_query=lambda h, r: h + r, head_query=lambda t, r: t - r)
    assert kgfast.SCORES["own"].code == before and kgfast.SCORES["own"].similarity == "l1"
    case = testing.make_case("transe_l1", 6, 5, 1)
    tables = case.entities, case.relations, case.triples
    scores = (kgfast.score_triples(*tables, score=score) for score in ("own", "transe_l1"))
    torch.testing.assert_close(*scores)


def test_a_table_of_the_wrong_width_is_named():
    entities, relations = torch.randn(5, DIM), torch.randn(2, DIM)
    with pytest.raises(
        kgfast.KgfastError, match="relations have 8 columns; score 'mirrored' with entities of 8 needs 16"
    ):
        kgfast.score_triples(entities, relations, torch.tensor([[0, 0, 1]]), score="mirrored")
    with pytest.raises(kgfast.KgfastError, match="dim=7 must be even for score 'turned'"):
        nn.KGEModel(5, 2, 7, score="turned")
