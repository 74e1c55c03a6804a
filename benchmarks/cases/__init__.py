"""All cases, by op; importing the package registers them."""

from benchmarks.cases import losses, ranking, scores, steps  # noqa: F401  (each registers its cases)
from benchmarks.cases.growth import large, scaling
from benchmarks.cases.registry import CASES, Case, Work, find, of

__all__ = ["CASES", "Case", "Work", "find", "large", "of", "scaling"]
