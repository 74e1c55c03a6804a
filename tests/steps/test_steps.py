"""Training steps against autograd over the eager specification: the same loss, tables moved by the same gradient."""

import functools
import math
import threading

import pytest
import torch

import kgfast
from kgfast import backends, nn, optim, reference, steps
from kgfast.testing import make_triples

ENTITIES, RELATIONS, BATCH = 23, 4, 9


def model_for(score, dim=16, reciprocal=False, dtype=torch.float64):
    return nn.KGEModel(ENTITIES, RELATIONS, dim, score=score, reciprocal=reciprocal, seed=3, dtype=dtype)


def batch(seed=0):
    return make_triples(BATCH, num_entities=ENTITIES, num_relations=RELATIONS, seed=seed)


def moduli(score, rows, relation=False):
    """What N3 sums: absolute values, or moduli where rows are complex."""
    if score == "complex" or (score == "rotate" and not relation):
        return torch.stack(rows.chunk(2, -1), -1).norm(dim=-1)
    return rows.abs()


def regularization(model, score, batches, kind):
    entities, relations = model
    total = 0.0
    for triples, _ in batches:
        rows = [entities[triples[:, 0]], entities[triples[:, 2]]]
        sizes = [moduli(score, one) for one in rows]
        if score != "rotate":
            sizes.append(moduli(score, relations[triples[:, 1]], relation=True))
        total = total + sum((size**3 if kind == "n3" else size**2).sum() for size in sizes)
    return total / (len(batches) * BATCH)


def moved(model, step, triples, index=0, weights=None):
    """(loss, entities, relations) after one step of SGD with lr 1: the tables show the gradient."""
    loss = step(triples, index, weights)
    return loss, model.entities.detach().clone(), model.relations.detach().clone()


