"""Addresses beyond 2^31 numbers: the same results as where the rows that are named lie close together.

Without a GPU the tables are memory that is reserved and never touched but at these rows.
"""

import sys

import pytest
import torch

from kgfast import backends
from kgfast.backends.operands import RowPass
from kgfast.core.environment import TRITON_INTERPRETED
from kgfast.registry import Objective, Regularizer, Side, Similarity, Update, find_score

if not TRITON_INTERPRETED or not sys.platform.startswith("linux"):
    pytest.skip("needs TRITON_INTERPRET=1, and Linux", allow_module_level=True)

import lanes  # noqa: F401  it prepares the interpreter
from far_memory import reserved

from kgfast.kernels.triton import configurations, gradients, shared
from kgfast.kernels.triton.launching import gradient_blocks, score_blocks, strided

DIM = 258
ROWS = 2**31 // DIM + 40
FAR = torch.tensor([3, ROWS - 1, ROWS - 17, 5, ROWS - 18, ROWS - 2, 0])
IMPLS = ("triton", "cuda")


@pytest.fixture(params=IMPLS)
def backend(request, monkeypatch):
    monkeypatch.setattr("kgfast.backends.cuda.ON_HOST", True)
    return backends.get(request.param)


@pytest.fixture(scope="module")
def tables():
    """(a table of more than 2^31 numbers, its rows FAR, ids in either)."""
    near = torch.randn(len(FAR), DIM, generator=torch.Generator().manual_seed(0))
    far = reserved(ROWS, DIM)
    far[FAR] = near
    assert far.numel() > 2**31 and len(FAR) == len(near)
    return far, near


def order():
    """Ids that keep their order among one another: sums of rows have one."""
    return FAR.sort().values, torch.arange(len(FAR)), FAR.argsort()


def both(tables, call):
    """call(table, ids in it) for the far table and for its rows alone."""
    far, near = tables
    ids, places, by_id = order()
    return call(far, ids), call(near[by_id].clone(), places)


def equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("score", ["transe_l1", "rotate", "complex"])
def test_queries_and_their_adjoints(backend, tables, score):
    spec, generator = find_score(score), torch.Generator().manual_seed(1)
    relations = torch.randn(4, spec.relation_width(DIM), generator=generator)
    d_query = torch.randn(3, DIM, generator=generator)

    def call(table, ids):
        triples = torch.stack([ids[[6, 1, 5]], torch.tensor([0, 3, 1]), ids[[0, 5, 2]]], 1).contiguous()
        query = backend.queries(table, relations, triples, spec.code, Side.TAIL, check=False)
        return query, *backend.queries_adjoint(d_query, table, relations, triples, spec.code, Side.HEAD)

    equal(*both(tables, call))


@pytest.mark.parametrize("similarity", Similarity)
def test_scores_of_pairs(backend, tables, similarity):
    query = torch.randn(2, DIM, generator=torch.Generator().manual_seed(2))

    def call(table, ids):
        pairs = ids[[6, 0, 4, 5, 1, 6]].view(2, 3).clone()
        scores = torch.empty(2, 3)
        backend._pair_scores(query, table, pairs, similarity, scores)
        gradient = backend.pair_query_gradient(torch.ones(2, 3), scores, query, table, pairs, similarity)
        return scores, *gradient

    equal(*both(tables, call))


@pytest.mark.parametrize("groups", [2, 1])
@pytest.mark.parametrize("similarity", Similarity)
def test_a_loss_and_the_pass_over_rows(backend, tables, similarity, groups):
    """Own and shared negatives, with row-wise Adagrad, whose states of few rows lie close."""
    query = torch.randn(2, DIM, generator=torch.Generator().manual_seed(3))
    none = torch.zeros(0, dtype=torch.int64)
    weights = torch.full((2,), 0.5)

    def call(table, ids):
        far = len(table) > len(FAR)
        before = table[ids].clone()
        state = reserved(ROWS) if far else torch.zeros(len(FAR))
        negatives = ids[[6, 0, 4, 5, 1, 6]].view(2, 3)[:groups].contiguous()
        targets = ids[[3, 6]].clone()
        losses, d_query, pairs, coefficients, d_negatives = backend.sampled_loss(
            query, table, targets, negatives, none, none, none, weights, similarity, Objective.LOGISTIC, 0.0, 0.0, True,
            check=False,
        )  # fmt: skip
        extras = [(negatives.view(-1), d_negatives.flatten(0, 1))] if groups == 1 else []
        update = backend.row_update(Update.ROW_ADAGRAD, table, (state,), lr=0.1, eps=1e-10)
        backend.reduce_tables([RowPass(query, table, pairs, coefficients, extras, similarity, update)])
        after = table[ids].clone()
        table[ids] = before
        assert not torch.equal(before, after)
        return losses.clone(), d_query.clone(), after, state[ids]

    equal(*both(tables, call))


