"""What Triton's kernels over all candidates do inside: panels, workspaces, several tasks in a launch, 16 bits.

On a GPU, or under Triton's interpreter (see test_interpreter.py). What they compute: the test_conformance files.
"""

import pytest
import torch
from candidate_cases import CandidateCase, as_ranges
from torch.utils._python_dispatch import TorchDispatchMode

import kgfast
from kgfast import backends, reference, testing
from kgfast.core.sums import sum_dtype
from kgfast.registry import Memory

if backends.why_not("triton", "cuda" if torch.cuda.is_available() else "cpu"):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from triton_lane import DEVICE, on_device  # noqa: E402

from kgfast.kernels.triton import all_scores, candidates, launching, multitask, ranking  # noqa: E402

pytestmark = pytest.mark.of_backend("triton")
triton = backends.get("triton")
SIMILARITIES = tuple(reference.SIMILARITIES)
FLOAT, DOUBLE, BFLOAT = torch.float32, torch.float64, torch.bfloat16


@pytest.mark.parametrize("known", [False, True])
def test_several_panels_give_the_same(known, monkeypatch):
    for similarity, dtype in (("dot", BFLOAT), ("modulus", FLOAT)):
        case = CandidateCase(
            7, 70, 4, dtype, similarity, bias=True, several=True, skipped=True, smoothing=0.1, known=known
        )
        whole = case.computed(triton, DEVICE, memory=Memory.LOW)
        with monkeypatch.context() as patch:
            patch.setattr(candidates, "workspace_bytes", lambda batch, count, dim: 1)
            in_panels = case.computed(triton, DEVICE, memory=Memory.LOW)
        for one, two in zip(whole, in_panels, strict=True):
            torch.testing.assert_close(one, two, rtol=2e-2 if dtype == BFLOAT else 1e-4, atol=1e-6)


