"""Calls at the sizes that matter, on tensors without memory: what the compile lane records and compiles."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kgfast.core.sums import sum_dtype
from kgfast.kernels.triton import all_scores, candidates, multitask, products, ranking
from kgfast.registry import Objective, Similarity

DOT, L1, L2, MODULUS = Similarity
SOFTMAX, BCE = Objective.SOFTMAX, Objective.BCE
FLOAT, DOUBLE, BFLOAT, HALF = torch.float32, torch.float64, torch.bfloat16, torch.float16
LANGUAGE = (8192, 128256, 4096)  # tokens, words, hidden size
ODD = (8192, 50257, 1024)  # GPT-2's words
FEW = (1024, 237, 768)
GRAPH = (1024, 14541, 2000)  # FB15k-237, ComplEx of rank 1000
DISTANCES = (1024, 14541, 400)


def real(*shape, dtype=FLOAT):
    return torch.empty(shape, dtype=dtype, device="meta")


def whole(*shape):
    return real(*shape, dtype=torch.int64)


def answers(batch: int):
    return whole(batch), whole(batch), whole(2 * batch)


def loss(sizes, dtype, similarity=DOT, objective=SOFTMAX, smoothing=0.0, bias=False, known=False):
    batch, count, dim = sizes
    candidates.candidate_loss(real(batch, dim, dtype=dtype), real(count, dim, dtype=dtype),
                              real(count if bias else 0, dtype=dtype), *answers(batch),
                              real(batch, dtype=sum_dtype(dtype)), similarity, objective, smoothing, gradient=True,
                              known=answers(batch) if known else None)  # fmt: skip


def loss_in_products(sizes, dtype, objective=SOFTMAX, smoothing=0.0, bias=False, known=False):
    batch, count, dim = sizes
    products.candidate_loss(real(batch, dim, dtype=dtype), real(count, dim, dtype=dtype),
                            real(count if bias else 0, dtype=dtype), *answers(batch),
                            real(batch, dtype=sum_dtype(dtype)), objective, smoothing, gradient=True,
                            known=answers(batch) if known else None)  # fmt: skip


def rank(sizes, dtype, similarity):
    batch, count, dim = sizes
    ranking.rank(
        real(batch, dim, dtype=dtype), real(count, dim, dtype=dtype), whole(batch), *answers(batch), similarity
    )


def topk(sizes, dtype, similarity):
    batch, count, dim = sizes
    ranking.topk(real(batch, dim, dtype=dtype), real(count, dim, dtype=dtype), *answers(batch), 10, similarity)


def scores(sizes, dtype, similarity):
    batch, count, dim = sizes
    query, table = real(batch, dim, dtype=dtype), real(count, dim, dtype=dtype)
    found = all_scores.all_scores(query, table, similarity)
    all_scores.all_scores_gradient(real(batch, count, dtype=dtype), found, query, table, similarity)


def tasks(dtype, known=False):
    """A language model's head, links and questions over the same entities, relations; known answers of links."""

    def task(batch, count, dim, objective=SOFTMAX, bias=False, known=False):
        return multitask.Task(real(batch, dim, dtype=dtype), real(count, dim, dtype=dtype),
                              real(count if bias else 0, dtype=dtype), *answers(batch),
                              real(batch, dtype=sum_dtype(dtype)), objective,
                              known=answers(batch) if known else None)  # fmt: skip

    shapes = [
        task(8192, 30522, 768, bias=True),
        task(1024, 14541, 768, known=known),
        task(128, 14541, 768, BCE),
        task(1024, 237, 768),
    ]
    _, group = multitask.task_losses(shapes)
    multitask.task_gradients(group, real(len(shapes)))


CASES: dict[str, Callable[[], object]] = {
    "language head, bfloat16": lambda: loss(LANGUAGE, BFLOAT),
    "language head with bias, float16": lambda: loss(LANGUAGE, HALF, bias=True),
    "links, float32": lambda: loss(GRAPH, FLOAT, smoothing=0.1),
    "links by bce, float32": lambda: loss(GRAPH, FLOAT, objective=BCE),
    "links, float64": lambda: loss(GRAPH, DOUBLE),
    "links with known answers, float32": lambda: loss(GRAPH, FLOAT, known=True),
    "links with known answers by bce, bfloat16": lambda: loss(GRAPH, BFLOAT, objective=BCE, known=True),
    "head in products, bfloat16": lambda: loss_in_products(LANGUAGE, BFLOAT),
    "odd head with bias in products, bfloat16": lambda: loss_in_products(ODD, BFLOAT, bias=True),
    "relations in products, bfloat16": lambda: loss_in_products(FEW, BFLOAT),
    "links in products, float32": lambda: loss_in_products(GRAPH, FLOAT, smoothing=0.1),
    "links in products, float64": lambda: loss_in_products(GRAPH, DOUBLE),
    "links with known answers by bce in products, float32": lambda: loss_in_products(GRAPH, FLOAT, BCE, known=True),
    "l1": lambda: loss(DISTANCES, FLOAT, L1),
    "l2": lambda: loss(DISTANCES, FLOAT, L2),
    "modulus": lambda: loss(DISTANCES, FLOAT, MODULUS),
    "rank, float32": lambda: rank(GRAPH, FLOAT, DOT),
    "rank, bfloat16": lambda: rank(GRAPH, BFLOAT, DOT),
    "rank, l1": lambda: rank(DISTANCES, FLOAT, L1),
    "rank, l2": lambda: rank(DISTANCES, FLOAT, L2),
    "rank, modulus": lambda: rank(DISTANCES, FLOAT, MODULUS),
    "topk, float32": lambda: topk(GRAPH, FLOAT, DOT),
    "topk, modulus": lambda: topk(DISTANCES, FLOAT, MODULUS),
    "scores, float32": lambda: scores(GRAPH, FLOAT, DOT),
    "scores, l2": lambda: scores(DISTANCES, FLOAT, L2),
    "tasks, bfloat16": lambda: tasks(BFLOAT),
    "tasks, float32": lambda: tasks(FLOAT),
    "tasks with known answers, bfloat16": lambda: tasks(BFLOAT, known=True),
    "tasks with known answers, float32": lambda: tasks(FLOAT, known=True),
}
