"""How Triton's kernels get formulae: one class for each, found by its code or name, in the interpreter or on a GPU."""

import pytest
import torch

from kgfast import KgfastError, backends
from kgfast.registry import SCORES, Objective, Side, Similarity, Update

if backends.why_not("triton", "cuda" if torch.cuda.is_available() else "cpu"):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton_lane import DEVICE, on_device  # noqa: E402

from kgfast.kernels.triton import pairs, queries  # noqa: E402
from kgfast.kernels.triton.objectives import ObjectiveFormulae  # noqa: E402
from kgfast.kernels.triton.scores import Operator, SimilarityFormulae  # noqa: E402
from kgfast.kernels.triton.updates import UpdateRule  # noqa: E402

pytestmark = pytest.mark.of_backend("triton")
FAMILIES = [(SimilarityFormulae, Similarity), (ObjectiveFormulae, Objective), (UpdateRule, Update)]


@pytest.mark.parametrize("family, codes", FAMILIES, ids=lambda one: one.__name__)
def test_every_code_has_its_class(family, codes):
    assert set(family.members) == set(codes)
    assert len({repr(one) for one in family.members.values()}) == len(codes)


@pytest.mark.parametrize("family", [Operator, *(family for family, _ in FAMILIES)], ids=lambda one: one.__name__)
def test_what_is_missing_says_where_it_belongs(family):
    with pytest.raises(KgfastError, match=rf"{family.__name__} 'none such'.*kernels/triton/{family.file}"):
        family.find("none such")


@pytest.fixture
def added(monkeypatch):
    """What a test adds is gone after it."""
    for family in (SimilarityFormulae, Operator):
        monkeypatch.setattr(family, "members", dict(family.members))


def test_a_similarity_is_one_class(added):
    class Cubes(SimilarityFormulae, of="cubes"):
        @triton.jit
        def accumulate(sum, x_a, x_b, y_a, y_b):
            return sum + tl.abs(x_a - y_a) * (x_a - y_a) * (x_a - y_a)

        @triton.jit
        def score(sum):
            return -sum

    query, table = torch.randn(3, 34), torch.randn(5, 34)
    ids = torch.tensor([[0, 4], [1, 1], [2, 3]])
    scores = torch.empty(3, 2, device=DEVICE)
    pairs.score(*on_device(query, table, ids), "cubes", scores)
    torch.testing.assert_close(scores.cpu(), -((query[:, None] - table[ids]).abs() ** 3).sum(-1))


def test_an_operator_is_one_class(added):
    class Shifted(Operator, of="Shifted"):
        @triton.jit
        def tail(h_a, h_b, r_a, r_b):
            return h_a + 2 * r_a, h_a + 2 * r_a

        @triton.jit
        def head(t_a, t_b, r_a, r_b):
            return t_a - 2 * r_a, t_a - 2 * r_a

    entities, relations = torch.randn(5, 7), torch.randn(2, 7)
    triples = torch.tensor([[0, 1, 2], [4, 0, 3]])
    for side, sign in ((Side.TAIL, 2), (Side.HEAD, -2)):
        out = torch.empty(2, 7, device=DEVICE)
        queries.make_queries(*on_device(entities, relations, triples), "Shifted", side, out)
        torch.testing.assert_close(out.cpu(), entities[triples[:, side.anchor]] + sign * relations[triples[:, 1]])


def test_scores_have_operators():
    assert {score.operator for score in SCORES.values()} - {None} == {*Operator.members, queries.RESCAL}
