"""What others do at the same work: torch eager, torch.compile, Liger-Kernel where it can be imported."""

from __future__ import annotations

import importlib.util

import torch
from torch.nn.functional import cross_entropy

from benchmarks.eager import RowAdagrad, all_objective, sampled_objective


class SampledStep:
    """A step of negative sampling in plain torch: gathered rows, touched gradients only, row-wise Adagrad."""

    def __init__(self, entities, relations, *, score, negatives, shared, compiled=False):
        self.entities, self.relations, self.negatives, self.shared = entities, relations, negatives, shared
        self.optimizers = RowAdagrad(entities, 0.1), RowAdagrad(relations, 0.1)
        loss = sampled_objective(score, "tail", 0.0, shared)
        self.loss = torch.compile(loss) if compiled else loss

    def __call__(self, triples, index: int):
        heads, relations, tails = triples.unbind(1)
        lists = 1 if self.shared else len(triples)
        ids = torch.randint(len(self.entities), (lists, self.negatives), device=triples.device)
        picked = ((self.entities, heads), (self.relations, relations), (self.entities, tails),
                  (self.entities, ids[0] if self.shared else ids))  # fmt: skip
        leaves = [table[rows].requires_grad_() for table, rows in picked]
        loss = self.loss(*leaves, ids == tails[:, None])
        d_head, d_relation, d_tail, d_rows = torch.autograd.grad(loss, leaves)
        gradients = torch.cat([d_head, d_tail, d_rows.reshape(-1, d_head.shape[1])])
        self.optimizers[0].rows(torch.cat([heads, tails, ids.flatten()]), gradients)
        self.optimizers[1].rows(relations, d_relation)
        return loss.detach()


def all_candidates(score: str, compiled=False):
    """(anchors, relations, table, targets) -> loss and its gradients."""
    loss = all_objective(score, "tail")
    loss = torch.compile(loss) if compiled else loss

    def call(anchors, relations, table, targets):
        leaves = [leaf.detach().requires_grad_() for leaf in (anchors, relations, table)]
        value = loss(*leaves, targets)
        return value, torch.autograd.grad(value, leaves)

    return call


def language_head(compiled=False):
    """(hidden, weight, targets) -> loss and its gradients, with all logits."""

    def loss(hidden, weight, targets):
        return cross_entropy((hidden @ weight.T).float(), targets)

    return with_gradients(torch.compile(loss) if compiled else loss)


def liger_head():
    """The same by Liger-Kernel, or None where it is not installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    fused = LigerFusedLinearCrossEntropyLoss()
    return with_gradients(lambda hidden, weight, targets: fused(weight, hidden, targets))


def with_gradients(loss):
    def call(hidden, weight, targets):
        leaves = [hidden.detach().requires_grad_(), weight.detach().requires_grad_()]
        value = loss(*leaves, targets)
        return value, torch.autograd.grad(value, leaves)

    return call
