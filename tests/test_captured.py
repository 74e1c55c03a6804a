"""Steps recorded as CUDA graphs. Without a GPU a graph is a stand-in that runs the recorded step's code again."""

import itertools

import pytest
import torch

from kgfast import KgfastError, KnownTriples, captured, optim
from kgfast.fused import NegativeSamplingStep, OneVsAllStep
from kgfast.nn import KGEModel

ENTITIES, RELATIONS, DIM = 30, 4, 8


def batches(count):
    generator = torch.Generator().manual_seed(0)
    high = torch.tensor([ENTITIES, RELATIONS, ENTITIES])
    for index in range(count):
        yield (torch.rand(7 - index % 5 // 4, 3, generator=generator) * high).long()


def make(kind, optimizer, **options):
    model = KGEModel(ENTITIES, RELATIONS, DIM, score="complex", seed=1)
    rows = {"adagrad": optim.RowAdagrad, "adam": optim.RowAdam}[optimizer](model.parameters(), lr=0.1)
    return model, kind(model, rows, seed=5, **options)


class StandIn:
    """What a graph's replay does: the step's code once more, on the memory it was recorded with."""

    def replay(self):
        self.step.recording = True
        self.into.copy_(self.step(*self.inputs))
        self.step.recording = False


@pytest.fixture
def stand_in(monkeypatch):
    """CapturedStep on the CPU."""

    def record(self, triples, index, weights):
        step, triples = self.step, triples.clone()
        weights = None if weights is None else weights.clone()
        graph = StandIn()
        graph.step, graph.inputs, graph.into = step, (triples, index, weights), torch.zeros((), dtype=step.dtype)
        return captured.Recorded(graph, triples, weights, graph.into, dict(step.workspace.buffers))

    def init(self, step):
        self.step, self.seen, self.recorded, self.pool = step, set(), {}, None

    monkeypatch.setattr(captured.CapturedStep, "__init__", init)
    monkeypatch.setattr(captured.CapturedStep, "record", record)


SAMPLED = dict(negatives=5, query_dropout=0.2)
CASES = [
    (NegativeSamplingStep, "adagrad", dict(SAMPLED, side="alternate")),
    (NegativeSamplingStep, "adam", dict(SAMPLED, side="both", sharing="batch")),
    (OneVsAllStep, "adam", dict(side="both", query_dropout=0.2, regularizer="n3", regularizer_weight=0.1)),
]


@pytest.mark.parametrize("kind, optimizer, options", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_bits_as_the_step(stand_in, kind, optimizer, options, weighted):
    """Of changing shapes, sides, indices, weights and rates."""
    (model, plain), (other, step) = make(kind, optimizer, **options), make(kind, optimizer, **options)
    step.counter = torch.zeros(1, dtype=torch.int64)  # as on a GPU
    step.counted = lambda index: int(step.counter)
    replays = captured.CapturedStep(step)
    for index, triples in enumerate(batches(20)):
        weights = torch.rand(len(triples), generator=torch.Generator().manual_seed(index)) if weighted else None
        for one in (plain, step):
            one.optimizer.param_groups[0]["lr"] = 0.1 / (1 + index)
        assert torch.equal(plain(triples, index, weights), replays(triples, index, weights))
    assert replays.recorded
    for name in ("entities", "relations"):
        assert torch.equal(getattr(model, name), getattr(other, name))


def test_few_shapes_are_recorded(stand_in, monkeypatch):
    monkeypatch.setattr(captured, "MOST", 2)
    _, step = make(NegativeSamplingStep, "adagrad", **SAMPLED)
    replays = captured.CapturedStep(step)
    for size, _ in itertools.product((3, 4, 5, 0), range(3)):
        replays(torch.zeros(size, 3, dtype=torch.int64), 0)
    assert sorted(shape[0] for shape in replays.recorded) == [3, 4]


def test_tables_must_stay(stand_in):
    model, step = make(NegativeSamplingStep, "adagrad", **SAMPLED)
    replays = captured.CapturedStep(step)
    triples = next(iter(batches(1)))
    for _ in range(2):
        replays(triples, 0)
    model.entities = torch.nn.Parameter(model.entities.detach().clone())
    with pytest.raises(KgfastError, match="model.entities was replaced"):
        replays(triples, 0)


def test_graphs_need_a_gpu():
    _, step = make(NegativeSamplingStep, "adagrad", **SAMPLED)
    with pytest.raises(KgfastError, match="step: CUDA graphs need tables on a GPU, these are on cpu"):
        captured.CapturedStep(step)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("impl", ["triton", "cuda"])
@pytest.mark.parametrize("kind, optimizer, options", CASES)
def test_graphs_on_a_gpu(kind, optimizer, options, impl):
    """Replays learn what the launches would, bit for bit."""
    if impl == "cuda" and kind is OneVsAllStep:
        pytest.skip("the same kernels as Triton's")
    known = KnownTriples.from_triples(torch.cat(list(batches(20))), ENTITIES, RELATIONS).to("cuda")
    if kind is NegativeSamplingStep and options.get("sharing") is None:
        options = dict(options, known=known, filter="redraw")
    models, steps = [], []
    for _ in range(2):
        model = KGEModel(ENTITIES, RELATIONS, DIM, score="complex", seed=1).cuda()
        rows = {"adagrad": optim.RowAdagrad, "adam": optim.RowAdam}[optimizer](model.parameters(), lr=0.1)
        models.append(model), steps.append(kind(model, rows, seed=5, impl=impl, **options))
    replays = captured.CapturedStep(steps[1])
    for index, triples in enumerate(batches(20)):
        triples = triples.cuda()
        assert torch.equal(steps[0](triples, index), replays(triples, index))
    assert replays.recorded
    for name in ("entities", "relations"):
        assert torch.equal(getattr(models[0], name), getattr(models[1], name))
