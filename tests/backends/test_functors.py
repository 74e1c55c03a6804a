"""The CUDA kernels on the host: every thread of every block runs the code that a GPU would (kernels/cuda/emulate.h).

So the formulae that host and device share (csrc/include/kgfast), sums over warps and blocks, tiles and masks are
held against the specification where there is no GPU. What only a device can show (races, speed): benchmarks/gpu.sh.
"""

import pytest
import torch

import kgfast
from kgfast import backends, reference, testing
from kgfast.backends.cpu import _C
from kgfast.errors import KgfastError
from kgfast.registry import Objective, Regularizer, Similarity, Update

SCORES = list(reference.SCORES)
SIMILARITIES = tuple(Similarity)
UPDATES = ("dense", "sgd", "adagrad", "row_adagrad", "adam")
cpu, cuda = backends.get("cpu"), backends.get("cuda")
WIDE = 1030  # a block, not a warp, holds a row

pytestmark = pytest.mark.skipif(not _C.cuda.on_host, reason="the CUDA kernels run on the host under Linux only")


@pytest.fixture(autouse=True)
def on_host(monkeypatch):
    monkeypatch.setattr("kgfast.backends.cuda.ON_HOST", True)


def evaluate(function, leaves):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value = function(*leaves)
    probe = torch.rand(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value.backward(probe.to(value.dtype) if value.dim() else None)
    return [value] + [grad.to_dense() if grad.is_sparse else grad for grad in (leaf.grad for leaf in leaves)]


def compare(op, leaves, call):
    """call(op, *leaves, **impl) of the CUDA kernels is no worse than the specification in float32."""
    specified = getattr(reference, op)
    truth = evaluate(lambda *wide: call(specified, *wide), [leaf.double() for leaf in leaves])
    eager = evaluate(lambda *same: call(specified, *same), leaves)
    ours = evaluate(lambda *same: call(getattr(kgfast, op), *same, impl="cuda"), leaves)
    for mine, same, wide in zip(ours, eager, truth, strict=True):
        testing.assert_no_worse(mine, same, wide)


SETTINGS = testing.pairwise(
    dim=(1, 16, 33, 130),
    negatives=(1, 5, 20),
    batch=(7, 1),
    objective=Objective.words(),
    side=("tail", "head"),
    temperature=(0.0, 0.7),
    known=(False, True),
    shared=(False, True),
)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(str(value) for value in s.values()))
def test_negative_sampling_loss(score, setting):
    dim, batch, side = (setting[key] for key in ("dim", "batch", "side"))
    case = testing.make_case(score, dim, batch, setting["negatives"], side=side)
    negatives = case.negatives[: max(batch // 3, 1)] if setting["shared"] else case.negatives

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
            weights=case.weights.to(entities.dtype),
            known=testing.make_known(case.triples) if setting["known"] else None,
            **impl,
        )

    compare("negative_sampling_loss", [case.entities, case.relations], call)


@pytest.mark.parametrize("score", ["distmult", "transe_l1", "transe_l2", "rotate"])
@pytest.mark.parametrize("dim", [258, 514, WIDE])
def test_every_layout_of_a_row(score, dim):
    case = testing.make_case(score, dim, 3, 6)

    def loss(op, entities, relations, **impl):
        return op(
            entities, relations, case.triples, case.negatives, score=score, side="tail", objective="softmax", **impl
        )

    compare("negative_sampling_loss", [case.entities, case.relations], loss)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dim", [1, 34])
def test_scores_of_chosen_rows(score, dim):
    case = testing.make_case(score, dim, 7, 5)
    ids = case.negatives.clamp(min=0)
    tables = [case.entities, case.relations]
    compare("score_triples", tables, lambda op, *t, **impl: op(*t, case.triples, score=score, **impl))
    for side in ("tail", "head"):
        compare(
            "score_candidates",
            tables,
            lambda op, *t, side=side, **impl: op(*t, case.triples, ids, score=score, side=side, **impl),
        )


@pytest.mark.parametrize("score", ["transe_l1", "transe_l2", "rotate"])
def test_gradient_of_a_distance_is_zero_where_points_coincide(score):
    entities, relations = torch.ones(3, 34), torch.zeros(1, reference.SCORES[score].relation_width(34))
    triples, negatives = torch.tensor([[0, 0, 1]]), torch.tensor([[2, 2, 0, 2, 2]])
    value, *gradients = evaluate(
        lambda *t: kgfast.negative_sampling_loss(*t, triples, negatives, score=score, side="tail", impl="cuda"),
        [entities, relations],
    )
    assert torch.isfinite(value) and not any(gradient.any() for gradient in gradients)


def rows_of_a_step(dim: int):
    """Pairs and ready rows in which one id has so many entries that it crosses tiles, and the last row occurs."""
    generator = torch.Generator().manual_seed(0)
    count = testing.NUM_ENTITIES
    query, table = (torch.randn(rows, dim, generator=generator) * dim**-0.25 for rows in (40, count))
    ids = torch.randint(count, (40, 9), generator=generator)
    ids[5:28], ids[0, 0] = 3, count - 1
    coefficients = torch.randn(ids.shape, generator=generator)
    extras = [
        (torch.randint(count, (rows,), generator=generator), torch.randn(rows, dim, generator=generator))
        for rows in (33, 1)
    ]
    return query, table, ids, coefficients, extras


def updated(backend, update: str, similarity: int, dim: int):
    query, table, ids, coefficients, extras = rows_of_a_step(dim)
    shape = (len(table),) if update == "row_adagrad" else table.shape
    states = [torch.full(shape, 0.5), torch.full(table.shape, 0.5)]
    into = table.clone()
    constants = dict(lr=0.1, eps=1e-3, beta1=0.9, beta2=0.99, step=3)
    sink = backend.row_update(Update.of(update, "update"), into, tuple(states), **constants)
    source = table if update == "dense" else into  # an optimizer changes the table that distances read
    backend.reduce_rows(query, source, ids, coefficients, extras, similarity, sink)
    return into, *states


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("dim", [2, 130])
def test_touched_rows_as_on_the_cpu(similarity, update, dim):
    for ours, theirs in zip(updated(cuda, update, similarity, dim), updated(cpu, update, similarity, dim), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("update", ("dense", "row_adagrad", "adagrad", "adam"))
@pytest.mark.parametrize("dim", [WIDE, 4100])
def test_wide_rows_as_on_the_cpu(update, dim):
    generator = torch.Generator().manual_seed(0)
    ids, rows = torch.randint(3, (70,), generator=generator), torch.randn(70, dim, generator=generator)
    found = []
    for backend in (cuda, cpu):
        table = torch.ones(3, dim)
        states = [torch.full((3,) if update == "row_adagrad" else (3, dim), 0.5), torch.full((3, dim), 0.5)]
        none = table.new_empty((0, 0))
        constants = dict(lr=0.1, eps=1e-3, beta1=0.9, beta2=0.99, step=1)
        sink = backend.row_update(Update.of(update, "update"), table, tuple(states), **constants)
        backend.reduce_rows(none, table, none.long(), none, [(ids, rows)], 0, sink)
        found.append((table, *states))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_sparse_gradients_are_the_dense_ones(sparse):
    case = testing.make_case("distmult", 6, 7, 5)

    def loss(op, *tables, **impl):
        options = {} if op is reference.negative_sampling_loss else {"sparse_grad": sparse}
        return op(*tables, case.triples, case.negatives, score="distmult", side="tail", **options, **impl)

    compare("negative_sampling_loss", [case.entities, case.relations], loss)


@pytest.mark.parametrize("update", UPDATES)
def test_update_of_every_row(update):
    gradients = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    found = []
    for backend in (cuda, cpu):
        table = torch.ones(5, 7)
        states = [torch.full((5,) if update == "row_adagrad" else (5, 7), 0.5), torch.full((5, 7), 0.5)]
        constants = dict(lr=0.1, eps=1e-3, beta1=0.9, beta2=0.99, step=2)
        rule = Update.of(update, "update")
        backend.update_all_rows(gradients, backend.row_update(rule, table, tuple(states), **constants))
        found.append((table, *states))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["n3", "l2"])
@pytest.mark.parametrize("parts", [1, 2])
def test_regularizers(kind, parts):
    table, ids = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([8, 0, 3, 3])
    found = [torch.ones(4, 6), torch.ones(4, 6)]
    for backend, gradients in zip((cuda, cpu), found, strict=True):
        backend.add_regularizer(Regularizer.of(kind, "kind"), parts, 0.3, table, ids, gradients)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("side", ["tail", "head", "both"])
def test_negatives_are_those_of_the_cpu(weighted, known, side):
    triples = testing.make_triples(11)
    options = dict(
        side=side,
        seed=2**40 + 5,
        step=2**33 + 7,
        weights=torch.rand(37, generator=torch.Generator().manual_seed(0)).double() if weighted else None,
        known=testing.make_known(triples) if known else None,
    )
    ours, theirs = (kgfast.sample_negatives(triples, 9, 37, impl=impl, **options) for impl in ("cuda", "cpu"))
    assert torch.equal(ours, theirs)


def test_a_step_read_from_memory_draws_the_same():
    """As a captured graph needs it."""
    none = torch.empty(0, dtype=torch.int64)
    arguments = (none, none, none, none, none)
    now = cuda.sample_negatives(4, 9, 37, 1, 5, torch.tensor([77]), *arguments)
    assert torch.equal(now, cpu.sample_negatives(4, 9, 37, 1, 5, 77, *arguments))


@pytest.mark.parametrize("sharing", ["none", "batch"])
@pytest.mark.parametrize("optimizer", [kgfast.optim.RowAdagrad, kgfast.optim.RowAdam])
def test_training_steps_as_on_the_cpu(sharing, optimizer):
    pytest.importorskip("triton")  # what a step checks of its triples is the Triton backend's
    triples, tables = testing.make_triples(7), []
    for impl in ("cuda", "cpu"):
        model = kgfast.nn.KGEModel(37, 5, 18, score="complex", init_scale=0.3)
        options = dict(negatives=9, sharing=sharing, side="both", regularizer="n3", regularizer_weight=0.1, impl=impl)
        step = kgfast.steps.NegativeSamplingStep(model, optimizer(model.parameters(), lr=0.05), **options)
        losses = [float(step(triples, index)) for index in range(3)]
        tables.append((torch.tensor(losses), model.entities.detach(), model.relations.detach()))
    for ours, theirs in zip(*tables, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_same_bits_every_time():
    first, second = (updated(cuda, "row_adagrad", 1, 34) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_the_kernels_do_not_take_is_named():
    table, ids = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(KgfastError, match="float32 rows; table is torch.float64"):
        cuda.pair_scores(table[:1], table, ids, 0)
    wide = torch.zeros(1, 5000)
    with pytest.raises(KgfastError, match="at most 4096 numbers; table has 5000"):
        cuda.pair_scores(wide, wide, ids, 0)


def test_without_the_host_lane_cpu_tensors_are_refused(monkeypatch):
    monkeypatch.setattr("kgfast.backends.cuda.ON_HOST", False)
    case = testing.make_case("distmult", 4, 2, 2)
    with pytest.raises(KgfastError, match="impl='cuda' can't serve"):
        kgfast.score_triples(case.entities, case.relations, case.triples, score="distmult", impl="cuda")
