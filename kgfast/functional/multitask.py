"""The multitask loss: one list of (query, table, targets, weight) for every task of a step.

`L = sum_i weights_i * term_i.weight * loss_i`; no task's logits are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kgfast import backends
from kgfast.core import checks
from kgfast.core.checks import Table
from kgfast.core.csr import places_among
from kgfast.core.sums import sum_dtype
from kgfast.errors import KgfastError
from kgfast.functional.answers import no_answers, single_answers
from kgfast.functional.candidates import bias_of, candidate_objective
from kgfast.ops import autograd
from kgfast.reference.multitask import term_loss as reference_loss
from kgfast.registry import Memory, Similarity


@dataclass(frozen=True)
class Term:
    """One task: which row of `table` answers each `query`?

    Args:
        query: [B, D], of the table's dtype and device.
        table: [C, D], a tensor or an nn.Embedding.
        targets: ids [B], int64 or int32; or CSR (offsets [B + 1], ids) for several answers, of which softmax takes the
            mean log-likelihood.
        weight: what the task's loss is multiplied with.
        bias: [C], added to dot products; None: none.
        ignore_index: the target that marks a row to skip.
        known: CSR (offsets [B + 1], ids) of rows that are right, but not the answer asked for: they don't compete.
        candidates: ids [K] of the rows that compete, beside a row's own answers; None: all do.
        similarity: how queries are compared with rows: "dot", "l1", "l2" or "modulus".
        objective: "softmax" or "bce".
        name: for whoever tells of it.
    """

    query: Tensor
    table: Table
    targets: Tensor | tuple[Tensor, Tensor]
    weight: float = 1.0
    bias: Tensor | None = None
    ignore_index: int = -100
    known: tuple[Tensor, Tensor] | None = None
    candidates: Tensor | None = None
    similarity: str = "dot"
    objective: str = "softmax"
    name: str | None = None


FIELDS = tuple(field.name for field in fields(Term))  # torch 2.6 compiles no dataclasses.replace


@dataclass(frozen=True)
class LossTerm:
    """A task whose losses are ready. Gradients flow through them.

    Args:
        losses: a number an example [n], whose mean counts, or a scalar.
        weight: what the task's loss is multiplied with.
        name: for whoever tells of it.
    """

    losses: Tensor
    weight: float = 1.0
    name: str | None = None


def multitask_loss(
    terms: Sequence[Term | LossTerm],
    weights: Sequence[float] | Tensor | None = None,
    *,
    memory: str = "fast",
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """sum_i weights_i * term_i.weight * loss_i, loss_i the mean of term i over its rows with an answer.

    A term without any answer counts 0. Memory: 20 MB of scores at most, and the gradients of queries and tables.

    Args:
        terms: the tasks, `Term` or, where their losses are ready, `LossTerm`.
        weights: T numbers, or a tensor [T] through which gradients flow; None: all 1.
        memory: what dot products keep on a GPU: "fast" chunks of one task's scores at a time, as in
            `linear_cross_entropy`; "low" 64 MB for all tasks, which then share launches.
        impl: the backend, "cpu", "triton", "cuda" or "reference"; None: that of the queries' device.

    Returns:
        (the sum, [loss_1 .. loss_T]).
    """
    kept = Memory.of(memory, "memory")
    terms = listed_terms(terms)
    asked = {place: checked(term, place) for place, term in enumerate(terms) if isinstance(term, Term)}
    losses = {place: ready_loss(term, place) for place, term in enumerate(terms) if isinstance(term, LossTerm)}
    own_weights = [checks.finite(f"terms[{place}].weight", term.weight) for place, term in enumerate(terms)]
    if asked:
        backend = backends.choose(impl, next(iter(asked.values())).query.device)
        found = term_losses(asked, backend, kept)
        losses.update(zip(asked, found, strict=True))  # |= breaks a compiled graph of torch 2.6
    per_task = torch.stack([losses[place] for place in range(len(terms))])
    weighted = per_task.new_tensor(own_weights) * per_task
    return (weighted if weights is None else outer_weights(weights, per_task) * weighted).sum(), per_task


def listed_terms(terms: Any) -> list[Term | LossTerm]:
    """The terms as a list."""
    if not isinstance(terms, Iterable) or isinstance(terms, (str, Tensor)):
        raise KgfastError(f"terms must be a list of kgfast.Term and kgfast.LossTerm, not {type(terms).__name__}")
    terms = list(terms)
    if not terms:
        raise KgfastError("terms: an empty list has no loss")
    for place, term in enumerate(terms):
        if not isinstance(term, (Term, LossTerm)):
            raise KgfastError(f"terms[{place}] must be a kgfast.Term or a kgfast.LossTerm, not {type(term).__name__}")
    return terms


def checked(term: Term, place: int) -> Term:
    """The term with tensors for its query and table, and ids of int64; its words are right."""
    Similarity.of(term.similarity, f"terms[{place}].similarity")
    candidate_objective(f"terms[{place}].objective", term.objective)
    if term.bias is not None and term.similarity != "dot":
        raise KgfastError(f"terms[{place}].bias: only dot products take one, not {term.similarity!r}")
    found: dict[str, Any] = {name: as_int64(getattr(term, name)) for name in ("targets", "known", "candidates")}
    query, table = (checks.table(f"terms[{place}].{name}", getattr(term, name)) for name in ("query", "table"))
    if query.shape[1] != table.shape[1] or query.dtype != table.dtype:
        shapes = f"query {list(query.shape)} {query.dtype} and table {list(table.shape)} {table.dtype}"
        raise KgfastError(f"terms[{place}]: {shapes} don't fit")
    return with_fields(term, query=query, table=table, **found)


def with_fields(term: Term, **changed: Any) -> Term:
    """The term with other fields; itself where they are its own, as a new one takes as long as a small loss."""
    same = all(value is getattr(term, name) for name, value in changed.items())
    return term if same else Term(**{name: changed.get(name, getattr(term, name)) for name in FIELDS})


def as_int64(ids: Any) -> Any:
    """Ids of int32, alone or in a CSR, as int64; all else as it is."""
    if isinstance(ids, (tuple, list)):
        found = tuple(as_int64(one) for one in ids)
        return ids if all(one is other for one, other in zip(found, ids, strict=True)) else found
    return ids.long() if isinstance(ids, Tensor) and ids.dtype == torch.int32 else ids


def outer_weights(weights: Any, per_task: Tensor) -> Tensor:
    """The weights of the terms, [T]."""
    count = len(per_task)
    if isinstance(weights, Tensor):
        return checks.real("weights", weights, (count,)).to(per_task.device, per_task.dtype)
    if not isinstance(weights, (list, tuple, np.ndarray)) or len(weights) != count:
        found = f"{len(weights)} of them" if isinstance(weights, Sized) else type(weights).__name__
        raise KgfastError(f"weights: {found} for {count} terms; a list or a tensor of {count} numbers is needed")
    return per_task.new_tensor([checks.finite(f"weights[{place}]", one) for place, one in enumerate(weights)])


def ready_loss(term: LossTerm, place: int) -> Tensor:
    """The mean of the losses of a term that brings them; 0 where there are none."""
    losses = checks.tensor(f"terms[{place}].losses", term.losses)
    if losses.dim() > 1 or losses.dtype not in checks.FLOATS:
        raise KgfastError(
            f"terms[{place}].losses is {list(losses.shape)} {losses.dtype}; a number an example is needed"
        )
    return losses.sum() / max(losses.numel(), 1)


def term_losses(asked: Mapping[int, Term], backend: str, memory: Memory) -> list[Tensor]:
    """Mean loss of each term, given by its place, over its rows with an answer; where the backend can and memory is to
    be low, terms share its launches."""
    terms = [read_by(backend, term) for term in asked.values()]
    ready = [prepare(term, f"terms[{place}]") for place, term in zip(asked, terms, strict=True)]
    dtypes = [term.query.dtype for term in asked.values()]
    if backend == "reference":  # which reads the same things its own way
        return [autograd.as_dtype(reference_loss(one), dtype) for one, dtype in zip(terms, dtypes, strict=True)]
    losses: dict[int, Tensor] = {}
    alike = [
        place
        for place, (term, (query, table, *_)) in enumerate(zip(terms, ready, strict=True))
        if term.similarity == "dot" and query.dtype == ready[0][0].dtype and len(table)
    ]
    # torch.compile and torch.func see op by op
    apart = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    together = memory is Memory.LOW and backends.get(backend).shares_launches
    if len(alike) > 1 and not apart and together:
        tensors = [one for place in alike for one in ready[place]]
        objectives = [int(candidate_objective("objective", terms[place].objective)) for place in alike]
        losses |= dict(zip(alike, autograd.apply(TaskLosses, backend, objectives, *tensors), strict=True))
    for place, (term, own) in enumerate(zip(terms, ready, strict=True)):
        if place not in losses:
            losses[place] = term_loss(term, own, backend, memory)
    return [autograd.as_dtype(losses[place], dtype) for place, dtype in enumerate(dtypes)]


def read_by(backend: str, term: Term) -> Term:
    """The term with its tables as a backend reads them."""
    query, table = autograd.as_read(backend, term.query, checks.table("table", term.table))
    return with_fields(term, query=query, table=table)


def term_loss(term: Term, tensors: Sequence[Tensor], backend: str, memory: Memory) -> Tensor:
    query, table, bias, *lists = tensors
    if len(table) == 0:  # no candidate and no answer
        return (query.sum() + table.sum() + bias.sum()) * 0
    similarity = Similarity.of(term.similarity, "similarity")
    options = (int(similarity), int(candidate_objective("objective", term.objective)), 0.0, int(memory))
    gradient = autograd.wants_gradient(query, table, bias)
    return autograd.apply(autograd.CandidateLoss, query, table, bias, options, gradient, backend, *lists)[0]


TENSORS = 10  # of a term, as `prepare` makes them


class TaskLosses(torch.autograd.Function):
    """The tensors of every task -> losses [T]; dL/dloss stays on the device."""

    @staticmethod
    def forward(ctx: Any, backend: str, objectives: list[int], *tensors: Tensor) -> Tensor:
        tasks: list[tuple[Any, ...]] = []
        for place, objective in enumerate(objectives):
            *task, starts, ends, known = tensors[TENSORS * place : TENSORS * (place + 1)]
            tasks.append((*task, objective, 0.0, (starts, ends, known) if starts.numel() else None))
        losses, ctx.group = backends.get(backend).task_losses(tasks)
        ctx.backend = backend
        ctx.save_for_backward(*tensors)  # the group holds them too; this notices where one was changed since
        return autograd.as_dtype(losses, tensors[0].dtype)

    @staticmethod
    @autograd.first_order_only
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        ctx.saved_tensors  # noqa: B018  raises where a tensor was changed in place
        gradients = backends.get(ctx.backend).task_gradients(ctx.group, g)
        return None, None, *(one for found in gradients for one in (*found, *[None] * (TENSORS - 3)))


def prepare(term: Term, place: str) -> tuple[Tensor, ...]:
    """(query, table, bias, CSR of answers, share, CSR of known rows) as the kernels take them."""
    if term.candidates is not None:
        return prepare(among(term, place), place)
    table = checks.table(f"{place}.table", term.table)
    query = checks.table(f"{place}.query", term.query)
    ignored = checks.integer(f"{place}.ignore_index", term.ignore_index, -(2**63), 2**63)
    if isinstance(term.targets, Tensor):
        targets = checks.ids(f"{place}.targets", term.targets, 1, table)
        (starts, ends, answers), share = single_answers(targets, ignored, table)
        if not len(table):  # which no kernel sees, so that none checks them
            checks.id_range(f"{place}.targets", targets[targets != ignored], 0)
    else:
        offsets, answers = csr_of(f"{place}.targets", term.targets, table)
        starts, ends, answers = sorted_answers(offsets, answers, len(table), place)
        counted = (ends > starts).to(sum_dtype(table.dtype))
        share = counted / counted.sum().clamp(min=1)
    if len(starts) != len(query):
        raise KgfastError(f"{place}.targets are for {len(starts)} rows, query has {len(query)}")
    bias = bias_of(f"{place}.bias", term.bias, table)
    known = no_answers(starts)
    if term.known is not None:
        offsets, ids = csr_of(f"{place}.known", term.known, table)
        if len(offsets) != len(query) + 1:
            raise KgfastError(f"{place}.known is for {len(offsets) - 1} rows, query has {len(query)}")
        known = sorted_answers(offsets, ids, len(table), place, "known")
    return query, table, bias, starts, ends, answers, share, *known


def among(term: Term, place: str) -> Term:
    """The same term over the rows that are candidates of all queries, or an answer to one; such an answer competes for
    its own query only, so it is known to the others."""
    table = checks.table(f"{place}.table", term.table)
    candidates = checks.ids(f"{place}.candidates", term.candidates, 1, table)
    single = isinstance(term.targets, Tensor)
    ignored = checks.integer(f"{place}.ignore_index", term.ignore_index, -(2**63), 2**63)
    if single:
        targets = checks.ids(f"{place}.targets", term.targets, 1, table)
    else:
        bounds, targets = csr_of(f"{place}.targets", term.targets, table)
    given = targets[targets != ignored] if single else targets
    checks.id_range(f"{place}.candidates", candidates, len(table))
    checks.id_range(f"{place}.targets", given, len(table))
    rows = torch.unique(torch.cat([candidates, given]))
    places = torch.searchsorted(rows, targets.clamp(min=0))
    moved = torch.where(targets == ignored, targets, places) if single else (bounds, places)
    others = torch.isin(rows, candidates, invert=True).nonzero()[:, 0]
    known = lists_of(others, len(term.query)) if len(others) else None
    if term.known is not None:
        offsets, ids = csr_of(f"{place}.known", term.known, table)
        check_csr(offsets, ids, len(table), f"{place}.known")
        known = restricted(offsets, ids, rows, others)
    bias = None if term.bias is None else bias_of(f"{place}.bias", term.bias, table)[rows]
    return with_fields(term, table=table[rows], bias=bias, targets=moved, candidates=None, known=known)


def csr_of(name: str, value: Any, table: Tensor) -> tuple[Tensor, Tensor]:
    """CSR (offsets, ids) as a term has it."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise KgfastError(f"{name} must be CSR, a pair (offsets, ids) of int64 tensors, not {type(value).__name__}")
    return checks.ids(name, value[0], 1, table), checks.ids(name, value[1], 1, table)


