"""Losses over all candidates in library products: chunks, the rest of odd tables, sums, launches, memory.

On a GPU, or under Triton's interpreter (see test_interpreter.py). What they compute: the test_conformance files.
"""

import pytest
import torch
from candidate_cases import CandidateCase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import kgfast
from kgfast import backends, testing

if backends.why_not("triton", "cuda" if torch.cuda.is_available() else "cpu"):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from triton_lane import DEVICE  # noqa: E402

from kgfast.kernels.triton import active_rows, chunks, products  # noqa: E402
from kgfast.registry import Memory  # noqa: E402

pytestmark = pytest.mark.of_backend("triton")
triton = backends.get("triton")
FLOAT, DOUBLE, BFLOAT = torch.float32, torch.float64, torch.bfloat16


def cut_into(monkeypatch, **changes):
    """Every plan has these fields."""

    def changed(batch, count, dim, itemsize, wide):
        stride = chunks.up_to_multiple(count, 16)
        return chunks.Chunks(**dict(rows=batch, stride=stride, main=count, tail=0, wide_sums=False) | changes)

    monkeypatch.setattr(products, "plan", changed)


CUTS = {
    "chunks": dict(rows=16),
    "a rest": dict(main=96, tail=8),
    "chunks, a rest": dict(rows=16, main=96, tail=8),
    "wide sums": dict(rows=16, main=96, tail=8, wide_sums=True),
}


@pytest.mark.parametrize("dtype", [FLOAT, BFLOAT])
@pytest.mark.parametrize("cut", CUTS)
def test_every_cut_is_as_exact(cut, dtype, monkeypatch):
    cut_into(monkeypatch, **CUTS[cut])
    CandidateCase(40, 100, 17, dtype, bias=True, several=True, skipped=True, smoothing=0.1, known=True).check(
        triton, DEVICE
    )
    CandidateCase(40, 100, 17, dtype, objective="bce").check(triton, DEVICE)


