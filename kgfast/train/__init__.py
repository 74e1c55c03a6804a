"""Training: `train(TrainConfig(data="world", recipe="complex-n3"))` leaves a run, `load_run` reads one."""

from kgfast.run.recipes import GRAPH as RECIPES
from kgfast.run.session import TrainingError
from kgfast.train.checkpoint import load_run
from kgfast.train.config import TrainConfig, resolve
from kgfast.train.id_maps import IdMaps
from kgfast.train.loop import train

__all__ = ["RECIPES", "IdMaps", "TrainConfig", "TrainingError", "load_run", "resolve", "train"]
