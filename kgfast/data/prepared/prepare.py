"""`prepare`: any source of triples, of whatever size, becomes a folder that `KnowledgeGraph.load` maps.

Three passes, none of which holds more than a part of the graph in memory: read and hash (reading.py), number the names
(numbering.py), number and sort the triples (triples.py); between them rows and names lie on the disk (spill.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kgfast.core import checks
from kgfast.core.codes import is_one_of
from kgfast.core.files import naming
from kgfast.data.findings import about_names
from kgfast.data.header import ColumnChoice
from kgfast.data.malformed import BadLines
from kgfast.data.prepared.folder import KINDS, fingerprint_of, mapped_names, write_index
from kgfast.data.prepared.inputs import Inputs, find_inputs
from kgfast.data.prepared.numbering import Advance, SameHash, number_names
from kgfast.data.prepared.reading import Progress, Spills, read_all
from kgfast.data.prepared.split import as_shares, split_triples
from kgfast.data.prepared.texts import copy_texts
from kgfast.data.prepared.triples import examine_parts, number_triples
from kgfast.data.prepared.work import Work, clear, work_folder
from kgfast.data.report import DataReport
from kgfast.data.sources import SPLITS, as_path
from kgfast.errors import DataError

COMPARED = 1_000_000  # names that are looked through for those that look alike, which takes 100 bytes a name
Bar = Callable[[str], AbstractContextManager[Advance]]


def prepare(
    source: Any,
    out: Any,
    *,
    split: str | Sequence[float] | None = None,
    seed: int = 0,
    header: bool | str | None = None,
    columns: str | Sequence[str | int] | None = None,
    literals: str = "drop",
    on_bad_line: str = "error",
    bar: Bar | None = None,
) -> DataReport:
    """Write the graph of `source` to the folder `out`, which must not exist or be empty; the report, as in `.report`.

    Args:
        source: what `KnowledgeGraph.load` takes, of any size; a table; or a query, "sql:SELECT ..".
        out: a path.
        split: shares of train, valid and test, as "0.9,0.05,0.05": drawn from triples that are not split yet; train
            keeps a triple of every entity and relation.
        seed: of what is drawn.
        header: as in `KnowledgeGraph.load`.
        columns: as in `KnowledgeGraph.load`.
        literals: as in `KnowledgeGraph.load`. IRIs are whole.
        on_bad_line: "error", or "skip": lines that can't be read are left out, and told with number and reason.
        bar: makes a progress bar: called with words, yields the function of (done, total).

    Ids are the order of the names' hashes (kgfast.data.prepared.hashing), so a block of ids is a random part of the
    graph. The folder depends on the set of triples, not on the order of files or lines. Memory: some 0.5 GB and 12
    bytes an entity; disk beside `out`: about twice the source. A call that was ended goes on from `out`.partial, if
    source and words are the same.
    """
    path = as_path("out", out)
    if not is_one_of(on_bad_line, ("error", "skip")):
        raise DataError(f"on_bad_line must be 'error' or 'skip', not {on_bad_line!r}")
    shares = None if split is None else as_shares(split)
    seed = checks.integer("seed", seed, 0, 2**63)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} exists and is not an empty folder")
    inputs = find_inputs(source, ColumnChoice.of(header, columns, literals))
    if shares and len(inputs.triples) > 1:
        splits = ", ".join(one.split for one in inputs.triples)
        raise DataError(f"split={split}: {inputs.name} is split already, into {splits}")
    if not path.parent.is_dir():
        with naming(path.parent):
            path.parent.mkdir(parents=True)
    with work_folder(path, inputs.stamp and [*inputs.stamp, on_bad_line]) as work:
        return Preparation(inputs, work, on_bad_line == "skip", bar or silent).run(path.name, shares, seed)


def silent(words: str) -> AbstractContextManager[Advance]:
    return nullcontext(lambda done, total: None)


class Preparation:
    """One call of `prepare`, as far as an earlier one had not got."""

    def __init__(self, inputs: Inputs, work: Work, skip: bool, bar: Bar):
        self.inputs, self.work, self.skip, self.bar = inputs, work, skip, bar

    def run(self, name: str, shares: tuple[float, ...] | None, seed: int) -> DataReport:
        progress, sizes, salt = self.work.begin()
        while True:
            spills = Spills(self.work.spill, [one.split for one in self.inputs.triples])
            try:
                self.read(spills, progress, sizes, salt)
                report = self.write(spills, progress, name, shares, seed)
            except SameHash:
                self.work.clear()
                progress, sizes, salt = Progress(), None, salt + 1
            else:
                (self.work.graph / "report.json").write_text(json.dumps(report.as_dict()), "utf-8")
                if self.inputs.sources is not None:
                    copy_texts(self.inputs.sources, self.work.graph)
                write_index(self.work.graph, salt)
                return report
            finally:
                spills.close()

    def read(self, spills: Spills, progress: Progress, sizes: list | None, salt: int) -> None:
        for spill, size in zip(spills.all(), sizes or (), strict=sizes is not None):
            spill.keep(size)
        bad = BadLines(self.skip, **progress.bad)
        before = sum(progress.triples.values())
        with self.bar(f"reading on, after {before:,} triples" if before else "reading") as advance:

            def save() -> None:
                self.work.save(progress, spills, salt)

            read_all(self.inputs.triples, spills, progress, salt, bad, advance, save)
        if not progress.triples.get("train"):
            raise DataError(f"{self.inputs.name}: no triples could be read")
        self.work.save(progress, spills, salt, now=True)
        self.work.read = True

    def write(
        self, spills: Spills, progress: Progress, name: str, shares: tuple[float, ...] | None, seed: int
    ) -> DataReport:
        folder = self.work.graph
        clear(folder)  # of what an earlier process wrote
        with self.bar("numbering names") as advance:
            relations = number_names(spills.relations, folder, "relations", advance)
            entities = number_names(spills.entities, folder, "entities", advance)
        with self.bar("numbering triples") as advance:
            tables, leaked = number_triples(spills.rows, folder, entities, relations, advance)
        read = {split: progress.triples.get(split, 0) for split in SPLITS}
        duplicates = {split: read[split] - len(tables[split]) for split in SPLITS}
        counts = len(entities), len(relations)
        del entities, relations
        if shares:
            with self.bar("splitting") as advance:
                whole = self.work.spill / "whole.triples"
                (folder / "train.triples").rename(whole)
                tables = split_triples(tables["train"], folder, shares, seed, counts, advance)
        entity_names, relation_names = (mapped_names(folder, kind) for kind in KINDS)
        with self.bar("examining") as advance:
            found = examine_parts(tables, counts[0], relation_names, advance)
        triples = {split: len(rows) for split, rows in tables.items()}
        report = DataReport(
            name=name,
            entities=counts[0],
            relations=counts[1],
            read=read,
            duplicates=duplicates,
            triples=triples,
            leaked=leaked,
            fingerprint=fingerprint_of(folder),
            literals=progress.literals,
            unread=self.inputs.sources.unread if self.inputs.sources is not None else {},
            headers=progress.headers,
            dropped=progress.dropped,
            bad_lines=progress.bad if progress.bad["count"] else {},
            **found,
            **about_names(entity_names, relation_names, sum(triples.values()), most=COMPARED),
        )
        report.notes += progress.lines()
        return report
