"""The eager specification: every public op in plain PyTorch, any float dtype, gradients by autograd.

It is what `impl="reference"` runs and what tests hold the compiled backends to. Any device;
ids are checked, shapes and dtypes are not.
"""

from kgfast.core.codes import SCORES, Score, find_score

from .losses import linear_cross_entropy, negative_sampling_loss, one_vs_all_loss
from .multitask import multitask_loss
from .ranking import rank, topk
from .sampling import alias_table, draw_table, philox, sample_negatives
from .scores import (
    COLUMN,
    SIMILARITIES,
    adjoint,
    make_queries,
    register_score,
    score_candidates,
    score_triples,
)

__all__ = [
    "COLUMN",
    "SCORES",
    "SIMILARITIES",
    "Score",
    "adjoint",
    "alias_table",
    "draw_table",
    "find_score",
    "linear_cross_entropy",
    "make_queries",
    "multitask_loss",
    "negative_sampling_loss",
    "one_vs_all_loss",
    "philox",
    "rank",
    "register_score",
    "sample_negatives",
    "score_candidates",
    "score_triples",
    "topk",
]
