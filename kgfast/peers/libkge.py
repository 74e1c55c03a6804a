"""LibKGE: its checkpoints and packaged models as ours. Nothing of a file is executed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kgfast.errors import CheckpointError
from kgfast.nn import KGEModel
from kgfast.peers.tables import rotate_l2

RECIPROCAL = "reciprocal_relations_model"


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
    found = described(read(Path(path)), path)
    if found.kind not in SCORES:
        known = ", ".join(SCORES)
        raise CheckpointError(f"{path}: kgfast has no score of LibKGE's {found.kind}; there are those of {known}")
    score = SCORES[found.kind](found.norm)
    if score is None:
        raise CheckpointError(f"{path}: {found.kind} with l_norm={found.norm}; kgfast has the norms 1 and 2")
    entities, relations = (table(found, part, path) for part in ("entity", "relation"))
    if entity_names is not None:
        entities = entities[order(path, "entity", found.names, entity_names, len(entities))]
    if relation_names is not None:
        count = len(relations) // (2 if found.reciprocal else 1)
        rows = order(path, "relation", found.names, relation_names, count)
        relations = relations[torch.cat([rows, rows + count]) if found.reciprocal else rows]
    return KGEModel.from_tables(entities, relations, score=score, reciprocal=found.reciprocal)


class Description(NamedTuple):
    """What a checkpoint says of its model."""

    kind: str  # the class of its score
    norm: Any
    reciprocal: bool
    state: dict[str, Any]
    names: dict[str, Any]  # of a packaged model


def described(checkpoint: dict[str, Any], path: str | os.PathLike) -> Description:
    """The parts that are read; CheckpointError where one is missing or of another kind."""
    try:
        options, (state, _) = checkpoint["config"].options, checkpoint["model"]
        reciprocal = options["model"] == RECIPROCAL
        own = options[RECIPROCAL]["base_model"] if reciprocal else {}  # whose settings come first
        base = own["type"] if reciprocal else options["model"]
        settings = {**options.get(base, {}), **own}
        kind, names = settings.get("class_name", base), checkpoint.get("dataset", {}).get("meta", {})
        return Description(str(kind), settings.get("l_norm", 1), reciprocal, dict(state), dict(names))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is no checkpoint of LibKGE: {type(error).__name__}: {error}") from None


def by_norm(first: Callable[[], str], second: Callable[[], str]) -> Callable[[Any], str | None]:
    """The score of a norm, 1 or 2; None of another."""
    return lambda norm: (first if norm == 1 else second)() if norm in (1, 2) else None


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

    options: dict[str, Any]


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


def table(found: Description, part: str, path: str | os.PathLike) -> Tensor:
    """The rows of entities or relations, under the names of today or of 2020."""
    prefix = "_base_model." if found.reciprocal else ""
    for name in ("_embeddings", "embeddings"):
        rows = found.state.get(f"{prefix}_{part}_embedder.{name}.weight")
        if isinstance(rows, Tensor):
            return rows
    raise CheckpointError(f"{path} has no table of {part} rows: only lookup_embedder can be read")


def order(path: str | os.PathLike, kind: str, held: dict[str, Any], names: Sequence[str], count: int) -> Tensor:
    """The file's row of each name."""
    known = held.get(f"{kind}_ids")
    if known is None:
        raise CheckpointError(f"{path} has no {kind} names (`kge package` writes them): leave {kind}_names out")
    rows = {str(name): row for row, name in enumerate(known)}
    if len(rows) != count:
        raise CheckpointError(f"{path} has {len(rows):,} {kind} names for {count:,} rows")
    missing = [name for name in names if name not in rows]
    if missing:
        raise CheckpointError(f"{path} has no {kind} called {missing[0]!r} ({len(missing):,} of {len(names):,} lack)")
    return torch.tensor([rows[name] for name in names], dtype=torch.int64)
