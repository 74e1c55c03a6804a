"""OpenKE: entity2id.txt, relation2id.txt, train2id.txt, maybe valid2id.txt and test2id.txt, each behind its count.

A line of triples is head, tail, relation, in this order; between its parts are spaces or tabs.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.columns import Columns
from kgfast.data.layouts import Layout
from kgfast.data.layouts.numbered import names_by_id, numbered_columns
from kgfast.data.lines import excerpt, read_lines
from kgfast.errors import DataError

FILES = {"train": "train2id.txt", "valid": "valid2id.txt", "test": "test2id.txt"}
NAMES = ("entity2id.txt", "relation2id.txt")
NUMBERS = r"^\s*\d{1,18}\s+\d{1,18}\s+\d{1,18}\s*$"
NAMED = r"^\s*(?P<name>\S.*?)\s+(?P<id>\d{1,18})\s*$"


class OpenKE(Layout):
    name = "the files of OpenKE"

    def __init__(self, folder: Path):
        self.entity_file, self.relation_file = (folder / name for name in NAMES)
        self.triples = {split: folder / name for split, name in FILES.items() if (folder / name).is_file()}

    @classmethod
    def find(cls, folder: Path) -> OpenKE | None:
        return cls(folder) if all((folder / name).is_file() for name in (*NAMES, FILES["train"])) else None

    def files(self) -> list[Path]:
        return [self.entity_file, self.relation_file, *self.triples.values()]

    @cached_property
    def entities(self) -> pa.Array:
        return named(self.entity_file)

    @cached_property
    def relations(self) -> pa.Array:
        return named(self.relation_file)

    def read(self, split: str) -> Columns:
        path = self.triples[split]
        lines = counted(path, NUMBERS, "head, tail and relation as numbers")
        numbers = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(lines)).flatten().cast(pa.int64())
        head, tail, relation = numbers.to_numpy().reshape(-1, 3).T
        return numbered_columns(path, head, relation, tail, self.entities, self.relations)


def counted(path: Path, pattern: str, what: str) -> pa.Array:
    """The lines behind the first one, which is their number; DataError where one is no `pattern`."""
    lines = read_lines(path)
    first, lines = lines[0].as_py().strip(), lines[1:]
    if not first.isdecimal() or int(first) != len(lines):
        raise DataError(
            f"{path}, line 1: it should be the number of the lines that follow, {len(lines):,}: {excerpt(first)}"
        )
    wrong = np.flatnonzero(~pc.match_substring_regex(lines, pattern).to_numpy(zero_copy_only=False))
    if len(wrong):
        raise DataError(f"{path}, line {wrong[0] + 2:,}: expected {what}: {excerpt(lines[int(wrong[0])].as_py())}")
    return lines


def named(path: Path) -> pa.Array:
    """The names by id."""
    found = pc.extract_regex(counted(path, NAMED, "a name and its number"), NAMED)
    return names_by_id(path, found.field("id").cast(pa.int64()).to_numpy(), found.field("name"))
