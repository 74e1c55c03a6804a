"""Checks of arguments, before any kernel runs: shapes, dtypes and names here above, ids where they are read.

Every function names the argument at fault. Names are matched in registry.py.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from kgfast.core import codes
from kgfast.core.codes import Score
from kgfast.core.sums import HALF
from kgfast.errors import KgfastError

T = TypeVar("T")
Table = Tensor | nn.Embedding  # what is taken for the rows of a table
FLOATS = (torch.float32, torch.float64, *HALF)
REAL = (*FLOATS, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
REDUCTIONS = ("mean", "sum", "none")  # of losses
INTEGERS = (int, torch.SymInt)  # bool among them; torch 2.6 compiles isinstance with a tuple, not with a union

# ---- shapes, dtypes, names -----------------------------------------------------------------------------------


def choose(name: str, value: object, allowed: Collection[object]) -> None:
    """Raises unless `value` is one of `allowed`; names the nearest."""
    if not codes.is_one_of(value, allowed):
        raise codes.refuse(name, value, allowed)


def pick(name: str, value: str, table: Mapping[str, T]) -> T:
    """table[value]."""
    choose(name, value, table)
    return table[value]


def tensor(name: str, value: object) -> Tensor:
    """A dense tensor, whose memory holds its numbers and not, as some views of complex ones, these times -1."""
    if not isinstance(value, Tensor):
        raise KgfastError(f"{name} must be a torch.Tensor, not {type(value).__name__}")
    if value.is_nested or value.layout != torch.strided:
        raise KgfastError(f"{name} must be a dense tensor, not {'nested' if value.is_nested else value.layout}")
    if value.device.type == "meta":
        raise KgfastError(f"{name} is on meta: it has a shape, but no numbers")
    return value.resolve_neg()


def real(name: str, value: object, shape: Sequence[int] | None = None) -> Tensor:
    """A dense tensor of real numbers, of this shape if one is given."""
    value = tensor(name, value)
    if value.dtype not in REAL:
        raise KgfastError(f"{name} has dtype {value.dtype}; real numbers are needed")
    if shape is not None and value.shape != torch.Size(shape):
        raise KgfastError(f"{name} has shape {list(value.shape)}, not {list(shape)}")
    return value


def table(name: str, value: object) -> Tensor:
    """A matrix of float32, float64, bfloat16 or float16, or the weight of an nn.Embedding, made contiguous."""
    value = tensor(name, weight_of(name, value) if isinstance(value, nn.Embedding) else value)
    if value.dim() != 2:
        raise KgfastError(f"{name} must have shape [rows, dim], not {list(value.shape)}")
    if value.shape[1] == 0:
        raise KgfastError(f"{name} has shape {list(value.shape)}: its rows hold no number")
    if value.dtype in HALF and torch.is_autocast_enabled(value.device.type):
        value = value.float()
    if value.dtype not in FLOATS:
        raise KgfastError(f"{name} has dtype {value.dtype}; float32, float64, bfloat16 and float16 are supported")
    if value.shape[0] >= 2**31:
        raise KgfastError(f"{name} has {value.shape[0]} rows; a row block holds fewer than 2^31")
    return value.contiguous()


def weight_of(name: str, embedding: nn.Embedding) -> Tensor:
    """The rows of an nn.Embedding; what its own lookups would do to them or to their gradients is refused."""
    for option in ("max_norm", "padding_idx", "scale_grad_by_freq"):
        value = getattr(embedding, option)
        if value is not None and value is not False:
            raise KgfastError(
                f"{name} is an nn.Embedding with {option}={value}, which its own lookups alone follow: hand in its "
                "weight to do without"
            )
    return embedding.weight


def sparse_gradient(value: object, **tables: object) -> bool:
    """The flag `sparse_grad`; True as well where the tables are embeddings with sparse gradients."""
    sparse = {name for name, one in tables.items() if isinstance(one, nn.Embedding) and one.sparse}
    if flag("sparse_grad", value) or not sparse:
        return bool(value)
    dense = tables.keys() - sparse
    if dense:
        raise KgfastError(
            f"{sparse.pop()} has sparse gradients, {dense.pop()} has not: give both sparse=True, or sparse_grad=True"
        )
    return True


def ids(name: str, value: object, dimensions: int, like: Tensor, copy: bool = True) -> Tensor:
    """An int64 or int32 tensor of ids on the device of `like`, as int64, contiguous; a copy, for whoever checks it
    reads it again later, and a loader may fill its buffer meanwhile."""
    value = tensor(name, value)
    if value.dtype not in (torch.int64, torch.int32):
        raise KgfastError(f"{name} has dtype {value.dtype}; ids are int64 or int32")
    if value.dim() != dimensions:
        raise KgfastError(f"{name} must have {dimensions} dimension(s), not shape {list(value.shape)}")
    if value.device != like.device:
        raise KgfastError(f"{name} is on {value.device}, the tables are on {like.device}")
    if value.dtype == torch.int32:
        return value.to(torch.int64, memory_format=torch.contiguous_format)
    return value.clone(memory_format=torch.contiguous_format) if copy else value.contiguous()


def triples(value: object, like: Tensor | None = None, copy: bool = True) -> Tensor:
    """int64 [B, 3] of (head, relation, tail), on the device of `like`."""
    found = ids("triples", value, 2, tensor("triples", value) if like is None else like, copy)
    if found.shape[1] != 3:
        raise KgfastError(f"triples must have shape [B, 3] (head, relation, tail), not {list(found.shape)}")
    return found


def tables(entities: object, relations: object, score: str) -> tuple[Tensor, Tensor, Score]:
    """Entities [E, D] and relations [R, W] of a score, W as the score demands."""
    spec = codes.find_score(score)
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


def number(name: str, value: object) -> float:
    """A real number, as Python or NumPy write it, or a tensor of one."""
    if isinstance(value, Tensor) and real(name, value).numel() != 1:
        raise KgfastError(f"{name}={value!r} must be one number")
    if isinstance(value, (str, bytes)) or is_truth(value):
        raise KgfastError(f"{name}={value!r} must be a number, not {type(value).__name__}")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise KgfastError(f"{name} must be a finite number, not one beyond {sys.float_info.max:g}") from None
    except (TypeError, ValueError):
        raise KgfastError(f"{name}={value!r} must be a number, not {type(value).__name__}") from None


def is_truth(value: object) -> bool:
    """Whether a value is True or False, as Python, NumPy or torch write them."""
    return isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and value.dtype == torch.bool)


def flag(name: str, value: object) -> bool:
    """True or False; 1 and 0 are the same."""
    if isinstance(value, np.bool_) or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise KgfastError(f"{name}={value!r} must be True or False")


def text(name: str, value: object) -> str:
    """A str without halves of characters."""
    if not isinstance(value, str):
        raise KgfastError(f"{name} must be a str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise KgfastError(f"{name}={value[:200]!r} is no valid text") from None
    return value


def rows(name: str, value: Any) -> Sequence[Any]:
    """A list, or what has a length and items by place like one; a str is none."""
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        raise KgfastError(f"{name} must be a list, not {type(value).__name__}")
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and not value.ndim:
        raise KgfastError(f"{name} must be a list, not one number")
    return value


def device(name: str, value: Any) -> torch.device:
    """A device, or what torch makes one of."""
    try:
        return torch.device(value)
    except (TypeError, ValueError, RuntimeError) as error:
        said = str(error).partition("\n")[0]
        raise KgfastError(f"{name}={value!r} must be a device such as cpu or cuda: {said}") from None


def finite(name: str, value: object, lowest: float | None = None, highest: float | None = None) -> float:
    """A finite number within bounds."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise KgfastError(f"{name} requires a gradient, which it can't have here: hand in float({name})")
    found = number(name, value)
    outside = (lowest is not None and found < lowest) or (highest is not None and found > highest)
    if found != found or found in (float("inf"), float("-inf")) or outside:  # math.isfinite breaks a compiled graph
        bound = "" if lowest is None else f" of at least {lowest:g}"
        bound += "" if highest is None else f" and at most {highest:g}"
        raise KgfastError(f"{name}={found!r} must be a finite number{bound}")
    return found


