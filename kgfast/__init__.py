"""kgfast: fast training of knowledge-graph embeddings, alone and together with a language model."""

__version__ = "0.1.0"

import torch  # noqa: F401  (its OpenMP runtime must be loaded before kgfast._C)

from kgfast import fused, nn, optim
from kgfast._C import cpu_level, cpu_levels, set_cpu_level
from kgfast.data import KnowledgeGraph
from kgfast.errors import CheckpointError, ConfigError, DataError, KgfastError
from kgfast.functional import (
    linear_cross_entropy,
    negative_sampling_loss,
    one_vs_all_loss,
    rank,
    sample_negatives,
    score_candidates,
    score_triples,
    topk,
)
from kgfast.known import KnownTriples
from kgfast.reference import SCORES
from kgfast.sampling import NegativeSampler

__all__ = [
    "SCORES",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "KgfastError",
    "KnowledgeGraph",
    "KnownTriples",
    "NegativeSampler",
    "cpu_level",
    "cpu_levels",
    "fused",
    "linear_cross_entropy",
    "negative_sampling_loss",
    "nn",
    "one_vs_all_loss",
    "optim",
    "rank",
    "sample_negatives",
    "score_candidates",
    "score_triples",
    "set_cpu_level",
    "topk",
]
