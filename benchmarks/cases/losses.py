"""Losses with their gradients."""

from __future__ import annotations

import torch

import kgfast
from benchmarks import cost, eager
from benchmarks.cases.registry import ALL_SCORES, Work, distinct, hold, register, with_gradients
from benchmarks.cost import ID, Cost
from benchmarks.inputs import Inputs
from kgfast import reference
from kgfast.reference import SCORES


@register("negative_sampling_loss", ALL_SCORES, ("independent", "shared"))
def negative_sampling_loss(given: Inputs, variant: str) -> Work:
    size, score, shared = given.size, given.score, variant == "shared"
    ids, triples = given.negatives(1 if shared else None), given.triples
    tables = [table.requires_grad_() for table in given.tables()]
    options = dict(score=score, side="tail", margin=1.0)
    head = given.slice(size.negatives)

    def ours(**more):
        loss = kgfast.negative_sampling_loss(*tables, triples, ids, sparse_grad=True, **options, **more)
        return loss, torch.autograd.grad(loss, tables)

    def compute(dtype):
        leaves = [table.requires_grad_() for table in given.tables(dtype)]
        part = ids if shared else ids[:head]
        return with_gradients(reference.negative_sampling_loss(*leaves, triples[:head], part, **options), leaves)

    def check():  # the whole batch runs, the weights leave only its first triples
        weights = (torch.arange(size.batch) < head).float()
        loss = kgfast.negative_sampling_loss(*tables, triples, ids, weights=weights, sparse_grad=True, **options)
        hold(with_gradients(loss, tables), compute)

    def eager_way(loss_function):
        target = triples[:, 2]
        masked = ids == target[:, None]
        rows = ids[0] if shared else ids

        def call():
            entities, relations = (table.detach() for table in tables)
            leaves = [entities[triples[:, 0]], relations[triples[:, 1]], entities[target], entities[rows]]
            leaves = [leaf.requires_grad_() for leaf in leaves]
            grads = torch.autograd.grad(loss_function(*leaves, masked), leaves)
            flat = torch.cat([grads[0], grads[2], grads[3].flatten(0, -2)])
            return eager.sum_by_row(torch.cat([triples[:, 0], target, rows.flatten()]), flat)

        return call

    objective = eager.sampled_objective(score, "tail", 1.0, shared)
    providers = {"kgfast": ours, "eager": eager_way(objective), "compile": eager_way(torch.compile(objective))}
    if not shared and score != "rotate":
        providers["reference"] = lambda: ours(impl="reference")
    touched = distinct(triples[:, 0], triples[:, 2], ids)
    moved = cost.rows(touched, size.dim, 2) + ids.numel() * ID
    operations = cost.pairs(size.batch * (1 + size.negatives), size.dim, SCORES[score].similarity, gradient=True)
    return Work(providers, check, Cost(moved, operations, "random"), size.batch)


@register("one_vs_all_loss", ("complex", "distmult", "transe_l1"), ("softmax", "bce"))
def one_vs_all_loss(given: Inputs, variant: str) -> Work:
    size, score, triples = given.size, given.score, given.triples
    tables = [table.requires_grad_() for table in given.tables()]
    options = dict(score=score, side="tail", objective=variant)
    head = given.slice(size.entities)

    def ours():
        loss = kgfast.one_vs_all_loss(*tables, triples, **options)
        return loss, torch.autograd.grad(loss, tables)

    def compute(dtype):
        leaves = [table.requires_grad_() for table in given.tables(dtype)]
        return with_gradients(reference.one_vs_all_loss(*leaves, triples[:head], **options), leaves)

    def check():
        loss = kgfast.one_vs_all_loss(*tables, triples[:head].contiguous(), **options)
        hold(with_gradients(loss, tables), compute)

    def eager_way(loss_function):
        def call():
            anchors, relations = tables[0][triples[:, 0]], tables[1][triples[:, 1]]
            return torch.autograd.grad(loss_function(anchors, relations, tables[0], triples[:, 2]), tables)

        return call

    providers = {"kgfast": ours}
    if variant == "softmax":
        objective = eager.all_objective(score, "tail")
        providers.update(eager=eager_way(objective), compile=eager_way(torch.compile(objective)))
    operations = cost.pairs(size.batch * size.entities, size.dim, SCORES[score].similarity, gradient=True)
    return Work(providers, check, Cost(cost.rows(size.entities, size.dim, 2), operations), size.batch)