def weighting(margin: object, temperature: object, like: torch.dtype) -> tuple[float, float]:
    """An objective's (margin, adversarial temperature) for sums of a dtype: no margin whose sum over 2^25 negatives
    could overflow; a temperature below the least normal number is 0."""
    limits = torch.finfo(like)
    most = limits.max / 2**25
    margin = finite("margin", margin, -most, most)
    temperature = finite("adversarial_temperature", temperature, 0.0, limits.max)
    return margin, temperature if temperature >= limits.tiny else 0.0


def as_integer(value: Any) -> Any:
    """What counts as an integer, NumPy's among them, as Python's own; anything else as it is."""
    if isinstance(value, INTEGERS) or not hasattr(value, "__index__") or is_truth(value):
        return value
    if isinstance(value, Tensor) and (value.device.type == "meta" or value.layout != torch.strided):
        return value
    try:
        return value.__index__()
    except TypeError:  # a type, or a tensor of several numbers
        return value


def integer(name: str, value: Any, lowest: int, beyond: int | None = None) -> int:
    """An integer (Python's, NumPy's, or one that torch.compile traces) in [lowest, beyond)."""
    value = as_integer(value)
    if isinstance(value, bool) or not isinstance(value, INTEGERS) or value < lowest:
        raise KgfastError(f"{name}={value!r} must be an integer of at least {lowest}")
    if beyond is not None and value >= beyond:
        raise KgfastError(f"{name}={value!r} must be an integer of at least {lowest} and below {beyond}")
    return value  # type: ignore[return-value]