@pytest.mark.parametrize("score", list(kgfast.SCORES))
@pytest.mark.parametrize("sharing", ["none", "chunk", "batch"])
@pytest.mark.parametrize("reciprocal", [False, True])
def test_negative_sampling_step_is_the_autograd_step(score, sharing, reciprocal):
    model = model_for(score, reciprocal=reciprocal)
    tables = [p.detach().clone().requires_grad_() for p in (model.entities, model.relations)]
    kind = "n3" if reciprocal else "l2"
    step = steps.NegativeSamplingStep(
        model, optim.RowSGD(model.parameters(), lr=1.0), negatives=5, sharing=sharing, chunk=4, objective="logistic",
        margin=1.0, adversarial_temperature=0.5, side="both", seed=11, regularizer=kind, regularizer_weight=0.1,
    )  # fmt: skip
    triples, weights = batch(), torch.rand(BATCH, dtype=torch.float64) + 0.5
    batches = step.side_batches(triples, 0)
    shared = {"none": 0, "chunk": 3, "batch": BATCH}[sharing]  # 9 rows in chunks of 4: 3 lists
    eager = 0.0
    for (asked, side), draw in zip(batches, ("tail", "head"), strict=True):
        ids = reference.sample_negatives(asked, 5, ENTITIES, side=draw, seed=11, shared=shared)
        eager = eager + reference.negative_sampling_loss(
            *tables,
            asked,
            ids,
            score=score,
            side=side.word,
            margin=1.0,
            adversarial_temperature=0.5,
            weights=weights,
        )
    eager = eager / 2
    (eager + 0.1 * regularization(tables, score, batches, kind)).backward()
    loss, entities, relations = moved(model, step, triples, weights=weights)
    torch.testing.assert_close(loss, eager.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(entities, (tables[0] - tables[0].grad).detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(relations, (tables[1] - tables[1].grad).detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("score", list(kgfast.SCORES))
@pytest.mark.parametrize("objective", ["softmax", "bce"])
@pytest.mark.parametrize("several", [False, True])
def test_one_vs_all_step_is_the_autograd_step(score, objective, several):
    model = model_for(score)
    tables = [p.detach().clone().requires_grad_() for p in (model.entities, model.relations)]
    triples = batch()
    known = kgfast.KnownTriples.from_triples(torch.cat([triples, batch(seed=1)]), ENTITIES, RELATIONS)
    answers = known if several else None
    head = 0.0 if score == "rotate" else 0.3
    step = steps.OneVsAllStep(
        model, optim.RowSGD(model.parameters(), lr=1.0), objective=objective, label_smoothing=0.1, answers=answers,
        side="both", regularizer="n3", regularizer_weight=0.1, relation_weight=head,
    )  # fmt: skip
    eager = reference.one_vs_all_loss(
        *tables, triples, score=score, side="both", objective=objective, label_smoothing=0.1, known=answers
    )
    total = eager + 0.1 * regularization(tables, score, step.side_batches(triples, 0), "n3")
    if head:
        spec = reference.SCORES[score]
        query = spec.relation_query(tables[0][triples[:, 0]], tables[0][triples[:, 2]])
        logits = reference.SIMILARITIES[spec.similarity](query[:, None], tables[1][None])
        total = total + head * torch.nn.functional.cross_entropy(logits, triples[:, 1])
    total.backward()
    loss, entities, relations = moved(model, step, triples)
    torch.testing.assert_close(loss, eager.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(entities, (tables[0] - tables[0].grad).detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(relations, (tables[1] - tables[1].grad).detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("filter", ["mask", "redraw"])
def test_known_answers_are_masked_or_redrawn(filter):
    model = model_for("distmult")
    tables = [p.detach().clone() for p in (model.entities, model.relations)]
    triples = batch()
    known = kgfast.KnownTriples.from_triples(torch.cat([triples, batch(seed=1)]), ENTITIES, RELATIONS)
    step = steps.NegativeSamplingStep(
        model, optim.RowSGD(model.parameters(), lr=1.0), negatives=6, objective="softmax", side="tail", seed=5,
        known=known, filter=filter,
    )  # fmt: skip
    drawn = known if filter == "redraw" else None
    ids = reference.sample_negatives(triples, 6, ENTITIES, side="tail", seed=5, step=7, known=drawn)
    eager = reference.negative_sampling_loss(
        *tables, triples, ids, score="distmult", side="tail", objective="softmax", known=known
    )
    torch.testing.assert_close(step(triples, 7), eager)


def step_of(kind, model, optimizer):
    if kind == "sampled":
        return steps.NegativeSamplingStep(
            model, optimizer, negatives=33, margin=2.0, adversarial_temperature=1.0, seed=1
        )
    if kind == "shared":
        return steps.NegativeSamplingStep(
            model, optimizer, negatives=33, sharing="chunk", chunk=50, objective="softmax"
        )
    return steps.OneVsAllStep(model, optimizer, regularizer="n3", regularizer_weight=0.01, query_dropout=0.2)


@pytest.mark.parametrize("kind", ["sampled", "shared", "all"])
@pytest.mark.parametrize("score", ["transe_l1", "transe_l2", "complex", "rotate"])
def test_one_and_two_threads_give_the_same_bits(kind, score):
    def run(threads):
        torch.set_num_threads(threads)
        model = nn.KGEModel(300, 7, 34, score=score, seed=0)
        step = step_of(kind, model, optim.RowAdam(model.parameters(), lr=0.01))
        for index in range(4):
            step(make_triples(211, num_entities=300, num_relations=7, seed=index), index)
        return model.entities.detach().clone(), model.relations.detach().clone()

    before = torch.get_num_threads()
    try:
        for one, two in zip(run(1), run(2), strict=True):
            assert torch.equal(one, two)
    finally:
        torch.set_num_threads(before)


def test_dropout_depends_on_the_step_alone():
    tables = []
    for _ in range(2):
        model = model_for("complex")
        step = step_of("all", model, optim.RowAdagrad(model.parameters()))
        step(batch(), 3)
        tables.append(model.entities.detach().clone())
    assert torch.equal(*tables)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"negatives": 0}, "negatives=0"),
        ({"negatives": 2, "sharing": "chunks"}, "did you mean 'chunk'"),
        ({"negatives": 2, "filter": "mask"}, "needs known triples"),
        ({"negatives": 2, "query_dropout": 1.0}, "query_dropout=1.0"),
        ({"negatives": 2, "negative_power": 0.5}, "entity_counts"),
        ({"negatives": 2, "entity_counts": "many"}, "entity_counts must be a torch.Tensor"),
        ({"negatives": 2, "entity_counts": torch.full((ENTITIES,), math.nan)}, r"entity_counts\[0\]=nan"),
        ({"negatives": 2, "regularizer_weight": 0.1}, "regularizer_weight=0.1 has no effect without a regularizer"),
        ({"negatives": 2, "regularizer": "none", "regularizer_weight": 1}, "regularizer_weight=1 has no effect"),
    ],
)
def test_bad_options_are_named(options, message):
    model = model_for("distmult")
    with pytest.raises(kgfast.KgfastError, match=message):
        steps.NegativeSamplingStep(model, optim.RowSGD(model.parameters()), **options)


@pytest.mark.parametrize("score", ["transe_l1", "transe_l2", "distmult", "rotate"])
@pytest.mark.parametrize("update", ["sgd", "adagrad", "adam"])
def test_rows_with_one_pair_are_updated_as_all_others(level, score, update):
    """In a table with many rows most have one pair, which the loss finishes itself; both ways give the same tables."""
    make = {  # far from g / |g|, where rounding would show
        "sgd": optim.RowSGD,
        "adagrad": functools.partial(optim.RowAdagrad, initial=0.01),
        "adam": functools.partial(optim.RowAdam, eps=0.01),
    }[update]
    triples = make_triples(BATCH, num_entities=900, num_relations=RELATIONS, seed=2)
    tables = []
    for fused_step in (True, False):
        model = nn.KGEModel(900, RELATIONS, 34, score=score, seed=3)
        optimizer = make(model.parameters(), lr=0.1)
        if fused_step:
            step = steps.NegativeSamplingStep(model, optimizer, negatives=6, margin=2.0, side="both", seed=4)
            step(triples, 0)
        else:
            ids = kgfast.sample_negatives(triples, 6, 900, side="both", seed=4)
            kgfast.negative_sampling_loss(
                model.entities, model.relations, triples, ids, score=score, side="both", margin=2.0, sparse_grad=True
            ).backward()
            optimizer.step()
        tables.append([model.entities.detach(), model.relations.detach()])
    for ours, other in zip(*tables, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)
    moved_rows = (tables[0][0] != nn.KGEModel(900, RELATIONS, 34, score=score, seed=3).entities).any(1).sum()
    assert 2 * BATCH < moved_rows < 200


@pytest.mark.parametrize("dim", [2, 34, 200])
@pytest.mark.parametrize("objective", ["softmax", "bce"])
def test_bf16_rounds_operands_and_nothing_else(dim, objective):
    if backends.get("cpu").bf16_reason():
        pytest.skip(f"bf16: {backends.get('cpu').bf16_reason()}")
    tables = []
    triples = make_triples(BATCH, num_entities=61, num_relations=RELATIONS, seed=1)
    for half in (False, True):
        model = nn.KGEModel(61, RELATIONS, dim, score="distmult", seed=3)
        # what the products multiply is exact in bfloat16: only the factors of the gradient are rounded
        with torch.no_grad():
            model.entities.copy_(model.entities.bfloat16())
            model.relations.fill_(2.0)
        step = steps.OneVsAllStep(
            model, optim.RowSGD(model.parameters(), lr=1.0), objective=objective, side="tail", bf16=half
        )
        before = model.entities.detach().clone()
        loss = step(triples, 0)
        tables.append((loss, model.entities.detach() - before))
    (loss, gradient), (half_loss, half_gradient) = tables
    torch.testing.assert_close(half_loss, loss, rtol=1e-6, atol=1e-6)
    assert (half_gradient - gradient).abs().max() < 2**-8 * 2 * gradient.abs().max()
    assert not torch.equal(half_gradient, gradient)


def test_bf16_is_refused_where_it_has_no_meaning():
    for score, dtype in (("transe_l1", torch.float32), ("distmult", torch.float64)):
        model = model_for(score, dtype=dtype)
        with pytest.raises(kgfast.KgfastError, match="bf16=True can't serve"):
            steps.OneVsAllStep(model, optim.RowSGD(model.parameters()), bf16=True)


@pytest.mark.parametrize("kind", ["sampled", "shared", "all"])
def test_one_step_may_be_called_by_several_threads(kind):
    """They wait for one another: of every batch the loss and the update are whole. A rate of 0 keeps the tables."""
    model = nn.KGEModel(500, 5, 16, score="transe_l1", seed=0)
    step = step_of(kind, model, optim.RowAdam(model.parameters(), lr=0.0))
    batches = [make_triples(1 + 37 * size % 90, num_entities=500, num_relations=5, seed=size) for size in range(24)]
    expected = [step(triples, index) for index, triples in enumerate(batches)]
    found, errors = {}, []

    def work(own):
        try:
            for index in own:
                found[index] = step(batches[index], index).clone()
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(range(first, 24, 4),)) for first in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors and all(torch.equal(found[index], loss) for index, loss in enumerate(expected))
    assert int(step.optimizer.state[model.entities]["step"]) == 2 * len(batches)
