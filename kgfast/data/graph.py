"""KnowledgeGraph: names, triples, texts and questions of one graph, and the report of how they were read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kgfast import peers
from kgfast.core import checks
from kgfast.core.codes import is_one_of
from kgfast.core.known import KnownTriples, check_triples
from kgfast.data import cache as cached
from kgfast.data.arrays import Largest, as_names, as_triples
from kgfast.data.columns import Columns, number
from kgfast.data.findings import examine, first_lines_alone
from kgfast.data.header import ColumnChoice, header_doubt
from kgfast.data.iris import Renaming, shared_blanks
from kgfast.data.lines import excerpt
from kgfast.data.names import Names, find_id
from kgfast.data.prepared.folder import open_graph
from kgfast.data.report import DataReport
from kgfast.data.resolve import find_sources
from kgfast.data.sources import SPLITS, Sources, as_path
from kgfast.data.strings import Strings
from kgfast.data.tables import is_table, query, read_table, return_it
from kgfast.data.texts import Question, match_questions, match_texts
from kgfast.data.writer import save
from kgfast.errors import DataError


class KnowledgeGraph:
    """A graph with its splits. Made by `load` or `from_arrays`; read-only by convention.

    name                          str
    train, valid, test            int64 [M, 3] (head, relation, tail), maybe empty, without repeated rows
    entity_names, relation_names  sequences of str by id
    entity_text, entity_description, entity_alias, relation_text, relation_template
                                  sequences of str or None by id; None itself where there is no file; several aliases
                                  of an entity stand between tabs
    questions                     {split: [(question, topic entity id, [answer ids])]}
    report                        DataReport
    laid_out                      the folder that it was loaded from, where another program laid it out, else None
    """

    laid_out: Path | None = None

    def __init__(
        self,
        splits: dict[str, torch.Tensor],
        entity_names: Names,
        relation_names: Names,
        report: DataReport,
        *,
        entity_text: Strings | None = None,
        entity_description: Strings | None = None,
        entity_alias: Strings | None = None,
        relation_text: Strings | None = None,
        relation_template: Strings | None = None,
        questions: dict[str, list[Question]] | None = None,
    ):
        self.train, self.valid, self.test = (splits[split] for split in SPLITS)
        self.entity_names, self.relation_names = entity_names, relation_names
        self.entity_text, self.entity_description = entity_text, entity_description
        self.entity_alias = entity_alias
        self.relation_text, self.relation_template = relation_text, relation_template
        self.questions = questions or {}
        self.report = report

    @classmethod
    def load(
        cls,
        source: Any,
        *,
        cache: bool = True,
        iris: str = "short",
        header: bool | str | None = None,
        columns: str | Sequence[str | int] | None = None,
        literals: str = "drop",
    ) -> KnowledgeGraph:
        """Read a dataset folder, one file, a graph by its name, or a folder that `kgfast.data.prepare` wrote.

        A folder holds train, and maybe valid and test, in any of these formats (train.txt, train.tsv.gz,
        ...), and maybe entity2text.txt, entity2desc*.txt or entity2textlong.txt, entity2alias.txt,
        relation2text.txt, relation2template.txt, qa_{train,valid,test}.txt. Ids are positions in the sorted names (by
        number where all names are whole numbers, else by UTF-8 bytes).

        Args:
            source: a folder, also as OpenKE, MetaQA, OGB, or WebQSP with subgraphs lay theirs out; a file (.tsv .csv
                .txt .nt .nq .ttl .trig .rdf, also .gz .bz2 .zst; .parquet); the name of a built-in graph ("world"), or
                of a dataset that `kgfast.data.fetch` fetched ("fb15k-237"). Or a dataset or triples factory of PyKEEN,
                or "pykeen:" and the name of its dataset, with PyKEEN's ids.
            cache: keep what was read, memory-mapped when opened again, in $KGFAST_CACHE or ~/.cache/kgfast.
            iris: names of RDF are "short" (behind the last / or #, where that is unique) or "whole".
            header: whether the first line of separated text names its columns: True, False, or None, where its words
                tell (head relation tail, subject predicate object, h r t, :START_ID ..., in any order).
            columns: which three are head, relation and tail, by name or number from 1, as "a,b,c" or a list.
            literals: of RDF: "drop" leaves them out and counts them, "keep" makes entities of them.

        DataError names the file and line of anything malformed. Repeated triples are removed and counted; all
        else that looks wrong, and all that was not read, is in `.report`.
        """
        if not is_one_of(iris, ("short", "whole")):
            raise DataError(f"iris must be 'short' or 'whole', not {iris!r}")
        cache, choice = checks.flag("cache", cache), ColumnChoice.of(header, columns, literals)
        if (others := peers.graph_arguments(source)) is not None:
            if choice != ColumnChoice() or iris != "short":
                raise DataError(f"{source}: iris, header, columns and literals have no meaning, as no file is read")
            return cls.from_arrays(**others)
        sources = find_sources(source)
        choice.check(source, list(sources.formats().values()))
        if sources.prepared:
            return cls._open(sources.prepared, sources)
        graph = cls._load(sources, cache, iris, choice)
        graph.laid_out = sources.laid_out
        return graph

    @classmethod
    def _load(cls, sources: Sources, cache: bool, iris: str, choice: ColumnChoice) -> KnowledgeGraph:
        """The graph of files, read or from the cache."""
        if not cache or not cached.worthwhile(sources):
            return cls._read(sources, iris, choice)
        folder = cached.entry_folder(sources, {"iris": iris, "columns": choice.as_list()})
        stamp = cached.stamp(sources)
        parts = cached.fetch(folder, stamp)
        if parts:
            return cls._from_cache(parts, sources)
        graph = cls._read(sources, iris, choice)
        cached.store(graph, folder, stamp)
        return graph

    @classmethod
    def from_arrays(
        cls,
        train: Any,
        valid: Any = None,
        test: Any = None,
        num_entities: int | None = None,
        num_relations: int | None = None,
        entity_names: Sequence[str] | None = None,
        relation_names: Sequence[str] | None = None,
        *,
        name: str = "arrays",
    ) -> KnowledgeGraph:
        """A graph from arrays or tensors. Repeated rows of a split are removed and counted.

        Args:
            train: integers [M, 3] of (head, relation, tail).
            valid: the same, for validation; None: no triples.
            test: the same, for the test; None: no triples.
            num_entities: None: as many as there are names, else the largest id + 1.
            num_relations: the same of relations.
            entity_names: strings by id, all different; None: the ids themselves.
            relation_names: the same of relations.
            name: of the graph.

        DataError for a wrong shape, dtype, id or name.
        """
        if not isinstance(name, str):
            raise DataError(f"name must be a string, not {name!r}")
        splits = {split: as_triples(rows, split) for split, rows in zip(SPLITS, (train, valid, test), strict=True)}
        if not len(splits["train"]):
            raise DataError("train has no triples")
        entities = as_names("entity", entity_names, num_entities, Largest.of(splits, (0, 2)))
        relations = as_names("relation", relation_names, num_relations, Largest.of(splits, (1,)))
        for split, rows in splits.items():
            check_triples(rows, len(entities), len(relations), split)
        arrays = {split: rows.numpy() for split, rows in splits.items()}
        arrays, report = examine(name, arrays, entities, relations)
        return cls({split: torch.from_numpy(rows) for split, rows in arrays.items()}, entities, relations, report)

    @classmethod
    def from_frame(
        cls,
        train: Any,
        valid: Any = None,
        test: Any = None,
        *,
        columns: str | Sequence[str] | None = None,
        name: str = "frame",
    ) -> KnowledgeGraph:
        """A graph from DataFrames of pandas or polars, tables of Arrow, relations of DuckDB: whatever has
        `__arrow_c_stream__`. Columns, names and ids are those of `load` for the same table in a Parquet file.

        Args:
            train: a table with a column for head, relation and tail each.
            valid: the same, for validation; None: no triples.
            test: the same, for the test; None: no triples.
            columns: the names of the three columns, as "a,b,c" or a list; None: by the words that headers have.
            name: of the graph.
        """
        frames = {split: frame for split, frame in zip(SPLITS, (train, valid, test), strict=True) if frame is not None}
        for split, frame in frames.items():
            if not is_table(frame):
                raise DataError(f"{split} is no table that Arrow can read: {type(frame).__name__}")
        choice = ColumnChoice.of(None, columns)
        return cls._read_tables(name, {split: partial(return_it, frame) for split, frame in frames.items()}, choice)

    @classmethod
    def from_sql(cls, text: str, *, columns: str | Sequence[str] | None = None, name: str = "sql") -> KnowledgeGraph:
        """A graph from what DuckDB answers; the extra `sql`.

        Args:
            text: a query, as "SELECT a AS head, b AS relation, c AS tail FROM 'facts.parquet'".
            columns: as in `from_frame`.
            name: of the graph.
        """
        return cls._read_tables(name, {"train": partial(query, text)}, ColumnChoice.of(None, columns))

    @classmethod
    def _read_tables(cls, name: str, tables: dict[str, Callable[[], Any]], choice: ColumnChoice) -> KnowledgeGraph:
        sources = Sources(name, {split: Path(name if split == "train" else split) for split in tables})
        read = {split: read_table(table, str(sources.triples[split]), choice) for split, table in tables.items()}
        return cls._assemble(sources, read, [False] * len(read), None, ())

    @classmethod
    def _read(cls, sources: Sources, iris: str, choice: ColumnChoice) -> KnowledgeGraph:
        columns = {split: sources.read(split, choice) for split in sources.triples}
        formats = sources.formats()
        linked = [split in formats and formats[split].iris for split in columns]
        renaming = Renaming(short=iris == "short") if any(linked) else None
        untold = [split for split, form in formats.items() if form.columns and choice.header is not False]
        return cls._assemble(sources, columns, linked, renaming, untold)

    @classmethod
    def _assemble(
        cls,
        sources: Sources,
        columns: dict[str, Columns],
        linked: Sequence[bool],
        renaming: Renaming | None,
        untold: Sequence[str],
    ) -> KnowledgeGraph:
        """The graph of what was read. linked: whether a split holds IRIs; untold: splits whose first line may be a
        header that nobody told of."""
        chunks = [column for of_split in columns.values() for column in (of_split.head, of_split.tail)]
        entities, whole, ends = number(chunks, np.repeat(linked, 2).tolist(), renaming)
        entities = Names(entities, whole if renaming else None)
        relations, whole, kinds = number([of_split.relation for of_split in columns.values()], linked, renaming)
        relations = Names(relations, whole if renaming else None)
        splits = dict.fromkeys(SPLITS, np.empty((0, 3), np.int64))
        for place, split in enumerate(columns):
            splits[split] = np.stack((ends[2 * place], kinds[place], ends[2 * place + 1]), axis=1)
        lonely = first_lines_alone(splits, len(relations))
        splits, report = examine(sources.name, splits, entities, relations)
        tell_of_files(report, sources, columns, [split for split in lonely if split in untold])
        if renaming is not None:
            report.notes += renaming.lines()
            of_files = [np.concatenate(ends[2 * place : 2 * place + 2]) for place, iri in enumerate(linked) if iri]
            if blanks := shared_blanks(entities, of_files):
                report.notes.append(f"Blank nodes that are in several files, and were taken as the same: {blanks:,}.")
        return cls._with_texts(splits, entities, relations, report, sources)

    @classmethod
    def _open(cls, folder: Path, sources: Sources) -> KnowledgeGraph:
        return cls._with_texts(*open_graph(folder), sources)

    @classmethod
    def _with_texts(
        cls, splits: dict[str, np.ndarray], entities: Names, relations: Names, report: DataReport, sources: Sources
    ) -> KnowledgeGraph:
        """The graph with the texts and questions that stand beside its triples."""
        texts, questions = {}, {}
        for role, file, written, told in sources.told_texts():
            names = relations if role.startswith("relation") else entities
            texts[role], report.texts[role], resembling = match_texts(file, written, told, names)
            report.add_look_alikes(*resembling)
        for split, file, rows in sources.asked():
            questions[split], report.questions[split], resembling = match_questions(file, rows, entities)
            report.add_look_alikes(*resembling)
        tensors = {split: torch.from_numpy(rows) for split, rows in splits.items()}
        return cls(tensors, entities, relations, report, questions=questions, **texts)

    @classmethod
    def _from_cache(cls, parts: dict, sources: Sources) -> KnowledgeGraph:
        report = DataReport.from_dict(parts.pop("report"))
        report.unread = sources.unread  # the folder may hold other files now
        triples = torch.from_numpy(parts.pop("triples"))
        splits = dict(zip(SPLITS, triples.split([report.triples[split] for split in SPLITS]), strict=True))
        return cls(splits, report=report, **parts)

    @property
    def name(self) -> str:
        return self.report.name

    @property
    def num_entities(self) -> int:
        return len(self.entity_names)

    @property
    def num_relations(self) -> int:
        return len(self.relation_names)

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over names and triples in order: equal for equal graphs, whatever the files."""
        return self.report.fingerprint

    def entity_id(self, name: str) -> int:
        """The id of the entity called `name`; DataError with the nearest names if there is none."""
        return find_id("entity", name, self.entity_names, self.entity_text)

    def relation_id(self, name: str) -> int:
        """The id of the relation called `name`; DataError with the nearest names if there is none."""
        return find_id("relation", name, self.relation_names, self.relation_text)

    def label(self, entity_id: int) -> str:
        """The text of an entity where it has one, else its name."""
        entity_id = checks.integer("entity_id", entity_id, 0, self.num_entities)
        return (self.entity_text[entity_id] if self.entity_text is not None else None) or self.entity_names[entity_id]

    def known(self, *splits: str) -> KnownTriples:
        """The triples of the splits named, of all three by default, as known answers (see KnownTriples)."""
        for split in splits:
            if not isinstance(split, str) or split not in SPLITS:
                raise DataError(f"no split {split!r}; there are {', '.join(SPLITS)}")
        triples = torch.cat([getattr(self, split) for split in splits or SPLITS])
        return KnownTriples.from_triples(triples, self.num_entities, self.num_relations)

    def save(self, folder: str | os.PathLike, suffix: str = ".txt") -> None:
        """Write the graph as a dataset folder (train.txt, ...), which must not exist or be empty.

        Read again it has the same names and triples; ids are assigned anew, and entities in no triple are
        lost, of which a warning tells. suffix: .txt .tsv .csv or .parquet, for the triples; DataError where a name
        can't be written in that format.
        """
        save(self, as_path("folder", folder), suffix)

    def __repr__(self) -> str:
        triples = ", ".join(f"{len(getattr(self, split)):,} {split}" for split in SPLITS)
        counts = f"{self.num_entities:,} entities, {self.num_relations:,} relations; {triples}"
        return f"KnowledgeGraph({self.name}: {counts})"


def tell_of_files(report: DataReport, sources: Sources, columns: dict[str, Columns], lonely: list[str]) -> None:
    """Put into the report what reading said of each file; `lonely`: splits whose first line may be a header."""
    report.unread = sources.unread
    for split, found in columns.items():
        file = sources.triples[split].name
        report.literals += found.literals
        if found.header:
            report.headers[file] = found.header
        if found.dropped:
            report.dropped[file] = found.dropped
        report.notes += [f"{file}: {note}." for note in found.notes]
        if split in lonely and not (found.header or found.notes):
            first = [chunks[0][0].as_py() for chunks in (found.head, found.relation, found.tail)]
            doubt = header_doubt(excerpt(" ".join(first)), "its names occur nowhere else")
            report.notes.append(f"{file}: {doubt}.")
