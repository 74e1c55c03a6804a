"""Triton's kernels over all candidates, on a GPU or in its interpreter, against the specification in float64."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kgfast
from kgfast import backends, reference, testing
from kgfast.core.sums import sum_dtype
from kgfast.reference.objectives import ALL_OBJECTIVES
from kgfast.registry import Objective

if backends.why_not("triton", "cuda" if torch.cuda.is_available() else "cpu"):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from triton_lane import DEVICE, on_device  # noqa: E402

from kgfast.kernels.triton import all_scores, candidates, launching, multitask, ranking  # noqa: E402

SIMILARITIES = tuple(reference.SIMILARITIES)
FLOAT, DOUBLE, BFLOAT, HALF = torch.float32, torch.float64, torch.bfloat16, torch.float16
OBJECTIVES = {one.word: one for one in (Objective.SOFTMAX, Objective.BCE)}


def make_answers(batch, rows, several, generator):
    """A mask [batch, rows] of right answers: one a row, or about three, of which row 0 has none and row 1 the last."""
    if not several:
        return torch.zeros(batch, rows, dtype=torch.bool).scatter_(
            1, torch.randint(rows, (batch, 1), generator=generator), True
        )
    mask = torch.rand(batch, rows, generator=generator) < 3 / rows
    mask[0] = False
    mask[1:2, -1] = True
    return mask


def as_csr(mask):
    lengths = mask.sum(1)
    ends = lengths.cumsum(0)
    return ends - lengths, ends, mask.nonzero()[:, 1].contiguous()


class Case:
    """Inputs of a loss over all candidates, and the specification."""

    def __init__(self, batch=7, rows=37, dim=16, dtype=FLOAT, similarity="dot", objective="softmax", smoothing=0.0,
                 bias=False, several=False, skipped=False, seed=0, scale=1.0, known=False):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        dim += dim % 2 if similarity == "modulus" else 0
        self.query = (torch.randn(batch, dim, generator=generator) * scale).to(dtype)
        self.table = (torch.randn(rows, dim, generator=generator) * dim**-0.5).to(dtype)
        biased = bias and similarity == "dot"
        self.bias = torch.randn(rows, generator=generator).to(dtype) if biased else torch.zeros(0, dtype=dtype)
        self.mask = make_answers(batch, rows, several, generator)
        self.weights = torch.rand(batch, generator=generator).to(sum_dtype(dtype)) + 0.1
        if skipped:
            self.weights[::3] = 0
        self.similarity, self.objective, self.smoothing = similarity, objective, smoothing
        self.known = torch.rand(batch, rows, generator=generator) < 0.4 if known else None
        if known:  # row 1 is known for every query, answers of some among them; of the last query all are
            self.known[:, 1:2] = True
            self.known[-1] = True

    def losses(self, query, table, bias):
        scores = reference.SIMILARITIES[self.similarity](query[:, None], table)
        if len(bias):
            scores = scores + bias
        if self.known is None:
            losses = ALL_OBJECTIVES[self.objective](scores, self.mask.to(scores.dtype), self.smoothing)
        else:
            losses = torch.cat(
                [self.loss_over_rivals(*of_row) for of_row in zip(scores, self.mask, self.known, strict=True)]
            )
        counted = self.mask.any(1) if self.objective == "softmax" else torch.ones_like(self.mask[:, 0])
        return losses * (self.weights * counted).to(scores.dtype)

    def loss_over_rivals(self, scores, answers, known):
        """The loss of a query whose known candidates, unless they are answers, are not there: [1]."""
        rivals = answers | ~known
        if not rivals.any():
            return scores[:1] * 0
        return ALL_OBJECTIVES[self.objective](
            scores[None, rivals], answers[None, rivals].to(scores.dtype), self.smoothing
        )

    def specified(self, dtype):
        """[losses, gradients of query, table and bias] by autograd."""
        leaves = [one.to(dtype, copy=True).requires_grad_() for one in (self.query, self.table, self.bias)]
        losses = self.losses(*leaves)
        losses.sum().backward()
        return [losses.detach(), *(leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves)]

    def inputs(self):
        return on_device(self.query, self.table, self.bias, *as_csr(self.mask), self.weights)

    def ours(self, gradient=True):
        options = SIMILARITIES.index(self.similarity), OBJECTIVES[self.objective], self.smoothing
        found = candidates.candidate_loss(*self.inputs(), *options, gradient, known=self.known_lists())
        return [one.cpu() for one in found]

    def known_lists(self):
        return None if self.known is None else tuple(on_device(*as_csr(self.known)))


def check(case):
    ours, eager, truth = case.ours(), case.specified(case.query.dtype), case.specified(DOUBLE)
    assert ours[0].dtype == sum_dtype(case.query.dtype)
    for mine, same, wide in zip([ours[0].to(case.query.dtype), *ours[1:]], eager, truth, strict=True):
        testing.assert_no_worse(mine, same, wide)


@pytest.mark.parametrize(
    "setting",
    testing.pairwise(
        similarity=SIMILARITIES,
        dtype=(FLOAT, DOUBLE, BFLOAT, HALF),
        objective=tuple(OBJECTIVES),
        size=((1, 1, 1), (7, 37, 33), (37, 100, 9), (16, 64, 32)),
        smoothing=(0.0, 0.1),
        bias=(False, True),
        several=(False, True),
        skipped=(False, True),
    ),
    ids=lambda s: f"{s['similarity']}-{s['objective']}-{str(s['dtype'])[6:]}-{'x'.join(map(str, s['size']))}",
)
def test_candidate_loss(setting):
    batch, rows, dim = setting.pop("size")
    check(Case(batch, rows, dim, **setting))


@pytest.mark.parametrize("known", [False, True])
def test_several_panels_give_the_same(known, monkeypatch):
    for similarity, dtype in (("dot", BFLOAT), ("modulus", FLOAT)):
        case = Case(7, 70, 4, dtype, similarity, bias=True, several=True, skipped=True, smoothing=0.1, known=known)
        whole = case.ours()
        with monkeypatch.context() as patch:
            patch.setattr(candidates, "workspace_bytes", lambda batch, count, dim: 1)
            parts = case.ours()
        for one, two in zip(whole, parts, strict=True):
            torch.testing.assert_close(one, two, rtol=2e-2 if dtype == BFLOAT else 1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "setting",
    testing.pairwise(
        similarity=SIMILARITIES,
        dtype=(FLOAT, DOUBLE, BFLOAT, HALF),
        objective=tuple(OBJECTIVES),
        size=((1, 1, 1), (7, 37, 33), (37, 100, 9)),
        smoothing=(0.0, 0.1),
        bias=(False, True),
        several=(False, True),
        skipped=(False, True),
    ),
    ids=lambda s: f"{s['similarity']}-{s['objective']}-{str(s['dtype'])[6:]}-{'x'.join(map(str, s['size']))}",
)
def test_known_candidates_do_not_compete(setting):
    batch, rows, dim = setting.pop("size")
    check(Case(batch, rows, dim, known=True, **setting))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_of_known_candidates_are_exactly_zero(objective):
    """Even where their scores are infinite; and lists of nothing known change no bit."""
    case = Case(7, 70, 16, objective=objective, several=True, known=True)
    case.mask[:, 1] = False
    before = case.table[1].clone()
    case.table[1] = 1e38
    losses, d_query, d_table, _ = case.ours()
    assert all(one.isfinite().all() for one in (losses, d_query, d_table)) and not d_table[1].any()
    case.table[1] = before
    case.known[:] = False
    with_lists = case.ours()
    case.known = None
    for one, two in zip(with_lists, case.ours(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("similarity", ["dot", "l1"])
def test_skipped_rows_are_not_read(similarity):
    case = Case(20, 70, 16, similarity=similarity, skipped=True)
    case.query[case.weights == 0] = torch.nan
    losses, d_query, d_table, _ = case.ours()
    assert all(torch.isfinite(one).all() for one in (losses, d_query, d_table))
    assert not losses[case.weights == 0].any() and not d_query[case.weights == 0].any()
    case.query.nan_to_num_()
    check(case)


def test_nothing_counts():
    case = Case(20, 70, 16)
    case.weights.zero_()
    assert not any(one.any() for one in case.ours())
    assert not any(one.any() for one in Case(0, 70, 16).ours())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_large_scores_neither_overflow_nor_vanish(objective):
    check(Case(7, 70, 16, objective=objective, scale=1000.0))


def test_negative_weights_and_reruns():
    """Weights are dL/dloss too; no result depends on the order of programs."""
    case = Case(20, 70, 16, skipped=True)
    case.weights[::2] *= -1
    check(case)
    for one, two in zip(case.ours(), case.ours(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(case.ours(gradient=False)[0], case.ours()[0])


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
    case = Case(20, 200, 4, similarity=similarity)
    code = SIMILARITIES.index(similarity)
    query, table, _, starts, ends, answers, _ = case.inputs()
    with Largest() as seen:
        case.ours()
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
    known = as_csr(mask) if filtered else [torch.zeros(0, dtype=torch.int64)] * 3
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
    excluded = as_csr(mask) if filtered else [torch.zeros(0, dtype=torch.int64)] * 3
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
    case = Case(*size, dtype, similarity)
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
        Case(40, 203, dims[0], dtype, bias=True, several=True, skipped=True, known=known),
        Case(7, 37, dims[1], dtype, objective="bce", smoothing=0.1, seed=1, known=known),
        Case(16, 130, dims[2], dtype, smoothing=0.2, several=True, seed=2),
    ]


def as_task(case):
    return multitask.Task(*case.inputs(), OBJECTIVES[case.objective], case.smoothing, case.known_lists())


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
    cases = [*make_tasks(FLOAT, (17, 33, 15)), Case(8, 40, 16)]
    cases[3].weights.zero_()
    forward, _ = multitask.task_losses([as_task(case) for case in cases])
    backward, group = multitask.task_losses([as_task(case) for case in reversed(cases)])
    assert torch.equal(forward, backward.flip(0)) and forward[3] == 0
    d_query, d_table, _ = multitask.task_gradients(group, torch.ones(4, device=DEVICE))[0]
    assert not d_query.any() and not d_table.any()


def test_panels_cover_all_columns():
    for count, each, budget, multiple in ((1, 1.0, 1, 64), (130, 8.0, 520, 64), (128, 1.0, 1 << 20, 128)):
        parts = launching.panels(count, each, budget, multiple)
        assert [begin for begin, _ in parts] == [0, *(end for _, end in parts[:-1])] and parts[-1][1] == count
        assert all(begin % multiple == 0 for begin, _ in parts)


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
        total, per_task = kgfast.multitask_loss(terms, weights, impl=impl)
        total.backward()
        return [total.detach().cpu(), per_task.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)]

    ours, eager, truth = run("triton", FLOAT), run("reference", FLOAT), run("reference", DOUBLE)
    assert launched == [2]
    for mine, same, wide in zip(ours, eager, truth, strict=True):
        testing.assert_no_worse(mine, same, wide)
