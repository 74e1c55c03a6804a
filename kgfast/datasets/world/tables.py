"""What all builders of the data set share: its folder and splits, its tables, and the only chance that there is."""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent.resolve()
SPLITS = ("train", "valid", "test")


def order(*key):
    """Return a number in [0, 1) that depends on the key alone: the only chance there is in this file."""
    return int.from_bytes(hashlib.sha256("\t".join(key).encode()).digest()[:8], "big") / 2**64


def read_table(name):
    """Yield the rows of a table as dictionaries from column name to cell."""
    lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    columns = lines[0].removeprefix("#").split("\t")
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if len(cells) != len(columns) or not all(cells):
            raise ValueError(f"{name}.tsv:{number}: {len(cells)} cells or one is empty, not {len(columns)}")
        yield dict(zip(columns, cells, strict=True))
