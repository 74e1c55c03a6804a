"""Numbers at the edge of the range on every backend: the result of the specification in float64, or a refusal."""

import pytest
import torch
from lanes import SCORES

import kgfast
from kgfast import reference, testing
from kgfast.core.known import KnownTriples
from kgfast.errors import KgfastError
from kgfast.registry import ALL_OBJECTIVES, Objective, Similarity

DISTANCES = ("transe_l1", "transe_l2", "rotate")
DIVERGED = 7  # the row that has
OBJECTIVES = Objective.words()
TRIPLES = torch.tensor([[1, 0, 3], [0, 1, 1], [2, 4, 4]])
NEGATIVES = torch.tensor([[5, 7, 2], [7, 8, 4], [9, 0, 6]])


def tables_of(lane, score, value=None, dim=8):
    """Tables, a row of which is `value`."""
    entities, relations = testing.make_tables(score, dim, num_entities=11)
    if value is not None:
        entities[DIVERGED] = value
    return lane.on(entities, relations)


def sampled_loss(lane, tables, negatives=NEGATIVES, triples=TRIPLES, **options):
    """(ours, the specification's in float64): value and gradients."""
    options = dict(side="tail") | options

    def call(op, *given, **impl):
        own = {key: one.to(given[0].dtype) if key == "weights" else one for key, one in options.items()}
        return op(*given, triples.to(given[0].device), negatives.to(given[0].device), **own, **impl)

    ours = testing.evaluate(lambda *own: call(kgfast.negative_sampling_loss, *own, impl=lane.impl), tables)
    wide = [table.cpu().double() for table in tables]
    return [one.cpu() for one in ours], testing.evaluate(
        lambda *own: call(reference.negative_sampling_loss, *own), wide
    )


def assert_close(ours, truth, rtol=1e-4):
    for mine, wide in zip(ours, truth, strict=True):
        assert mine.isfinite().all()
        scale = float(wide.abs().max()) + 1e-3
        torch.testing.assert_close(mine.double(), wide, rtol=0, atol=rtol * scale)


# ---- scores that lie far apart -------------------------------------------------------------------------------


@pytest.mark.axes(
    "dtype",
    score=("distmult", "complex", "transe_l2", "rotate"),
    objective=("logistic", "margin"),
    scale=(1.0, 1e3, 1e4),
    temperature=(1e-3, 1e3, 1e6, 3e38),
    shared=(False, True),
)
def test_wide_exponents(lane, setting):
    """Weights of negatives whose temperature * score is beyond 10^9, where a rounded product means nothing."""
    entities, relations = testing.make_tables(setting["score"], 16, num_entities=11, dtype=setting["dtype"])
    factor = 1.0 if setting["score"] == "rotate" else setting["scale"]
    tables = lane.on(entities * setting["scale"], relations * factor)
    negatives = NEGATIVES[:2] if setting["shared"] else NEGATIVES
    options = dict(score=setting["score"], objective=setting["objective"], margin=6.0)
    ours, truth = sampled_loss(lane, tables, negatives, adversarial_temperature=setting["temperature"], **options)
    assert truth[0] > 0
    assert_close(ours, truth, 2e-3)


@pytest.mark.axes(objective=("logistic", "margin"))
def test_no_temperature_loses_all_negatives(lane, setting):
    """Steps of the scores below a rounding error of temperature * score."""
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 100
    rows[1] = -rows[0]
    tables = lane.on(rows, torch.randn(2, 4, generator=torch.Generator().manual_seed(1)))
    options = dict(score="distmult", margin=1e6, adversarial_temperature=1e6, objective=setting["objective"])
    negatives = torch.tensor([[2, 2, 2]])
    for factor in (1.0, 1.1, 1.2, 1.3, 1.37):
        moved = [tables[0] * factor, tables[1]]
        ours, truth = sampled_loss(lane, moved, negatives, torch.tensor([[0, 0, 1]]), **options)
        assert_close(ours[:1], truth[:1], 1e-5)


