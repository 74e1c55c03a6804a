"""The registry: what each op is timed on, what work that is by count, and what it is held to before it is timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from benchmarks.cost import Cost
from benchmarks.inputs import Inputs, Size
from kgfast.testing import assert_no_worse

ALL_SCORES = ("transe_l1", "transe_l2", "distmult", "complex", "rotate")
LIBRARY_SCORES = ("transe_l1", "transe_l2", "distmult", "complex")  # torch has a kernel for their similarity to all


@dataclass
class Work:
    """A case made ready: `providers` are functions without arguments, `check` raises where kgfast is wrong."""

    providers: dict[str, Callable]
    check: Callable[[], None]
    cost: Cost
    units: int
    unit: str = "triples"


@dataclass(frozen=True)
class Case:
    op: str
    score: str = ""
    variant: str = ""
    changes: tuple[tuple[str, int], ...] = ()  # to the size

    def __str__(self) -> str:
        parts = [self.op, self.variant, self.score, *(f"{name}={value}" for name, value in self.changes)]
        return "/".join(part for part in parts if part)

    def smaller(self, entities: int) -> Case:
        """The same case, with no more than `entities` of them."""
        changes = dict(self.changes)
        if changes.get("entities", 0) <= entities:
            return self
        return Case(self.op, self.score, self.variant, tuple({**changes, "entities": entities}.items()))

    def build(self, size: Size) -> Work:
        return MAKERS[self.op](Inputs(size.with_(**dict(self.changes)), self.score or "distmult"), self.variant)


@dataclass
class Registry:
    makers: dict[str, Callable] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)

    def __call__(self, op: str, scores=("",), variants=("",)):
        def keep(maker):
            self.makers[op] = maker
            self.cases += [Case(op, score, variant) for variant, score in itertools.product(variants, scores)]
            return maker

        return keep


register = Registry()
MAKERS, CASES = register.makers, register.cases


def of(*ops: str) -> list[Case]:
    return [case for case in CASES if case.op in ops]


def find(name: str) -> Case:
    """The case of a name as `str(case)` gives it, sizes included."""
    path, _, _ = name.partition("=")
    base = path.rpartition("/")[0] if "=" in name else name
    tail = name[len(base) + 1 :] if "=" in name else ""
    changes = tuple((part.split("=")[0], int(part.split("=")[1])) for part in tail.split("/") if part)
    for case in CASES:
        if str(case) == base:
            return Case(case.op, case.score, case.variant, changes)
    raise ValueError(f"no case {base!r}; there are {', '.join(map(str, CASES))}")


def hold(ours, compute) -> None:
    """Each of our tensors is no worse than the reference in its own dtype; `compute(dtype)` is the reference."""
    for mine, single, truth in zip(ours, compute(torch.float32), compute(torch.float64), strict=True):
        assert_no_worse(mine, single, truth)


def with_gradients(loss, tables) -> list:
    """[loss, gradients], sparse ones made dense."""
    found = torch.autograd.grad(loss, tables)
    return [loss.detach(), *(one.to_dense() if one.is_sparse else one for one in found)]


def distinct(*ids) -> int:
    return len(torch.unique(torch.cat([one.flatten() for one in ids])))
