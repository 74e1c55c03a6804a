"""Calls of the public functions whose arguments are right, over all names of the registry and shapes that hurt.

Values and gradients are held to the float64 specification. A case is a few plain values: its line makes it again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from right_inputs import SIDES, Case, Inputs, laid_out
from row_cases import specified_update, states_of
from torch import Tensor

import kgfast
from kgfast import nn, optim, reference, steps, testing
from kgfast.registry import RULES, SCORES


def compared(
    inputs: Inputs,
    op: str,
    leaves: list[Tensor],
    call: Callable[..., Tensor],
    impl: str | None = "cpu",
    scores: float = 0,
) -> None:
    """As testing.compare, with leaves that lie as the case says. Scores as large as `scores` are rounded before a loss
    takes their difference, where torch may be lucky. In float64 the truth is rounded too, at each term of a sum."""
    layout = "whole" if inputs.case.get("sparse") else inputs.case["layout"]  # torch has no views of sparse gradients
    specified, ours = getattr(reference, op), getattr(kgfast, op)
    terms = inputs.case["batch"] * (inputs.case.get("count") or inputs.case["entities"])
    truth = testing.evaluate(lambda *wide: call(specified, *wide), [leaf.double() for leaf in leaves])
    eager = testing.evaluate(lambda *same: call(specified, *same), leaves)
    found = testing.evaluate(lambda *same: call(ours, *(laid_out(leaf, layout) for leaf in same), impl=impl), leaves)
    for mine, same, wide in zip(found, eager, truth, strict=True):
        roundings = (max(64, terms) if inputs.dtype == torch.float64 else 16) + 2 * scores
        floor = roundings * torch.finfo(same.dtype).eps * (1 + float(wide.abs().max())) if wide.numel() else None
        testing.assert_no_worse(mine, same, wide, floor=floor)


def with_own(function: Callable[..., Tensor], options: dict[str, Any], own: dict[str, Any]) -> Callable[..., Tensor]:
    """The function with options, and those that the specification lacks where it is ours."""
    ours = function.__module__.startswith("kgfast.functional")
    return lambda *tensors, **more: function(*tensors, **options, **(own if ours else {}), **more)


# ---- the functions --------------------------------------------------------------------------------------------


def score_triples(case: Case, inputs: Inputs) -> None:
    triples = laid_out(inputs.triples, case["layout"])
    own, options = {"sparse_grad": case["sparse"]}, {"score": case["score"]}
    compared(
        inputs,
        "score_triples",
        [*inputs.tables],
        lambda f, e, r, **more: with_own(f, options, own)(e, r, triples, **more),
    )


def score_candidates(case: Case, inputs: Inputs) -> None:
    own, options = {"sparse_grad": case["sparse"]}, {"score": case["score"], "side": case["side"]}
    shape = (case["count"],) if case["flat"] else (case["batch"], case["count"])
    candidates = None if case["count"] is None else laid_out(inputs.ids(*shape, count=case["entities"]), case["layout"])
    triples = laid_out(inputs.triples, case["layout"])
    compared(
        inputs,
        "score_candidates",
        [*inputs.tables],
        lambda f, e, r, **more: with_own(f, options, own)(e, r, triples, candidates, **more),
    )


def sample_negatives(case: Case, inputs: Inputs) -> None:
    weights = inputs.weights(case["entities"])
    if weights is not None and not weights.any():
        weights = None
    options = dict(side=case["side"], known=inputs.known, weights=weights)
    numbers = dict(seed=case["seed"], step=case["step"], shared=case["shared"])
    made = {name: inputs.number(value) for name, value in numbers.items()}
    found = kgfast.sample_negatives(
        laid_out(inputs.triples, case["layout"]),
        inputs.number(case["count"]),
        inputs.number(case["entities"]),
        **options,
        **made,
    )
    assert torch.equal(
        found, reference.sample_negatives(inputs.triples, case["count"], case["entities"], **options, **numbers)
    )


def negative_sampling_loss(case: Case, inputs: Inputs) -> None:
    batch, both = case["batch"], case["side"] == "both"
    lists = min(case["lists"] or batch, batch)
    negatives: Any = laid_out(
        inputs.ids(*((2,) if both else ()), lists, case["count"], count=case["entities"], lowest=-1), case["layout"]
    )
    if case["drawn"]:
        negatives = kgfast.NegativeSampler(
            case["count"], seed=case["seed"], step=3, known=inputs.known, shared=case["lists"]
        )
    options = dict(score=case["score"], side=case["side"], objective=case["objective"], known=inputs.known)
    options["reduction"] = case["reduction"]
    numbers = dict(margin=case["margin"], adversarial_temperature=case["temperature"])
    weights, triples = inputs.weights(batch), laid_out(inputs.triples, case["layout"])

    def call(function: Callable[..., Tensor], *tables: Tensor, **more: Any) -> Tensor:
        ours = "impl" in more
        given = {name: inputs.number(value) if ours else value for name, value in numbers.items()}
        fitting = weights if ours or weights is None else weights.to(tables[0].dtype)
        return with_own(function, options, {"sparse_grad": case["sparse"]})(
            *tables, triples, negatives, weights=fitting, **given, **more
        )

    compared(inputs, "negative_sampling_loss", [*inputs.tables], call)


def one_vs_all_loss(case: Case, inputs: Inputs) -> None:
    options = dict(
        score=case["score"],
        side=case["side"],
        objective=case["objective"],
        label_smoothing=case["smoothing"],
        known=inputs.known,
        reduction=case["reduction"],
    )
    triples = laid_out(inputs.triples, case["layout"])
    compared(inputs, "one_vs_all_loss", [*inputs.tables], lambda f, e, r, **more: f(e, r, triples, **options, **more))


def linear_cross_entropy(case: Case, inputs: Inputs) -> None:
    table, _ = inputs.tables
    targets = inputs.ids(case["batch"], count=len(table))
    if case["ignored"]:
        targets[::2] = -100
    leaves = [
        inputs.random(case["batch"], table.shape[1]),
        table,
        *([inputs.random(len(table))] if case["bias"] else []),
    ]
    options = dict(reduction=case["reduction"], label_smoothing=case["smoothing"])
    given = laid_out(targets, case["layout"])

    def call(
        function: Callable[..., Tensor], hidden: Tensor, weight: Tensor, bias: Tensor | None = None, **more: Any
    ) -> Tensor:
        return function(hidden, weight, given, bias=bias, **options, **more)

    compared(inputs, "linear_cross_entropy", leaves, call, None if case["default"] else "cpu")


def csr(lists: list[list[int]]) -> tuple[Tensor, Tensor]:
    offsets = torch.tensor([0, *(len(one) for one in lists)]).cumsum(0)
    return offsets, torch.tensor([one for row in lists for one in row], dtype=torch.int64)


def multitask_loss(case: Case, inputs: Inputs) -> None:
    table, _ = inputs.tables
    if case["similarity"] == "modulus" and table.shape[1] % 2:
        table = torch.cat([table, table], 1)
    batch, count = case["batch"], len(table)
    terms = []
    for _ in range(case["terms"]):
        targets: Any = inputs.ids(batch, count=count)
        if case["several"]:
            targets = csr(
                [[one, *inputs.ids(place % 3, count=count).tolist()] for place, one in enumerate(targets.tolist())]
            )
        elif case["ignored"]:
            targets[::2] = -100
        known = csr([inputs.ids(place % 4, count=count).tolist() for place in range(batch)]) if case["known"] else None
        candidates = inputs.ids(3, count=count) if case["candidates"] else None
        terms.append(
            dict(
                targets=targets,
                known=known,
                candidates=candidates,
                similarity=case["similarity"],
                objective=case["objective"],
            )
        )
    with_bias = case["bias"] and case["similarity"] == "dot"
    leaves = [
        table,
        *(inputs.random(batch, table.shape[1]) * table.shape[1] ** -0.25 for _ in terms),
        *([inputs.random(count)] if with_bias else []),
    ]

    def call(function: Callable[..., Any], table: Tensor, *others: Tensor, **more: Any) -> Tensor:
        bias = others[-1] if with_bias else None
        made = [
            kgfast.Term(query, table, bias=bias, weight=0.5, **term) for query, term in zip(others, terms, strict=False)
        ]
        return function(made, **more)[0]

    similarity = reference.scores.SIMILARITIES[case["similarity"]]
    queries = torch.cat(leaves[1 : 1 + len(terms)])
    scores = float(similarity(queries[:, None], table).abs().max()) if batch else 0
    compared(inputs, "multitask_loss", leaves, call, scores=scores)


def rank(case: Case, inputs: Inputs) -> None:
    options = dict(score=case["score"], side=case["side"], ties=case["ties"], known=inputs.known)
    whole = [
        table.mul(4).round().div(4) for table in inputs.tables
    ]  # ties, and sums without rounding where scores are dots
    tables = (
        whole
        if SCORES[case["score"]].similarity in ("dot", "l1") and not SCORES[case["score"]].phases
        else inputs.tables
    )
    found = kgfast.rank(
        *(laid_out(table, case["layout"]) for table in tables), laid_out(inputs.triples, case["layout"]), **options
    )
    wide = [table.double() for table in tables]
    scores = reference.score_candidates(*wide, inputs.triples, score=case["score"], side=case["side"])
    target = scores.gather(1, inputs.triples[:, 2 if case["side"] == "tail" else 0, None])
    doubt = (
        1e-11 if case["dtype"] == "float64" else 1e-3
    )  # rows so near to the target that rounding may order them otherwise
    near = ((scores - target).abs() < doubt * (1 + target.abs())).sum(1) - 1
    exact = reference.rank(*wide, inputs.triples, **options)
    assert found.shape == exact.shape and bool(((found - exact).abs() <= near).all()), f"{found} {exact} {near}"


def topk(case: Case, inputs: Inputs) -> None:
    options = dict(score=case["score"], side=case["side"], exclude=inputs.known)
    tables = [laid_out(table, case["layout"]) for table in inputs.tables]
    scores, ids = kgfast.topk(
        *tables, laid_out(inputs.triples, case["layout"]), inputs.number(case["count"]), **options
    )
    wide, eager = (
        reference.topk(*(table.to(dtype) for table in inputs.tables), inputs.triples, case["count"], **options)
        for dtype in (torch.float64, inputs.dtype)
    )
    held = wide[0].isfinite()
    assert torch.equal(scores.isfinite(), held) and torch.equal(ids >= 0, held)
    testing.assert_no_worse(scores.where(held, 0), eager[0].where(held, 0), wide[0].where(held, 0))
    assert all(len(set(row[row >= 0].tolist())) == int((row >= 0).sum()) for row in ids), "an id stands twice"
    exact = [table.double() for table in inputs.tables]
    every = reference.score_candidates(*exact, inputs.triples, score=case["score"], side=case["side"])
    if every.numel():
        own, near = every.gather(1, ids.clamp(min=0)), max(1e-3, torch.finfo(inputs.dtype).eps)
        torch.testing.assert_close(own.where(held, 0), scores.double().where(held, 0), rtol=near, atol=near)


def row_optimizer(case: Case, inputs: Inputs) -> None:
    table, _ = inputs.tables
    ids = inputs.ids(case["batch"], count=len(table))
    rows = inputs.random(len(ids), table.shape[1])
    dense = torch.zeros_like(table).index_add(0, ids, rows)
    touched = ids.unique() if case["sparse"] else torch.arange(len(table))
    settings = {"sgd": {}, "adam": {"betas": (0.9, 0.99), "eps": 1e-3}}.get(case["rule"], {"eps": 1e-3})
    param = torch.nn.Parameter(table.clone())
    optimizer = optim.RowOptimizer([param], case["rule"], lr=inputs.number(0.1), **settings)
    optimizer.ensure_state()
    for name, state in zip(RULES[case["rule"]].states, states_of(case["rule"], table), strict=True):
        optimizer.state[param][name].copy_(state)
    optimizer.state[param]["step"].fill_(2)  # the third comes
    param.grad = (
        torch.sparse_coo_tensor(ids[None], rows, table.shape, check_invariants=True)
        if case["sparse"]
        else laid_out(dense, case["layout"])
    )
    optimizer.step()
    found = [param.detach(), *(optimizer.state[param][name] for name in RULES[case["rule"]].states)]
    truth, eager = (
        specified_update(
            case["rule"],
            table.to(kind),
            torch.zeros_like(table, dtype=kind).index_add(0, ids, rows.to(kind)),
            touched,
            states_of(case["rule"], table.to(kind)),
        )
        for kind in (torch.float64, inputs.dtype)
    )
    for mine, same, wide in zip(found, eager, truth, strict=True):
        testing.assert_no_worse(mine, same, wide)


# ---- training steps: the gradient is what plain SGD adds ------------------------------------------------------


def trained(case: Case, inputs: Inputs, make: Callable[..., Any], loss: Callable[..., Tensor]) -> None:
    """A step of SGD is held to the specification's loss and gradient; loss(model, triples, side): of one side."""
    score, dim = case["score"], inputs.tables[0].shape[1]
    model = nn.KGEModel(
        case["entities"],
        case["relations"],
        dim,
        score=score,
        reciprocal=case["reciprocal"],
        seed=case["seed"],
        dtype=inputs.dtype,
    )
    before = {
        kind: [p.detach().to(kind, copy=True).requires_grad_() for p in (model.entities, model.relations)]
        for kind in (torch.float64, inputs.dtype)
    }
    value = make(model, optim.RowSGD(model.parameters(), lr=0.5))(
        laid_out(inputs.triples, case["layout"]), inputs.number(4)
    )
    sides = SIDES if case["side"] == "both" else (case["side"],)
    results = {}
    for kind, tables in before.items():
        whole = torch.stack([loss(model, tables, side) for side in sides]).mean()
        gradients = torch.autograd.grad(whole, tables, materialize_grads=True, allow_unused=True)
        results[kind] = [
            whole.detach(),
            *(table.detach() - 0.5 * g for table, g in zip(tables, gradients, strict=True)),
        ]
    found = [value, model.entities.detach(), model.relations.detach()]
    for mine, same, wide in zip(found, results[inputs.dtype], results[torch.float64], strict=True):
        testing.assert_no_worse(mine, same, wide)


