"""Names to ids: dictionary-encoded chunks of all files become one table of names and int64 ids."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from kgfast.data.strings import name_order

COLUMNS = ("head", "relation", "tail")


@dataclass
class Columns:
    """The triples of one file as names: per column a list of dictionary-encoded chunks, in the order of the
    file.
    """

    head: list[pa.DictionaryArray] = field(default_factory=list)
    relation: list[pa.DictionaryArray] = field(default_factory=list)
    tail: list[pa.DictionaryArray] = field(default_factory=list)
    literals: int = 0  # N-Triples whose object is a literal: left out, for a literal is no entity

    def append(self, *chunks: pa.Array) -> None:
        for name, chunk in zip(COLUMNS, chunks, strict=True):
            getattr(self, name).append(chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode())


def number(columns: list[list[pa.DictionaryArray]], rename=None) -> tuple[pa.Array, list[np.ndarray], int]:
    """(names by id, ids of each column int64, names that `rename` left whole): ids follow `name_order`.

    They depend on the set of names alone, not on the order of files, lines or threads. Only the chunks'
    dictionaries are hashed, so the strings of a column are never all in memory. `rename(names)` may shorten
    names.
    """
    chunks = [chunk for column in columns for chunk in column]
    every = pa.concat_arrays([chunk.dictionary.cast(pa.large_string()) for chunk in chunks]).dictionary_encode()
    names, kept = rename(every.dictionary) if rename else (every.dictionary, 0)
    order = name_order(names)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    table = rank[every.indices.to_numpy()]
    numbered, start = [], 0
    for column in columns:
        parts = []
        for chunk in column:
            parts.append(table[start:][chunk.indices.to_numpy()])
            start += len(chunk.dictionary)
        numbered.append(np.concatenate(parts))
    return names.take(pa.array(order)), numbered, kept