def lists_of(ids: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """CSR of the same ids for each of `count` rows."""
    return torch.arange(count + 1, device=ids.device) * len(ids), ids.repeat(count)


def restricted(offsets: Tensor, ids: Tensor, rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """CSR of the places in `rows` of each row's ids, and of `others` (places already)."""
    each = torch.arange(len(offsets) - 1, device=ids.device)
    offsets, places = places_among(rows, offsets, ids)
    owners = torch.cat([each.repeat_interleave(offsets.diff()), each.repeat_interleave(len(others))])
    places = torch.cat([places, others.repeat(len(each))])
    order = torch.argsort(owners, stable=True)
    bounds = torch.searchsorted(owners[order], torch.arange(len(offsets), device=ids.device))
    return bounds, places[order]


def check_csr(offsets: Tensor, ids: Tensor, count: int, name: str) -> None:
    """Offsets must be those of lists that fill `ids`, which are below `count`."""
    whole = len(offsets) > 0 and int(offsets[0]) == 0 and int(offsets[-1]) == len(ids)
    if not whole or bool((offsets.diff() < 0).any()):
        raise KgfastError(f"{name}: offsets must ascend from 0 to the number of ids, {len(ids)}")
    checks.id_range(name, ids, count)


def sorted_answers(
    offsets: Tensor, ids: Tensor, count: int, place: str, name: str = "targets"
) -> tuple[Tensor, Tensor, Tensor]:
    """(starts, ends, ids) of CSR targets, ascending and once each within a row, as the kernels read them."""
    check_csr(offsets, ids, count, f"{place}.{name}")
    rows = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=ids.device), offsets.diff())
    keys = torch.unique(rows * count + ids)
    bounds = torch.searchsorted(keys, torch.arange(len(offsets), device=ids.device) * count)
    return bounds[:-1].contiguous(), bounds[1:].contiguous(), keys % count
