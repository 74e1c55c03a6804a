"""What users of PyTorch expect: an nn.Embedding for a table, ids of int32, tables of 16 bits on any device, a number of
negatives, sparse gradients where the embedding says so, and modules that torch.func and torch.export see through."""

import pytest
import torch
from torch import nn

import kgfast
from kgfast import KgfastError, reference, testing

TABLES = ("score_triples", "scores of all", "scores of some", "own", "shared")
TABLES += ("one_vs_all", "rank", "topk", "linear", "terms")
TILES = ("scores of all", "one_vs_all", "rank", "topk", "linear", "terms")  # which no lane without tiles has


def call(lane, kind, entities, relations, ids=torch.int64, functions=kgfast, **options):
    """A public function of each kind with ids of a dtype, on tables as they are given."""
    case = lane.case("complex", 6, 5, 4)
    triples, some, own = (one.to(ids) for one in (case.triples, case.negatives.clamp(min=0), case.negatives))
    if functions is kgfast:
        options["impl"] = lane.impl
    scored = dict(score="complex", **options)
    if kind in ("linear", "terms"):
        hidden = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).to(lane.device)
        hidden = hidden.to(entities.weight.dtype if isinstance(entities, nn.Embedding) else entities.dtype)
        targets = triples[:, 2].contiguous()
        if kind == "linear":
            return functions.linear_cross_entropy(hidden, entities, targets, reduction="none", **options)
        csr = tuple(lane.on(torch.tensor([0, 1, 2, 2, 4, 5]).to(ids), torch.tensor([5, 0, 2, 7, 9]).to(ids)))
        terms = [
            kgfast.Term(hidden, entities, targets, known=csr, candidates=some[0]),
            kgfast.Term(hidden, entities, csr, objective="bce"),
        ]
        return functions.multitask_loss(terms, **options)[1]
    tables = entities, relations, triples
    made = {
        "score_triples": lambda: functions.score_triples(*tables, **scored),
        "scores of all": lambda: functions.score_candidates(*tables, side="head", **scored),
        "scores of some": lambda: functions.score_candidates(*tables, some, **scored),
        "own": lambda: functions.negative_sampling_loss(*tables, own, side="tail", reduction="none", **scored),
        "shared": lambda: functions.negative_sampling_loss(*tables, own[:2], side="head", objective="bce", **scored),
        "one_vs_all": lambda: functions.one_vs_all_loss(*tables, side="both", reduction="none", **scored),
        "rank": lambda: functions.rank(*tables, side="tail", **scored),
        "topk": lambda: functions.topk(*tables, 4, side="head", **scored)[0],
    }
    return made[kind]()


def tables_of(lane, dtype=torch.float32):
    entities, relations = testing.make_tables("complex", 6, num_entities=lane.entities)
    return [one.to(lane.device, dtype) for one in (entities, relations)]


def skip_without_tiles(lane, kind):
    if not lane.tiles and kind in TILES:
        pytest.skip("without tiles there are no ops over all candidates")


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize("kind", TABLES)
def test_ids_of_32_bits_are_those_of_64(lane, kind):
    skip_without_tiles(lane, kind)
    long, short = (
        testing.evaluate(lambda *t, dtype=dtype: call(lane, kind, *t, ids=dtype), tables_of(lane))
        if kind not in ("rank", "topk")
        else [call(lane, kind, *tables_of(lane), ids=dtype)]
        for dtype in (torch.int64, torch.int32)
    )
    assert all(torch.equal(one, other) for one, other in zip(short, long, strict=True))


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize("kind", TABLES)
def test_an_embedding_is_its_weight(lane, kind):
    skip_without_tiles(lane, kind)
    tables = tables_of(lane)
    embeddings = [nn.Embedding.from_pretrained(one, freeze=False) for one in tables]
    found = call(lane, kind, *embeddings)
    assert torch.equal(found, call(lane, kind, *tables))
    if kind not in ("rank", "topk"):
        found.square().sum().backward()
        leaves = [one.clone().requires_grad_() for one in tables]
        call(lane, kind, *leaves).square().sum().backward()
        for embedding, leaf in zip(embeddings, leaves, strict=True):
            assert (embedding.weight.grad is None and leaf.grad is None) or torch.equal(
                embedding.weight.grad, leaf.grad
            )
        assert embeddings[0].weight.grad.any()


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize("kind", ["score_triples", "scores of some", "own", "shared"])
def test_sparse_embeddings_have_sparse_gradients(lane, kind):
    tables = tables_of(lane)
    embeddings = [nn.Embedding.from_pretrained(one, freeze=False, sparse=True) for one in tables]
    call(lane, kind, *embeddings).sum().backward()
    leaves = [one.clone().requires_grad_() for one in tables]
    call(lane, kind, *leaves).sum().backward()
    for embedding, leaf in zip(embeddings, leaves, strict=True):
        assert embedding.weight.grad.is_sparse and torch.equal(embedding.weight.grad.to_dense(), leaf.grad)
    torch.optim.SparseAdam(embedding.parameters()).step()
    with pytest.raises(KgfastError, match="entities has sparse gradients, relations has not"):
        call(lane, kind, embeddings[0], tables[1])


