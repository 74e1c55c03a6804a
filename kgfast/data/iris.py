"""IRIs as names: shortened where that is unique, and met again in files that hold them otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.strings import Strings

SHORT = r"^[^:\"]+:.*[/#]([^/#]+)[/#]?$"
BRACKETS = r"^<([^<>\s]+:[^<>\s]*)>$"
BLANK = "_:"


def bare(names: pa.Array) -> pa.Array:
    """IRIs without the angle brackets that files of other kinds may have around them."""
    return pc.replace_substring_regex(names, BRACKETS, r"\1")


def last_part(names: pa.Array) -> pa.Array:
    """The part of each IRI behind its last `/` or `#`; what is no IRI stays."""
    return pc.replace_substring_regex(names, SHORT, r"\1")


@dataclass
class Renaming:
    """Names of a graph, some of whose files hold IRIs: see `number` in kgfast/data/columns.py.

    A name of another kind of file is that of an IRI where it is that IRI in angle brackets, or (`short`) what the
    IRI is shortened to, if it is so for one IRI alone. What was done is counted, and told by `lines`.
    """

    short: bool
    whole: int = 0  # IRIs that weren't shortened
    met: int = 0  # names of other files that are IRIs
    several: list[str] = field(default_factory=list)  # .. that may be more than one

    def __call__(self, written: pa.Array, linked: np.ndarray) -> tuple[pa.Array, pa.Array]:
        into = self.meet(written, linked)
        distinct = pa.array(np.flatnonzero(into == np.arange(len(into))))
        written = written.take(pa.array(into))
        if not self.short:
            return written, written
        names = self.shorten(written.take(distinct))
        place = np.empty(len(into), np.int64)
        place[distinct.to_numpy()] = np.arange(len(distinct))
        return names.take(pa.array(place[into])), written

    def meet(self, written: pa.Array, linked: np.ndarray) -> np.ndarray:
        """Which name each name is: itself, or an IRI of a file that holds IRIs."""
        into = np.arange(len(written))
        others = np.flatnonzero(~linked)
        if not len(others):
            return into
        places = np.flatnonzero(linked)
        iris = written.take(pa.array(places))
        names = written.take(pa.array(others))
        found = index_in(bare(names), iris)
        if self.short:
            short = last_part(iris).dictionary_encode()
            code = index_in(names, short.dictionary)
            codes = short.indices.to_numpy()
            first = np.empty(len(short.dictionary), np.int64)
            first[codes[::-1]] = np.arange(len(codes))[::-1]
            count = np.bincount(codes, minlength=len(first))
            meant = (found < 0) & (code >= 0)
            found = np.where(meant & (count[code] == 1), first[code], found)
            self.several += names.filter(pa.array(meant & (count[code] > 1))).to_pylist()
        into[others] = np.where(found >= 0, places[found], others)
        self.met += int((found >= 0).sum())
        return into

    def shorten(self, names: pa.Array) -> pa.Array:
        """The last part of each IRI; whole where two would have the same."""
        shortest = short = last_part(names)
        while True:
            encoded = short.dictionary_encode()
            indices = encoded.indices.to_numpy()
            shared = np.bincount(indices, minlength=len(encoded.dictionary))[indices] > 1
            if not shared.any():
                self.whole += int(pc.sum(pc.not_equal(short, shortest)).as_py() or 0)
                return short
            # each round makes at least one more name whole, and whole names are unique, so this ends
            short = pc.if_else(pa.array(shared), names, short)

    def lines(self) -> list[str]:
        """What was done, in sentences."""
        lines = []
        if self.whole:
            lines.append(f"{self.whole:,} IRIs were kept whole, since their short names are not unique.")
        if self.met:
            lines.append(f"Names of files without IRIs that were taken for the IRIs they stand for: {self.met:,}.")
        if self.several:
            lines.append(
                "Names of files without IRIs that are short for more than one IRI, and were taken as names of their "
                f"own: {len(self.several):,}, such as {self.several[0]!r}."
            )
        return lines


def index_in(names: pa.Array, among: pa.Array) -> np.ndarray:
    """Where each of `names` stands in `among`, -1 where it doesn't."""
    return pc.index_in(names, value_set=among).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def shared_blanks(names: Strings, ends: list[np.ndarray]) -> int:
    """How many blank nodes occur in more than one of the files, whose entity ids `ends` are: by N-Triples, each file
    has its own.
    """
    blank = pc.starts_with(names.array, BLANK).to_numpy(zero_copy_only=False)
    if not blank.any():
        return 0
    files = np.zeros(len(names), np.int64)
    for ids in ends:
        files[np.unique(ids)] += 1
    return int((blank & (files > 1)).sum())
