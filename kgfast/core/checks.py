"""Checks of shapes, dtypes and names, before any kernel runs. Ranges of ids are checked where the ids are read."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor

from kgfast import backends
from kgfast.errors import KgfastError
from kgfast.reference import SCORES, Score

HALF = (torch.bfloat16, torch.float16)  # dtypes of 16 bits: tables only; sums are in float32


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of losses, weights and gradients of rows for tables of `dtype`."""
    return torch.float32 if dtype in HALF else dtype


def choose(name: str, value, allowed) -> None:
    """Raises unless `value` is one of `allowed`; names the nearest."""
    if value not in allowed:
        near = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KgfastError(f"{name}={value!r} is unknown: it is one of {', '.join(map(str, allowed))}{hint}")


def table(name: str, value: Tensor) -> Tensor:
    """A float32 or float64 matrix (where the GPU's backends run: of 16 bits too), made contiguous."""
    if not isinstance(value, Tensor):
        raise KgfastError(f"{name} must be a torch.Tensor, not {type(value).__name__}")
    if value.dim() != 2:
        raise KgfastError(f"{name} must have shape [rows, dim], not {list(value.shape)}")
    if value.dtype in HALF and torch.is_autocast_enabled(value.device.type):
        value = value.float()
    half = value.dtype in HALF and (value.device.type != "cpu" or backends.INTERPRETED)
    if value.dtype not in (torch.float32, torch.float64) and not half:
        raise KgfastError(f"{name} has dtype {value.dtype}; float32 and float64 are supported")
    if value.shape[0] >= 2**31:
        raise KgfastError(f"{name} has {value.shape[0]} rows; a row block holds fewer than 2^31")
    return value.contiguous()


def ids(name: str, value: Tensor, dimensions: int, like: Tensor) -> Tensor:
    """An int64 tensor of ids on the device of `like`, made contiguous."""
    if not isinstance(value, Tensor):
        raise KgfastError(f"{name} must be a torch.Tensor, not {type(value).__name__}")
    if value.dtype != torch.int64:
        raise KgfastError(f"{name} has dtype {value.dtype}; ids are int64")
    if value.dim() != dimensions:
        raise KgfastError(f"{name} must have {dimensions} dimension(s), not shape {list(value.shape)}")
    if value.device != like.device:
        raise KgfastError(f"{name} is on {value.device}, the tables are on {like.device}")
    return value.contiguous()


def triples(value: Tensor, like: Tensor) -> Tensor:
    value = ids("triples", value, 2, like)
    if value.shape[1] != 3:
        raise KgfastError(f"triples must have shape [B, 3] (head, relation, tail), not {list(value.shape)}")
    return value


def tables(entities: Tensor, relations: Tensor, score: str) -> tuple[Tensor, Tensor, Score]:
    """Entities [E, D] and relations [R, W] of a score, W as the score demands."""
    choose("score", score, SCORES)
    spec = SCORES[score]
    entities, relations = table("entities", entities), table("relations", relations)
    if entities.dtype != relations.dtype:
        raise KgfastError(f"relations have dtype {relations.dtype}, entities {entities.dtype}: they must agree")
    if entities.device != relations.device:
        raise KgfastError(f"relations are on {relations.device}, entities on {entities.device}: they must agree")
    dim = entities.shape[1]
    if dim < 1 or (spec.even_dim and dim % 2):
        need = "an even number of" if spec.even_dim else "at least 1"
        raise KgfastError(f"entities have {dim} columns; score {score!r} needs {need} columns")
    width = spec.relation_width(dim)
    if relations.shape[1] != width:
        raise KgfastError(
            f"relations have {relations.shape[1]} columns; score {score!r} with entities of {dim} needs {width}"
        )
    return entities, relations, spec


def finite(name: str, value: float, lowest: float | None = None, highest: float | None = None) -> float:
    value = float(value)
    outside = (lowest is not None and value < lowest) or (highest is not None and value > highest)
    if value != value or value in (float("inf"), float("-inf")) or outside:  # math.isfinite breaks a compiled graph
        bound = "" if lowest is None else f" of at least {lowest:g}"
        bound += "" if highest is None else f" and at most {highest:g}"
        raise KgfastError(f"{name}={value!r} must be a finite number{bound}")
    return value


def weights(value: Tensor, count: int) -> Tensor:
    """One finite weight >= 0 for each of `count` triples."""
    if not isinstance(value, Tensor) or value.shape != (count,):
        found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise KgfastError(f"weights are {found}; a tensor with one for each of {count} triples is needed")
    if not torch.compiler.is_compiling() and not bool(((value >= 0) & value.isfinite()).all()):
        row = int((~((value >= 0) & value.isfinite())).nonzero()[0])
        raise KgfastError(f"weights[{row}]={float(value[row])} must be a finite number of at least 0")
    return value


def seed(value: int) -> int:
    """A seed of 64 bits, as the signed integer that ops take."""
    if not isinstance(value, int):
        raise KgfastError(f"seed={value!r} must be an integer")
    value %= 2**64
    return value - 2**64 if value >= 2**63 else value
