"""The baselines: what a good PyTorch programmer writes. Matrix products and cdist where there are any, no [B, N, D] for
shared lists, gradients of touched rows only, row-wise Adagrad. `compiled=True` sends the loss through torch.compile.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from kgfast.reference import SCORES, SIMILARITIES

EPS = 1e-10


def operator(score: str, side: str):
    """(anchor rows, relation rows) -> queries."""
    return SCORES[score].tail_query if side == "tail" else SCORES[score].head_query


def one_to_one(query: Tensor, rows: Tensor, similarity: str) -> Tensor:
    """[B]."""
    return SIMILARITIES[similarity](query, rows)


def one_to_own(query: Tensor, rows: Tensor, similarity: str) -> Tensor:
    """query [B, D], rows [B, N, D] -> [B, N]; the dot as a batched matrix product."""
    if similarity == "dot":
        return torch.bmm(rows, query.unsqueeze(2)).squeeze(2)
    return SIMILARITIES[similarity](query.unsqueeze(1), rows)


def one_to_all(query: Tensor, rows: Tensor, similarity: str) -> Tensor:
    """query [B, D], rows [C, D] -> [B, C]; modulus has no library kernel and broadcasts."""
    if similarity == "dot":
        return query @ rows.T
    if similarity in ("l1", "l2"):
        return -torch.cdist(query, rows, p=float(similarity[1]))
    return SIMILARITIES[similarity](query.unsqueeze(1), rows)


def sampled_objective(score: str, side: str, margin: float, shared: bool):
    """(anchors, relations, targets [B, D], rows [B, N, D] or [N, D], masked [B, N]) -> the logistic loss."""
    query_of, similarity = operator(score, side), SCORES[score].similarity
    negative_scores = one_to_all if shared else one_to_own

    def loss(anchors, relations, targets, rows, masked):
        query = query_of(anchors, relations)
        positive = one_to_one(query, targets, similarity)
        negative = logsigmoid(-margin - negative_scores(query, rows, similarity)).masked_fill(masked, 0.0)
        share = (~masked).sum(1).clamp(min=1)
        return -(logsigmoid(margin + positive) + negative.sum(1) / share).mean() / 2

    return loss


def all_objective(score: str, side: str):
    """(anchors, relations, table [C, D], targets int64 [B]) -> softmax cross-entropy."""
    query_of, similarity = operator(score, side), SCORES[score].similarity
    return lambda anchors, relations, table, targets: cross_entropy(
        one_to_all(query_of(anchors, relations), table, similarity), targets
    )


def sum_by_row(ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(unique ids, summed rows): a sparse gradient, coalesced."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    return unique, rows.new_zeros(len(unique), rows.shape[1]).index_add_(0, inverse, rows)


class RowAdagrad:
    """Row-wise Adagrad over touched rows, in plain torch."""

    def __init__(self, table: Tensor, lr: float, initial: float = 0.0):
        self.table, self.lr = table, lr
        self.sum = table.new_full((len(table),), initial)

    def rows(self, ids: Tensor, gradients: Tensor) -> None:
        ids, gradients = sum_by_row(ids, gradients)
        state = self.sum[ids] + gradients.square().mean(1)
        self.sum[ids] = state
        self.table.index_add_(0, ids, gradients.mul_((-self.lr / (state.sqrt() + EPS)).unsqueeze(1)))

    def dense(self, gradient: Tensor) -> None:
        self.sum += gradient.square().mean(1)
        self.table.addcmul_(gradient, (-self.lr / (self.sum.sqrt() + EPS)).unsqueeze(1))


class SampledStep:
    """One step of negative sampling; `shared`: one list of negatives for the batch. Updates the tables in place."""

    def __init__(
        self, entities, relations, *, score, negatives, shared=False, lr=0.1, margin=0.0, initial=0.0, seed=0,
        compiled=False,
    ):  # fmt: skip
        self.entities, self.relations, self.negatives, self.shared = entities, relations, negatives, shared
        self.optimizers = RowAdagrad(entities, lr, initial), RowAdagrad(relations, lr, initial)
        self.generator = torch.Generator().manual_seed(seed)
        losses = {side: sampled_objective(score, side, margin, shared) for side in ("tail", "head")}
        self.losses = {side: torch.compile(f) for side, f in losses.items()} if compiled else losses

    def __call__(self, triples: Tensor, index: int, ids: Tensor | None = None, side: str | None = None) -> Tensor:
        side = side or ("tail", "head")[index % 2]
        if ids is None:
            lists = 1 if self.shared else len(triples)
            ids = torch.randint(len(self.entities), (lists, self.negatives), generator=self.generator)
        anchor, relation, target = triples.unbind(1) if side == "tail" else triples.flip(1).unbind(1)
        masked = ids == target[:, None]
        negatives = ids[0] if self.shared else ids
        leaves = [
            table[part].requires_grad_()
            for table, part in ((self.entities, anchor), (self.relations, relation), (self.entities, target))
        ]
        leaves.append(self.entities[negatives].requires_grad_())
        loss = self.losses[side](*leaves, masked)
        d_anchor, d_relation, d_target, d_rows = torch.autograd.grad(loss, leaves)
        entities, relations = self.optimizers
        d_rows = d_rows.flatten(0, -2)
        entities.rows(torch.cat([anchor, target, negatives.flatten()]), torch.cat([d_anchor, d_target, d_rows]))
        relations.rows(relation, d_relation)
        return loss.detach()


class AllStep:
    """One step of the softmax over all entities. Updates the tables in place."""

    def __init__(self, entities, relations, *, score, lr=0.1, initial=0.0, side="tail", compiled=False):
        self.entities, self.relations, self.side = entities, relations, side
        self.optimizers = RowAdagrad(entities, lr, initial), RowAdagrad(relations, lr, initial)
        loss = all_objective(score, side)
        self.loss = torch.compile(loss) if compiled else loss

    def __call__(self, triples: Tensor, index: int) -> Tensor:
        anchor, relation, target = triples.unbind(1) if self.side == "tail" else triples.flip(1).unbind(1)
        table = self.entities.detach().requires_grad_()
        leaves = [self.entities[anchor].requires_grad_(), self.relations[relation].requires_grad_(), table]
        loss = self.loss(*leaves, target)
        d_anchor, d_relation, d_table = torch.autograd.grad(loss, leaves)
        self.optimizers[0].dense(d_table.index_add_(0, anchor, d_anchor))
        self.optimizers[1].rows(relation, d_relation)
        return loss.detach()


@torch.no_grad()
def ranks(entities, relations, triples, *, score, side, known, most=1 << 25) -> Tensor:
    """Filtered realistic ranks, float64 [B]; scores of a chunk of queries at a time."""
    similarity, query_of = SCORES[score].similarity, operator(score, side)
    width = len(entities) * (entities.shape[1] if similarity == "modulus" else 1)
    step = max(1, most // width)
    found = []
    for start in range(0, len(triples), step):
        chunk = triples[start : start + step]
        anchor, relation, target = chunk.unbind(1) if side == "tail" else chunk.flip(1).unbind(1)
        scores = one_to_all(query_of(entities[anchor], relations[relation]), entities, similarity)
        own = scores.gather(1, target[:, None])
        starts, ends = known.lookup(chunk, side)
        counts = ends - starts
        rows = torch.repeat_interleave(torch.arange(len(chunk)), counts)
        places = torch.arange(len(rows)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        scores[rows, known.ids(side)[starts[rows] + places]] = -torch.inf
        scores.scatter_(1, target[:, None], own)
        greater, equal = (scores > own).sum(1), (scores == own).sum(1) - 1
        found.append(1.0 + greater.double() + 0.5 * equal.double())
    return torch.cat(found)
