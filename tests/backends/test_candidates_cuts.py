"""Losses over all candidates come in chunks of queries, slots and groups of candidates: no cut changes the loss."""

import pytest
import torch

from kgfast import backends
from kgfast.registry import Objective, Similarity

pytestmark = pytest.mark.of_backend("cpu")
cpu = backends.get("cpu")
# (rows, candidates, dim): which way of cutting
CUTS = {
    "one group": (7, 5, 6),
    "groups of 32, the last of 4": (50, 100, 18),
    "slots, scores kept": (100, 2000, 20),
    "chunks of queries": (300, 2000, 8),
    "scores made twice": (110, 3000, 4),
    "parts of queries": (1000, 70, 10),
    "parts of queries, in chunks": (2500, 1200, 16),
}


@pytest.fixture(autouse=True)
def small_workspace(monkeypatch):
    monkeypatch.setattr(cpu, "workspace_bytes", 1 << 20)


def inputs(rows, candidates, dim, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    query, table = (torch.randn(count, dim, generator=generator).to(dtype) for count in (rows, candidates))
    bias = torch.randn(candidates, generator=generator).to(dtype)
    width = min(3, candidates)  # up to 3 answers a query, ascending
    answers = torch.rand(rows, candidates, generator=generator).topk(width).indices.sort().values
    counts = torch.randint(1, width + 1, (rows,), generator=generator)
    starts = torch.arange(rows) * width
    weights = torch.rand(rows, generator=generator).to(dtype) / rows
    return query, table, bias, starts, starts + counts, answers.flatten(), weights


def expected(query, table, bias, starts, ends, ids, weights, similarity, objective, smoothing):
    leaves = [one.double().requires_grad_() for one in (query, table, bias)]
    query, table, bias = leaves
    if similarity == "dot":
        scores = query @ table.T
    elif similarity == "modulus":
        (a, b), (c, d) = query.chunk(2, 1), table.chunk(2, 1)
        real, imaginary = (torch.cdist(x[..., None], y[..., None]) for x, y in ((a.T, c.T), (b.T, d.T)))
        scores = -(real**2 + imaginary**2).sqrt().sum(0)
    else:
        scores = -torch.cdist(query, table, p=int(similarity[1]), compute_mode="donot_use_mm_for_euclid_dist")
    if similarity == "dot":  # the only one that takes a bias
        scores = scores + bias
    labels = torch.zeros_like(scores)
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        labels[row, ids[start:end]] = 1 / (end - start) if objective == "softmax" else 1
    labels = labels * (1 - smoothing) + smoothing / scores.shape[1]
    if objective == "softmax":
        losses = -(scores.log_softmax(1) * labels).sum(1)
    else:
        losses = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="none").mean(1)
    losses = losses * weights
    return losses.detach(), *torch.autograd.grad(losses.sum(), leaves, materialize_grads=True)


def results(given, similarity, objective, smoothing, **options):
    query, table, bias, *rest = given
    given = query, table, bias if similarity == "dot" else bias[:0], *rest
    codes = Similarity.of(similarity, "similarity"), Objective.of(objective, "objective")
    return cpu.candidate_loss(*given, *codes, smoothing, True, **options)


@pytest.mark.parametrize("similarity", Similarity.words())
@pytest.mark.parametrize("objective, smoothing", [("softmax", 0.0), ("softmax", 0.1), ("bce", 0.1)])
@pytest.mark.parametrize("cut", CUTS)
def test_every_cut_has_the_loss_and_the_gradients_of_the_formula(level, cut, objective, smoothing, similarity):
    given = inputs(*CUTS[cut])
    truth = expected(*given, similarity, objective, smoothing)
    for ours, right in zip(results(given, similarity, objective, smoothing), truth, strict=True):
        if len(ours):
            torch.testing.assert_close(ours.double(), right, rtol=1e-4, atol=2e-6 * float(right.abs().max()))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("cut", CUTS)
def test_threads_change_no_bit(for_threads, cut, bf16):
    if bf16 and cpu.bf16_reason():
        pytest.skip(f"bf16: {cpu.bf16_reason()}")
    given = inputs(*CUTS[cut])
    one, two = for_threads(lambda: results(given, "dot", "softmax", 0.1, bf16=bf16))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("cut", CUTS)
def test_bf16_is_the_loss_of_rounded_operands(cut):
    if cpu.bf16_reason():
        pytest.skip(f"bf16: {cpu.bf16_reason()}")
    query, table, *rest = inputs(*CUTS[cut])
    rounded = [one.bfloat16().float() for one in (query, table)]
    ours = results((query, table, *rest), "dot", "softmax", 0.1, bf16=True)
    truth = expected(*rounded, *rest, "dot", "softmax", 0.1)
    torch.testing.assert_close(ours[0].double(), truth[0], rtol=1e-4, atol=1e-9)
    for mine, right in zip(ours[1:], truth[1:], strict=True):  # so are the coefficients
        assert float((mine - right).norm()) <= 4e-3 * float(right.norm())


def test_the_same_inputs_in_float64_are_exact():
    given = inputs(*CUTS["slots, scores kept"], dtype=torch.float64)
    for ours, right in zip(results(given, "dot", "softmax", 0.1), expected(*given, "dot", "softmax", 0.1), strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-13)
