"""LibKGE: its checkpoints and packaged models as ours. Nothing of a file is executed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kgfast.errors import CheckpointError
from kgfast.nn import KGEModel
from kgfast.peers.tables import rotate_l2

RECIPROCAL = "reciprocal_relations_model"
Options = dict[str, Any]


def from_libkge(
    path: str | os.PathLike,
    entity_names: Sequence[str] | None = None,
    relation_names: Sequence[str] | None = None,
) -> KGEModel:
    """The model of a LibKGE checkpoint (checkpoint_best.pt) or packaged model as a kgfast.nn.KGEModel with its scores.

    TransE, DistMult, ComplEx, RESCAL, CP, SimplE and RotatE, with reciprocal relations or without; RotatE with l_norm=2
    becomes the score "rotate_l2". Any other, and embedders that are more than a table, are refused by name.

    Args:
        path: the file, which is read as data: no pickled object but LibKGE's configuration is let in.
        entity_names: names by id, as a graph's `entity_names`: rows are put in that order. A packaged model (`kge
            package`) has the names for it; None: the file's own ids.
        relation_names: the same of relations.
    """
    checkpoint = read(Path(path))
    try:
        options, state = checkpoint["config"].options, checkpoint["model"][0]
        name = options["model"]
        reciprocal = name == RECIPROCAL
        base = options[RECIPROCAL]["base_model"]["type"] if reciprocal else name
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{path} is no checkpoint of LibKGE: {type(error).__name__}: {error}") from None
    kind = options.get(base, {}).get("class_name", base)
    if kind not in SCORES:
        raise CheckpointError(f"{path}: kgfast has no score of LibKGE's {kind}; there are those of {', '.join(SCORES)}")
    own = options[RECIPROCAL]["base_model"] if reciprocal else {}  # whose settings come first
    norm = own.get("l_norm", options.get(base, {}).get("l_norm", 1))
    score = SCORES[kind](norm)
    if score is None:
        raise CheckpointError(f"{path}: {kind} with l_norm={norm}; kgfast has the norms 1 and 2")
    entities, relations = (table(state, part, reciprocal, path) for part in ("entity", "relation"))
    ids = checkpoint.get("dataset", {}).get("meta", {})
    if entity_names is not None:
        entities = entities[order(path, "entity", ids, entity_names)]
    if relation_names is not None:
        rows = order(path, "relation", ids, relation_names)
        relations = relations[torch.cat([rows, rows + len(relations) // 2]) if reciprocal else rows]
    return KGEModel.from_tables(entities, relations, score=score, reciprocal=reciprocal)


def by_norm(first: Callable[[], str], second: Callable[[], str]) -> Callable[[Any], str | None]:
    """The score of a norm, 1 or 2; None of another."""
    return lambda norm: {1: first, 2: second}[norm]() if norm in (1, 2) else None


SCORES: dict[str, Callable[[Any], str | None]] = {
    "TransE": by_norm(lambda: "transe_l1", lambda: "transe_l2"),
    "DistMult": lambda norm: "distmult",
    "ComplEx": lambda norm: "complex",
    "Rescal": lambda norm: "rescal",
    "CP": lambda norm: "cp",
    "SimplE": lambda norm: "simple",
    "RotatE": by_norm(lambda: "rotate", rotate_l2),
}


class Config:
    """What stands for kge.config.Config in a file: its attributes, and no code."""

    options: Options


# numbers of NumPy, as traces of validation hold them, under their names of NumPy 1 and 2
SCALAR = np.float64(0).__reduce__()[0]
ALLOWED: list[Any] = [(Config, "kge.config.Config"), np.dtype, *(type(np.dtype(one)) for one in ("f4", "f8", "i8"))]
ALLOWED += [(SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]


def read(path: Path) -> dict[str, Any]:
    """The checkpoint as data; CheckpointError for what is none."""
    try:
        with torch.serialization.safe_globals(ALLOWED):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises whatever it comes upon
        raise CheckpointError(f"{path} can't be read as data alone: {str(error).partition(chr(10))[0]}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is no checkpoint of LibKGE: it holds a {type(found).__name__}")
    return found


def table(state: dict[str, Tensor], part: str, reciprocal: bool, path: str | os.PathLike) -> Tensor:
    """The rows of entities or relations, under the names of today or of 2020."""
    prefix = "_base_model." if reciprocal else ""
    for name in ("_embeddings", "embeddings"):
        found = state.get(f"{prefix}_{part}_embedder.{name}.weight")
        if isinstance(found, Tensor):
            return found
    raise CheckpointError(f"{path} has no table of {part} rows: only lookup_embedder can be read")


def order(path: str | os.PathLike, kind: str, ids: dict[str, list[str]], names: Sequence[str]) -> Tensor:
    """The file's row of each name."""
    known = ids.get(f"{kind}_ids")
    if known is None:
        raise CheckpointError(
            f"{path} has no {kind} names: `kge package` makes a file that has, or leave {kind}_names out"
        )
    rows = {name: row for row, name in enumerate(known)}
    missing = [name for name in names if name not in rows]
    if missing:
        raise CheckpointError(f"{path} has no {kind} called {missing[0]!r} ({len(missing):,} of {len(names):,} lack)")
    return torch.tensor([rows[name] for name in names], dtype=torch.int64)
