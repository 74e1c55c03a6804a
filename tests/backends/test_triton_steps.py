"""Training steps by Triton's kernels: over fetched rows, over tables of 16 bits, and none waits for the device.

On a GPU, or under Triton's interpreter (see test_interpreter.py). What they learn: test_conformance_steps.py.
"""

import functools

import pytest
import torch
from step_cases import ENTITIES, STEPS, known_graph, make_step
from torch.utils._python_dispatch import TorchDispatchMode

from kgfast import backends, optim, steps
from kgfast.steps.host_tables import HostTablesStep

if backends.why_not("triton", "cuda" if torch.cuda.is_available() else "cpu"):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from triton_lane import DEVICE  # noqa: E402

pytestmark = pytest.mark.of_backend("triton")


@pytest.mark.parametrize("kind", ["own", "chunk", "masked"])
def test_rows_fetched_from_host_memory(kind):
    results = []
    for step_class in (steps.NegativeSamplingStep, functools.partial(HostTablesStep, device=DEVICE)):
        model, step, triples = make_step(kind, "cpu", "cpu", "complex", optimizer=optim.RowAdam)
        if step_class is not steps.NegativeSamplingStep:
            options = {
                "filter": "none",
                **STEPS[kind],
                "known": known_graph(triples),
                "entity_counts": torch.arange(ENTITIES),
            }
            step = step_class(model, step.optimizer, impl="triton", seed=4, **options)
        losses = [step(triples, index).cpu() for index in range(2)]
        results.append([*losses, model.entities.detach(), model.relations.detach()])
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


def test_weighted_steps_and_dropout():
    model, step, triples = make_step("own", DEVICE, "triton", "distmult", query_dropout=0.5)
    before = model.entities.detach().clone()
    loss = step(triples, 0, torch.rand(7, device=DEVICE))
    assert loss.isfinite() and not torch.equal(before, model.entities)


@pytest.mark.parametrize("kind", ["own", "chunk"])
def test_steps_of_bfloat16_tables(kind):
    model, step, triples = make_step(kind, DEVICE, "triton", "distmult", dtype=torch.bfloat16)
    wide, exact, _ = make_step(kind, DEVICE, "triton", "distmult")
    torch.testing.assert_close(step(triples, 0), exact(triples, 0), rtol=0.02, atol=0.02)
    torch.testing.assert_close(model.entities.float(), wide.entities, rtol=0.02, atol=0.02)
    assert step.optimizer.state[model.entities]["sum"].dtype == torch.float32


class NoWaiting(TorchDispatchMode):
    """Fails on what would make the host wait for the device, or has a shape that the device decides."""

    BANNED = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "unique_", "equal", "is_nonzero",
              "bincount", "repeat_interleave")  # fmt: skip

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::")
        if any(name == banned or name.startswith(f"{banned}.") or (banned[-1] == "_" and name.startswith(banned))
               for banned in self.BANNED):  # fmt: skip
            if not (name == "_local_scalar_dense" and not on_step_device(args[0])):
                raise AssertionError(f"a step calls {name}")
        if name.startswith("index") and any(isinstance(place, torch.Tensor) and place.dtype == torch.bool
                                            for place in torch.utils._pytree.tree_leaves(args[1:])):  # fmt: skip
            raise AssertionError("a step indexes by booleans")
        return function(*args, **(kwargs or {}))


def on_step_device(tensor):
    """The optimizer's count of steps is a float64 number on the CPU; nothing else may be read."""
    return not (tensor.dtype == torch.float64 and tensor.dim() == 0 and tensor.device.type == "cpu")


@pytest.mark.parametrize("kind", list(STEPS))
@pytest.mark.parametrize("weighted", [False, True])
def test_steps_do_not_wait_for_the_device(kind, weighted):
    _, step, triples = make_step(kind, DEVICE, "triton", "complex", optimizer=optim.RowAdam)
    weights = torch.rand(len(triples), device=DEVICE) if weighted else None
    step(triples, 0, weights)
    with NoWaiting():
        step(triples, 1, weights)


def test_waiting_is_noticed():
    tensor = torch.ones(3, device=DEVICE)
    waits = lambda: tensor.sum().item(), lambda: tensor[tensor > 0], tensor.nonzero, lambda: bool(tensor[0])
    for wait in waits:
        with pytest.raises(AssertionError, match="a step"), NoWaiting():
            wait()


@pytest.mark.skipif(DEVICE != "cpu", reason="a device-side assertion ends the process' use of the GPU")
def test_bad_ids_of_a_step_are_asserted():
    _, step, triples = make_step("own", DEVICE, "triton", "distmult")
    triples[2, 0] = ENTITIES
    with pytest.raises(RuntimeError, match="outside of 11 entities"):
        step(triples, 0)
