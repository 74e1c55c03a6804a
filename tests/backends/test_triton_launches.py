"""How many launches a step makes: each costs the host more than a small kernel the GPU."""

import pytest
import torch

from kgfast import backends, optim
from kgfast.core.environment import TRITON_INTERPRETED
from kgfast.nn import KGEModel
from kgfast.steps import NegativeSamplingStep

if not TRITON_INTERPRETED:
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

from launches import Launches

from kgfast.kernels.triton import batches

# of a batch on a CPU, of the optimizer's counts; fills: the index of the step, and what tests do to new memory
HOST = {"torch.clone", "torch.add_", "torch._local_scalar_dense", "torch.fill_"}
# by torch, where cub is not there: one launch of cub's entries and its passes else
SORT = {"torch.cat", "torch.add", "torch._to_copy", "torch.sort", "torch.__lshift__", "torch.bitwise_or"}
OWN = {"split_columns", "torch._assert_async", "torch.full", "draw_negatives", "elementwise_queries",
       "own_negatives_loss", "negative_score_gradients", "elementwise_adjoint", "reduce_spans", "join_spans",
       "torch.sum"}  # fmt: skip
CASES = {"own": ({"sharing": "none"}, 12), "both": ({"sharing": "none", "side": "both"}, 16),
         "batch": ({"sharing": "batch"}, 21)}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_launches_of_a_step(case):
    """No more than this, the sort left out; entities and relations are sorted together."""
    options, most = CASES[case]
    model = KGEModel(30, 4, 8, score="complex", seed=1)
    optimizer = optim.RowAdagrad(model.parameters(), lr=0.1)
    triples = torch.tensor([[3, 1, 4], [1, 0, 29], [9, 2, 6], [5, 3, 0]])
    step = NegativeSamplingStep(model, optimizer, negatives=5, impl="triton", **options)
    for index in (0, 2):  # constants of the optimizer are written, buffers are made
        step(triples, index)
    with Launches() as launches:
        step(triples, 4)
    found = {name: count for name, count in launches.found.items() if name not in HOST}
    assert found["torch.sort"] == 1
    assert sum(count for name, count in found.items() if name not in SORT) <= most, found
    if case == "own":
        assert found.keys() <= OWN | SORT, found.keys() - OWN


@pytest.mark.parametrize("batch", [1, 33, 5000])
@pytest.mark.parametrize("wrong", [None, (0, 30), (1, 4), (2, -1), (0, -(2**40)), (2, 2**33)])
def test_columns_are_copied_and_every_id_is_checked(batch, wrong):
    triples = torch.stack([torch.arange(batch) % 30, torch.arange(batch) % 4, torch.arange(batch) % 29], 1)
    if wrong:
        triples[batch - 1, wrong[0]] = wrong[1]
    columns, inside = batches.columns_of(triples, 30, 4, 4)
    head, relation, tail = triples.unbind(1)
    assert torch.equal(columns, torch.stack([head, tail, head, relation, relation + 4]))
    assert bool(inside.all()) == (wrong is None) and inside[:-1].all()
    if wrong:
        with pytest.raises(RuntimeError, match="triples: an id is outside of 30 entities and 4 relations"):
            backends.get("triton").assert_triples(triples, 30, 4, 0)
