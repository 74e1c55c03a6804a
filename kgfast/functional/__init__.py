"""The public ops. Each docstring starts with the eager formula; `reference/` is that formula in code.

s(h, r, t) = similarity(query, row) (see `kgfast.reference.SCORES`). Tables are float32 or float64 (on a GPU also
bfloat16 and float16) on one device, entities [E, D], relations [R, W]; triples int64 [B, 3]. Bad arguments raise
KgfastError before anything is computed; on a GPU the check of ids waits for the device (training steps do not).
"""

from kgfast.functional.candidates import linear_cross_entropy, one_vs_all_loss
from kgfast.functional.multitask import LossTerm, Term, multitask_loss
from kgfast.functional.negatives import NegativeSampler, negative_sampling_loss, sample_negatives
from kgfast.functional.ranking import rank, topk
from kgfast.functional.scoring import score_candidates, score_triples

__all__ = [
    "LossTerm",
    "NegativeSampler",
    "Term",
    "linear_cross_entropy",
    "multitask_loss",
    "negative_sampling_loss",
    "one_vs_all_loss",
    "rank",
    "sample_negatives",
    "score_candidates",
    "score_triples",
    "topk",
]
