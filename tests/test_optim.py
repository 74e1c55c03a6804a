"""Row optimizers against their formulas and against torch.optim, for dense and sparse gradients."""

import copy

import pytest
import torch

import kgfast
from kgfast import testing
from kgfast.registry import RULES

C, D, LR = 23, 17, 0.1
KINDS = {
    "sgd": lambda params: kgfast.optim.RowSGD(params, lr=LR),
    "adagrad": lambda params: kgfast.optim.RowAdagrad(params, lr=LR, full=True),
    "row_adagrad": lambda params: kgfast.optim.RowAdagrad(params, lr=LR),
    "adam": lambda params: kgfast.optim.RowAdam(params, lr=LR),
}
TORCH = {
    "sgd": lambda params: torch.optim.SGD(params, lr=LR),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=LR),
    "adam": lambda params: torch.optim.SparseAdam(params, lr=LR),
}


def table(dtype=torch.float32):
    return torch.randn(C, D, generator=torch.Generator().manual_seed(0)).to(dtype)


def gradients(steps, dtype=torch.float32):
    """Each step: (ids with repeats and the last row, rows)."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(steps):
        ids = torch.randint(C, (9,), generator=generator)
        ids[:3] = torch.tensor([C - 1, 4, 4])
        found.append((ids, torch.randn(9, D, generator=generator).to(dtype)))
    return found


def as_gradient(ids, rows, layout):
    sparse = torch.sparse_coo_tensor(ids[None], rows, (C, D))
    return {"dense": sparse.to_dense, "coalesced": sparse.coalesce, "uncoalesced": lambda: sparse}[layout]()


def train(make, steps, layout, dtype=torch.float32):
    parameter = torch.nn.Parameter(table(dtype))
    optimizer = make([parameter])
    for ids, rows in gradients(steps, dtype):
        parameter.grad = as_gradient(ids, rows, layout)
        optimizer.step()
    return parameter.detach()


def specified(kind, steps):
    """The same steps by the formulas, in float64."""
    rows = table(torch.float64)
    state = {
        "sgd": None,
        "adagrad": torch.zeros(C, D, dtype=torch.float64),
        "row_adagrad": torch.zeros(C, dtype=torch.float64),
        "adam": (torch.zeros(C, D, dtype=torch.float64), torch.zeros(C, D, dtype=torch.float64)),
    }[kind]
    for step, (ids, values) in enumerate(gradients(steps, torch.float64), start=1):
        touched, places = ids.unique(return_inverse=True)
        grads = torch.zeros(len(touched), D, dtype=torch.float64).index_add(0, places, values)
        options = {"step": step} if kind == "adam" else {}
        held = tuple(s[touched] for s in state) if kind == "adam" else None if state is None else state[touched]
        moved, held = RULES[kind].formula(rows[touched], grads, held, lr=LR, **options)
        rows[touched] = moved
        if kind == "adam":
            for whole, part in zip(state, held, strict=True):
                whole[touched] = part
        elif state is not None:
            state[touched] = held
    return rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["dense", "coalesced", "uncoalesced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_formula(level, kind, layout, dtype):
    if kind == "adam" and layout == "dense":
        pytest.skip("a dense gradient of lazy Adam: see test_dense_adam")
    ours = train(KINDS[kind], 4, layout, dtype)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(ours.double(), specified(kind, 4), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", TORCH)
@pytest.mark.parametrize("layout", ["dense", "coalesced", "uncoalesced"])
def test_torch_optim(kind, layout):
    if kind == "adam" and layout == "dense":
        pytest.skip("torch.optim.SparseAdam refuses dense gradients")
    ours, expected = train(KINDS[kind], 4, layout), train(TORCH[kind], 4, layout)
    torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["dense", "coalesced", "uncoalesced"])
def test_untouched_rows_keep_their_bits(level, kind, layout):
    if kind == "adam" and layout == "dense":
        pytest.skip("every row of a dense gradient is touched by Adam's moments")
    before, after = table(), train(KINDS[kind], 3, layout)
    touched = torch.cat([ids for ids, _ in gradients(3)]).unique()
    untouched = torch.ones(C, dtype=torch.bool).index_fill(0, touched, False)
    assert untouched.any()
    assert torch.equal(before[untouched], after[untouched])
    assert (before[touched] != after[touched]).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_dense_gradient_that_touches_every_row_is_the_sparse_one(kind):
    results = []
    for layout in ("dense", "coalesced"):
        parameter = torch.nn.Parameter(table())
        optimizer = KINDS[kind]([parameter])
        for step in range(3):
            rows = torch.randn(C, D, generator=torch.Generator().manual_seed(step))
            parameter.grad = as_gradient(torch.arange(C), rows, layout)
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_for_one_and_two_threads(for_threads, kind):
    def run():
        parameter = torch.nn.Parameter(torch.randn(3000, 33, generator=torch.Generator().manual_seed(0)))
        optimizer = KINDS[kind]([parameter])
        for step in range(2):
            generator = torch.Generator().manual_seed(step)
            ids = torch.randint(3000, (4000,), generator=generator)
            rows = torch.randn(4000, 33, generator=generator)
            parameter.grad = torch.sparse_coo_tensor(ids[None], rows, (3000, 33))
            optimizer.step()
        return parameter.detach()

    one, two = for_threads(run)
    assert torch.equal(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_state_survives_saving_and_a_scheduler_sets_the_rate(kind):
    parameter = torch.nn.Parameter(table())
    optimizer = KINDS[kind]([parameter])
    steps = gradients(4)
    for ids, rows in steps[:2]:
        parameter.grad = as_gradient(ids, rows, "coalesced")
        optimizer.step()
    other = torch.nn.Parameter(parameter.detach().clone())
    restored = KINDS[kind]([other])
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for ids, rows in steps[2:]:
        for each, its in ((parameter, optimizer), (other, restored)):
            each.grad = as_gradient(ids, rows, "coalesced")
            its.step()
    assert torch.equal(parameter, other)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0)
    before = parameter.detach().clone()
    parameter.grad = as_gradient(*steps[0], "coalesced")
    optimizer.step()
    assert torch.equal(parameter, before)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_without_gradient_and_empty_gradients(kind):
    used, unused = torch.nn.Parameter(table()), torch.nn.Parameter(table())
    optimizer = KINDS[kind]([used, unused])
    used.grad = torch.sparse_coo_tensor(torch.empty(1, 0, dtype=torch.int64), torch.empty(0, D), (C, D))
    optimizer.step()
    assert torch.equal(used, table()) and torch.equal(unused, table())


def test_initial_accumulator():
    parameter = torch.nn.Parameter(table())
    optimizer = kgfast.optim.RowAdagrad([parameter], lr=LR, full=True, initial=0.5)
    expected = torch.nn.Parameter(table())
    peer = torch.optim.Adagrad([expected], lr=LR, initial_accumulator_value=0.5)
    for each, its in ((parameter, optimizer), (expected, peer)):
        each.grad = as_gradient(*gradients(1)[0], "coalesced")
        its.step()
    torch.testing.assert_close(parameter, expected, rtol=2e-6, atol=2e-6)


def test_loss_then_step_learns():
    """A few steps of the public loss and a row optimizer lower the loss."""
    case = testing.make_case("distmult", 16, 7, 20)
    tables = [torch.nn.Parameter(case.entities.clone()), torch.nn.Parameter(case.relations.clone())]
    optimizer = kgfast.optim.RowAdagrad(tables, lr=LR)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = kgfast.negative_sampling_loss(*tables, case.triples, case.negatives, score="distmult", side="tail")
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


# ---- what is refused, before a row moves --------------------------------------------------------------------

REPLACED = {
    "fewer rows": (lambda table: torch.randn(4, D), None, r"gradient \[23, 17\].* is not of its table, \[4, 17\]"),
    "another dtype": (lambda table: table.double(), None, r"gradient .*float32.* is not of its table, .*float64"),
    "columns in another order": (lambda table: table.t().contiguous().t(), None, "params must be contiguous"),
    "half precision": (lambda table: table.half(), None, "params has dtype torch.float16"),
    "state of another size": (lambda table: torch.randn(4, D), lambda table: torch.randn(4, D), "optimizer state"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", REPLACED)
def test_a_table_that_was_replaced_since_backward(kind, case):
    """Pruned or converted: a kernel would write beyond it. Its gradient or its state is of the old one."""
    replace, gradient, message = REPLACED[case]
    if case == "state of another size" and kind == "sgd":
        pytest.skip("it has no state")
    parameter = torch.nn.Parameter(table())
    optimizer = KINDS[kind]([parameter])
    parameter.grad = torch.ones_like(parameter)
    if gradient:  # of the new table, whose state is still the old one's
        optimizer.step()
        parameter.grad = None
    parameter.data = replace(parameter.data)
    if gradient:
        parameter.grad = gradient(parameter)
    before = parameter.detach().clone()
    with pytest.raises(kgfast.KgfastError, match=message):
        optimizer.step()
    assert torch.equal(parameter, before)


SETTINGS = [("weight_decay", 0.5), ("momentum", 0.9), ("maximize", True), ("amsgrad", True), ("nesterov", True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name, value", SETTINGS)
def test_settings_of_other_optimizers_are_refused_in_groups(kind, name, value):
    """They would have no effect; a value that asks for none is let through, as torch's own defaults are."""
    make, others = KINDS[kind], [torch.nn.Parameter(table()), torch.nn.Parameter(table())]
    with pytest.raises(kgfast.KgfastError, match=f"{name}={value}: Row.* has no such setting"):
        make([{"params": others[:1], name: value}])
    optimizer = make([{"params": others[:1], name: type(value)()}])
    with pytest.raises(kgfast.KgfastError, match=f"{name}={value}"):
        optimizer.add_param_group({"params": others[1:], name: value})


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: kgfast.optim.RowSGD(p, lr=-0.1), "lr=-0.1"),
        (lambda p: kgfast.optim.RowSGD(p, lr="fast"), "lr='fast'"),
        (lambda p: kgfast.optim.RowAdam(p, lr=1e39), r"lr=1e\+39 must be a finite number"),
        (lambda p: kgfast.optim.RowAdagrad(p, eps=0.0), "eps=0 must be above 0"),
        (lambda p: kgfast.optim.RowAdam(p, betas=0.9), "betas=0.9 must be two numbers"),
        (lambda p: kgfast.optim.RowAdam(p, betas=(0.9, 1.0)), r"betas=\(0.9, 1.0\) must be two numbers in \[0, 1\)"),
        (lambda p: kgfast.optim.RowAdam(p, betas=(0.9, None)), "betas=None"),
        (
            lambda p: kgfast.optim.RowSGD([torch.nn.Parameter(torch.ones(3))]),
            r"tables \[rows, dim\], not of shape \[3\]",
        ),
        (lambda p: kgfast.optim.RowSGD([{"params": p, "eps": 1e-8}]), "eps=1e-08: RowSGD has no such setting"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(kgfast.KgfastError, match=message):
        make([torch.nn.Parameter(table())])
