"""Steps recorded as CUDA graphs learn the bits of the steps that are launched.

Without a GPU, in Triton's interpreter, a graph is a stand-in: it runs the step's code again with what a graph would
hold, the addresses of the optimizer's state and constants, and the sides and sizes of the recording.
"""

import copy
import itertools

import pytest
import torch

import kgfast
from kgfast import KgfastError, KnownTriples, backends, optim
from kgfast.nn import KGEModel
from kgfast.steps import NegativeSamplingStep, OneVsAllStep
from kgfast.steps import cuda_graph as captured

if backends.why_not("triton", "cuda" if torch.cuda.is_available() else "cpu"):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from triton_lane import DEVICE  # noqa: E402

pytestmark = pytest.mark.of_backend("triton")
ENTITIES, RELATIONS, DIM = 30, 4, 8
OPTIMIZERS = {"adagrad": optim.RowAdagrad, "adam": optim.RowAdam}


def batches(count):
    """Of seven triples, the fifth and the eighth of six."""
    generator = torch.Generator().manual_seed(0)
    high = torch.tensor([ENTITIES, RELATIONS, ENTITIES])
    for index in range(count):
        yield (torch.rand(6 if index in (4, 7) else 7, 3, generator=generator) * high).long().to(DEVICE)


def known():
    return KnownTriples.from_triples(torch.cat(list(batches(10))).cpu(), ENTITIES, RELATIONS).to(DEVICE)


def make(kind, optimizer, options, impl="triton"):
    model = KGEModel(ENTITIES, RELATIONS, DIM, score="complex", seed=1).to(DEVICE)
    rows = OPTIMIZERS[optimizer](model.parameters(), lr=0.1)
    options = {name: value() if callable(value) else value for name, value in options.items()}
    return kind(model, rows, seed=5, impl=impl, **options)


class StandIn:
    """What a graph's replay does: the recorded launches, on the memory that they were recorded with."""

    def replay(self):
        step, now = self.step, self.step.updates
        step.recording, step.updates = True, self.updates
        self.loss.copy_(step(*self.inputs))
        step.recording, step.updates = False, now


@pytest.fixture(autouse=DEVICE == "cpu")
def stand_in(monkeypatch):
    def record(self, triples, index, weights):
        step, graph = self.step, StandIn()
        triples, weights = triples.clone(), None if weights is None else weights.clone()
        graph.step, graph.inputs, graph.updates = step, (triples, index, weights), step.updates
        graph.loss = torch.zeros((), dtype=step.dtype)
        return captured.Recorded(graph, triples, weights, graph.loss, step.addresses(), dict(step.workspace.buffers))

    def init(self, step):
        self.step, self.ready, self.recorded, self.pool = step, set(), {}, None

    monkeypatch.setattr(captured.CapturedStep, "__init__", init)
    monkeypatch.setattr(captured.CapturedStep, "record", record)


SAMPLED = dict(negatives=5, query_dropout=0.2)
ALL = dict(side="both", query_dropout=0.2, regularizer="n3", regularizer_weight=0.1)
CASES = {
    "own": (NegativeSamplingStep, "adagrad", dict(SAMPLED, side="alternate", known=known, filter="redraw")),
    "masked": (NegativeSamplingStep, "adam", dict(SAMPLED, side="alternate", known=known, filter="mask")),
    "batch": (NegativeSamplingStep, "adam", dict(SAMPLED, side="both", sharing="batch")),
    "chunk": (
        NegativeSamplingStep,
        "adagrad",
        dict(SAMPLED, side="tail", sharing="chunk", chunk=3, objective="softmax"),
    ),
    "all": (OneVsAllStep, "adam", dict(ALL, relation_weight=0.5)),
    "answers": (OneVsAllStep, "adagrad", dict(ALL, objective="bce", answers=known)),
}
IMPLS = ("triton",) if DEVICE == "cpu" else ("triton", "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("case, impl", [(case, impl) for case in CASES for impl in IMPLS])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_bits_as_the_step(case, impl, weighted):
    """Of changing shapes, sides, indices, weights and rates, and after a state of the optimizer was loaded."""
    plain, step = (make(*CASES[case], impl) for _ in range(2))
    replays = captured.CapturedStep(step)
    generator = torch.Generator().manual_seed(0)
    for index, triples in enumerate(batches(10)):
        weights = torch.rand(len(triples), generator=generator).to(DEVICE) if weighted else None
        for one in (plain, step):
            one.optimizer.param_groups[0]["lr"] = 0.1 / (1 + index)
            if index == 6:
                one.optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
        assert torch.equal(plain(triples, index, weights), replays(triples, index, weights))
    assert replays.recorded
    for name in ("entities", "relations"):
        assert torch.equal(getattr(plain.model, name), getattr(step.model, name))


@pytest.mark.parametrize("replayed", [False, True])
def test_draws_follow_the_index(replayed):
    step, triples = make(NegativeSamplingStep, "adagrad", dict(SAMPLED, side="tail")), next(batches(1))
    call = captured.CapturedStep(step) if replayed else step
    for index in (3, 4, 2**40):
        call(triples, index)
        drawn = kgfast.sample_negatives(triples.cpu(), 5, ENTITIES, side="tail", seed=5, step=index)
        assert torch.equal(step.workspace.buffers["negatives"].view(7, 5).cpu(), drawn)


def test_few_shapes_are_recorded(monkeypatch):
    monkeypatch.setattr(captured, "MOST", 2)
    replays = captured.CapturedStep(make(NegativeSamplingStep, "adagrad", dict(SAMPLED, side="tail")))
    for size, _ in itertools.product((3, 4, 5, 0), range(3)):
        replays(torch.zeros(size, 3, dtype=torch.int64, device=DEVICE), 0)
    assert sorted(shape[0] for shape in replays.recorded) == [3, 4]


def test_what_is_refused_is_refused_when_replayed():
    step = make(NegativeSamplingStep, "adagrad", dict(SAMPLED, side="tail"))
    replays, triples = captured.CapturedStep(step), next(batches(1))
    for _ in range(3):
        replays(triples, 0, torch.ones(len(triples), device=DEVICE))
    with pytest.raises(KgfastError, match="weights must be a tensor with one for each of 7 triples"):
        replays(triples, 0, torch.ones(1, device=DEVICE))
    step.model.entities = torch.nn.Parameter(step.model.entities.detach().clone())
    with pytest.raises(KgfastError, match="model.entities was replaced"):
        replays(triples, 0, torch.ones(len(triples), device=DEVICE))