@pytest.mark.lanes(widest=True, impls=("cpu", "triton"))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_16_bits(lane, kind, dtype):
    """Values and gradients of the tables' dtype, no worse than the specification's in it."""
    if lane.impl == "triton" and kind == "shared" and dtype == torch.float16:
        pytest.skip("refused there: coefficients of shared negatives need the range of bfloat16")
    tables = tables_of(lane, dtype)
    if kind in ("rank", "topk"):  # where there are kernels of 16 bits, queries are rounded first
        found, wide = call(lane, kind, *tables), call(lane, kind, *(one.float() for one in tables))
        near = 0 if lane.impl == "cpu" else 4 * torch.finfo(dtype).eps
        assert found.dtype == (torch.float64 if kind == "rank" else dtype)
        torch.testing.assert_close(found, wide.to(found.dtype), rtol=near, atol=near)
        return
    truth = testing.evaluate(lambda *t: call(lane, kind, *t, functions=reference), [one.double() for one in tables])
    eager = testing.evaluate(lambda *t: call(lane, kind, *t, functions=reference), tables)
    for impl in (lane.impl, None) if lane.impl == "cpu" else (lane.impl,):
        found = testing.evaluate(lambda *t, impl=impl: call(lane, kind, *t, **({} if impl else {"impl": None})), tables)
        for ours, same, wide in zip(found, eager, truth, strict=True):
            assert ours.dtype == dtype
            testing.assert_no_worse(ours, same, wide)


def test_sparse_gradients_of_16_bits():
    tables = [one.bfloat16().requires_grad_() for one in testing.make_tables("distmult", 4)]
    triples = testing.make_triples(6)
    kgfast.score_triples(*tables, triples, score="distmult", sparse_grad=True).sum().backward()
    assert all(one.grad.is_sparse and one.grad.dtype == torch.bfloat16 for one in tables)


@pytest.mark.lanes(widest=True)
@pytest.mark.parametrize("side", ["tail", "head", "both"])
def test_a_number_of_negatives_is_drawn(lane, side):
    """With a seed from torch's generator: the same as a sampler's, and other ones in the next call."""
    case, options = lane.case("distmult", 6, 7, 1), dict(score="distmult", side=side, impl=lane.impl)
    given = case.entities, case.relations, case.triples
    torch.manual_seed(4)
    first, second = (kgfast.negative_sampling_loss(*given, 5, **options) for _ in range(2))
    torch.manual_seed(4)
    seed = int(torch.randint(2**63 - 1, ()))
    ids = kgfast.sample_negatives(case.triples, 5, lane.entities, side=side, seed=seed, impl=lane.impl)
    assert torch.equal(first, kgfast.negative_sampling_loss(*given, ids, **options))
    sampler = kgfast.NegativeSampler(5, seed=seed)
    assert torch.equal(first, kgfast.negative_sampling_loss(*given, sampler, **options)) and first != second


