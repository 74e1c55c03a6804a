"""Row optimizers and whole training steps."""

from __future__ import annotations

import itertools

import torch

import kgfast
from benchmarks import cost, eager
from benchmarks.cases.registry import ALL_SCORES, Work, distinct, hold, register
from benchmarks.cost import ID, REAL, Cost
from benchmarks.inputs import COPIED, Inputs
from kgfast import optim, reference, steps
from kgfast.reference import SCORES
from kgfast.registry import RULES

# name -> ours, torch's own, reals of state a row of D reals, the reference's first state
OPTIMIZERS = {
    "sgd": (optim.RowSGD, torch.optim.SGD, lambda dim: 0, lambda rows: None),
    "row_adagrad": (optim.RowAdagrad, None, lambda dim: 1, lambda rows: rows.new_zeros(len(rows))),
    "adagrad": (lambda params, lr: optim.RowAdagrad(params, lr, full=True), torch.optim.Adagrad, lambda dim: dim,
                torch.zeros_like),
    "adam": (optim.RowAdam, torch.optim.SparseAdam, lambda dim: 2 * dim,
             lambda rows: (torch.zeros_like(rows), torch.zeros_like(rows))),
}  # fmt: skip


@register("row_optimizer", variants=tuple(OPTIMIZERS))
def row_optimizer(given: Inputs, variant: str) -> Work:
    """One step over the distinct rows of a batch with shared negatives, from a sparse gradient."""
    size, (ours, theirs, width, first) = given.size, OPTIMIZERS[variant]
    ids = torch.unique(torch.cat([given.triples[:, 0], given.triples[:, 2], given.negatives(1).flatten()]))
    gradient = torch.randn(len(ids), size.dim, generator=torch.Generator().manual_seed(2))
    indices, shape = ids[None], given.entities.shape
    sparse = torch.sparse_coo_tensor(indices, gradient, shape, is_coalesced=True, check_invariants=True)

    def stepping(make):
        param = torch.nn.Parameter(given.entities.clone())
        optimizer = make([param], lr=0.01)
        param.grad = sparse
        return param, optimizer.step

    def compute(dtype):
        rows = given.entities[ids].to(dtype)
        more = {"step": 1} if variant == "adam" else {}
        return [RULES[variant].formula(rows, gradient.to(dtype), first(rows), lr=0.01, **more)[0]]

    def check():
        param, step = stepping(ours)
        step()
        hold([param.detach()[ids]], compute)

    providers = {"kgfast": stepping(ours)[1]}
    if theirs is not None:
        providers["eager"] = stepping(theirs)[1]
    numbers = len(ids) * (3 * size.dim + 2 * width(size.dim))  # gradient and row read, row written; state both
    return Work(providers, check, Cost(REAL * numbers + ID * len(ids), 0, "random"), len(ids), "rows")


INITIAL = 0.01  # of Adagrad's sum in checks: a first step of g / |g| would blow up rounding


def expect_step(given: Inputs, loss_of, dtype, lr: float = 0.1) -> list:
    """Tables after one step of row-wise Adagrad on `loss_of(entities, relations)`."""
    leaves = [table.requires_grad_() for table in given.tables(dtype)]
    gradients = torch.autograd.grad(loss_of(*leaves), leaves)
    update = RULES["row_adagrad"].formula
    return [
        update(leaf.detach(), gradient, leaf.new_full((len(leaf),), INITIAL), lr=lr)[0]
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ]


@register("NegativeSamplingStep", ALL_SCORES, ("none", "batch"))
def negative_sampling_step(given: Inputs, variant: str) -> Work:
    size, score, triples, shared = given.size, given.score, given.triples, variant == "batch"
    head = given.slice(size.negatives)

    def fresh(initial: float = 0.0):
        model = given.model()
        optimizer = optim.RowAdagrad(model.parameters(), lr=0.1, initial=initial)
        return model, steps.NegativeSamplingStep(
            model, optimizer, negatives=size.negatives, sharing=variant, margin=1.0, side="tail", seed=5
        )

    def drawn(count):
        return kgfast.sample_negatives(
            triples, size.negatives, size.entities, side="tail", seed=5, step=0, shared=size.batch if shared else 0
        )[:count]

    def compute(dtype):
        ids = drawn(1 if shared else head)
        options = dict(score=score, side="tail", margin=1.0)
        return expect_step(
            given, lambda e, r: reference.negative_sampling_loss(e, r, triples[:head], ids, **options), dtype
        )

    def check():  # the whole batch runs, the weights leave only its first triples
        model, step = fresh(INITIAL)
        step(triples, 0, (torch.arange(size.batch) < head).float())
        hold([model.entities.detach(), model.relations.detach()], compute)

    def counting(step, **options):
        indices = itertools.count()
        return lambda: step(triples, next(indices), **options)

    def torch_step(compiled):
        options = dict(score=score, negatives=size.negatives, shared=shared, margin=1.0, compiled=compiled)
        return counting(eager.SampledStep(*given.tables(), **options), side="tail")

    providers = {"kgfast": counting(fresh()[1])}
    if size.entities <= COPIED:
        providers.update(eager=torch_step(False), compile=torch_step(True))
    touched = distinct(triples[:, 0], triples[:, 2], drawn(size.batch))
    moved = cost.rows(touched, size.dim, 2) + 2 * REAL * touched
    operations = cost.pairs(size.batch * (1 + size.negatives), size.dim, SCORES[score].similarity, gradient=True)
    return Work(providers, check, Cost(moved, operations, "random"), size.batch)


@register("OneVsAllStep", ("complex", "distmult", "transe_l1"), ("softmax",))
def one_vs_all_step(given: Inputs, variant: str) -> Work:
    size, score, triples = given.size, given.score, given.triples
    head = given.slice(size.entities)

    def fresh(initial: float = 0.0):
        model = given.model()
        optimizer = optim.RowAdagrad(model.parameters(), lr=0.1, initial=initial)
        return model, steps.OneVsAllStep(model, optimizer, side="tail")

    def compute(dtype):
        return expect_step(
            given, lambda e, r: reference.one_vs_all_loss(e, r, triples[:head], score=score, side="tail"), dtype
        )

    def check():
        model, step = fresh(INITIAL)
        step(triples, 0, (torch.arange(size.batch) < head).float())
        hold([model.entities.detach(), model.relations.detach()], compute)

    step, torch_step = fresh()[1], lambda compiled: eager.AllStep(*given.tables(), score=score, compiled=compiled)
    plain, compiled = torch_step(False), torch_step(True)
    operations = cost.pairs(size.batch * size.entities, size.dim, SCORES[score].similarity, gradient=True)
    providers = {
        "kgfast": lambda: step(triples, 0),
        "eager": lambda: plain(triples, 0),
        "compile": lambda: compiled(triples, 0),
    }
    return Work(providers, check, Cost(cost.rows(size.entities, size.dim, 2), operations), size.batch)
