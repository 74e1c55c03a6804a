"""Every name that people choose from, and the code that kernels know it by.

This is the one list: C++ (csrc/include/kgfast/core.h) has the same enumerations, and a test compares them; Triton reads
its constants from here; settings, help and error messages read the words. A score, an objective and a rule of a row
optimizer are listed where their formulae stand, in reference/; `kgfast.register_score` adds a score from anywhere.
"""

from kgfast.core.codes import (
    SCORES,
    Code,
    Memory,
    Regularizer,
    Score,
    Side,
    Similarity,
    add_score,
    find_score,
    refuse,
    score_at,
)
from kgfast.reference import scores  # noqa: F401  registers those that are built in
from kgfast.reference.objectives import ALL_OBJECTIVES, NEGATIVE_OBJECTIVES, Objective
from kgfast.reference.updates import RULES, Rule, Update

ENUMERATIONS = (Side, Similarity, Objective, Update, Regularizer)

__all__ = [
    "ALL_OBJECTIVES",
    "ENUMERATIONS",
    "NEGATIVE_OBJECTIVES",
    "RULES",
    "SCORES",
    "Code",
    "Memory",
    "Objective",
    "Regularizer",
    "Rule",
    "Score",
    "Side",
    "Similarity",
    "Update",
    "add_score",
    "find_score",
    "refuse",
    "score_at",
]