class Objective(nn.Module):
    """A model whose output is a loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, triples, negatives):
        tables = self.model.entities, self.model.relations
        return kgfast.negative_sampling_loss(*tables, triples, negatives, score=self.model.score, side="tail")


def test_functional_call_takes_other_parameters():
    """Values and gradients are those of the parameters that were handed in."""
    model, other = (kgfast.nn.ComplEx(9, 3, 6, seed=seed) for seed in (1, 2))
    triples, negatives = testing.make_triples(5, num_entities=9, num_relations=3), torch.tensor([[1, 2], [0, 8]])
    parameters = dict(other.named_parameters())
    assert torch.equal(torch.func.functional_call(model, parameters, (triples,)), other(triples))
    whole, theirs = Objective(model), {f"model.{name}": one.detach() for name, one in parameters.items()}
    found = torch.func.grad(lambda held: torch.func.functional_call(whole, held, (triples, negatives)))(theirs)
    Objective(other)(triples, negatives).backward()
    for name, one in parameters.items():
        assert torch.equal(found[f"model.{name}"], one.grad)
    assert all(one.grad is None for one in model.parameters())


class Candidates(nn.Module):
    def __init__(self, model, side):
        super().__init__()
        self.model, self.side = model, side

    def forward(self, triples):
        return self.model.score_candidates(triples, self.side)


@pytest.mark.no_poison
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("asked", ["triples", "tail", "head"])
def test_export_of_scores(asked, strict, tmp_path):
    """Any number of triples; the exported program refuses wrong ids, and is the same when it was saved and loaded."""
    model = kgfast.nn.TransE(9, 3, 6, reciprocal=True)
    program = model if asked == "triples" else Candidates(model, asked)
    triples = testing.make_triples(5, num_entities=9, num_relations=3)
    batch = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(program, (triples,), dynamic_shapes=batch, strict=strict), tmp_path / "scores.pt2"
    )
    loaded = torch.export.load(tmp_path / "scores.pt2").module()
    for count in (5, 2, 33):
        some = testing.make_triples(count, num_entities=9, num_relations=3, seed=count)
        assert torch.equal(loaded(some), program(some))
    with pytest.raises(RuntimeError, match=r"triples \(column of relations\): ids must be in \[0, 3\)"):
        loaded(triples + torch.tensor([0, 3, 0]))  # a row of an inverse relation, which is the model's own


@pytest.mark.no_poison
def test_a_compiled_model_is_one_graph():
    model = kgfast.nn.RotatE(9, 3, 6)
    triples = testing.make_triples(5, num_entities=9, num_relations=3)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(triples), model(triples))


@pytest.mark.no_poison
@pytest.mark.parametrize("loss", ["own", "all", "terms"])
def test_compiled_losses_of_16_bits(loss):
    """One graph, whose gradients come back in the tables' dtype."""
    case = testing.make_case("complex", 6, 5, 4, dtype=torch.bfloat16)
    functions = {
        "own": lambda *t: kgfast.negative_sampling_loss(*t, case.triples, case.negatives, score="complex", side="tail"),
        "all": lambda *t: kgfast.one_vs_all_loss(*t, case.triples.int(), score="complex", side="head"),
        "terms": lambda e, r: kgfast.multitask_loss([kgfast.Term(r, e, torch.arange(5, dtype=torch.int32))])[0],
    }
    tables = [case.entities, case.relations]
    torch._dynamo.reset()
    compiled = torch.compile(functions[loss], fullgraph=True, backend="aot_eager")
    found, expected = (testing.evaluate(function, tables) for function in (compiled, functions[loss]))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other)


def test_a_model_of_tables_that_are_there():
    """A copy of them, or themselves, which an optimizer of the embeddings then moves."""
    embeddings = nn.Embedding(9, 6), nn.Embedding(4, 6)
    copied = kgfast.nn.KGEModel.from_tables(*embeddings, score="distmult", reciprocal=True)
    assert (copied.num_entities, copied.num_relations, copied.dim, len(copied.relations)) == (9, 2, 6, 4)
    assert torch.equal(copied.entities, embeddings[0].weight) and copied.entities is not embeddings[0].weight
    shared = kgfast.nn.KGEModel.from_tables(*embeddings, score="distmult", copy=False)
    assert shared.entities is embeddings[0].weight and shared.relations is embeddings[1].weight
    table = torch.randn(9, 6)
    assert (
        kgfast.nn.KGEModel.from_tables(table, table, score="distmult", copy=False).entities.data_ptr()
        == table.data_ptr()
    )
    with pytest.raises(KgfastError, match="relations have 3 rows; a reciprocal model has two for each relation"):
        kgfast.nn.KGEModel.from_tables(torch.ones(9, 6), torch.ones(3, 6), score="distmult", reciprocal=True)


@pytest.mark.parametrize("kind", [kgfast.steps.NegativeSamplingStep, kgfast.steps.OneVsAllStep])
def test_steps_take_ids_of_32_bits(kind):
    triples = testing.make_triples(6, num_entities=9, num_relations=3)
    learned = []
    for ids in (triples, triples.int()):
        model = kgfast.nn.DistMult(9, 3, 6)
        options = {"negatives": 3} if kind is kgfast.steps.NegativeSamplingStep else {}
        kind(model, kgfast.optim.RowAdagrad(model.parameters()), **options)(ids, 0)
        learned.append(model.entities.detach())
    assert torch.equal(*learned) and not torch.equal(learned[0], kgfast.nn.DistMult(9, 3, 6).entities)


def test_a_row_optimizer_names_a_dtype_that_the_cpu_lacks():
    table = nn.Parameter(torch.ones(3, 4, dtype=torch.bfloat16))
    table.grad = torch.ones_like(table)
    with pytest.raises(KgfastError, match="params has dtype torch.bfloat16; impl='cpu' takes float32 and float64"):
        kgfast.optim.RowAdagrad([table]).step()
    model = kgfast.nn.DistMult(9, 3, 6, dtype=torch.bfloat16)
    step = kgfast.steps.OneVsAllStep(model, kgfast.optim.RowAdagrad(model.parameters()))
    with pytest.raises(KgfastError, match="entities has dtype torch.bfloat16; impl='cpu' takes float32 and float64"):
        step(testing.make_triples(6, num_entities=9, num_relations=3), 0)
