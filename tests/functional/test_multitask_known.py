"""Known answers in losses over all candidates on the CPU: rows that do not compete, held against the specification."""

import pytest
import torch

from kgfast import backends, reference
from kgfast.functional.multitask import Term
from kgfast.reference.multitask import csr_mask
from kgfast.reference.objectives import ALL_OBJECTIVES
from kgfast.registry import Objective

cpu = backends.get("cpu")
SIMILARITIES = tuple(reference.SIMILARITIES)
OBJECTIVES = tuple(ALL_OBJECTIVES)
# batch, candidates: one group, several groups in several slots, queries in parts of their own
SHAPES = [(1, 1), (7, 5), (9, 37), (6, 700), (300, 40)]


def csr(lists):
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return offsets, torch.cat([*lists, torch.empty(0, dtype=torch.int64)])


def make(batch, count, similarity, dtype=torch.float64, bias=False, seed=0):
    """Answers and known rows that overlap in every way: no answer is known, all are, everything else is, none is."""
    generator = torch.Generator().manual_seed(seed)
    dim = 6
    query, table = (torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in (batch, count))
    answers, known = [], []
    for b in range(batch):
        some = torch.randperm(count, generator=generator)
        right = some[: 1 + b % 3].sort().values
        others = some[len(right) :]
        answers.append(right)
        known.append(
            [others[: len(others) // 2], right, torch.cat([right[:1], others]), others[:0]][b % 4].sort().values
        )
    weights = torch.rand(batch, generator=generator, dtype=torch.float64) + 0.1
    offset = torch.randn(count if bias and similarity == "dot" else 0, generator=generator, dtype=torch.float64)
    tensors = [one.to(dtype) for one in (query, table, offset, weights / weights.sum())]
    return *tensors, csr(answers), csr(known)


def specified(query, table, bias, weights, answers, known, similarity, objective, smoothing):
    """Losses [B] over the rows that compete, and the gradients of their sum: (losses, d_query, d_table, d_bias)."""
    leaves = [one.double().clone().requires_grad_() for one in (query, table, bias)]
    logits = reference.SIMILARITIES[similarity](leaves[0].unsqueeze(1), leaves[1])
    logits = logits + leaves[2] if len(bias) else logits
    right = csr_mask(answers, len(table))
    compete = ~csr_mask(known, len(table)) | right
    losses = torch.cat(
        [
            ALL_OBJECTIVES[objective](row[rivals][None], labels[rivals][None].double(), smoothing)
            for row, rivals, labels in zip(logits, compete, right, strict=True)
        ]
    )
    losses = losses * weights.double()
    losses.sum().backward()
    return losses.detach(), *(torch.zeros_like(one) if one.grad is None else one.grad for one in leaves)


def computed(query, table, bias, weights, answers, known, similarity, objective, smoothing, **options):
    ranges = [(offsets[:-1].contiguous(), offsets[1:].contiguous(), ids) for offsets, ids in (answers, known)]
    codes = SIMILARITIES.index(similarity), Objective.of(objective, "objective")
    return cpu.candidate_loss(
        query, table, bias, *ranges[0], weights, *codes, smoothing, True, known=ranges[1], **options
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("space", [cpu.workspace_bytes, 20_000])
def test_losses_and_gradients_are_those_of_the_specification(
    shape, similarity, objective, smoothing, space, monkeypatch
):
    monkeypatch.setattr(cpu, "workspace_bytes", space)
    case = make(*shape, similarity, bias=smoothing > 0)
    truth = specified(*case, similarity, objective, smoothing)
    for ours, theirs in zip(computed(*case, similarity, objective, smoothing), truth, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_every_level_agrees(level, similarity, objective):
    case = make(9, 300, similarity, torch.float32, bias=True)
    truth = specified(*case, similarity, objective, 0.0)
    for ours, theirs in zip(computed(*case, similarity, objective, 0.0), truth, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_what_is_left_out_has_a_gradient_of_exactly_zero(similarity, objective):
    query, table, bias, weights, _, _ = make(1, 40, similarity, bias=True)
    answers, known = (
        csr([torch.tensor([3, 30])]),
        csr([torch.tensor([0, 3, 3, 17, 39])]),
    )  # 3 is an answer, and twice known
    _, _, d_table, d_bias = computed(query, table, bias, weights, answers, known, similarity, objective, 0.1)
    silent = torch.tensor([0, 17, 39])
    assert not d_table[silent].any() and (not len(bias) or not d_bias[silent].any())
    assert d_table[torch.tensor([3, 30, 1])].any(1).all()


def test_the_multitask_loss_of_the_specification():
    """With the weights of its terms: the mean over rows with an answer."""
    query, table, bias, _, answers, known = make(9, 37, "dot", bias=True)
    lists = list(answers[1].split(answers[0].diff().tolist()))
    answers = csr([*lists[:4], lists[4][:0], *lists[5:]])
    term = Term(query, table, answers, bias=bias, known=known)
    _, (expected,) = reference.multitask_loss([term])
    counted = answers[0].diff() > 0
    losses, *_ = computed(query, table, bias, counted / counted.sum().double(), answers, known, "dot", "softmax", 0.0)
    torch.testing.assert_close(losses.sum(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_known_answers_change_no_bit(objective):
    case = make(9, 300, "dot", torch.float32)
    empty = csr([case[4][1][:0]] * 9)
    before = computed(*case[:-1], empty, "dot", objective, 0.1)
    ranges = case[4][0][:-1].contiguous(), case[4][0][1:].contiguous(), case[4][1]
    inputs = (*case[:3], *ranges, case[3], 0, Objective.of(objective, "objective"), 0.1, True)
    for ours, theirs in zip(before, cpu.candidate_loss(*inputs), strict=True):
        assert torch.equal(ours, theirs)


def test_rows_of_weight_zero_are_passed_over():
    query, table, bias, weights, answers, known = make(9, 37, "l1")
    weights[2] = weights[7] = 0
    truth = specified(query, table, bias, weights, answers, known, "l1", "bce", 0.0)
    found = computed(query, table, bias, weights, answers, known, "l1", "bce", 0.0)
    for ours, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_objectives_without_such_a_loss_are_refused():
    query, table, bias, weights, answers, known = make(2, 5, "dot")
    with pytest.raises(ValueError, match="objective margin has no loss over all candidates"):
        computed(query, table, bias, weights, answers, known, "dot", "margin", 0.0)