def seed(value: Any) -> int:
    """A seed of 64 bits, as the signed integer that ops take."""
    value = as_integer(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise KgfastError(f"seed={value!r} must be an integer")
    found = value % 2**64
    return found - 2**64 if found >= 2**63 else found


def weights(value: object, count: int, like: torch.dtype) -> Tensor:
    """One finite weight >= 0 for each of `count` triples, whose sum is finite, in the dtype of sums."""
    if not isinstance(value, Tensor):
        raise KgfastError(f"weights are {type(value).__name__}; a tensor with one for each of {count} is needed")
    value = real("weights", value)
    if value.shape != (count,):
        raise KgfastError(f"weights are {list(value.shape)}; a tensor with one for each of {count} triples is needed")
    if not torch.compiler.is_compiling() and not bool(((value >= 0) & value.isfinite()).all()):
        row = int((~((value >= 0) & value.isfinite())).nonzero()[0])
        raise KgfastError(f"weights[{row}]={float(value[row])} must be a finite number of at least 0")
    if not torch.compiler.is_compiling() and not bool(value.to(like).sum().isfinite()):
        raise KgfastError(f"weights: their sum, {float(value.double().sum()):g}, is beyond {like}")
    return value


# ---- what is read from memory: each waits for the device ------------------------------------------------------


def id_range(name: str, ids: Tensor, count: int, lowest: int = 0) -> None:
    """Raises unless all ids are in [lowest, count); names the argument, the value and its place. Where torch traces,
    the graph keeps the check, whose RuntimeError names the argument."""
    allowed = f"[0, {count})" + (" or -1 for a masked one" if lowest < 0 else "")
    if torch.compiler.is_compiling():
        torch._assert_async(((ids >= lowest) & (ids < count)).all(), f"{name}: ids must be in {allowed}")
        return
    if ids.numel() == 0:
        return
    low, high = torch.aminmax(ids)
    if int(low) < lowest or int(high) >= count:
        wrong = ((ids < lowest) | (ids >= count)).nonzero()[0].tolist()
        place = ", ".join(map(str, wrong))
        raise KgfastError(f"{name}[{place}] is {int(ids[tuple(wrong)])}; ids must be in {allowed}")


def triple_range(triples: Tensor, entities: int, relations: int) -> None:
    for column, count, what in ((0, entities, "heads"), (1, relations, "relations"), (2, entities, "tails")):
        id_range(f"triples (column of {what})", triples[:, column], count)


def csr_range(name: str, starts: Tensor, ends: Tensor, ids: Tensor, count: int) -> None:
    """Raises unless the ranges starts[i]:ends[i] lie in `ids`, and those in [0, count)."""
    if starts.numel() == 0:
        return
    if int(starts.min()) < 0 or int(ends.max()) > ids.numel() or bool((ends < starts).any()):
        raise KgfastError(f"{name}: ranges of ids must lie in [0, {ids.numel()}]")
    id_range(f"{name}.ids", ids, count)


def no_nan(scores: Tensor) -> None:
    """Raises where a score is NaN, which has no place in an order."""
    if scores.isnan().any():
        row = int(scores.isnan().nonzero()[0, 0])
        raise KgfastError(f"triples[{row}]: a score is NaN, so a parameter of its query or of a candidate is NaN")