def as_asked(model: nn.KGEModel, triples: Tensor, side: str) -> tuple[Tensor, str]:
    """What a model asks for a side: a reciprocal one asks for heads as tails."""
    if not model.reciprocal or side == "tail":
        return triples, side
    return torch.stack([triples[:, 2], triples[:, 1] + model.num_relations, triples[:, 0]], 1), "tail"


def sampled_step(case: Case, inputs: Inputs) -> None:
    lists = {"none": 0, "chunk": 3, "batch": max(case["batch"], 1)}[case["sharing"]]
    weights, triples = inputs.weights(case["batch"]), inputs.triples
    seed, known = case["seed"], inputs.known
    draws = {
        side: kgfast.sample_negatives(
            triples, case["count"], case["entities"], side=side, seed=seed, step=4, shared=lists, impl="reference"
        )
        for side in SIDES
    }

    def make(model: nn.KGEModel, optimizer: optim.RowOptimizer) -> Callable[..., Tensor]:
        step = steps.NegativeSamplingStep(
            model,
            optimizer,
            negatives=case["count"],
            sharing=case["sharing"],
            chunk=3,
            objective=case["objective"],
            margin=1.0,
            adversarial_temperature=case["temperature"],
            side=case["side"],
            seed=seed,
            known=known,
            filter="none" if known is None else "mask",
        )
        return lambda triples, index: step(triples, index, weights)

    def loss(model: nn.KGEModel, tables: list[Tensor], side: str) -> Tensor:
        asked, of = as_asked(model, triples, side)
        # which draws a reciprocal model takes: its second side draws as the head side does
        ids = draws["head" if side == "head" and (case["side"] == "both" or not model.reciprocal) else "tail"]
        own = None if known is None else (known.reciprocal() if model.reciprocal else known)
        fitting = None if weights is None else weights.to(tables[0].dtype)
        return reference.negative_sampling_loss(
            *tables,
            asked,
            ids,
            score=case["score"],
            side=of,
            objective=case["objective"],
            margin=1.0,
            adversarial_temperature=case["temperature"],
            weights=fitting,
            known=own,
        )

    trained(case, inputs, make, loss)


def step_over_all(case: Case, inputs: Inputs) -> None:
    known = inputs.known
    options = dict(objective=case["objective"], label_smoothing=case["smoothing"])

    def make(model: nn.KGEModel, optimizer: optim.RowOptimizer) -> Callable[..., Tensor]:
        return steps.OneVsAllStep(model, optimizer, side=case["side"], answers=known, **options)

    def loss(model: nn.KGEModel, tables: list[Tensor], side: str) -> Tensor:
        asked, of = as_asked(model, inputs.triples, side)
        own = None if known is None else (known.reciprocal() if model.reciprocal else known)
        return reference.one_vs_all_loss(*tables, asked, score=case["score"], side=of, known=own, **options)

    trained(case, inputs, make, loss)


def check(case: Case) -> None:
    """Makes a case's call; raises where it is not what the specification says."""
    threads, level = torch.get_num_threads(), kgfast.cpu_level()
    torch.set_num_threads(case["threads"])
    kgfast.set_cpu_level(case["level"])
    try:
        globals()[case["op"]](case, Inputs(case))
    finally:
        torch.set_num_threads(threads)
        kgfast.set_cpu_level(level)
