"""Training steps by Triton's kernels: those of the CPU, and none that waits for the device.

On a GPU, or under Triton's interpreter (see test_interpreter.py).
"""

import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kgfast
from kgfast import backends, nn, optim, steps, testing
from kgfast.steps.host_tables import HostTablesStep

if backends.why_not("triton", "cuda" if torch.cuda.is_available() else "cpu"):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from triton_lane import DEVICE, ENTITIES, RELATIONS, SIZES, known_of  # noqa: E402

STEPS = {
    "own": dict(negatives=5, margin=2.0, adversarial_temperature=1.0, regularizer="n3", regularizer_weight=0.1),
    "chunk": dict(negatives=4, sharing="chunk", chunk=3, objective="softmax", side="both"),
    "batch": dict(negatives=4, sharing="batch", objective="bce", regularizer="l2", regularizer_weight=0.1),
    "masked": dict(negatives=4, filter="mask", objective="margin", margin=1.0, negative_power=0.5),
    "redrawn": dict(negatives=4, filter="redraw", objective="softmax", side="both"),
    "all": dict(objective="softmax", label_smoothing=0.1, regularizer="n3", regularizer_weight=0.1),
    "answers": dict(objective="bce", answers=True, relation_weight=0.5),
}


def make_step(kind, device, impl, score, reciprocal=False, optimizer=None, dtype=torch.float32, **more):
    options = {**STEPS[kind], **more}
    model = nn.KGEModel(ENTITIES, RELATIONS, 6, score=score, seed=1, reciprocal=reciprocal, dtype=dtype).to(device)
    optimizer = (optimizer or optim.RowAdagrad)(model.parameters(), lr=0.1)
    triples = testing.make_triples(7, **SIZES)
    known = kgfast.KnownTriples.from_triples(testing.make_known_triples(triples, 30, **SIZES), ENTITIES, RELATIONS)
    if "filter" in options:
        options["known"] = known.to(device)
    if "negative_power" in options:
        options["entity_counts"] = torch.arange(ENTITIES)
    if "answers" in options:
        options["answers"] = known.to(device)
    if kind in ("all", "answers"):
        return model, steps.OneVsAllStep(model, optimizer, impl=impl, **options), triples.to(device)
    return model, steps.NegativeSamplingStep(model, optimizer, impl=impl, seed=4, **options), triples.to(device)


@pytest.mark.parametrize(
    "kind, score, reciprocal, optimizer",
    [
        ("own", "rotate", False, optim.RowAdagrad),
        ("own", "complex", True, optim.RowAdam),
        ("own", "transe_l1", False, optim.RowSGD),
        ("chunk", "distmult", False, optim.RowAdagrad),
        ("batch", "transe_l2", True, optim.RowAdagrad),
        ("masked", "simple", False, optim.RowAdam),
        ("redrawn", "cp", False, optim.RowAdagrad),
        ("all", "complex", True, optim.RowAdagrad),
        ("answers", "complex", False, optim.RowAdam),
    ],
)
def test_steps_are_those_of_the_cpu(kind, score, reciprocal, optimizer):
    results = []
    for device, impl in (("cpu", "cpu"), (DEVICE, "triton")):
        model, step, triples = make_step(kind, device, impl, score, reciprocal, optimizer)
        losses = [step(triples, index).cpu() for index in range(2)]
        results.append([*losses, model.entities.detach().cpu(), model.relations.detach().cpu()])
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", ["own", "chunk", "masked"])
def test_rows_fetched_from_host_memory(kind):
    results = []
    for step_class in (steps.NegativeSamplingStep, functools.partial(HostTablesStep, device=DEVICE)):
        model, step, triples = make_step(kind, "cpu", "cpu", "complex", optimizer=optim.RowAdam)
        if step_class is not steps.NegativeSamplingStep:
            options = {
                "filter": "none",
                **STEPS[kind],
                "known": known_of(triples).to("cpu"),
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
