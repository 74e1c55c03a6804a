"""The signatures worth compiling ahead of time: what training and evaluation launch most. Sizes stand for a class:
multiples of 16 or not, which is all that Triton asks of them. Everything else is compiled when it is met.
"""

from __future__ import annotations

import torch
from kgfast.kernels.compile.signatures import Signature, record
from kgfast.kernels.compile.tile_cases import CASES, DOT, L1, real, whole

from . import rows, sampled

BATCH, NEGATIVES, ENTITIES, DIM = 1024, 256, 14541, 400  # FB15k-237
LOGISTIC, ROW_ADAGRAD = 0, 4
FROM_CASES = ("language head, bfloat16", "links, float32", "rank, float32")


def own_negatives(similarity: int) -> None:
    pairs, none = (BATCH, 1 + NEGATIVES), whole(0)
    inputs = real(BATCH, DIM), real(ENTITIES, DIM), whole(BATCH), whole(BATCH, NEGATIVES), none, none, none, real(BATCH)
    room = real(BATCH), real(BATCH, DIM), whole(*pairs), real(*pairs), real(2, BATCH), real(BATCH)
    sampled.loss(*inputs, similarity, LOGISTIC, 9.0, 0.0, *room)


def touched_rows(similarity: int) -> None:
    pairs, table = (BATCH, 1 + NEGATIVES), real(ENTITIES, DIM)
    sink = ROW_ADAGRAD, table, real(ENTITIES), table, real(6, dtype=torch.float64)
    ready = [(whole(BATCH), real(BATCH, DIM))]
    rows.reduce_rows(real(BATCH, DIM), table, whole(*pairs), real(*pairs), ready, similarity, *sink,
                     lambda name, shape, dtype: real(*shape, dtype=dtype))  # fmt: skip


LAUNCHES = {
    "own negatives, dot": lambda: own_negatives(DOT),
    "own negatives, L1": lambda: own_negatives(L1),
    "touched rows, dot": lambda: touched_rows(DOT),
    "touched rows, L1": lambda: touched_rows(L1),
    **{name: CASES[name] for name in FROM_CASES},
}


def signatures(architecture: int) -> list[Signature]:
    found = {}
    for launch in LAUNCHES.values():
        found |= {signature.key: signature for signature in record(launch, architecture)}
    return list(found.values())