class Largest(TorchDispatchMode):
    """The most bytes of any tensor that an operation inside returns."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, torch.Tensor):
                self.most = max(self.most, one.numel() * one.element_size())
        return result


@pytest.mark.parametrize("similarity", ["dot", "l1"])
def test_no_matrix_of_scores_is_allocated(similarity, monkeypatch):
    monkeypatch.setattr(candidates, "workspace_bytes", lambda batch, count, dim: 4096)
    monkeypatch.setattr(ranking, "WORKSPACE_BYTES", 1)
    case = CandidateCase(20, 200, 4, similarity=similarity)
    code = SIMILARITIES.index(similarity)
    query, table, _, starts, ends, answers, _ = case.inputs(DEVICE)
    with Largest() as seen:
        case.computed(triton, DEVICE, memory=Memory.LOW)
        ranking.rank(query, table, answers, starts, ends, answers, code)
        ranking.topk(query, table, starts, ends, answers, 5, code)
    assert seen.most < 20 * 200 * 4


# ---- rank, top-k, scores -------------------------------------------------------------------------------------


def tied(batch, rows, dim, dtype, similarity):
    """Queries, a table of few distinct rows, and the specified scores, with which distinct rows differ clearly."""
    generator = torch.Generator().manual_seed(3)
    few = torch.randn(9, dim, generator=generator).to(dtype)
    table = few[torch.randint(9, (rows,), generator=generator)].contiguous()
    query = torch.randn(batch, dim, generator=generator).to(dtype)
    scores = reference.SIMILARITIES[similarity](query.double()[:, None], table.double())
    mask = torch.rand(batch, rows, generator=generator) < 0.1
    return query, table, scores.round(decimals=2 if dtype == BFLOAT else 4), mask, generator


SCANS = [("dot", FLOAT), ("dot", DOUBLE), ("dot", BFLOAT), ("l1", FLOAT), ("l2", DOUBLE), ("modulus", FLOAT)]


@pytest.mark.parametrize("similarity, dtype", SCANS)
@pytest.mark.parametrize("filtered", [False, True])
def test_rank(similarity, dtype, filtered):
    query, table, scores, mask, generator = tied(40, 203, 10, dtype, similarity)
    targets = torch.randint(203, (40,), generator=generator)
    known = as_ranges(mask) if filtered else [torch.zeros(0, dtype=torch.int64)] * 3
    code = SIMILARITIES.index(similarity)
    greater, equal, own = ranking.rank(*on_device(query, table, targets, *known), code)
    others = torch.ones_like(mask).scatter_(1, targets[:, None], False)
    if filtered:
        others &= ~mask
    target = scores.gather(1, targets[:, None])
    assert torch.equal(greater.cpu(), ((scores > target) & others).sum(1))
    assert torch.equal(equal.cpu(), ((scores == target) & others).sum(1))
    torch.testing.assert_close(own.cpu().double(), target[:, 0], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("similarity, dtype", SCANS)
@pytest.mark.parametrize("filtered", [False, True])
def test_topk(similarity, dtype, filtered):
    query, table, scores, mask, _ = tied(7, 150, 10, dtype, similarity)
    left = ~mask if filtered else torch.ones_like(mask)
    excluded = as_ranges(mask) if filtered else [torch.zeros(0, dtype=torch.int64)] * 3
    code = SIMILARITIES.index(similarity)
    best = scores.masked_fill(~left, -torch.inf).sort(dim=1, descending=True, stable=True)
    for k in (1, 10, 160):
        found, ids = (one.cpu() for one in ranking.topk(*on_device(query, table, *excluded), k, code))
        expected = best.indices.masked_fill(best.values == -torch.inf, -1)
        expected = torch.nn.functional.pad(expected, (0, max(k - 150, 0)), value=-1)[:, :k]
        assert torch.equal(ids, expected)
        assert found.dtype == dtype and (found[ids < 0] == -torch.inf).all()
        assert (found.diff(dim=1).nan_to_num(0.0) <= 0).all()


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE])
def test_topk_in_panels_and_zeros_of_both_signs(dtype, monkeypatch):
    table = torch.tensor([[0.0], [-0.0], [1.0], [-1.0]]).repeat(50, 1).to(dtype)
    none = [torch.zeros(0, dtype=torch.int64)] * 3
    monkeypatch.setattr(ranking, "WORKSPACE_BYTES", 1)
    _, ids = ranking.topk(*on_device(torch.ones(1, 1, dtype=dtype), table, *none), 150, 0)
    order = [2 + 4 * i for i in range(50)] + [i for i in range(200) if i % 4 < 2]
    assert ids.cpu().tolist() == [order]


def test_nan_counts_as_above_and_comes_first():
    query, table = torch.ones(2, 3), torch.ones(40, 3)
    table[33] = torch.nan
    none = [torch.zeros(0, dtype=torch.int64)] * 3
    greater, equal, _ = ranking.rank(*on_device(query, table, torch.tensor([0, 5]), *none), 0)
    assert greater.tolist() == [1, 1] and equal.tolist() == [38, 38]
    scores, ids = ranking.topk(*on_device(query, table, *none), 2, 0)
    assert ids.tolist() == [[33, 0]] * 2 and scores[:, 0].isnan().all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("dtype, size", [(FLOAT, (37, 100, 10)), (DOUBLE, (1, 1, 2)), (BFLOAT, (7, 37, 34))])
def test_all_scores(similarity, dtype, size):
    case = CandidateCase(*size, dtype, similarity)
    g = torch.randn(size[:2], generator=torch.Generator().manual_seed(1)).to(dtype)

    def specified(kind):
        query, table = (one.to(kind, copy=True).requires_grad_() for one in (case.query, case.table))
        scores = reference.SIMILARITIES[similarity](query[:, None], table)
        scores.backward(g.to(kind))
        return scores.detach(), query.grad, table.grad

    query, table, coefficients = on_device(case.query, case.table, g)
    code = SIMILARITIES.index(similarity)
    scores = all_scores.all_scores(query, table, code)
    ours = scores, *all_scores.all_scores_gradient(coefficients, scores, query, table, code)
    for mine, same, wide in zip(ours, specified(dtype), specified(DOUBLE), strict=True):
        if dtype == BFLOAT and similarity == "l2":  # g / score of a rounded score, as torch does in this dtype as well
            torch.testing.assert_close(mine.cpu().double(), wide, atol=0.1, rtol=0.05)
        else:
            testing.assert_no_worse(mine.cpu(), same, wide)


# ---- tasks together ------------------------------------------------------------------------------------------


def make_tasks(dtype, dims, known=False):
    """known: of the first two; the third has none then."""
    return [
        CandidateCase(40, 203, dims[0], dtype, bias=True, several=True, skipped=True, known=known),
        CandidateCase(7, 37, dims[1], dtype, objective="bce", smoothing=0.1, seed=1, known=known),
        CandidateCase(16, 130, dims[2], dtype, smoothing=0.2, several=True, seed=2),
    ]


def as_task(case):
    _, *options = case.codes()
    return multitask.Task(*case.inputs(DEVICE), *options, case.known_ranges(DEVICE))


@pytest.mark.parametrize("panels", [False, True])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("dtype, dims", [(FLOAT, (17, 33, 15)), (DOUBLE, (5, 16, 1)), (BFLOAT, (16, 48, 32))])
def test_tasks_together(dtype, dims, known, panels, monkeypatch):
    if panels:
        monkeypatch.setattr(multitask, "WORKSPACE_BYTES", 3 * 40 * 64 * 8)
    cases = make_tasks(dtype, dims, known)
    scales = torch.tensor([0.5, 2.0, -1.0], dtype=sum_dtype(dtype))
    per_task, group = multitask.task_losses([as_task(case) for case in cases])
    gradients = multitask.task_gradients(group, *on_device(scales))
    for place, (case, scale) in enumerate(zip(cases, scales, strict=True)):
        eager, truth = case.specified(dtype), case.specified(DOUBLE)
        mine = [one.cpu() for one in gradients[place]]
        testing.assert_no_worse(per_task[place].cpu().to(dtype), eager[0].sum(), truth[0].sum())
        for ours, same, wide in zip(mine, eager[1:], truth[1:], strict=True):
            testing.assert_no_worse(ours, same * scale.to(dtype), wide * scale.double())


def test_order_of_tasks_and_empty_ones():
    cases = [*make_tasks(FLOAT, (17, 33, 15)), CandidateCase(8, 40, 16)]
    cases[3].weights.zero_()
    forward, _ = multitask.task_losses([as_task(case) for case in cases])
    backward, group = multitask.task_losses([as_task(case) for case in reversed(cases)])
    assert torch.equal(forward, backward.flip(0)) and forward[3] == 0
    d_query, d_table, _ = multitask.task_gradients(group, torch.ones(4, device=DEVICE))[0]
    assert not d_query.any() and not d_table.any()


def test_panels_cover_all_columns():
    for count, each, budget, multiple in ((1, 1.0, 1, 64), (130, 8.0, 520, 64), (128, 1.0, 1 << 20, 128)):
        panels = launching.panels(count, each, budget, multiple)
        assert [begin for begin, _ in panels] == [0, *(end for _, end in panels[:-1])] and panels[-1][1] == count
        assert all(begin % multiple == 0 for begin, _ in panels)


def test_multitask_loss_shares_launches(monkeypatch):
    """Through the public function: gradients, a term of another similarity beside, weights that learn."""
    generator = torch.Generator().manual_seed(0)
    query, table, bias = (torch.randn(*shape, generator=generator) for shape in ((6, 16), (37, 16), (37,)))
    targets = torch.tensor([0, -100, 36, 3, 3, 20])
    several = torch.tensor([0, 2, 2, 5, 6, 6, 7]), torch.tensor([1, 4, 0, 9, 10, 7, 36])
    launched = []
    together = multitask.task_losses
    monkeypatch.setattr(multitask, "task_losses", lambda tasks: launched.append(len(tasks)) or together(tasks))

    def run(impl, dtype):
        inputs = query, table, bias, torch.tensor([1.0, 2.0, 0.5])
        leaves = [one.to(DEVICE, dtype, copy=True).requires_grad_() for one in inputs]
        q, t, b, weights = leaves
        terms = [
            kgfast.Term(q, t, targets.to(DEVICE), bias=b, weight=0.5),
            kgfast.Term(q, t, targets.to(DEVICE), similarity="l1"),
            kgfast.Term(q, t, tuple(on_device(*several)), objective="bce"),
        ]
        total, per_task = kgfast.multitask_loss(terms, weights, impl=impl, memory="low")
        total.backward()
        return [total.detach().cpu(), per_task.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)]

    ours, eager, truth = run("triton", FLOAT), run("reference", FLOAT), run("reference", DOUBLE)
    assert launched == [2]
    for mine, same, wide in zip(ours, eager, truth, strict=True):
        testing.assert_no_worse(mine, same, wide)
