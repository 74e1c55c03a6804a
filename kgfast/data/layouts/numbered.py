"""Triples of numbers and the names that the numbers stand for, as several layouts have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.columns import Columns
from kgfast.errors import DataError


def names_by_id(where: Path | str, ids: np.ndarray, names: pa.Array) -> pa.Array:
    """The names in the order of their ids; DataError unless the ids are 0 to n - 1 and no name stands twice."""
    if not np.array_equal(np.sort(ids), np.arange(len(ids))):
        raise DataError(f"{where}: its {len(ids):,} ids are not 0 to {len(ids) - 1:,}, each once")
    names = names.take(pa.array(np.argsort(ids))).cast(pa.string())
    if len(pc.unique(names)) < len(names):
        counts = pc.value_counts(names)
        name = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise DataError(f"{where}: {name!r} is the name of several ids")
    if (empty := pc.index(names, "").as_py()) >= 0:
        raise DataError(f"{where}: id {empty} has an empty name")
    return names


def numbered_columns(
    where: Path | str, head: np.ndarray, relation: np.ndarray, tail: np.ndarray, entities: pa.Array, relations: pa.Array
) -> Columns:
    """The triples as names. Every name counts as one of the graph, in a triple or not; DataError for an unknown id."""
    columns = Columns()
    chunks = []
    for role, ids, names in (("head", head, entities), ("relation", relation, relations), ("tail", tail, entities)):
        wrong = np.flatnonzero((ids < 0) | (ids >= len(names)))
        if len(wrong):
            first = int(wrong[0])
            raise DataError(f"{where}, triple {first + 1:,}: {role} {ids[first]} is outside [0, {len(names):,})")
        chunks.append(pa.DictionaryArray.from_arrays(pa.array(ids.astype(np.int32)), names))
    columns.append(*chunks)
    return columns
