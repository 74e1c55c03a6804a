"""What the language model answers: entities for a blank in a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kgfast.errors import ConfigError
from kgfast.joint.fact_scores import FactScorer
from kgfast.joint.facts import language_task
from kgfast.joint.text.forms import Said, entity_labels

AT_ONCE = 256  # texts that the language model scores together


def names_for_blank(model, text: str, blank: tuple[int, int]) -> Tensor:
    """The probability [E] of each entity's name, among all names, in the place text[start:stop] by the language model;
    ConfigError where the run has none."""
    task = language_task(model)
    if task is None:
        raise ConfigError(f"a blank is for a language model (mlm, clm), and this run has: {', '.join(model.tasks)}")
    before, behind = text[: blank[0]], text[blank[1] :]
    said = [
        Said(f"{before}{label}{behind}", (0, 0), (len(before), len(before) + len(label)))
        for label in entity_labels(model.graph)
    ]
    scorer, tails = FactScorer(model, task), torch.arange(len(said))
    parts: Sequence[Tensor] = [
        scorer.by_tokens(said[start : start + AT_ONCE], None, tails[start : start + AT_ONCE])
        for start in range(0, len(said), AT_ONCE)
    ]
    return torch.cat(list(parts)).softmax(0)
