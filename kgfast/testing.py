"""Helpers for tests and benchmarks: comparison with the specification, inputs that hurt, NaN in fresh memory."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import kgfast
from kgfast import reference
from kgfast.core.known import KnownTriples
from kgfast.reference import SCORES

# Lane boundaries of every vector width; a score of two halves takes the next even number.
DIMS = (1, 15, 16, 17, 33, 257)
NEGATIVES = (1, 2, 5, 64)
BATCHES = (0, 1, 7)
NUM_ENTITIES, NUM_RELATIONS = 37, 5


def assert_no_worse(
    ours: Tensor,
    same_dtype_torch: Tensor,
    truth_float64: Tensor,
    factor: float = 2.0,
    floor: float | None = None,
) -> None:
    """max |ours - truth| <= factor * max |torch - truth| + floor: no worse than eager PyTorch in that dtype.

    truth_float64 is the specification in float64. floor, as torch may be lucky: 16 eps (1 + max
    |truth|) for sums of terms of order 1 that may cancel; 64 eps in float64, where the truth is rounded as
    well. A failure prints the worst index and the three values there. Shapes and dtypes must agree, NaN
    fails.
    """
    assert ours.shape == truth_float64.shape, f"shape {tuple(ours.shape)}, expected {tuple(truth_float64.shape)}"
    assert ours.dtype == same_dtype_torch.dtype, f"dtype {ours.dtype}, expected {same_dtype_torch.dtype}"
    if ours.numel() == 0:
        return
    ours, eager = ours.detach().double(), same_dtype_torch.detach().double()
    truth = truth_float64.detach()
    if floor is None:
        roundings = 64 if same_dtype_torch.dtype == torch.float64 else 16
        floor = roundings * torch.finfo(same_dtype_torch.dtype).eps * (1 + float(truth.abs().max()))
    errors = (ours - truth).abs().nan_to_num(nan=torch.inf)
    bound = factor * float((eager - truth).abs().max()) + floor
    if float(errors.max()) > bound:
        worst = tuple(int(i) for i in torch.unravel_index(errors.argmax(), errors.shape))
        raise AssertionError(
            f"error {float(errors.max()):.3e} > {bound:.3e} at {list(worst)}: ours {float(ours[worst])!r}, "
            f"torch {float(eager[worst])!r}, truth {float(truth[worst])!r}; "
            f"{int((errors > bound).sum())} of {errors.numel()} are beyond"
        )


def evaluate(function: Callable[..., Tensor], leaves: Sequence[Tensor]) -> list[Tensor]:
    """[value, gradient of each leaf], dense; a value that is no scalar is probed with fixed random weights."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    value = function(*leaves)
    probe = torch.rand(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value.backward(probe.to(value) if value.dim() else None)
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return [value.detach(), *(grad.to_dense() if grad.is_sparse else grad for grad in gradients)]


def compare(op: str, leaves: Sequence[Tensor], call: Callable[..., Tensor], impl: str) -> None:
    """Value and gradients of a public op by the backend `impl`, no worse than the specification's in the same dtype.

    call(function, *leaves, **options): calls the specification's function, or kgfast's with impl=`impl`.
    """
    specified, ours = getattr(reference, op), getattr(kgfast, op)
    truth = evaluate(lambda *wide: call(specified, *wide), [leaf.double() for leaf in leaves])
    eager = evaluate(lambda *same: call(specified, *same), leaves)
    found = evaluate(lambda *same: call(ours, *same, impl=impl), leaves)
    for mine, same, wide in zip(found, eager, truth, strict=True):
        assert_no_worse(mine, same, wide)


@dataclass(frozen=True)
class Case:
    """Inputs of a loss: tables, triples [B, 3], negatives [B, N] ([2, B, N] for side="both"), weights [B]."""

    entities: Tensor
    relations: Tensor
    triples: Tensor
    negatives: Tensor
    weights: Tensor

    def on(self, device: str | torch.device) -> Case:
        """The same on a device."""
        tensors = self.entities, self.relations, self.triples, self.negatives, self.weights
        return Case(*(tensor.to(device) for tensor in tensors))


def usable_dim(score: str, dim: int) -> int:
    """dim, or dim + 1 where the score needs an even one."""
    return dim + dim % 2 if SCORES[score].even_dim else dim


def make_tables(
    score: str,
    dim: int,
    *,
    num_entities: int = NUM_ENTITIES,
    num_relations: int = NUM_RELATIONS,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Normal tables, scaled so that scores are of order 1; float64 ones hold float32 numbers."""
    generator = torch.Generator().manual_seed(seed)
    entities = torch.randn(num_entities, dim, generator=generator) * dim**-0.25
    width = SCORES[score].relation_width(dim)
    relations = torch.randn(num_relations, width, generator=generator) * (1.0 if SCORES[score].phases else dim**-0.25)
    return entities.to(dtype), relations.to(dtype)


def make_triples(
    batch: int, *, num_entities: int = NUM_ENTITIES, num_relations: int = NUM_RELATIONS, seed: int = 0
) -> Tensor:
    """int64 [batch, 3]: a loop at the last rows, first and last row, a duplicate, random ones."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([num_entities, num_relations, num_entities])
    triples = (torch.rand(batch, 3, generator=generator) * sizes).long()
    special = torch.stack([sizes - 1, sizes - 1, torch.tensor([3, 0, 4])])
    special[1, 0] = 0
    triples[: len(special)] = special[:batch]
    if batch > 4:
        triples[4] = triples[0]  # a duplicate in the batch
    return triples


def make_negatives(batch: int, num_negatives: int, *, num_entities: int = NUM_ENTITIES, seed: int = 0) -> Tensor:
    """int64 [batch, num_negatives]: random, with repeats, the last row and, where it fits, a -1."""
    generator = torch.Generator().manual_seed(seed + 1)
    ids = torch.randint(num_entities, (batch, num_negatives), generator=generator)
    if batch and num_negatives > 2:
        ids[0, 0], ids[-1, 1], ids[-1, 2] = num_entities - 1, ids[-1, 0], -1
    return ids


def make_case(
    score: str,
    dim: int,
    batch: int,
    num_negatives: int,
    *,
    side: str = "tail",
    seed: int = 0,
    num_entities: int = NUM_ENTITIES,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """A whole case; from 4 triples on, one negative is the target itself."""
    sizes = dict(num_entities=num_entities, seed=seed)
    entities, relations = make_tables(score, usable_dim(score, dim), dtype=dtype, **sizes)
    triples = make_triples(batch, **sizes)
    negatives = make_negatives(batch, num_negatives, **sizes)
    if batch > 3 and num_negatives > 1:
        negatives[3, 1] = triples[3, 0 if side == "head" else 2]
    if side == "both":
        negatives = torch.stack([negatives, (negatives.clamp(min=0) + 1) % num_entities])
    weights = torch.rand(batch, generator=torch.Generator().manual_seed(seed)).to(dtype) + 0.5
    return Case(entities, relations, triples, negatives, weights)


def make_known_triples(
    triples: Tensor,
    count: int = 120,
    *,
    num_entities: int = NUM_ENTITIES,
    num_relations: int = NUM_RELATIONS,
    seed: int = 0,
) -> Tensor:
    """int64 [count + B, 3]: `triples`, and others of which half share a query with one of them."""
    random = make_triples(count, num_entities=num_entities, num_relations=num_relations, seed=seed + 2)
    if len(triples):
        half, rows = count // 2, torch.arange(count // 2) % len(triples)
        columns = torch.where(torch.arange(half) % 2 == 0, 0, 2)
        shared = triples[rows].clone()
        shared[torch.arange(half), columns] = random[:half][torch.arange(half), columns]
        random[:half] = shared
    return torch.cat([triples, random])


def make_known(triples: Tensor, **sizes: int) -> KnownTriples:
    """KnownTriples of `make_known_triples`."""
    rows = make_known_triples(triples, **sizes)
    counts = sizes.get("num_entities", NUM_ENTITIES), sizes.get("num_relations", NUM_RELATIONS)
    return KnownTriples.from_triples(rows, *counts)


def pairwise(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    """Few combinations in which every pair of values of two axes occurs: a greedy all-pairs cover."""
    names = list(axes)
    if len(names) < 2:
        return [{name: value} for name in names for value in axes[name]] or [{}]
    positions = {name: range(len(values)) for name, values in axes.items()}
    missing = {
        ((a, i), (b, j)) for a, b in itertools.combinations(names, 2) for i in positions[a] for j in positions[b]
    }

    def gained(chosen: dict[str, int]) -> list:
        return [pair for pair in missing if all(chosen.get(name) == i for name, i in pair)]

    rows = []
    while missing:
        chosen = dict(min(missing))
        for name in names:
            if name not in chosen:
                chosen[name] = max(positions[name], key=lambda i: len(gained({**chosen, name: i})))
        missing.difference_update(gained(chosen))
        rows.append({name: axes[name][chosen[name]] for name in names})
    return rows


POISON_INTEGER = -(2**62)  # as an id or an offset it is out of every range


def poisoned(empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`empty` (torch.empty and its like), whose result is NaN or a huge id when a kgfast module calls it."""

    @functools.wraps(empty)
    def allocate(*args: Any, **kwargs: Any) -> Tensor:
        result = empty(*args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if (caller == "kgfast" or caller.startswith("kgfast.")) and type(result) is Tensor:
            if result.is_floating_point():
                result.detach().fill_(torch.nan)
            elif result.dtype in (torch.int32, torch.int64):
                result.fill_(POISON_INTEGER if result.dtype == torch.int64 else -(2**30))
        return result

    return allocate


@contextmanager
def poison_empty() -> Iterator[None]:
    """Inside, memory that kgfast allocates without initialising holds NaN: a read before a write shows."""
    places = [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (torch.Tensor, "new_empty")]
    originals = [getattr(owner, name) for owner, name in places]
    for (owner, name), original in zip(places, originals, strict=True):
        setattr(owner, name, poisoned(original))
    try:
        yield
    finally:
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, original)
