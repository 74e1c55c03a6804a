"""The pass over touched rows, regularizers and draws of every backend, against the specification."""

import pytest
import torch
from lanes import SCORES
from row_cases import OPTIMIZERS, RULES, check_all_rows, check_rows, make_rows, table_gradient, updated_rows

import kgfast
from kgfast import testing
from kgfast.reference.scores import halves
from kgfast.registry import Regularizer, Similarity


@pytest.mark.axes("row_dim", "dtype", similarity=Similarity.words(), rule=RULES)
def test_touched_rows(lane, setting):
    case = make_rows(setting["row_dim"], lane.slow, setting["dtype"], lane.entities)
    similarity = Similarity.of(setting["similarity"], "similarity")
    check_rows(lane.backend, setting["rule"], case, similarity, lane.device)


@pytest.mark.axes("row_dim", "dtype", similarity=Similarity.words())
def test_rows_of_a_sparse_gradient(lane, setting):
    """The touched rows, ascending and once each, of the gradient of the whole table."""
    case = make_rows(setting["row_dim"], lane.slow, setting["dtype"], lane.entities)
    similarity = Similarity.of(setting["similarity"], "similarity")
    query, table, ids, g, (extra, _) = case.on(lane.device)
    scores = lane.backend.pair_scores(query, table, ids, similarity)
    coefficients, _ = lane.backend.pair_query_gradient(g, scores, query, table, ids, similarity)
    arguments = (query, table, ids, coefficients, *extra, similarity)
    rows, gradient = (one.cpu() for one in lane.backend.table_gradient_rows(*arguments))
    case = case._replace(extras=case.extras[:1])
    assert torch.equal(rows, torch.cat([case.ids.flatten(), case.extras[0][0]]).unique())
    eager, truth = (table_gradient(one, similarity) for one in (case, case.to(torch.float64)))
    testing.assert_no_worse(gradient, eager[rows], truth[rows])
    testing.assert_no_worse(lane.backend.table_gradient(*arguments).cpu(), eager, truth)


@pytest.mark.axes("dtype", rule=OPTIMIZERS, dim=(7, 70))
def test_update_of_every_row(lane, setting):
    check_all_rows(lane.backend, setting["rule"], (5, setting["dim"]), setting["dtype"], lane.device)


def test_same_bits_every_time(lane):
    case = make_rows(34, lane.slow, entities=lane.entities).on(lane.device)
    first, second = (updated_rows(lane.backend, "row_adagrad", case, Similarity.L1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.axes("dtype", kind=("n3", "l2"), parts=(1, 2))
def test_regularizers(lane, setting):
    """weight * sum |x|^3 or x^2; parts 2: N3 is of the moduli of complex numbers."""
    kind, parts, weight = setting["kind"], setting["parts"], 0.3
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(9, 6, generator=generator).to(setting["dtype"])
    start, ids = torch.randn(4, 6, generator=generator).to(setting["dtype"]), torch.tensor([8, 0, 3, 3])

    def specified(dtype):
        rows = table[ids].to(dtype).requires_grad_()
        sizes = torch.stack(halves(rows), -1).norm(dim=-1) if parts == 2 else rows.abs()
        (weight * (sizes ** (3 if kind == "n3" else 2)).sum()).backward()
        return start.to(dtype) + rows.grad

    found, table, ids = lane.on(start.clone(), table, ids)
    lane.backend.add_regularizer(Regularizer.of(kind, "kind"), parts, weight, table, ids, found)
    testing.assert_no_worse(found.cpu(), specified(setting["dtype"]), specified(torch.float64))


# ---- draws ---------------------------------------------------------------------------------------------------


def skewed_weights(size):
    weights = torch.rand(size, generator=torch.Generator().manual_seed(9), dtype=torch.float64) ** 3
    weights[::7] = 0
    return weights


@pytest.mark.lanes(widest=True)
@pytest.mark.axes(
    "drawn",
    "triples",
    side=("tail", "head", "both"),
    weighted=(False, True),
    known=(False, True),
    shared=(0, 3, 7, 100),
    seed=(0, -3, 2**31 + 5, 2**63 - 1),
    step=(0, 1, 2**33 + 3),
)
def test_negatives_are_those_of_the_specification(lane, setting):
    entities = 203 if not lane.slow else lane.entities
    triples = testing.make_triples(setting["triples"], num_entities=entities).to(lane.device)
    known = testing.make_known(triples.cpu(), count=30 if lane.slow else 120, num_entities=entities)
    options = dict(
        side=setting["side"],
        seed=setting["seed"],
        step=setting["step"],
        shared=setting["shared"],
        weights=skewed_weights(entities) if setting["weighted"] else None,
    )
    ours, specified = (
        kgfast.sample_negatives(
            triples.to(device), setting["drawn"], entities, known=known.to(device) if setting["known"] else None,
            impl=impl, **options,
        )
        for device, impl in ((lane.device, lane.impl), ("cpu", "reference"))
    )  # fmt: skip
    assert torch.equal(ours.cpu(), specified)
    assert ours.dtype == torch.int64


@pytest.mark.lanes(impls=("triton", "cuda"))
def test_a_step_read_from_memory_draws_the_same(lane):
    """As a captured graph needs it."""
    none, index = lane.on(torch.empty(0, dtype=torch.int64), torch.tensor([77]))
    drawn = [lane.backend.sample_negatives(4, 9, 37, 1, 5, step, *[none] * 4) for step in (index, 77)]
    assert torch.equal(*drawn)


def test_no_id_is_left_where_all_are_known(lane):
    triples, every = lane.on(torch.tensor([[0, 0, 0], [1, 0, 0]]), torch.tensor([[0, 0, tail] for tail in range(4)]))
    known = kgfast.KnownTriples.from_triples(every, 4, 1)
    for weights in (None, torch.ones(4)):
        ids = kgfast.sample_negatives(triples, 3, 4, weights=weights, side="tail", seed=0, known=known, impl=lane.impl)
        assert (ids[0] == -1).all() and (ids[1] >= 0).all()


@pytest.mark.axes(score=SCORES)
def test_known_and_masked_negatives_have_no_part(lane, setting):
    """A loss over ids of which some are -1, the target or known is the loss without them."""
    case = lane.case(setting["score"], 6, 5, 5)
    triples, ids = case.triples[:1], case.negatives[1:2].clamp(min=0).unique()[None]
    target = int(triples[0, 2])
    kept = ids[:, ids[0] != target]
    known = kgfast.KnownTriples.from_triples(
        torch.cat([triples, triples.clone().index_fill_(1, triples.new_tensor([2]), int(kept[0, 0]))]),
        lane.entities, testing.NUM_RELATIONS,
    )  # fmt: skip
    options = dict(score=setting["score"], side="tail", objective="softmax", impl=lane.impl)
    tables = case.entities, case.relations, triples
    masked = torch.cat([kept, kept.new_tensor([[-1, target]])], 1)
    for given, lists, left in ((masked, None, kept), (kept, known, kept[:, 1:])):
        ours = kgfast.negative_sampling_loss(*tables, given, known=lists, **options)
        torch.testing.assert_close(ours, kgfast.negative_sampling_loss(*tables, left, **options), rtol=1e-6, atol=1e-6)