@register("linear_cross_entropy")
def linear_cross_entropy(given: Inputs, variant: str) -> Work:
    """A language model's head: twice as many rows as the graph has entities, and a bias."""
    size, generator = given.size, torch.Generator().manual_seed(1)
    classes = 2 * size.entities
    shapes = (size.batch, size.dim), (classes, size.dim), (classes,)
    leaves = [torch.randn(shape, generator=generator) * 0.1 for shape in shapes]
    targets = torch.randint(classes, (size.batch,), generator=generator)
    inputs = [leaf.requires_grad_() for leaf in leaves]

    def call(loss_function, parts=inputs, targets=targets, **options):
        hidden, weight, bias = parts
        return with_gradients(loss_function(hidden, weight, targets, bias=bias, **options), parts)

    plain = lambda hidden, weight, targets, bias: torch.nn.functional.cross_entropy(  # noqa: E731
        torch.nn.functional.linear(hidden, weight, bias), targets
    )
    compiled = torch.compile(plain)
    compute = lambda dtype: call(  # noqa: E731
        reference.linear_cross_entropy, [one.detach().to(dtype).requires_grad_() for one in leaves]
    )
    moved = cost.rows(classes + size.batch, size.dim, 2)
    providers = {
        "kgfast": lambda: call(kgfast.linear_cross_entropy),
        "eager": lambda: call(plain),
        "compile": lambda: call(compiled),
    }
    return Work(
        providers, lambda: hold(call(kgfast.linear_cross_entropy), compute),
        Cost(moved, cost.pairs(size.batch * classes, size.dim, "dot", gradient=True)), size.batch, "tokens",
    )  # fmt: skip


@register("multitask_loss", variants=("graph and text",))
def multitask_loss(given: Inputs, variant: str) -> Work:
    """Two terms: link prediction over the entities, and tokens over a vocabulary twice as large."""
    size, generator = given.size, torch.Generator().manual_seed(1)
    counts = size.entities, 2 * size.entities
    leaves = [
        torch.randn(rows, size.dim, generator=generator) * 0.1 for count in counts for rows in (size.batch, count)
    ]
    targets = [torch.randint(count, (size.batch,), generator=generator) for count in counts]
    inputs = [leaf.requires_grad_() for leaf in leaves]
    weights = (1.0, 0.5)

    def call(parts=inputs, **options):
        rows = len(parts[0])
        terms = [kgfast.Term(parts[2 * i], parts[2 * i + 1], targets[i][:rows], weight=weights[i]) for i in range(2)]
        return with_gradients(kgfast.multitask_loss(terms, **options)[0], parts)

    def eager_way():
        losses = [torch.nn.functional.cross_entropy(inputs[2 * i] @ inputs[2 * i + 1].T, targets[i]) for i in range(2)]
        return with_gradients(losses[0] + weights[1] * losses[1], inputs)

    def first(dtype):  # the reference stores [B, C, D]
        head = given.slice(counts[1])
        parts = [leaf[:head] if i % 2 == 0 else leaf for i, leaf in enumerate(leaves)]
        return [one.detach().to(dtype).requires_grad_() for one in parts]

    def check():
        hold(call(first(torch.float32)), lambda dtype: call(first(dtype), impl="reference"))

    moved = cost.rows(sum(counts) + 2 * size.batch, size.dim, 2)
    operations = cost.pairs(size.batch * sum(counts), size.dim, "dot", gradient=True)
    providers = {"kgfast": call, "eager": eager_way}
    return Work(providers, check, Cost(moved, operations), 2 * size.batch, "queries")