@pytest.mark.parametrize("margin", [1e31, -1e31])
def test_largest_margin(lane, margin):
    """Of float32, over as many negatives as a loss may have."""
    tables = tables_of(lane, "distmult")
    for objective in ("logistic", "margin"):
        options = dict(score="distmult", objective=objective)
        ours, truth = sampled_loss(lane, tables, margin=margin, **options)
        assert_close(ours, truth)
        for wrong in (1.1e31, -1.1e31, 1e39):
            with pytest.raises(KgfastError, match="margin=.*e[+]3.*must be a finite number of at least -1.01412e[+]31"):
                sampled_loss(lane, tables, margin=wrong, **options)


def test_temperatures_beyond_the_range(lane):
    tables, options = tables_of(lane, "distmult"), dict(score="distmult", objective="logistic")
    with pytest.raises(KgfastError, match="adversarial_temperature=1e[+]39 must be a finite number"):
        sampled_loss(lane, tables, adversarial_temperature=1e39, **options)
    none, least = (sampled_loss(lane, tables, adversarial_temperature=one, **options)[0] for one in (0.0, 1e-45))
    assert all(torch.equal(a, b) for a, b in zip(none, least, strict=True))


# ---- rows that diverged --------------------------------------------------------------------------------------


@pytest.mark.axes(score=DISTANCES, value=(1e20, -1e30, 3e38, float("inf")), side=("tail", "head"))
@pytest.mark.lanes(tiles=True)
def test_a_diverged_entity_is_the_worst(lane, setting):
    """Where a distance to it overflows it is infinite, not NaN: in ranks, top-k and scores."""
    tables = tables_of(lane, setting["score"], setting["value"])
    triples = TRIPLES.clone().to(lane.device)
    triples[0, 2 if setting["side"] == "tail" else 0] = DIVERGED
    options = dict(score=setting["score"], side=setting["side"], impl=lane.impl)
    ranks = kgfast.rank(*tables, triples, **options).cpu()
    wide = [table.cpu().double() for table in tables]
    specified = reference.rank(*wide, triples.cpu(), score=setting["score"], side=setting["side"])
    assert torch.equal(ranks, specified) and ranks[0] == 11
    scores, ids = kgfast.topk(*tables, triples, 11, **options)
    assert (ids[:, -1] == DIVERGED).all() and not scores.isnan().any()
    every = kgfast.score_candidates(*tables, triples, **options)
    some = kgfast.score_candidates(*tables, triples, torch.tensor([DIVERGED, 2], device=lane.device), **options)
    assert (every[:, DIVERGED] < -1e20).all()
    torch.testing.assert_close(every[:, DIVERGED], some[:, 0])
    assert every.isfinite().sum() >= 30 and some[:, 1].isfinite().all()


@pytest.mark.axes(score=SCORES, objective=OBJECTIVES, temperature=(0.0, 1.0, 1e6), shared=(False, True))
def test_a_diverged_negative(lane, setting):
    """A distance to 1e20 overflows float32 when squared; a dot product gives a loss of its size, or its square."""
    tables = tables_of(lane, setting["score"], 1e20 if setting["score"] in DISTANCES else 1e15, 6)
    negatives = NEGATIVES[:2] if setting["shared"] else NEGATIVES
    options = dict(score=setting["score"], objective=setting["objective"], margin=2.0)
    ours, truth = sampled_loss(lane, tables, negatives, adversarial_temperature=setting["temperature"], **options)
    assert_close(ours, truth, 2e-3)


@pytest.mark.axes(score=("transe_l2", "rotate"), temperature=(0.0, 1.0), shared=(False, True))
def test_a_model_that_diverged_is_no_model_without_loss(lane, setting):
    """All distances overflow, to -inf: whether margins are kept is not known, and a loss of 0 says that they are."""
    entities, relations = testing.make_tables(setting["score"], 6, num_entities=11)
    tables = lane.on(entities * 1e30, relations)
    negatives = NEGATIVES[:2] if setting["shared"] else NEGATIVES
    options = dict(score=setting["score"], objective="margin", margin=2.0)
    ours, truth = sampled_loss(lane, tables, negatives, adversarial_temperature=setting["temperature"], **options)
    assert truth[0] > 1e28 and (ours[0].isnan() or ours[0] > 1e28)


