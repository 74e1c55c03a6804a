"""A trained run in use: `load` and what it answers; the server stands beside it."""

from kgfast.use.loading import load
from kgfast.use.trained import TrainedRun

__all__ = ["TrainedRun", "load"]