def test_regularizers(backend, tables):
    def call(table, ids):
        gradients = torch.zeros(len(ids), DIM)
        backend.add_regularizer(Regularizer.N3, 2, 0.1, table, ids.clone(), gradients)
        return (gradients,)

    equal(*both(tables, call))


# ---- tiles: one program of a launch, whose rows lie 2^27 numbers apart -----------------------------------------

STRIDE = 2**27


def of_tiles(similarity):
    return dict(configurations.arithmetic(torch.float32, similarity))


@pytest.mark.parametrize("similarity", Similarity)
def test_a_tile_of_scores_of_lists(similarity):
    """20 queries against a list of 2^27 rows: the first tile."""
    generator = torch.Generator().manual_seed(4)
    query, rows = torch.randn(20, 6, generator=generator), torch.randn(64, 6, generator=generator)
    sizes = configurations.SMALL[0]
    product = similarity == Similarity.DOT
    scores, lists = reserved(20, STRIDE), reserved(STRIDE, 6) if product else reserved(6, STRIDE)
    near = torch.empty(20, 64)
    for out, count, table in ((scores, STRIDE, lists), (near, 64, rows if product else rows.t().contiguous())):
        if count == STRIDE:
            (table[:64] if product else table[:, :64]).copy_(rows if product else rows.t())
        operands = strided("query", query, 6, 1) if product else strided("query", query.t().contiguous(), 1, 20)
        operands |= strided("lists", table, 6, 1) if product else strided("lists", table, 1, count)
        shared.list_scores[(1,)](
            **operands, lists_stride_group=6 * count, out_ptr=out, batch=20, groups=1, count=count, dim=6, row_tiles=1,
            **of_tiles(similarity), **score_blocks(sizes),
        )  # fmt: skip
    assert torch.equal(scores[:, :64], near)


@pytest.mark.parametrize("similarity", Similarity)
def test_a_tile_of_gradients_of_lists(similarity):
    """Of the first 32 of 2^27 rows, from 20 queries."""
    generator = torch.Generator().manual_seed(5)
    query, rows, c = (torch.randn(*shape, generator=generator) for shape in ((20, 6), (32, 6), (20, 32)))
    coefficients, lists, out = reserved(20, STRIDE), reserved(STRIDE, 6), reserved(1, 1, STRIDE, 6)
    coefficients[:, :32], lists[:32] = c, rows
    near = torch.empty(1, 1, 32, 6)
    for grads, table, result, count in ((coefficients, lists, out, STRIDE), (c, rows, near, 32)):
        shared.list_row_gradient[(1,)](
            grad_scores_ptr=grads, lists_ptr=table, **strided("query", query, 6, 1), query_stride_group=0,
            out_ptr=result, batch=20, groups=1, count=count, dim=6, parts=1, TRANSPOSED=False, FAR=count == STRIDE,
            **of_tiles(similarity), **gradient_blocks(configurations.SMALL[1]),
        )  # fmt: skip
    assert torch.equal(out[:, :, :32], near)


@pytest.mark.parametrize("similarity", Similarity)
def test_a_tile_of_gradients_of_all_scores(similarity):
    """Of the first 32 of 2^27 candidates, from 20 queries: coefficients of one candidate lie 2^27 numbers apart."""
    generator = torch.Generator().manual_seed(6)
    query, rows, c = (torch.randn(*shape, generator=generator) for shape in ((20, 6), (32, 6), (20, 32)))
    coefficients = reserved(20, STRIDE)
    coefficients[:, :32] = c
    found = []
    for grads, stride in ((coefficients, STRIDE), (c, 32)):
        out = torch.empty(32, 6)
        gradients.row_gradients[(1,)](
            grad_ptr=grads, grad_stride_x=1, grad_stride_y=stride, x_ptr=rows, x_count=32,
            **strided("y", query, 6, 1), y_count=20, active_rows_ptr=None, num_active_ptr=None, max_weight_ptr=None,
            factor_bits=configurations.bits(1.0), sums_ptr=out, out_ptr=out, dim=6, ADD=False, LAST=True,
            X_ACTIVE=False, Y_ACTIVE=False, Y_TRANSPOSED=False, FAR=stride == STRIDE, **of_tiles(similarity),
            **gradient_blocks(configurations.SMALL[1]),
        )  # fmt: skip
        found.append(out)
    assert torch.equal(*found)
