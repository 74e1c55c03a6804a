"""Softmax loss in which known answers neither count nor compete, without storing all scores."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = 32 << 20


class KnownLoss(torch.autograd.Function):
    """sum_b share_b (log sum_c exp s_bc - mean over answers a of s_ba), s = query @ table.T + bias, c what competes.

    answers and known are CSR over the rows b; a row of `table` that is known for b, and no answer to it, does not
    compete. bias: empty for none. Gradients are made in the forward pass, chunk by chunk of rows: 32 MB of scores.
    """

    @staticmethod
    def forward(ctx, query, table, bias, answers, share, known):
        query_gradient, table_gradient = torch.empty_like(query), torch.zeros_like(table)
        bias_gradient = torch.zeros_like(bias)
        total = query.new_zeros(())
        rows = max(1, CHUNK_BYTES // (len(table) * query.element_size()))
        for start in range(0, len(query), rows):
            stop = min(start + rows, len(query))
            scores = query[start:stop] @ table.T
            if len(bias):
                scores += bias
            right = entries(answers, start, stop)
            counts = answers[0].diff()[start:stop].clamp(min=1).to(scores.dtype)
            mean = torch.zeros_like(scores[:, 0]).index_add(0, right[0], scores[right]) / counts
            kept = scores[right]
            scores[entries(known, start, stop)] = -torch.inf
            scores[right] = kept
            log_sum = scores.logsumexp(1)
            part = share[start:stop]
            total += (part * (log_sum - mean)).sum()
            slope = (scores - log_sum[:, None]).exp_()
            slope[right] -= 1 / counts[right[0]]
            slope *= part[:, None]
            torch.mm(slope, table, out=query_gradient[start:stop])
            table_gradient.addmm_(slope.T, query[start:stop])
            if len(bias):
                bias_gradient += slope.sum(0)
        ctx.save_for_backward(query_gradient, table_gradient, bias_gradient)
        return total

    @staticmethod
    def backward(ctx, gradient):
        query, table, bias = ctx.saved_tensors
        return gradient * query, gradient * table, gradient * bias if len(bias) else None, None, None, None


def entries(lists: tuple[Tensor, Tensor], start: int, stop: int) -> tuple[Tensor, Tensor]:
    """(row - start, id) of every entry of rows start .. stop - 1 of a CSR."""
    offsets, ids = lists
    bounds = offsets[start : stop + 1]
    rows = torch.repeat_interleave(torch.arange(stop - start, device=ids.device), bounds.diff())
    return rows, ids[bounds[0] : bounds[-1]]
