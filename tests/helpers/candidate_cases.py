"""Losses over all candidates, by their specification and by a backend, with all that the contract takes."""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast import reference, testing
from kgfast.core.sums import sum_dtype
from kgfast.registry import ALL_OBJECTIVES, Objective, Similarity

OBJECTIVES = tuple(ALL_OBJECTIVES)


def make_answers(batch: int, rows: int, several: bool, generator: torch.Generator) -> Tensor:
    """A mask [batch, rows] of right answers: one a row, or about three, of which row 0 has none and row 1 the last."""
    if not several:
        ones = torch.randint(rows, (batch, 1), generator=generator)
        return torch.zeros(batch, rows, dtype=torch.bool).scatter_(1, ones, True)
    mask = torch.rand(batch, rows, generator=generator) < 3 / rows
    mask[0] = False
    mask[1:2, -1] = True
    return mask


def as_ranges(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(starts, ends, ids) of the columns that are set in each row."""
    lengths = mask.sum(1)
    ends = lengths.cumsum(0)
    return ends - lengths, ends, mask.nonzero()[:, 1].contiguous()


class CandidateCase:
    """Inputs of a loss over all candidates, and what it must be."""

    def __init__(self, batch=7, rows=37, dim=16, dtype=torch.float32, similarity="dot", objective="softmax",
                 smoothing=0.0, bias=False, several=False, skipped=False, seed=0, scale=1.0, known=False):  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        dim += dim % 2 if similarity == "modulus" else 0
        self.query = (torch.randn(batch, dim, generator=generator) * scale).to(dtype)
        self.table = (torch.randn(rows, dim, generator=generator) * dim**-0.5).to(dtype)
        biased = bias and similarity == "dot"
        self.bias = torch.randn(rows, generator=generator).to(dtype) if biased else torch.zeros(0, dtype=dtype)
        self.mask = make_answers(batch, rows, several, generator)
        self.weights = torch.rand(batch, generator=generator).to(sum_dtype(dtype)) + 0.1
        if skipped:
            self.weights[::3] = 0
        self.similarity, self.objective, self.smoothing = similarity, objective, smoothing
        self.known = torch.rand(batch, rows, generator=generator) < 0.4 if known else None
        if known:  # row 1 is known for every query, answers of some among them; of the last query all are
            self.known[:, 1:2] = True
            self.known[-1:] = True

    def losses(self, query: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        scores = reference.SIMILARITIES[self.similarity](query[:, None], table)
        if len(bias):
            scores = scores + bias
        if self.known is None:
            losses = ALL_OBJECTIVES[self.objective](scores, self.mask.to(scores.dtype), self.smoothing)
        else:
            rows = zip(scores, self.mask, self.known, strict=True)
            losses = torch.cat([self.loss_over_rivals(*row) for row in rows])
        counted = self.mask.any(1) if self.objective == "softmax" else torch.ones_like(self.mask[:, 0])
        return losses * (self.weights * counted).to(scores.dtype)

    def loss_over_rivals(self, scores: Tensor, answers: Tensor, known: Tensor) -> Tensor:
        """The loss of a query whose known candidates, unless they are answers, are not there: [1]."""
        rivals = answers | ~known
        if not rivals.any():
            return scores[:1] * 0
        labels = answers[None, rivals].to(scores.dtype)
        return ALL_OBJECTIVES[self.objective](scores[None, rivals], labels, self.smoothing)

    def specified(self, dtype: torch.dtype) -> list[Tensor]:
        """[losses, gradients of query, table and bias] by autograd."""
        leaves = [one.to(dtype, copy=True).requires_grad_() for one in (self.query, self.table, self.bias)]
        losses = self.losses(*leaves)
        losses.sum().backward()
        return [losses.detach(), *(leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves)]

    def inputs(self, device) -> list[Tensor]:
        """The tensors of `Backend.candidate_loss` up to the weights."""
        tensors = (self.query, self.table, self.bias, *as_ranges(self.mask), self.weights)
        return [one.to(device) for one in tensors]

    def known_ranges(self, device) -> tuple[Tensor, ...] | None:
        return None if self.known is None else tuple(one.to(device) for one in as_ranges(self.known))

    def codes(self) -> tuple:
        """(similarity, objective, smoothing), as kernels take them."""
        similarity = Similarity.of(self.similarity, "similarity")
        return similarity, Objective.of(self.objective, "objective"), self.smoothing

    def computed(self, backend, device, gradient=True, **options) -> list[Tensor]:
        """[losses, gradients of query, table and bias] by a backend, on the CPU."""
        found = backend.candidate_loss(
            *self.inputs(device), *self.codes(), gradient, known=self.known_ranges(device), **options
        )
        return [one.cpu() for one in found]

    def check(self, backend, device, **options) -> None:
        """The backend is no worse than the specification in the same dtype; losses are of the dtype of sums."""
        dtype, wide = self.query.dtype, torch.float64
        found = self.computed(backend, device, **options)
        eager, truth = self.specified(dtype), self.specified(wide)
        assert found[0].dtype == sum_dtype(dtype)
        for mine, same, right in zip([found[0].to(dtype), *found[1:]], eager, truth, strict=True):
            testing.assert_no_worse(mine, same, right)