def relative(found, truth):
    return float((found.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("wide", [False, True])
def test_sums_over_chunks_lose_little(wide, monkeypatch):
    """The table gradient of bfloat16 in 4 chunks: wide sums as exact as torch's own, rounded ones not twice as far."""
    case = CandidateCase(128, 24, 16, BFLOAT)
    eager, truth = case.specified(BFLOAT), case.specified(DOUBLE)
    cut_into(monkeypatch, rows=32, wide_sums=wide)
    error = relative(case.computed(triton, DEVICE)[2], truth[2])
    assert 0 < error < relative(eager[2], truth[2]) * (1.2 if wide else 2)


def test_rows_that_do_not_count_without_waiting():
    """As a step asks for it: the same numbers, whether the host knows how many rows count or not."""
    case = CandidateCase(20, 70, 16, skipped=True)
    case.query[case.weights == 0] = torch.nan
    known, unknown = (case.computed(triton, DEVICE, check=check) for check in (True, False))
    for one, two in zip(known, unknown, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


class Launches(TorchDispatchMode):
    """Names of what a device is asked to run inside: products, copies, and the kernels that `noted` stands before."""

    SILENT = ("empty", "view", "slice", "t.", "transpose", "select", "detach", "_local_scalar_dense")

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.")
        if not name.startswith(self.SILENT):
            self.names.append(name)
        return function(*args, **(kwargs or {}))

    def noted(self, name, kernel):
        class Noted:
            def __getitem__(_, grid):
                self.names.append(name)
                return kernel[grid]

        return Noted()


# not what the interpreter does to run a kernel
COUNTED = {"compact", "gather_rows", "scatter_rows", "loss_in_place", "mm", "addmm", "zero_", "sum", "constant_pad_nd"}


def launches_of(case, monkeypatch):
    inputs, (_, *codes) = case.inputs(DEVICE), case.codes()
    with monkeypatch.context() as patch:
        seen = Launches()
        patch.setattr(products, "loss_in_place", seen.noted("loss_in_place", products.loss_in_place))
        for name in ("compact", "gather_rows", "scatter_rows"):
            patch.setattr(active_rows, name, seen.noted(name, getattr(active_rows, name)))
        with seen:
            products.candidate_loss(*inputs, *codes, True, None, None, True)
    return [name for name in seen.names if name.split(".")[0] in COUNTED]


def test_launches_of_a_call(monkeypatch):
    """Five where all rows count, three of them products; each chunk has four."""
    case = CandidateCase(32, 64, 16)
    one = launches_of(case, monkeypatch)
    assert one == ["compact", "mm.out", "loss_in_place", "mm.out", "mm.out"]
    some = launches_of(CandidateCase(32, 64, 16, skipped=True), monkeypatch)
    assert sorted(some) == sorted([*one, "zero_.default", "gather_rows", "zero_.default", "scatter_rows"])
    cut_into(monkeypatch, rows=16)
    assert launches_of(case, monkeypatch) == [*one, "mm.out", "loss_in_place", "addmm.out", "mm.out"]


@pytest.mark.parametrize("memory", Memory.words())
def test_retained_graphs_and_frozen_sides(memory):
    """A second backward gives the same; so does one side alone, and a view."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*shape, generator=generator).to(DEVICE) for shape in ((6, 16), (37, 16)))
    targets = torch.tensor([0, -100, 36, 3, 3, 20], device=DEVICE)
    options = dict(memory=memory, impl="triton")
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = kgfast.linear_cross_entropy(*leaves, targets, **options)
    first = torch.autograd.grad(2 * loss, leaves, retain_graph=True)
    again = torch.autograd.grad(2 * loss, leaves)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    strided = hidden.t().contiguous().t().requires_grad_()
    alone = kgfast.linear_cross_entropy(strided, weight, targets, **options)
    assert torch.equal(torch.autograd.grad(2 * alone, strided)[0], first[0])
    rows = weight.clone().requires_grad_()
    alone = kgfast.linear_cross_entropy(hidden, rows, targets, **options)
    assert torch.equal(torch.autograd.grad(2 * alone, rows)[0], first[1])


def test_tied_weights_and_checkpoints():
    """A table that also makes the queries; a forward pass that is run again while going backward."""
    table = torch.randn(37, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([3, 0, 3, 20, 1], device=DEVICE)

    def gradient(impl, dtype, again=False):
        leaf = table.to(DEVICE, dtype, copy=True).requires_grad_()

        def loss(rows):
            return kgfast.linear_cross_entropy(torch.tanh(rows[ids]), rows, ids.flip(0), impl=impl)

        value = checkpoint(loss, leaf, use_reentrant=False) if again else loss(leaf)
        return torch.autograd.grad(value, leaf)[0].cpu()

    for again in (False, True):
        testing.assert_no_worse(gradient("triton", FLOAT, again), gradient("reference", FLOAT),
                                gradient("reference", DOUBLE))  # fmt: skip


@pytest.mark.skipif(DEVICE == "cpu", reason="the allocator that counts is a GPU's")
@pytest.mark.parametrize("sizes", [(4096, 30522, 768), (8192, 32768, 1024)])
def test_peak_memory_is_what_the_plan_says(sizes):
    batch, count, dim = sizes
    hidden, weight = (torch.randn(rows, dim, device=DEVICE, dtype=BFLOAT).requires_grad_() for rows in (batch, count))
    targets = torch.randint(count, (batch,), device=DEVICE)

    def call():
        return torch.autograd.grad(
            kgfast.linear_cross_entropy(hidden, weight, targets, impl="triton"), (hidden, weight)
        )

    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before - 2 * (batch + count) * dim
    cut = chunks.plan(batch, count, dim, 2, products.ADDS_WIDE)
    assert 0 < extra < cut.extra_bytes(count, dim, 2) + 64 * batch + (8 << 20)
