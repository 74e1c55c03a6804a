"""Backends of GPUs work on the device of their tensors, which must be one: seen on tensors without memory."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from kgfast import KgfastError, backends
from kgfast.backends import devices
from kgfast.backends.base import Backend

if not backends.TRITON:
    pytest.skip("Triton is not installed", allow_module_level=True)

from kgfast.backends.cuda import CudaBackend
from kgfast.backends.triton import TritonBackend


@pytest.fixture
def entered(monkeypatch):
    """The devices that were made the current one, of a machine that has several; cuda:0 is at first."""
    now, seen = [0], []

    class Current:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            seen.append(str(self.device))
            now.append(self.device.index)

        def __exit__(self, *error):
            now.pop()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: now[-1])
    monkeypatch.setattr(torch.cuda, "device", Current)
    seen_by_kernel = []

    class Recorder:
        @devices.guarded
        def _kernel(self, inputs, out, extras=(), update=None):
            seen_by_kernel.append(torch.cuda.current_device())

    return Recorder()._kernel, seen, seen_by_kernel


def rows(device, *shape):
    return torch.empty(*(shape or (3, 4)), device=device)


def test_the_device_of_the_tensors_is_the_current_one(entered):
    kernel, seen, inside = entered
    with FakeTensorMode():
        for device in ("cuda:0", "cuda:1", "cuda:3"):
            kernel((rows(device),), rows(device), extras=[(rows(device), rows(device))])
        kernel((rows("cpu"),), rows("cpu"))
    assert inside == [0, 1, 3, 0] and seen == ["cuda:1", "cuda:3"]


def test_tensors_on_several_devices_are_refused_by_name(entered):
    kernel, _, inside = entered
    with FakeTensorMode():
        here, there = rows("cuda:0"), rows("cuda:1")
        with pytest.raises(KgfastError, match=r"out is on cuda:1, inputs\[0\] on cuda:0: .* on one device"):
            kernel((here,), there)
        with pytest.raises(KgfastError, match=r"extras\[1\]\[0\] is on cpu, inputs\[0\] on cuda:0"):
            kernel((here,), here, [(here, here), (rows("cpu"), here)])
        update = backends.base.RowUpdate(0, here, (there,), None)
        with pytest.raises(KgfastError, match=r"update.states\[0\] is on cuda:1"):
            kernel((here,), here, update=update)
    assert not inside


def test_tensors_with_gaps_are_refused_by_name(entered):
    kernel, _, inside = entered
    with pytest.raises(KgfastError, match=r"out, \[4, 3\] with strides \(1, 4\), must be contiguous"):
        kernel((rows("cpu"),), rows("cpu").t())
    assert not inside


@pytest.mark.parametrize("backend", [TritonBackend, CudaBackend])
def test_every_kernel_is_guarded(backend):
    """Of the contract: what a class inherits too."""
    names = {*Backend.__abstractmethods__, "reduce_tables", "task_losses", "task_gradients"}
    assert not [name for name in names if not hasattr(getattr(backend, name), "__wrapped__")]


def test_the_contract_names_its_tensors(monkeypatch):
    """An id on another device is refused by the name that the caller knows."""
    backend = backends.get("triton")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with FakeTensorMode():
        ids, query = torch.zeros(2, 5, dtype=torch.int64, device="cpu"), rows("cuda:0", 2, 4)
        none = torch.zeros(0, dtype=torch.int64, device="cuda:0")
        with pytest.raises(KgfastError, match="negatives is on cpu, query on cuda:0"):
            targets, weights = torch.zeros(2, dtype=torch.int64, device="cuda:0"), rows("cuda:0", 2)
            backend.sampled_loss(query, rows("cuda:0"), targets, ids, none, none, none, weights, 0, 1, 0.0, 0.0, True,
                                 check=False)  # fmt: skip
        with pytest.raises(KgfastError, match="triples is on cuda:1, entities on cuda:0"):
            triples = torch.zeros(2, 3, dtype=torch.int64, device="cuda:1")
            backend.queries(rows("cuda:0"), rows("cuda:0"), triples, 0, 0, check=False)


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "hpu"])
@pytest.mark.parametrize("impl", [None, "triton", "cuda", "cpu"])
def test_other_devices_are_refused_by_name(device, impl):
    with pytest.raises(KgfastError, match=device):
        backends.choose(impl, torch.device(device))


def test_memory_that_begins_at_an_odd_place_is_copied():
    whole = torch.arange(64.0)
    assert devices.aligned(whole) is whole
    view = whole[1:33].view(2, 16)
    assert devices.aligned(view).data_ptr() % 16 == 0 and torch.equal(devices.aligned(view), view)
