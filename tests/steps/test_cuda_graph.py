"""Steps recorded as CUDA graphs: what is refused, and what fails. What they learn: test_triton_captured.py."""

import copy
from contextlib import nullcontext

import pytest
import torch

from kgfast import KgfastError, backends, optim
from kgfast.backends.cpu import _C
from kgfast.nn import KGEModel
from kgfast.steps import NegativeSamplingStep
from kgfast.steps import cuda_graph as captured


def test_graphs_need_a_gpu():
    model = KGEModel(30, 4, 8, score="complex", seed=1)
    step = NegativeSamplingStep(model, optim.RowAdagrad(model.parameters(), lr=0.1), negatives=5)
    with pytest.raises(KgfastError, match="step: CUDA graphs need tables on a GPU, these are on cpu"):
        captured.CapturedStep(step)


def test_a_refused_step_moves_nothing():
    """Neither a table nor the optimizer's count of steps."""
    model = KGEModel(30, 4, 8, score="complex", seed=1)
    optimizer = optim.RowAdam(model.parameters(), lr=0.1)
    step = NegativeSamplingStep(model, optimizer, negatives=5)
    before = model.entities.detach().clone()
    for weights in (torch.ones(2), -torch.ones(3)):
        with pytest.raises(KgfastError, match="weights"):
            step(torch.zeros(3, 3, dtype=torch.int64), 0, weights)
    assert torch.equal(model.entities, before)
    assert all(int(optimizer.state[param]["step"]) == 0 for param in model.parameters())


# ---- a recording that fails, on a machine that pretends to have a GPU ------------------------------------------


class Recording:
    """In place of torch.cuda.graph: it runs what is recorded, and fails at its end where it is told to."""

    fails = False

    def __init__(self, graph, **options):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *error):
        if Recording.fails:
            raise RuntimeError("operation failed due to a previous error during capture")


class Graph:
    def replay(self):
        pass


@pytest.fixture
def captured_step(monkeypatch):
    """A CapturedStep of the CUDA kernels, on the host."""
    if not _C.cuda.on_host or not backends.TRITON:
        pytest.skip("the CUDA kernels run on the host under Linux only")
    monkeypatch.setattr("kgfast.backends.cuda.ON_HOST", True)
    for name, value in dict(CUDAGraph=Graph, graph=Recording, Stream=lambda device: "own", device=nullcontext,
                            current_stream=lambda device: "before", graph_pool_handle=object).items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    streams = []
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(Recording, "fails", False)
    model = KGEModel(30, 4, 8, score="complex", seed=1)
    step = NegativeSamplingStep(model, optim.RowAdam(model.parameters(), lr=0.1), negatives=5, impl="cuda")
    call = object.__new__(captured.CapturedStep)
    call.step, call.ready, call.recorded, call.pool = step, set(), {}, None
    return call, streams


def counts(step):
    return [int(step.optimizer.state[param]["step"]) for param in (step.model.entities, step.model.relations)]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_failed_recording_moves_nothing(captured_step, replaced):
    """Neither the optimizer's count nor the workspace, its stream or what is recorded later; also where the state of
    the optimizer was replaced, so that a step that counts is recorded again."""
    call, streams = captured_step
    step, triples = call.step, torch.randint(0, 4, (7, 3))
    call(triples, 0)  # kernels are compiled
    if replaced:
        call(triples, 2)
        step.optimizer.load_state_dict(copy.deepcopy(step.optimizer.state_dict()))
    before, buffers, pool = counts(step), dict(step.workspace.buffers), call.pool
    Recording.fails = True
    for _ in range(2):
        with pytest.raises(RuntimeError, match="during capture"):
            call(triples, 4)
        assert counts(step) == before and not step.recording and streams.pop() == "before"
        assert {name: one.data_ptr() for name, one in step.workspace.buffers.items()} == {
            name: one.data_ptr() for name, one in buffers.items()
        }
        assert call.pool is None
    Recording.fails = False
    call(triples, 4)
    assert counts(step) == [one + 1 for one in before]
    assert call.pool is not None and call.pool is not pool and len(call.recorded) == 1


def test_an_update_that_is_refused_does_not_count():
    """A wrong rate of the relations alone, found when the entities' update is there already."""
    model = KGEModel(30, 4, 8, score="complex", seed=1)
    groups = [{"params": [model.entities]}, {"params": [model.relations]}]
    step = NegativeSamplingStep(model, optim.RowAdam(groups, lr=0.1), negatives=5)
    step.optimizer.param_groups[1]["lr"] = -1.0
    with pytest.raises(KgfastError, match="lr"):
        step(torch.zeros(3, 3, dtype=torch.int64), 0)
    assert counts(step) == [0, 0]
