"""Steps recorded as CUDA graphs: what is refused. What they learn: test_triton_captured.py."""

import pytest
import torch

from kgfast import KgfastError, optim
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
