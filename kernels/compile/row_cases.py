"""As tile_cases.py, for the kernels that read rows by id: queries, pairs, draws, sampled losses, updates."""

from __future__ import annotations

import torch

from kgfast.core.sums import sum_dtype
from kgfast.kernels.triton import batches, pairs, queries, rows, sampled, sampling, shared, updates
from kgfast.registry import Objective, Regularizer, Side, Similarity, Update

BATCH, NEGATIVES, COUNT, RELATIONS, DIM = 1024, 256, 14541, 237, 400
FLOAT, BFLOAT = torch.float32, torch.bfloat16
LOGISTIC = Objective.LOGISTIC
DOT, L1, L2, MODULUS = Similarity


def real(*shape, dtype=FLOAT):
    return torch.empty(shape, dtype=dtype, device="meta")


def whole(*shape):
    return real(*shape, dtype=torch.int64)


def allocate(name, shape, dtype):
    return real(*shape, dtype=dtype)


def known():
    return whole(BATCH), whole(BATCH), whole(10 * BATCH)


def batch_of_triples():
    batches.columns_of(whole(BATCH, 3), COUNT, RELATIONS, 0)


def query(operator: str, width: int, dim: int = DIM):
    for side in Side:
        tables = real(COUNT, dim), real(RELATIONS, width), whole(BATCH, 3)
        queries.make_queries(*tables, operator, side, real(BATCH, dim))
        queries.adjoint(real(BATCH, dim), *tables, operator, side, real(BATCH, dim), real(BATCH, width))


def pair(similarity: int):
    inputs = real(BATCH, DIM), real(COUNT, DIM), whole(BATCH, 1 + NEGATIVES), similarity
    scores = real(BATCH, 1 + NEGATIVES)
    pairs.score(*inputs, scores)
    pairs.query_gradient(scores, scores, *inputs, scores, real(BATCH, DIM))


def draw(weighted: bool, filtered: bool):
    lists = known() if filtered else (whole(0), whole(0), whole(0))
    weights = whole(3, COUNT) if weighted else whole(0)
    sampling.sample(whole(BATCH, NEGATIVES), 1, whole(1), COUNT, Side.TAIL, weights, *lists)


def own_negatives(similarity: int, dtype=FLOAT):
    width, wide = (BATCH, 1 + NEGATIVES), sum_dtype(dtype)
    inputs = real(BATCH, DIM, dtype=dtype), real(COUNT, DIM, dtype=dtype), whole(BATCH), whole(BATCH, NEGATIVES)
    sampled.loss(*inputs, *known(), real(BATCH), similarity, LOGISTIC, 9.0, 1.0, real(BATCH), real(BATCH, DIM),
                 whole(*width), real(*width, dtype=wide), real(2, BATCH), real(BATCH))  # fmt: skip


def shared_negatives(similarity: int, dtype=FLOAT):
    inputs = real(BATCH, DIM, dtype=dtype), real(COUNT, DIM, dtype=dtype), whole(BATCH), whole(4, NEGATIVES)
    shared.loss(*inputs, *known(), real(BATCH), similarity, LOGISTIC, 9.0, 1.0, real(BATCH), real(BATCH, DIM),
                real(BATCH, 1), real(4, NEGATIVES, DIM), allocate)  # fmt: skip


def touched_rows(similarity: int, update: Update, dtype=FLOAT):
    width, table = (BATCH, 1 + NEGATIVES), real(COUNT, DIM, dtype=dtype)
    states = real(COUNT) if update == Update.ROW_ADAGRAD else real(COUNT, DIM), real(COUNT, DIM)
    extras, entries = [(whole(BATCH), real(BATCH, DIM))], whole(BATCH * (2 + NEGATIVES))
    rows.reduce_rows(real(BATCH, DIM, dtype=dtype), table, whole(*width), real(*width), extras, similarity,
                     update, table, *states, real(6, dtype=torch.float64), allocate, entries)  # fmt: skip


def all_rows():
    gradients, table = real(COUNT, DIM), real(COUNT, DIM)
    updates.update_all_rows(gradients, Update.ADAM, table, real(COUNT, DIM), real(COUNT, DIM),
                            real(6, dtype=torch.float64))  # fmt: skip
    updates.add_regularizer(Regularizer.N3, 2, 0.1, table, whole(BATCH), real(BATCH, DIM))


ROW_CASES = {
    "batch": batch_of_triples,
    "queries, TransE": lambda: query("TransE", DIM),
    "queries, ComplEx": lambda: query("ComplEx", DIM),
    "queries, RotatE": lambda: query("RotatE", DIM // 2),
    "queries, RESCAL": lambda: query("Rescal", 64 * 64, 64),
    "pairs, dot": lambda: pair(DOT),
    "pairs, modulus": lambda: pair(MODULUS),
    "draws": lambda: draw(weighted=False, filtered=False),
    "draws, weighted and filtered": lambda: draw(weighted=True, filtered=True),
    "own negatives, l1": lambda: own_negatives(L1),
    "own negatives, l2, bfloat16": lambda: own_negatives(L2, BFLOAT),
    "own negatives, modulus": lambda: own_negatives(MODULUS),
    "shared negatives, dot": lambda: shared_negatives(DOT),
    "shared negatives, dot, bfloat16": lambda: shared_negatives(DOT, BFLOAT),
    "shared negatives, modulus": lambda: shared_negatives(MODULUS),
    "touched rows, dot, Adagrad": lambda: touched_rows(DOT, Update.ROW_ADAGRAD),
    "touched rows, dot, Adagrad, bfloat16": lambda: touched_rows(DOT, Update.ROW_ADAGRAD, BFLOAT),
    "touched rows, modulus, Adam": lambda: touched_rows(MODULUS, Update.ADAM),
    "touched rows, l1, gradient": lambda: touched_rows(L1, Update.DENSE),
    "all rows": all_rows,
}