@pytest.mark.axes(score=DISTANCES, objective=tuple(ALL_OBJECTIVES), smoothing=(0.0, 0.1))
@pytest.mark.lanes(tiles=True)
def test_a_diverged_candidate(lane, setting):
    """It does not compete; smoothed labels ask for it, so that the loss is infinite where its score is."""
    tables = tables_of(lane, setting["score"], 1e20)
    options = dict(score=setting["score"], side="tail", objective=setting["objective"])

    def call(op, triples, **impl):
        return lambda *own: op(*own, triples, label_smoothing=setting["smoothing"], **options, **impl)

    wide = [table.cpu().double() for table in tables]
    truth = testing.evaluate(call(reference.one_vs_all_loss, TRIPLES), wide)
    for impl in (lane.impl, "reference"):
        found = testing.evaluate(call(kgfast.one_vs_all_loss, TRIPLES.to(lane.device), impl=impl), tables)
        if setting["smoothing"] and setting["score"] != "transe_l1":
            assert found[0] == torch.inf
        else:
            assert_close([one.cpu() for one in found], truth)


@pytest.mark.axes(score=DISTANCES, objective=OBJECTIVES, negatives=("none", "masked"), shared=(False, True))
def test_a_diverged_triple_without_rivals(lane, setting):
    tables = tables_of(lane, setting["score"], 1e20)
    triples = torch.tensor([[1, 0, DIVERGED], [0, 1, 1]])
    ids = torch.full((1 if setting["shared"] else 2, 0 if setting["negatives"] == "none" else 3), -1)
    (ours, *_), (truth, *_) = sampled_loss(
        lane, tables, ids, triples, score=setting["score"], objective=setting["objective"], margin=2.0
    )
    assert truth >= 0
    if truth < 1e10:
        torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-7)
    else:  # the target's distance, or infinity in its place
        assert ours == torch.inf or abs(float(ours / truth) - 1) < 1e-5


@pytest.mark.axes(score=SCORES, objective=OBJECTIVES, value=(float("nan"), 1e20, 1e38), shared=(False, True))
def test_a_triple_of_weight_0_has_no_part(lane, setting):
    """Whatever became of its rows: the loss and the other rows' gradients are as without it."""
    tables = tables_of(lane, setting["score"], setting["value"], 6)
    triples = torch.cat([TRIPLES[:2], torch.tensor([[2, 3, DIVERGED]])])
    negatives = torch.tensor([[5, 3, 2], [0, 8, 6], [9, 0, 6]])
    options = dict(score=setting["score"], objective=setting["objective"], adversarial_temperature=1.0)
    weights = torch.tensor([1.0, 2.0, 0.0], device=lane.device)
    found, alone = (
        sampled_loss(lane, tables, ids, triples[:count], weights=weights[:count], **options)[0]
        for count, ids in ((3, negatives[:2] if setting["shared"] else negatives), (2, negatives[:2]))
    )
    if setting["shared"]:  # rows 0 and 1 share the first list then
        assert found[0].isfinite()
        return
    torch.testing.assert_close(found[0], alone[0], rtol=1e-6, atol=0)
    if setting["value"] == setting["value"]:
        others = [0, 1, 3, 5]
        torch.testing.assert_close(found[1][others], alone[1][others], rtol=1e-5, atol=1e-7)


@pytest.mark.lanes(tiles=True)
@pytest.mark.axes(score=DISTANCES + ("distmult", "complex"))
def test_nan_has_no_rank(lane, setting):
    """A target that is NaN is refused, a candidate counts as better; top-k refuses both."""
    tables, triples = tables_of(lane, setting["score"], float("nan")), TRIPLES.clone().to(lane.device)
    options = dict(score=setting["score"], side="tail", impl=lane.impl)
    clean = kgfast.rank(*tables_of(lane, setting["score"], 1e-3), triples, **options)
    assert ((kgfast.rank(*tables, triples, **options) - clean).cpu() >= 0).all()
    with pytest.raises(KgfastError, match="NaN"):
        kgfast.topk(*tables, triples, 2, **options)
    triples[1, 2] = DIVERGED
    with pytest.raises(KgfastError, match=r"triples\[1\].*NaN"):
        kgfast.rank(*tables, triples, **options)


