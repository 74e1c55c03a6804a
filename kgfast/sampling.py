"""A description of sampled negatives, from which a loss draws the ids itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class NegativeSampler:
    """Negatives to be drawn for the triples of a batch, as `kgfast.sample_negatives` would with the same fields.

    Handed to a loss as `negatives`: ids are functions of (seed, step, row, column) and are drawn where they are used.
    """

    num_negatives: int
    seed: int = 0
    step: int = 0
    weights: Tensor | None = None  # [num_entities], draw in proportion; None: uniformly
    known: object | None = None  # KnownTriples: known answers are redrawn, or masked where lists are shared
    shared: int = 0  # triples that share a list; 0: every triple has its own
