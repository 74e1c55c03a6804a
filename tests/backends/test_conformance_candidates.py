"""Losses over all candidates, with all that their contract takes, by every backend against the specification."""

import pytest
import torch
from candidate_cases import OBJECTIVES, CandidateCase

from kgfast import testing
from kgfast.registry import Memory, Similarity

SIMILARITIES = Similarity.words()
HALF = (torch.bfloat16, torch.float16)

pytestmark = pytest.mark.lanes(tiles=True)


@pytest.mark.axes(
    "size",
    "dtype",
    similarity=SIMILARITIES,
    objective=OBJECTIVES,
    smoothing=(0.0, 0.1),
    bias=(False, True),
    several=(False, True),
    skipped=(False, True),
    known=(False, True),
    memory=("fast", "low"),
)
def test_candidate_loss(lane, setting):
    """Sizes: one group, several groups in several slots, queries in parts of their own."""
    setting = dict(setting)
    batch, rows, dim = map(int, setting.pop("size").split("x"))
    memory = Memory.of(setting.pop("memory"), "memory")
    CandidateCase(batch, rows, dim, **setting).check(lane.backend, lane.device, memory=memory)


@pytest.mark.lanes(tiles=True, impls=("triton",))
@pytest.mark.parametrize(
    "setting",
    testing.pairwise(
        similarity=SIMILARITIES,
        dtype=HALF,
        objective=OBJECTIVES,
        size=((1, 1, 1), (7, 37, 33), (37, 100, 9), (16, 64, 32)),
        smoothing=(0.0, 0.1),
        bias=(False, True),
        several=(False, True),
        skipped=(False, True),
        known=(False, True),
        memory=("fast", "low"),
    ),
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_tables_of_16_bits(lane, setting):
    setting = dict(setting)
    memory = Memory.of(setting.pop("memory"), "memory")
    CandidateCase(*setting.pop("size"), **setting).check(lane.backend, lane.device, memory=memory)


@pytest.mark.lanes(tiles=True, widest=True)
@pytest.mark.parametrize("similarity", ["dot", "l1"])
@pytest.mark.parametrize("known", [False, True])
def test_skipped_rows_are_not_read(lane, similarity, known):
    case = CandidateCase(20, 70, 16, similarity=similarity, skipped=True, known=known)
    case.query[case.weights == 0] = torch.nan
    losses, d_query, d_table, _ = case.computed(lane.backend, lane.device)
    assert all(torch.isfinite(one).all() for one in (losses, d_query, d_table))
    assert not losses[case.weights == 0].any() and not d_query[case.weights == 0].any()
    case.query.nan_to_num_()
    case.check(lane.backend, lane.device)


@pytest.mark.parametrize("known", [False, True])
def test_nothing_counts(lane, known):
    case = CandidateCase(20, 70, 16, known=known)
    case.weights.zero_()
    found = case.computed(lane.backend, lane.device)
    assert not any(one.any() for one in found)
    assert [one.shape for one in found] == [(20,), (20, 16), (70, 16), (0,)]
    assert not any(one.any() for one in CandidateCase(0, 70, 16, known=known).computed(lane.backend, lane.device))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_large_scores_neither_overflow_nor_vanish(lane, objective):
    CandidateCase(7, 70, 16, objective=objective, scale=1000.0).check(lane.backend, lane.device)


def test_negative_weights_and_reruns(lane):
    """Weights are dL/dloss too; no result depends on the order of programs or threads."""
    case = CandidateCase(20, 70, 16, skipped=True)
    case.weights[::2] *= -1
    case.check(lane.backend, lane.device)
    first, second = (case.computed(lane.backend, lane.device) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    alone = case.computed(lane.backend, lane.device, gradient=False)
    assert torch.equal(alone[0], first[0]) and not any(map(len, alone[1:]))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_what_is_left_out_has_a_gradient_of_exactly_zero(lane, similarity, objective):
    """An answer that is known competes; known twice is known."""
    case = CandidateCase(1, 40, 6, similarity=similarity, objective=objective, smoothing=0.1, bias=True, known=True)
    case.mask[:], case.known[:] = False, False
    case.mask[0, [3, 30]] = True
    silent = torch.tensor([0, 17, 39])
    case.known[0, silent] = case.known[0, 3] = True
    _, _, d_table, d_bias = case.computed(lane.backend, lane.device)
    assert not d_table[silent].any() and (not len(d_bias) or not d_bias[silent].any())
    assert d_table[torch.tensor([3, 30, 1])].any(1).all()


@pytest.mark.lanes(tiles=True, widest=True)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_known_row_whose_scores_are_infinite_takes_no_part(lane, objective):
    case = CandidateCase(7, 70, 16, objective=objective, several=True, known=True)
    case.mask[:, 1] = False
    case.table[1] = 1e38
    losses, d_query, d_table, _ = case.computed(lane.backend, lane.device)
    assert all(one.isfinite().all() for one in (losses, d_query, d_table)) and not d_table[1].any()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_known_rows_change_no_bit(lane, objective):
    case = CandidateCase(9, 70, 6, objective=objective, smoothing=0.1, several=True, known=True)
    case.known[:] = False
    empty = case.computed(lane.backend, lane.device)
    case.known = None
    for with_ranges, without in zip(empty, case.computed(lane.backend, lane.device), strict=True):
        assert torch.equal(with_ranges, without)
