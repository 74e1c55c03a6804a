"""Triton's kernels for rows, pairs and draws: against the eager specification, and against the CPU's kernels.

On a GPU, or under Triton's interpreter (see test_interpreter.py).
"""

import pytest
import torch

import kgfast
from kgfast import backends, reference, testing
from kgfast.registry import Regularizer, Update

if backends.why_not("triton", "cuda" if torch.cuda.is_available() else "cpu"):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from triton_lane import DEVICE, ENTITIES, RELATIONS, SIZES, known_of, on_device  # noqa: E402

from kgfast.kernels.triton import rows as row_kernels  # noqa: E402
from kgfast.kernels.triton import shared as shared_kernels  # noqa: E402
from kgfast.kernels.triton import updates as update_kernels  # noqa: E402

cpu, triton = backends.get("cpu"), backends.get("triton")
SCORES = list(reference.SCORES)


def evaluate(function, leaves):
    """[value, gradient of each leaf]; a value that is no scalar is probed with fixed random weights."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value = function(*leaves)
    probe = torch.rand(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value.backward(probe.to(value) if value.dim() else None)
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return [value] + [grad.to_dense() if grad.is_sparse else grad for grad in gradients]


def compare(op, leaves, call):
    """call(op, *leaves, **impl) of Triton is no worse than the specification in this dtype."""
    leaves = on_device(*leaves)
    specified = getattr(reference, op)
    truth = evaluate(lambda *wide: call(specified, *wide), [leaf.double() for leaf in leaves])
    eager = evaluate(lambda *same: call(specified, *same), leaves)
    ours = evaluate(lambda *same: call(getattr(kgfast, op), *same, impl="triton"), leaves)
    for mine, same, wide in zip(ours, eager, truth, strict=True):
        testing.assert_no_worse(mine, same, wide)


def case_of(score, dim, batch, negatives, **options):
    case = testing.make_case(score, dim, batch, negatives, num_entities=ENTITIES, **options)
    case.triples[:, 1] %= RELATIONS
    tables = case.entities, case.relations[:RELATIONS]
    return testing.Case(*on_device(*tables, case.triples, case.negatives, case.weights))


def name_of(setting):
    return "-".join(str(value).removeprefix("torch.") for value in setting.values())


SETTINGS = testing.pairwise(
    score=SCORES,
    objective=("logistic", "softmax", "bce", "margin"),
    side=("tail", "head"),
    dim=(34, 1, 15),
    negatives=(5, 1),
    temperature=(0.0, 0.7),
    weighted=(True, False),
    known=(True, False),
    shared=(False, True),
    dtype=(torch.float32, torch.float64),
)


@pytest.mark.parametrize("setting", SETTINGS, ids=name_of)
def test_negative_sampling_loss(setting):
    score, side, dtype = (setting[key] for key in ("score", "side", "dtype"))
    dim = min(setting["dim"], 6 if score == "rescal" else 99)
    case = case_of(score, dim, 5, setting["negatives"], side=side, dtype=dtype)
    negatives = case.negatives[:2] if setting["shared"] else case.negatives

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
            known=known_of(case.triples) if setting["known"] else None,
            **impl,
        )

    compare("negative_sampling_loss", [case.entities, case.relations], call)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("side", ["tail", "head"])
def test_score_candidates(score, side):
    case = case_of(score, 7 if side == "tail" else 34 if score != "rescal" else 4, 5, 3)
    ids = case.negatives.clamp(min=0)
    compare(
        "score_candidates",
        [case.entities, case.relations],
        lambda op, *tables, **impl: op(*tables, case.triples, ids, score=score, side=side, **impl),
    )


@pytest.mark.parametrize("score", ["transe_l2", "complex"])
def test_score_triples_with_sparse_gradients(score):
    case = case_of(score, 6, 5, 1)

    def call(op, *tables, **impl):
        return op(*tables, case.triples, score=score, **impl, **(dict(sparse_grad=True) if impl else {}))

    compare("score_triples", [case.entities, case.relations], call)


def test_an_empty_batch_has_loss_zero():
    case = case_of("distmult", 6, 0, 2)
    loss = evaluate(
        lambda *tables: kgfast.negative_sampling_loss(
            *tables, case.triples, case.negatives, score="distmult", side="tail", impl="triton"
        ),
        [case.entities, case.relations],
    )
    assert not any(bool(part.any()) for part in loss)


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

    compare("negative_sampling_loss", [case.entities, case.relations], call)


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

    ours = evaluate(lambda *leaves: loss(*leaves, impl="triton"), tables)
    truth = evaluate(loss, [table.double() for table in tables])
    for mine, wide in zip(ours, truth, strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.double(), wide, rtol=0.03, atol=0.01)


# ---- draws ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["tail", "head"])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed, step", [(5, 0), (-3, 2**40 + 16)])
def test_ids_are_those_of_the_cpu(side, known, weighted, seed, step):
    triples = testing.make_triples(6, **SIZES)
    options = dict(side=side, seed=seed, step=step, known=known_of(triples).to("cpu") if known else None)
    weights = torch.arange(ENTITIES, dtype=torch.float64) ** 2 if weighted else None
    expected = kgfast.sample_negatives(triples, 21, ENTITIES, weights=weights, impl="cpu", **options)
    options["known"] = known_of(triples) if known else None
    drawn = kgfast.sample_negatives(*on_device(triples), 21, ENTITIES, weights=weights, impl="triton", **options)
    assert torch.equal(drawn.cpu(), expected)


def test_no_id_is_left_where_all_are_known():
    triples = torch.tensor([[0, 0, 0], [1, 0, 0]])
    every = torch.tensor([[0, 0, tail] for tail in range(4)])
    known = kgfast.KnownTriples.from_triples(every, 4, 1).to(DEVICE)
    options = dict(side="tail", seed=0, known=known, impl="triton")
    for weights in (None, torch.ones(4)):
        ids = kgfast.sample_negatives(*on_device(triples), 3, 4, weights=weights, **options)
        assert (ids[0] == -1).all() and (ids[1] >= 0).all()


# ---- rows ----------------------------------------------------------------------------------------------------

UPDATES = ("dense", "sgd", "adagrad", "row_adagrad", "adam")


def states_of(update, table):
    shape = {"row_adagrad": table.shape[:1]}.get(update, table.shape)
    count = {"adagrad": 1, "row_adagrad": 1, "adam": 2}.get(update, 0)
    return [torch.rand(shape, generator=torch.Generator().manual_seed(k), dtype=table.dtype) for k in range(count)]


def row_sources(dim, similarity):
    """Pairs of 9 queries, of which most have the same two ids, and ready rows; in spans of 16 one row fills several."""
    generator = torch.Generator().manual_seed(similarity)
    table, query = (torch.randn(rows, dim, generator=generator) for rows in (ENTITIES, 9))
    ids = torch.randint(ENTITIES, (9, 7), generator=generator)
    ids[:, :4], ids[:, 4] = 3, 4
    extras = [(torch.tensor([ENTITIES - 1, 0, 3, 3]), torch.randn(4, dim, generator=generator)) for _ in range(2)]
    return query, table, ids, torch.randn(9, 7, generator=generator), extras


@pytest.mark.parametrize("similarity", range(4))
@pytest.mark.parametrize("update", UPDATES)
def test_touched_rows(update, similarity, monkeypatch):
    dim = 38 if similarity in (0, 3) else 6
    if similarity == 0:  # rows wider than a block
        monkeypatch.setattr(row_kernels, "block_of", lambda dim: 32)
    query, table, ids, coefficients, extras = row_sources(dim, similarity)
    options = dict(lr=0.1, eps=1e-8, beta1=0.9, beta2=0.99, step=3)
    results = []
    for module, device in ((cpu, "cpu"), (triton, DEVICE)):
        own = [tensor.to(device) for tensor in (query, table, ids, coefficients)]
        ready = [(places.to(device), part.to(device)) for places, part in extras]
        target = own[1].clone() if update != "dense" else torch.zeros_like(own[1])
        states = [state.to(device) for state in states_of(update, table)]
        source = target if update != "dense" else own[1]
        into = module.row_update(Update.of(update, "update"), target, tuple(states), **options)
        module.reduce_rows(own[0], source, own[2], own[3], ready, similarity, into)
        results.append([tensor.cpu() for tensor in (target, *states)])
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("update", UPDATES[1:])
@pytest.mark.parametrize("dim", [6, 70])
def test_all_rows(update, dim, monkeypatch):
    monkeypatch.setattr(update_kernels, "block_of", lambda dim: 32)
    table = torch.randn(5, dim, generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(5, dim, generator=torch.Generator().manual_seed(1))
    results = []
    for module, device in ((cpu, "cpu"), (triton, DEVICE)):
        target, states = table.to(device, copy=True), [state.to(device) for state in states_of(update, table)]
        options = dict(lr=0.1, eps=1e-8, beta1=0.9, beta2=0.99, step=3)
        into = module.row_update(Update.of(update, "update"), target, tuple(states), **options)
        module.update_all_rows(gradient.to(device), into)
        results.append([tensor.cpu() for tensor in (target, *states)])
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind, parts", [("n3", 1), ("n3", 2), ("l2", 1)])
def test_regularizer(kind, parts):
    table = torch.randn(ENTITIES, 10, generator=torch.Generator().manual_seed(0))
    ids, start = torch.tensor([0, 3, 3, ENTITIES - 1]), torch.randn(4, 10, generator=torch.Generator().manual_seed(1))
    results = []
    for module, device in ((cpu, "cpu"), (triton, DEVICE)):
        gradients = start.to(device, copy=True)
        module.add_regularizer(Regularizer.of(kind, "kind"), parts, 0.3, table.to(device), ids.to(device), gradients)
        results.append(gradients.cpu())
    torch.testing.assert_close(*results)


def test_bfloat16_rows_are_rounded_stochastically():
    """A step of 1/8 of what bfloat16 resolves moves one number in eight, by a whole step; the mean is right."""
    table = torch.ones(64, 64, dtype=torch.bfloat16, device=DEVICE)
    gradient = torch.full((64, 64), 2.0**-11, device=DEVICE)  # below 1 bfloat16 has steps of 2^-8
    triton.update_all_rows(gradient, triton.row_update(Update.SGD, table, lr=1.0, step=1))
    moved = (table != 1).float().mean()
    assert set(table.unique().tolist()) == {1.0, 1.0 - 2.0**-8}
    assert abs(float(moved) - 1 / 8) < 0.03
    again = torch.ones_like(table)
    triton.update_all_rows(gradient, triton.row_update(Update.SGD, again, lr=1.0, step=1))
    assert torch.equal(table, again)  # a function of (row, column, step)
    other = torch.ones_like(table)
    triton.update_all_rows(gradient, triton.row_update(Update.SGD, other, lr=1.0, step=2))
    assert not torch.equal(table, other)


def test_float16_tables_are_not_trained():
    with pytest.raises(kgfast.KgfastError, match="float16 can't be trained"):
        triton.row_update(Update.SGD, torch.ones(2, 2, dtype=torch.float16))
