"""Known answers in losses over all candidates on the CPU: in every cut of the work, and as the multitask loss asks for
them. On every backend: backends/test_conformance_candidates.py."""

import pytest
import torch
from candidate_cases import OBJECTIVES, CandidateCase, as_ranges

from kgfast import backends, reference
from kgfast.functional.multitask import Term
from kgfast.registry import Objective, Similarity

cpu = backends.get("cpu")
# batch, candidates: one group, several groups in several slots, queries in parts of their own
SHAPES = [(1, 1), (7, 5), (9, 37), (6, 700), (300, 40)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("similarity", Similarity.words())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("space", [cpu.workspace_bytes, 20_000])
def test_every_cut_is_the_specification(shape, similarity, objective, smoothing, space, monkeypatch):
    monkeypatch.setattr(cpu, "workspace_bytes", space)
    options = dict(objective=objective, smoothing=smoothing, bias=smoothing > 0, several=True, known=True)
    case = CandidateCase(*shape, 6, torch.float64, similarity, **options)
    for ours, truth in zip(case.computed(cpu, "cpu"), case.specified(torch.float64), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)


def test_the_multitask_loss_of_the_specification():
    """With the weights of its terms: the mean over rows with an answer."""
    case = CandidateCase(9, 37, 6, torch.float64, bias=True, several=True, known=True)
    counted = case.mask.any(1)
    assert not counted.all()
    case.weights = counted / counted.sum().double()
    lists = [(torch.cat([starts, ends[-1:]]), ids) for starts, ends, ids in map(as_ranges, (case.mask, case.known))]
    term = Term(case.query, case.table, lists[0], bias=case.bias, known=lists[1])
    _, (expected,) = reference.multitask_loss([term])
    torch.testing.assert_close(case.computed(cpu, "cpu")[0].sum(), expected, rtol=1e-12, atol=1e-12)


def test_objectives_without_such_a_loss_are_refused():
    case = CandidateCase(2, 5, 6, torch.float64, known=True)
    codes = Similarity.DOT, Objective.MARGIN, 0.0
    with pytest.raises(ValueError, match="objective margin has no loss over all candidates"):
        cpu.candidate_loss(*case.inputs("cpu"), *codes, True, known=case.known_ranges("cpu"))
