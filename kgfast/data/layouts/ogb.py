"""OGB's knowledge graphs, ogbl-wikikg2 and ogbl-biokg: split/*/{train,valid,test}.pt, and names in mapping/.

ogbl-wikikg2 numbers all entities; ogbl-biokg those of a type, and an entity is called TYPE:NAME here. All entities of
the mapping belong to the graph. Valid and test have candidates for each triple, by which OGB's evaluation ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from kgfast.data.columns import Columns
from kgfast.data.layouts import Layout
from kgfast.data.layouts.numbered import names_by_id, numbered_columns
from kgfast.data.layouts.plain_arrays import read_arrays
from kgfast.data.lines import read_bytes
from kgfast.errors import DataError

SPLITS = ("train", "valid", "test")
ENTITIES = "nodeidx2entityid.csv.gz"  # of a graph without types
TYPED = "_entidx2name.csv.gz"  # behind the name of a type
RELATIONS = ("reltype2relid.csv.gz", "relidx2relname.csv.gz")


@dataclass(frozen=True)
class Candidates:
    """The triples of a split in OGB's order, and the entities that compete with their heads and their tails.

    triples  int64 [M, 3], ids of OGB
    head     integers [M, K] that compete with the head, numbered within the type of their triple's head
    tail     the same of the tail
    offsets  {side: int64 [M]}: what is added to a row to have ids; None without types
    names    of all entities, by id of OGB
    """

    triples: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    offsets: dict[str, np.ndarray] | None
    names: pa.Array
    relation_names: pa.Array

    def of_rows(self, side: str, rows: np.ndarray) -> np.ndarray:
        """The candidates of these rows, ids of OGB int64 [B, K]; DataError where one is none."""
        found = getattr(self, side)[rows].astype(np.int64)
        found = found if self.offsets is None else found + self.offsets[side][rows, None]
        if found.min(initial=0) < 0 or found.max(initial=0) >= len(self.names):
            raise DataError(f"a candidate of OGB for {side} is outside [0, {len(self.names):,})")
        return found


class OGB(Layout):
    name = "the files of OGB"

    def __init__(self, folder: Path, splits: Path):
        self.mapping = folder / "mapping"
        self.triples = {split: path for split in SPLITS if (path := splits / f"{split}.pt").is_file()}

    @classmethod
    def find(cls, folder: Path) -> OGB | None:
        splits = sorted(path.parent for path in folder.glob("split/*/train.pt"))
        return cls(folder, splits[0]) if len(splits) == 1 and (folder / "mapping").is_dir() else None

    def files(self) -> list[Path]:
        return [*self.triples.values(), *self.entity_files.values(), self.relation_file]

    @cached_property
    def entity_files(self) -> dict[str, Path]:
        """{type: its file}; the type is "" where there are none."""
        if (self.mapping / ENTITIES).is_file():
            return {"": self.mapping / ENTITIES}
        files = {path.name.removesuffix(TYPED): path for path in sorted(self.mapping.glob(f"*{TYPED}"))}
        if not files:
            raise DataError(f"{self.mapping} has neither {ENTITIES} nor files *{TYPED} with the names of entities")
        return files

    @cached_property
    def relation_file(self) -> Path:
        found = next((self.mapping / name for name in RELATIONS if (self.mapping / name).is_file()), None)
        if found is None:
            raise DataError(f"{self.mapping} has neither {' nor '.join(RELATIONS)} with the names of relations")
        return found

    @cached_property
    def relations(self) -> pa.Array:
        return named(self.relation_file)

    @cached_property
    def entities(self) -> tuple[pa.Array, dict[str, int]]:
        """(names by id, {type: its first id})."""
        names, first, count = [], {}, 0
        for kind, path in self.entity_files.items():
            of_kind = named(path)
            first[kind] = count
            count += len(of_kind)
            names.append(pc.binary_join_element_wise(kind, of_kind, ":") if kind else of_kind)
        return pa.concat_arrays(names), first

    def read(self, split: str) -> Columns:
        names, _ = self.entities
        triples, _ = self.numbers(split, read_split(self.triples[split]))
        return numbered_columns(self.triples[split], triples[:, 0], triples[:, 1], triples[:, 2], names, self.relations)

    def candidates(self, split: str) -> Candidates:
        """DataError where the split has none."""
        path = self.triples.get(split)
        found = read_split(path) if path is not None else {}
        if path is None or "head_neg" not in found or "tail_neg" not in found:
            raise DataError(f"OGB gives no candidates for {split}; it does for valid and test")
        triples, offsets = self.numbers(split, found)
        for key in ("head_neg", "tail_neg"):
            if not is_integers(found[key], 2) or len(found[key]) != len(triples) or not found[key].shape[1]:
                raise DataError(f"{path}: {key} must be integers [{len(triples):,}, K], not {shape_of(found[key])}")
        names, _ = self.entities
        given = Candidates(triples, found["head_neg"], found["tail_neg"], offsets, names, self.relations)
        return given

    def numbers(self, split: str, found: dict[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray] | None]:
        """(triples int64 [M, 3] of ids, what was added to heads and tails of each or None)."""
        path, columns, (_, first) = self.triples[split], [], self.entities
        offsets: dict[str, np.ndarray] = {}
        for key in ("head", "relation", "tail"):
            if not is_integers(found.get(key), 1) or len(found[key]) != len(found["head"]):
                raise DataError(f"{path}: {key} must be integers [M], not {shape_of(found.get(key))}")
            columns.append(found[key].astype(np.int64))
        if "" in first:
            return np.stack(columns, axis=1), None
        for place, side in ((0, "head"), (2, "tail")):
            kinds = pa.array(found.get(f"{side}_type") or []).dictionary_encode()
            unknown = [kind for kind in kinds.dictionary.to_pylist() if kind not in first]
            if len(kinds) != len(columns[place]) or unknown:
                told = f"unknown types {', '.join(map(str, unknown))}" if unknown else f"{len(kinds):,} types"
                raise DataError(f"{path}: {told} for {len(columns[place]):,} entries of {side}")
            starts = np.array([first[kind] for kind in kinds.dictionary.to_pylist()])
            offsets[side] = starts[kinds.indices.to_numpy()]
            columns[place] += offsets[side]
        return np.stack(columns, axis=1), offsets


def read_split(path: Path) -> dict[str, Any]:
    found = read_arrays(path)
    if not isinstance(found, dict):
        raise DataError(f"{path} holds a {type(found).__name__}, not a dict of arrays")
    return found


def is_integers(value: Any, dimensions: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == dimensions


def shape_of(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def named(path: Path) -> pa.Array:
    """The names by id of a file with a header and two columns, number and name."""
    columns = pyarrow.csv.ConvertOptions(
        column_types={"f0": pa.int64(), "f1": pa.string()}, include_columns=["f0", "f1"], strings_can_be_null=False
    )
    header = pyarrow.csv.ReadOptions(skip_rows=1, autogenerate_column_names=True)
    try:
        table = pyarrow.csv.read_csv(pa.BufferReader(read_bytes(path)), header, convert_options=columns)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(f"{path}: no table of numbers and names: {error}") from None
    ids, names = table["f0"].to_numpy(), table["f1"].combine_chunks()
    return names_by_id(path, ids, names)
