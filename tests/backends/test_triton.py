"""What Triton's kernels for rows and pairs do inside: parts of shared lists, blocks of wide rows, tables of 16 bits.

On a GPU, or under Triton's interpreter (see test_interpreter.py). What they compute: the test_conformance files.
"""

import pytest
import torch
from row_cases import OPTIMIZERS, RULES, check_all_rows, check_rows, make_rows

import kgfast
from kgfast import backends, reference, testing
from kgfast.registry import Similarity, Update

if backends.why_not("triton", "cuda" if torch.cuda.is_available() else "cpu"):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from triton_lane import DEVICE, ENTITIES  # noqa: E402

from kgfast.kernels.triton import rows as row_kernels  # noqa: E402
from kgfast.kernels.triton import shared as shared_kernels  # noqa: E402
from kgfast.kernels.triton import updates as update_kernels  # noqa: E402

pytestmark = pytest.mark.of_backend("triton")
triton = backends.get("triton")


def case_of(score, dim, batch, negatives, **options):
    return testing.make_case(score, dim, batch, negatives, num_entities=ENTITIES, **options).on(DEVICE)


@pytest.mark.parametrize("score", ["complex", "transe_l1", "rotate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parts", [1, 3, 16])
def test_lists_whose_queries_are_cut_into_parts(score, dtype, parts, monkeypatch):
    """Two groups of unequal size, several tiles of either side; of 16 parts most are empty."""
    monkeypatch.setattr(shared_kernels, "parts_of", lambda *sizes: parts)
    case = case_of(score, 34, 131, 40, dtype=dtype)
    negatives = case.negatives[:2]

    def call(op, entities, relations, **backend):
        return op(
            entities, relations, case.triples, negatives, score=score, side="tail", objective="softmax", **backend
        )

    testing.compare("negative_sampling_loss", [case.entities, case.relations], call, "triton")


@pytest.mark.parametrize("similarity", [Similarity.DOT, Similarity.MODULUS])
@pytest.mark.parametrize("rule", RULES)
def test_touched_rows_wider_than_a_block(rule, similarity, monkeypatch):
    """Of a complex row a block's gradient reads numbers that another block updates."""
    monkeypatch.setattr(row_kernels, "block_of", lambda dim: 32)
    check_rows(triton, rule, make_rows(38, small=True, entities=ENTITIES), similarity, DEVICE)


@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize("dim", [6, 70])
def test_all_rows_wider_than_a_block(rule, dim, monkeypatch):
    monkeypatch.setattr(update_kernels, "block_of", lambda dim: 32)
    check_all_rows(triton, rule, (5, dim), device=DEVICE)


# ---- tables of 16 bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["distmult", "rotate"])
@pytest.mark.parametrize("shared", [False, True])
def test_tables_of_bfloat16(score, shared):
    """Values and gradients within the rounding of bfloat16."""
    case = case_of(score, 18, 5, 4)
    tables = [case.entities.bfloat16(), case.relations.bfloat16()]
    negatives = case.negatives[:2] if shared else case.negatives

    def loss(*leaves, **impl):
        options = dict(score=score, side="tail", objective="softmax")
        return (kgfast if impl else reference).negative_sampling_loss(
            *leaves, case.triples, negatives, **options, **impl
        )

    ours = testing.evaluate(lambda *leaves: loss(*leaves, impl="triton"), tables)
    truth = testing.evaluate(loss, [table.double() for table in tables])
    for mine, wide in zip(ours, truth, strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.double(), wide, rtol=0.03, atol=0.01)


def test_bfloat16_rows_are_rounded_stochastically():
    """A step of 1/8 of what bfloat16 resolves moves one number in eight, by a whole step; the mean is right."""
    gradient = torch.full((64, 64), 2.0**-11, device=DEVICE)  # below 1 bfloat16 has steps of 2^-8

    def updated(step):
        table = torch.ones(64, 64, dtype=torch.bfloat16, device=DEVICE)
        triton.update_all_rows(gradient, triton.row_update(Update.SGD, table, lr=1.0, step=step))
        return table

    table = updated(1)
    moved = (table != 1).float().mean()
    assert set(table.unique().tolist()) == {1.0, 1.0 - 2.0**-8}
    assert abs(float(moved) - 1 / 8) < 0.03
    assert torch.equal(table, updated(1))  # a function of (row, column, step)
    assert not torch.equal(table, updated(2))


def test_float16_tables_are_not_trained():
    with pytest.raises(kgfast.KgfastError, match="float16 can't be trained"):
        triton.row_update(Update.SGD, torch.ones(2, 2, dtype=torch.float16))
