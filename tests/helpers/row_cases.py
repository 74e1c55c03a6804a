"""The pass over touched rows, by its specification and by a backend."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import torch
from torch import Tensor

from kgfast import reference, testing
from kgfast.registry import RULES as OPTIMIZER_RULES
from kgfast.registry import Similarity, Update

RULES = tuple(rule.word for rule in Update if rule is not Update.SPARSE)  # sparse: what `table_gradient_rows` makes
OPTIMIZERS = tuple(OPTIMIZER_RULES)
CONSTANTS = dict(lr=0.1, eps=1e-3, beta1=0.9, beta2=0.99, step=3)


class RowCase(NamedTuple):
    """Queries [B, D], a table, ids [B, K] of pairs with g = dL/dscore [B, K], and extra rows."""

    query: Tensor
    table: Tensor
    ids: Tensor
    g: Tensor
    extras: list[tuple[Tensor, Tensor]]

    def to(self, dtype: torch.dtype) -> RowCase:
        """The same numbers in another dtype."""
        extras = [(ids, rows.to(dtype)) for ids, rows in self.extras]
        return RowCase(self.query.to(dtype), self.table.to(dtype), self.ids, self.g.to(dtype), extras)

    def on(self, device) -> RowCase:
        extras = [(ids.to(device), rows.to(device)) for ids, rows in self.extras]
        return RowCase(*(one.to(device) for one in self[:4]), extras)


def make_rows(dim: int, small: bool = False, dtype=torch.float32, entities: int = 37) -> RowCase:
    """One id has so many entries that it fills several spans of a row pass; the last row occurs, most rows repeat."""
    generator = torch.Generator().manual_seed(dim)
    batch, width, extra = (9, 7, 4) if small else (40, 9, 33)
    query, table = (torch.randn(rows, dim, generator=generator) * dim**-0.25 for rows in (batch, entities))
    ids = torch.randint(entities, (batch, width), generator=generator)
    ids[batch // 8 : -batch // 4], ids[0, 0] = 3, entities - 1
    extras = [
        (torch.randint(entities, (rows,), generator=generator), torch.randn(rows, dim, generator=generator))
        for rows in (extra, 1)
    ]
    return RowCase(query, table, ids, torch.randn(ids.shape, generator=generator), extras).to(dtype)


def states_of(rule: str, table: Tensor) -> list[Tensor]:
    """Positive state of an optimizer, as its first steps leave it."""
    states = OPTIMIZER_RULES[rule].states if rule in OPTIMIZER_RULES else {}
    generator = torch.Generator().manual_seed(0)
    shapes = [table.shape[:1] if one_a_row else table.shape for one_a_row in states.values()]
    return [(torch.rand(shape, generator=generator) + 0.1).to(table) for shape in shapes]


def table_gradient(case: RowCase, similarity: Similarity) -> Tensor:
    """d/dtable of sum(g * scores of the pairs), and the extra rows."""
    table = case.table.detach().clone().requires_grad_()
    scores = reference.SIMILARITIES[similarity.word](case.query[:, None], table[case.ids])
    (scores * case.g).sum().backward()
    gradient = table.grad
    for ids, rows in case.extras:
        gradient = gradient.index_add(0, ids, rows)
    return gradient


def specified_update(name: str, table: Tensor, gradient: Tensor, touched: Tensor, states: list[Tensor]) -> list[Tensor]:
    """[table, its states] after the rule was applied to the rows `touched`; dense: the gradient alone."""
    if name == "dense":
        return [gradient]
    rule, rows, states = OPTIMIZER_RULES[name], table.clone(), [state.clone() for state in states]
    betas = CONSTANTS["beta1"], CONSTANTS["beta2"]
    known = dict(lr=CONSTANTS["lr"], eps=CONSTANTS["eps"], betas=betas, step=CONSTANTS["step"])
    taken = inspect.signature(rule.formula).parameters
    options = {option: value for option, value in known.items() if option in taken}
    held = [state[touched] for state in states]
    state = tuple(held) if len(held) > 1 else held[0] if held else None
    rows[touched], state = rule.formula(rows[touched], gradient[touched], state, **options)
    for whole, part in zip(states, state if len(held) > 1 else [state], strict=False):
        whole[touched] = part
    return [rows, *states]


def specified_pass(rule: str, case: RowCase, similarity: Similarity) -> list[Tensor]:
    """What `updated_rows` must give, in the dtype of the case."""
    touched = torch.cat([case.ids.flatten(), *(ids for ids, _ in case.extras)]).unique()
    gradient = table_gradient(case, similarity)
    return specified_update(rule, case.table, gradient, touched, states_of(rule, case.table))


def updated_rows(backend, rule: str, case: RowCase, similarity: Similarity) -> list[Tensor]:
    """[table, its states] after a backend's row pass over pairs that it scored itself, if there are any."""
    query, table, ids, g, extras = case
    coefficients = g
    if ids.numel():
        scores = backend.pair_scores(query, table, ids, similarity)
        coefficients, _ = backend.pair_query_gradient(g, scores, query, table, ids, similarity)
    target = torch.zeros_like(table) if rule == "dense" else table.clone()
    source = table if rule == "dense" else target  # an optimizer changes the table that distances read
    states = states_of(rule, table)
    update = backend.row_update(Update.of(rule, "rule"), target, tuple(states), **CONSTANTS)
    backend.reduce_rows(query, source, ids, coefficients, extras, similarity, update)
    return [target, *states]


def check_rows(backend, rule: str, case: RowCase, similarity: Similarity, device="cpu") -> None:
    """A row pass is no worse than the specification in the same dtype."""
    found = updated_rows(backend, rule, case.on(device), similarity)
    eager, truth = specified_pass(rule, case, similarity), specified_pass(rule, case.to(torch.float64), similarity)
    for mine, same, wide in zip(found, eager, truth, strict=True):
        testing.assert_no_worse(mine.cpu(), same, wide)


def check_all_rows(backend, rule: str, shape: tuple[int, int], dtype=torch.float32, device="cpu") -> None:
    """`update_all_rows` of a table of that shape, held to the specification."""
    generator = torch.Generator().manual_seed(0)
    table, gradient = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    target, states = table.to(device, copy=True), states_of(rule, table.to(device))
    start = torch.zeros_like(target) if rule == "dense" else target
    update = backend.row_update(Update.of(rule, "rule"), start, tuple(states), **CONSTANTS)
    backend.update_all_rows(gradient.to(device), update)
    every = torch.arange(len(table))
    eager, truth = (
        specified_update(rule, table.to(kind), gradient.to(kind), every, states_of(rule, table.to(kind)))
        for kind in (dtype, torch.float64)
    )
    for mine, same, wide in zip([start, *states], eager, truth, strict=True):
        testing.assert_no_worse(mine.cpu(), same, wide)
