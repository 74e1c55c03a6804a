"""KnowledgeGraph: names, triples, texts and questions of one graph, and the report of how they were read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from kgfast.core.known import KnownTriples, check_form, check_triples
from kgfast.data import cache as cached
from kgfast.data.columns import number
from kgfast.data.findings import DataReport, examine
from kgfast.data.ntriples import shorten
from kgfast.data.readers import file_format, read_triples
from kgfast.data.sources import SPLITS, Sources, find_sources
from kgfast.data.strings import Strings
from kgfast.data.texts import Question, read_questions, read_texts
from kgfast.data.writer import save
from kgfast.errors import DataError


class KnowledgeGraph:
    """A graph with its splits. Made by `load` or `from_arrays`; read-only by convention.

    name                          str
    train, valid, test            int64 [M, 3] (head, relation, tail), maybe empty, without repeated rows
    entity_names, relation_names  sequences of str by id
    entity_text, entity_description, relation_text
                                  sequences of str or None by id; None itself where there is no file
    questions                     {split: [(question, topic entity id, [answer ids])]}
    report                        DataReport
    """

    def __init__(
        self,
        splits: dict[str, torch.Tensor],
        entity_names: Strings,
        relation_names: Strings,
        report: DataReport,
        *,
        entity_text: Strings | None = None,
        entity_description: Strings | None = None,
        relation_text: Strings | None = None,
        questions: dict[str, list[Question]] | None = None,
    ):
        self.train, self.valid, self.test = (splits[split] for split in SPLITS)
        self.entity_names, self.relation_names = entity_names, relation_names
        self.entity_text, self.entity_description = entity_text, entity_description
        self.relation_text = relation_text
        self.questions = questions or {}
        self.report = report

    @classmethod
    def load(cls, source, *, cache: bool = True, iris: str = "short") -> KnowledgeGraph:
        """Read a dataset folder, one file (.tsv .csv .txt .nt, also .gz; .parquet), or a built-in graph
        ("world").

        A folder holds train, and maybe valid and test, in any of these formats (train.txt, train.tsv.gz,
        ...), and maybe entity2text.txt, entity2desc*.txt or entity2textlong.txt, relation2text.txt,
        qa_{train,valid,test}.txt. Ids are positions in the sorted names (by number where all names are whole
        numbers, else by UTF-8 bytes). `iris`: names of N-Triples are "short" (behind the last / or #, where
        that is unique) or "whole". `cache`: keep what was read, memory-mapped when opened again, in
        $KGFAST_CACHE or ~/.cache/kgfast.

        DataError names the file and line of anything malformed. Repeated triples are removed and counted; all
        else that looks wrong is in `.report` and stays.
        """
        if iris not in ("short", "whole"):
            raise DataError(f"iris must be 'short' or 'whole', not {iris!r}")
        sources = find_sources(source)
        if not cache or not cached.worthwhile(sources):
            return cls._read(sources, iris)
        folder, stamp = cached.entry_folder(sources, {"iris": iris}), cached.stamp(sources)
        parts = cached.fetch(folder, stamp)
        if parts:
            return cls._from_cache(parts)
        graph = cls._read(sources, iris)
        cached.store(graph, folder, stamp)
        return graph

    @classmethod
    def from_arrays(
        cls,
        train,
        valid=None,
        test=None,
        num_entities: int | None = None,
        num_relations: int | None = None,
        entity_names: Sequence[str] | None = None,
        relation_names: Sequence[str] | None = None,
        *,
        name: str = "arrays",
    ) -> KnowledgeGraph:
        """A graph from integer [M, 3] arrays or tensors of (head, relation, tail).

        The numbers of entities and relations default to that of the names, else to the largest id + 1; names
        default to the ids. Repeated rows of a split are removed and counted. DataError for a wrong shape,
        dtype, id or name.
        """
        splits = {split: as_triples(rows, split) for split, rows in zip(SPLITS, (train, valid, test), strict=True)}
        if not len(splits["train"]):
            raise DataError("train has no triples")
        ids = torch.cat(list(splits.values()))
        largest = ids.max(0).values.tolist()
        entities = as_names("entity", entity_names, num_entities, max(largest[0], largest[2]) + 1)
        relations = as_names("relation", relation_names, num_relations, largest[1] + 1)
        for split, rows in splits.items():
            check_triples(rows, len(entities), len(relations), split)
        arrays = {split: rows.numpy() for split, rows in splits.items()}
        arrays, report = examine(name, arrays, entities, relations)
        return cls({split: torch.from_numpy(rows) for split, rows in arrays.items()}, entities, relations, report)

    @classmethod
    def _read(cls, sources: Sources, iris: str) -> KnowledgeGraph:
        columns = {split: read_triples(path) for split, path in sources.triples.items()}
        linked = any(file_format(path) == ".nt" for path in sources.triples.values())
        rename = shorten if linked and iris == "short" else None
        ends = [column for of_split in columns.values() for column in (of_split.head, of_split.tail)]
        entities, ends, whole_entities = number(ends, rename)
        relations, kinds, whole_relations = number([of_split.relation for of_split in columns.values()], rename)
        splits = dict.fromkeys(SPLITS, np.empty((0, 3), np.int64))
        for place, split in enumerate(columns):
            splits[split] = np.stack((ends[2 * place], kinds[place], ends[2 * place + 1]), axis=1)
        entities, relations = Strings(entities), Strings(relations)
        splits, report = examine(sources.name, splits, entities, relations)
        report.literals = sum(of_split.literals for of_split in columns.values())
        report.notes = list(sources.notes)
        if whole_entities + whole_relations:
            count = whole_entities + whole_relations
            report.notes.append(f"{count:,} IRIs were kept whole, since their short names are not unique.")
        texts, questions = {}, {}
        for role, path in sources.texts.items():
            names = relations if role == "relation_text" else entities
            texts[role], report.texts[role] = read_texts(path, names)
        for split, path in sources.questions.items():
            questions[split], report.questions[split] = read_questions(path, entities)
        splits = {split: torch.from_numpy(rows) for split, rows in splits.items()}
        return cls(splits, entities, relations, report, questions=questions, **texts)

    @classmethod
    def _from_cache(cls, parts: dict) -> KnowledgeGraph:
        report = DataReport.from_dict(parts.pop("report"))
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
        return (self.entity_text[entity_id] if self.entity_text is not None else None) or self.entity_names[entity_id]

    def known(self, *splits: str) -> KnownTriples:
        """The triples of the splits named, of all three by default, as known answers (see KnownTriples)."""
        wrong = sorted(set(splits) - set(SPLITS))
        if wrong:
            raise DataError(f"no split {wrong[0]!r}; there are {', '.join(SPLITS)}")
        triples = torch.cat([getattr(self, split) for split in splits or SPLITS])
        return KnownTriples.from_triples(triples, self.num_entities, self.num_relations)

    def save(self, folder) -> None:
        """Write the graph as a dataset folder (train.txt, ...), which must not exist or be empty.

        Read again it has the same names and triples; ids are assigned anew, and entities in no triple are
        lost, of which a warning tells.
        """
        save(self, Path(folder))

    def __repr__(self) -> str:
        triples = ", ".join(f"{len(getattr(self, split)):,} {split}" for split in SPLITS)
        counts = f"{self.num_entities:,} entities, {self.num_relations:,} relations; {triples}"
        return f"KnowledgeGraph({self.name}: {counts})"


def find_id(kind: str, name: str, names: Strings, texts: Strings | None) -> int:
    if not isinstance(name, str):
        raise DataError(f"the name of an {kind} must be a string, not {name!r}")
    found = names.find(name)
    if found is not None:
        return found
    if texts is not None and (place := texts.find(name)) is not None:
        raise DataError(f"no {kind} is named {name!r}; it is the text of {names[place]!r}")
    near = names.nearest(name)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"names look like {names[0]!r}"
    raise DataError(f"no {kind} is named {name!r}; {hint}")


def as_triples(rows, split: str) -> torch.Tensor:
    """The rows as an int64 [M, 3] tensor on the CPU; ids are checked later."""
    if rows is None:
        return torch.empty((0, 3), dtype=torch.int64)
    try:
        rows = torch.as_tensor(rows).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{split} is no array of integers: {error}") from None
    check_form(rows, split)
    return rows.to(torch.int64, copy=True, memory_format=torch.contiguous_format)


def as_names(kind: str, names: Sequence[str] | None, count: int | None, needed: int) -> Strings:
    """Names by id: those given, checked, or the ids as text."""
    if names is None:
        count = needed if count is None else count
        if count < 1:
            raise DataError(f"the number of {kind} ids must be positive, not {count}")
        return Strings(pa.array(np.arange(count)).cast(pa.large_string()))
    if count is not None and count != len(names):
        raise DataError(f"{kind}_names has {len(names)} names for {count} ids")
    for place, text in enumerate(names):
        if not isinstance(text, str) or not text:
            raise DataError(f"{kind}_names[{place}] must be a string that isn't empty, not {text!r}")
    names = Strings(names)
    first = names.find_all(names.array)  # the first place of each name
    repeated = np.flatnonzero(first != np.arange(len(names)))
    if len(repeated):
        place = int(repeated[0])
        raise DataError(f"{kind}_names[{place}] repeats {names[place]!r}, the name of {int(first[place])}")
    return names
