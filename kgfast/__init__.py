"""kgfast: fast training of knowledge-graph embeddings, alone and together with a language model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kgfast.errors import CheckpointError, ConfigError, DataError, KgfastError

if TYPE_CHECKING:
    from kgfast import nn, optim, steps
    from kgfast._C import cpu_level, cpu_levels
    from kgfast.backends.cpu import set_cpu_level
    from kgfast.core.known import KnownTriples
    from kgfast.data import KnowledgeGraph
    from kgfast.functional import (
        LossTerm,
        NegativeSampler,
        Term,
        linear_cross_entropy,
        multitask_loss,
        negative_sampling_loss,
        one_vs_all_loss,
        rank,
        sample_negatives,
        score_candidates,
        score_triples,
        topk,
    )
    from kgfast.peers.libkge import from_libkge
    from kgfast.peers.pyg import from_pyg
    from kgfast.peers.pykeen import from_pykeen
    from kgfast.reference import SCORES, register_score
    from kgfast.use import TrainedRun, load

__version__ = "0.2.0.dev0"

# Where each name lives: importing kgfast costs nothing, torch (two seconds) comes with the first name that needs it.
_HOMES = {
    "kgfast": ("nn", "optim", "steps"),
    "kgfast._C": ("cpu_level", "cpu_levels"),
    "kgfast.backends.cpu": ("set_cpu_level",),
    "kgfast.data": ("KnowledgeGraph",),
    "kgfast.functional": (
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
    ),
    "kgfast.core.known": ("KnownTriples",),
    "kgfast.peers.libkge": ("from_libkge",),
    "kgfast.peers.pyg": ("from_pyg",),
    "kgfast.peers.pykeen": ("from_pykeen",),
    "kgfast.reference": ("SCORES", "register_score"),
    "kgfast.use": ("TrainedRun", "load"),
}
_EARLIER = {"fused": "steps"}  # names of 0.1
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["CheckpointError", "ConfigError", "DataError", "KgfastError", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    name = _EARLIER.get(name, name)
    if name not in _HOME:
        raise AttributeError(f"module 'kgfast' has no attribute {name!r}")
    import torch  # noqa: F401  (its OpenMP runtime must be loaded before kgfast._C)

    home = _HOME[name]
    value = (
        importlib.import_module(f"kgfast.{name}") if home == "kgfast" else getattr(importlib.import_module(home), name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
