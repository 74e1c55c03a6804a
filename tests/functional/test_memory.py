"""What is never stored: peaks of memory in fresh processes, far below the tensors that eager code would make."""

import subprocess
import sys

import pytest
import torch

import kgfast

PROGRAM = """
import torch, kgfast
from kgfast.run.memory import most_resident_bytes
torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)
def table(rows, dim):
    return torch.randn(rows, dim, generator=generator)
def triples(batch, rows):
    return (torch.rand(batch, 3, generator=generator) * torch.tensor([rows, 5, rows])).long()
def peak():
    return most_resident_bytes() / 2**20
{setup}
torch.ones(1 << 20).sum()
small = torch.ones(8, 4, requires_grad=True)  # what the first backward loads is code
for _ in range(2):
    kgfast.linear_cross_entropy(small, small, torch.arange(8), impl="cpu").backward()
    kgfast.multitask_loss([kgfast.Term(small, small, torch.arange(8))])[0].backward()
before = peak()
{body}
print(peak() - before)
"""

TOKENS = """
h, w = table(4096, 32).requires_grad_(), table(30_522, 32).requires_grad_()
y = torch.randint(30_522, (4096,), generator=generator)"""

CASES = {
    # [B, C] scores would be 800 MB
    "rank": (
        "e, r, t = table(200_000, 16), table(5, 16), triples(1000, 200_000)",
        "kgfast.rank(e, r, t, score='complex', side='tail')",
        64,
    ),
    "topk": (
        "e, r, t = table(200_000, 16), table(5, 16), triples(1000, 200_000)",
        "kgfast.topk(e, r, t, 10, score='transe_l1', side='head')",
        64,
    ),
    "one_vs_all_loss": (
        "e, r, t = table(200_000, 16), table(5, 16), triples(1000, 200_000)",
        "kgfast.one_vs_all_loss(e, r, t, score='complex', side='tail')",
        64,
    ),
    # and its gradient [C, D] is 13 MB, twice while it is scaled and summed
    "one_vs_all_loss, gradient": (
        "e, r, t = table(200_000, 16).requires_grad_(), table(5, 16), triples(1000, 200_000)",
        "kgfast.one_vs_all_loss(e, r, t, score='complex', side='tail').backward()",
        64 + 4 * 13,
    ),
    # [B, N, D] rows would be 1.6 GB
    "negative_sampling_loss": (
        "e, r, t = table(5_000, 400), table(5, 400), triples(1000, 5_000)\n"
        "n = torch.randint(5_000, (1000, 1000), generator=generator)",
        "kgfast.negative_sampling_loss(e, r, t, n, score='transe_l1', side='tail')",
        64,
    ),
    # [tokens, words] logits would be 477 MiB, of which 5 % are allowed; gradients of the tables are 4.2
    "linear_cross_entropy, gradient": (
        TOKENS,
        "kgfast.linear_cross_entropy(h, w, y).backward()",
        28,
    ),
    "multitask_loss, gradient": (
        TOKENS,
        "kgfast.multitask_loss([kgfast.Term(h, w, y)])[0].backward()",
        28,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_extra_memory_stays_small(case):
    setup, body, megabytes = CASES[case]
    program = PROGRAM.format(setup=setup, body=body)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(run.stdout) < megabytes


@pytest.mark.no_poison
@pytest.mark.parametrize("score", ["distmult", "transe_l1"])
def test_offsets_beyond_two_to_the_31_elements(score):
    """A table of 8.6 GB of which only touched pages exist: its last rows learn as those of a small one do."""
    rows, dim = 5_400_000, 400
    assert rows * dim > 2**31
    entities = torch.empty(rows, dim)
    small, relations = torch.randn(4, dim), torch.randn(2, dim)
    entities[-4:] = small
    near = torch.tensor([[0, 1, 3], [2, 0, 1], [3, 1, 3]])
    far = near + torch.tensor([rows - 4, 0, rows - 4])
    negatives = torch.tensor([[1, 2], [0, 3], [0, 0]])
    gradients = []
    for table, triples, ids in ((small, near, negatives), (entities, far, negatives + rows - 4)):
        leaf = table.detach().requires_grad_()
        loss = kgfast.negative_sampling_loss(leaf, relations, triples, ids, score=score, side="tail", sparse_grad=True)
        loss.backward()
        gradients.append((loss.detach(), leaf.grad._values()))
    for ours, truth in zip(gradients[1], gradients[0], strict=True):
        assert torch.equal(ours, truth)