# ---- the other end of the range, and nothing at all ----------------------------------------------------------


@pytest.mark.axes(score=("transe_l2", "rotate"), size=(1e-18, 1e-19, 1e-20))
@pytest.mark.lanes(tiles=True)
def test_subnormal_squares(lane, setting):
    """Distances whose squares are subnormal are no zeros: ranks and scores are those of the specification."""
    entities, relations = testing.make_tables(setting["score"], 2, num_entities=11)
    tables = lane.on(entities * setting["size"], relations * (1.0 if setting["score"] == "rotate" else setting["size"]))
    triples, options = TRIPLES.to(lane.device), dict(score=setting["score"], side="tail")
    truth = reference.score_candidates(*(table.cpu().double() for table in tables), TRIPLES, None, **options)
    ours = kgfast.score_candidates(*tables, triples, impl=lane.impl, **options).cpu()
    assert (truth < 0).sum() > 30
    torch.testing.assert_close(ours.double(), truth, rtol=2e-3, atol=0)


@pytest.mark.axes(similarity=Similarity.words(), objective=tuple(ALL_OBJECTIVES))
@pytest.mark.lanes(tiles=True)
def test_queries_for_which_nothing_competes(lane, setting):
    """A row without an answer whose known rows are all there are, and candidates that are none."""
    generator = torch.Generator().manual_seed(0)
    leaves = lane.on(*(torch.randn(count, 4, generator=generator) for count in (2, 3)))
    known = tuple(lane.on(torch.tensor([0, 0, 3]), torch.tensor([0, 1, 2])))
    none = torch.empty(0, dtype=torch.int64, device=lane.device)
    targets, ignored = lane.on(torch.tensor([0, -100]), torch.tensor([-100, -100]))
    several = tuple(lane.on(torch.tensor([0, 1, 1]), torch.tensor([2])))
    codes = dict(similarity=setting["similarity"], objective=setting["objective"])
    for lists in (
        dict(targets=targets, known=known),
        dict(targets=several, known=known),
        dict(targets=targets, candidates=none),
        dict(targets=ignored, candidates=none),
    ):

        def call(op, query, table, lists=lists, **impl):
            return op([kgfast.Term(query, table, **lists, **codes)], **impl)[0]

        lane.compare("multitask_loss", leaves, call)


# ---- draws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [
        (1e3, 1.0, 1, 0, 0, 0),
        (1e12, 1, 3, 0, 0, 2),  # of the others the alias table knows nothing
        (1e300, 1e-300, 0, 0, 0, 0),
        (1e308, 1e308, 1e308, 0, 0, 0),  # their sum is infinite
        (5e-324, 1e-323, 5e-324, 0, 0, 0),
        (1, 0, 0, 0, 0, 0),
    ],
)
@pytest.mark.lanes(widest=True)
def test_redraws_follow_the_weights(lane, weights):
    """No entity of weight 0 is drawn, whichever are known; -1 where all others are."""
    weights = torch.tensor(weights, dtype=torch.float64)
    triples = torch.tensor([[1, 0, 0], [2, 0, 0]])
    for known_ids in ([0], [0, 1, 2], list(range(6)), [0, 1], [1, 5])[: 2 if lane.slow else 5]:
        known = KnownTriples.from_triples(torch.tensor([[1, 0, one] for one in known_ids]), 6, 1)
        options = dict(side="tail", seed=3, weights=weights)
        ours, specified = (
            kgfast.sample_negatives(triples.to(device), 40, 6, known=known.to(device), impl=impl, **options).cpu()
            for device, impl in ((lane.device, lane.impl), ("cpu", "reference"))
        )
        assert torch.equal(ours, specified)
        left = {one for one in range(6) if weights[one] > 0 and one not in known_ids}
        drawn = set(ours[0].tolist())
        assert drawn <= left if left else drawn == {-1}
        assert 0 not in left or weights[0] < 1 or 0 in drawn
        assert known_ids != [0] or weights[2] == 0 or drawn >= {1, 2}
        assert -1 not in ours[1]
