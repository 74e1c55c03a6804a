"""Training steps of the GPU's backends are those of the CPU, which steps/test_steps.py holds to autograd."""

import pytest
import torch
from step_cases import OVER_ALL, make_step

from kgfast import optim

CASES = [
    ("own", "rotate", False, optim.RowAdagrad, {}),
    ("own", "complex", True, optim.RowAdam, {}),
    ("own", "transe_l1", False, optim.RowSGD, {}),
    ("own", "complex", False, optim.RowAdam, dict(negatives=9, side="both")),
    ("chunk", "distmult", False, optim.RowAdagrad, {}),
    ("batch", "transe_l2", True, optim.RowAdagrad, {}),
    ("batch", "complex", False, optim.RowAdagrad, dict(side="both", regularizer="n3")),
    ("batch", "complex", False, optim.RowAdam, dict(side="both", regularizer="n3")),
    ("masked", "simple", False, optim.RowAdam, {}),
    ("redrawn", "cp", False, optim.RowAdagrad, {}),
    ("all", "complex", True, optim.RowAdagrad, {}),
    ("answers", "complex", False, optim.RowAdam, {}),
]


@pytest.mark.lanes(impls=("triton", "cuda"))
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, [*case[:2], case[3].__name__, *case[4]])))
def test_steps_are_those_of_the_cpu(lane, case):
    kind, score, reciprocal, optimizer, options = case
    if kind in OVER_ALL and not lane.tiles:
        pytest.skip("without tiles there is no loss over all entities")
    results = []
    for device, impl in (("cpu", "cpu"), (lane.device, lane.impl)):
        model, step, triples = make_step(kind, device, impl, score, reciprocal, optimizer, **options)
        losses = [step(triples, index).cpu() for index in range(3)]
        results.append([*losses, model.entities.detach().cpu(), model.relations.detach().cpu()])
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)
