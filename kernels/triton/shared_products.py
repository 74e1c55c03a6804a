"""Scores and gradients of shared negatives in library products: dots of float32 and float64, groups of one size."""

from __future__ import annotations

import torch

from kgfast.core.sums import sum_dtype

from .launching import is_product


def by_library(query, groups: int, similarity: int) -> bool:
    """Whether the library multiplies: dots whose scores have the dtype of their sums, in groups of one size."""
    return is_product(similarity) and query.dtype == sum_dtype(query.dtype) and len(query) % groups == 0


def score_lists(query, lists, scores) -> None:
    """Fills scores [B, N]. `out=` keeps autocast from changing the operands' dtype."""
    groups, count, dim = lists.shape
    torch.bmm(query.view(groups, -1, dim), lists.transpose(1, 2), out=scores.view(groups, -1, count))


def multiply_gradients(grad_scores, query, lists, grad_query, grad_negatives) -> None:
    """Adds to grad_query [B, D] and fills grad_negatives [G, N, D] from coefficients [B, N]."""
    groups, count, dim = lists.shape
    coefficients, sums = grad_scores.view(groups, -1, count), grad_query.view(groups, -1, dim)
    torch.baddbmm(sums, coefficients, lists, out=sums)
    torch.bmm(coefficients.transpose(1, 2), query.view(groups, -1, dim), out=grad_negatives)
