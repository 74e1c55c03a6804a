"""The public ops. Each docstring has the eager formula and every argument; `reference/` is the formula in code.

s(h, r, t) = similarity(query, row) (see `kgfast.reference.SCORES`). Tables are entities [E, D] and relations [R, W] on
one device, tensors or an nn.Embedding; float32, float64, bfloat16 or float16. Results and gradients have the tables'
dtype. The CPU has no kernels of 16 bits: there such tables are copied to float32 in each call, E D 4 bytes more.
Triples are [B, 3] as (head, relation, tail); ids are int64, or int32, which is copied. Bad arguments raise KgfastError
before anything is computed; on a GPU the check of ids waits for the device (training steps do not).
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
