"""Work on several streams is put in order: seen on streams that only say what is asked of them."""

import pytest
import torch

from kgfast import optim
from kgfast.nn import KGEModel
from kgfast.steps import NegativeSamplingStep
from kgfast.steps.streams import StreamOrder


class Stream:
    def __init__(self, name, seen):
        self.name, self.seen = name, seen

    def wait_stream(self, other):
        self.seen.append((self.name, "waits for", other.name))


class Kept:
    def __init__(self, seen):
        self.seen = seen

    def record_stream(self, stream):
        self.seen.append(("kept until", stream.name))


@pytest.fixture
def now(monkeypatch):
    """Sets the current stream."""
    current = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    return current.append


def test_a_stream_waits_for_the_one_before(now):
    seen = []
    first, second = Stream("first", seen), Stream("second", seen)
    order = StreamOrder(torch.device("cuda:1"), lambda: [Kept(seen)])
    for stream in (first, first, second, second, first):
        now(stream)
        order.begin()
    assert seen == [("second", "waits for", "first"), ("kept until", "second"),
                    ("first", "waits for", "second"), ("kept until", "first")]  # fmt: skip


def test_a_cpu_has_no_streams(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: pytest.fail("a stream of a CPU"))
    StreamOrder(torch.device("cpu"), list).begin()


def test_a_step_keeps_its_order_unless_it_is_recorded(monkeypatch):
    model = KGEModel(30, 4, 8, score="complex", seed=1)
    step = NegativeSamplingStep(model, optim.RowAdagrad(model.parameters(), lr=0.1), negatives=5)
    begun = []
    monkeypatch.setattr(step.streams, "begin", lambda: begun.append(step.recording))
    step(torch.zeros(3, 3, dtype=torch.int64), 0)
    step.recording = True
    step.updates = {name: step.optimizer.row_update(getattr(model, name), step.backend) for name in step.updates}
    step(torch.zeros(3, 3, dtype=torch.int64), 0)
    assert begun == [False]
    addresses = {one.data_ptr() for one in step.kept()}
    state = step.optimizer.state[model.entities]["sum"]
    assert {one.data_ptr() for one in (*step.workspace.buffers.values(), step.entities, state)} <= addresses
