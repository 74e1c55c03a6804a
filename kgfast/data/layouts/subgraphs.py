"""Questions with subgraphs, an object a line, as WebQSP and CWQ are passed on; the graph is the union of all subgraphs.

    GraftNet   {"question", "entities": [{"kb_id", "text"}], "answers": [{"kb_id", "text"}],
               "subgraph": {"tuples": [[{"kb_id", "text"}, {"rel_id", "text"}, {"kb_id", "text"}]]}}
    NSM        the same, but entities and relations are line numbers, from 0, of entities.txt and relations.txt
               (UniKGQA, ReaRev and others have it from there)
    RoG        {"question", "q_entity": [name], "a_entity": [name], "graph": [[name, name, name]]}

Files are {train,dev,test}.json, also train_simple.json, .jsonl, and valid or validation for dev.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kgfast.data.columns import Columns, Counted
from kgfast.data.layouts import Layout
from kgfast.data.layouts.numbered import numbered_columns
from kgfast.data.lines import read_lines
from kgfast.data.texts import Row
from kgfast.errors import DataError

ENDS = ("_simple.json", "_simple.jsonl", ".json", ".jsonl")
CALLED = {"train": ("train",), "valid": ("dev", "valid", "validation"), "test": ("test",)}
VOCABULARIES = ("entities.txt", "relations.txt")


class Subgraphs(Layout):
    name = "questions with subgraphs"

    def __init__(self, folder: Path, split_files: dict[str, Path]):
        self.folder, self.split_files = folder, split_files
        self.triples = {"train": split_files["train"]}  # one graph, whatever the split of its questions

    @classmethod
    def find(cls, folder: Path) -> Subgraphs | None:
        for end in ENDS:
            found = {split: [folder / (name + end) for name in names] for split, names in CALLED.items()}
            there = {split: [path for path in paths if path.is_file()] for split, paths in found.items()}
            if there["train"]:
                return cls(folder, {split: paths[0] for split, paths in there.items() if paths})
        return None

    def files(self) -> list[Path]:
        named = [self.folder / name for name in VOCABULARIES]
        return [*self.split_files.values(), *(path for path in named if path.is_file())]

    @cached_property
    def parsed(self) -> Parsed:
        parsed = Parsed(*(self.vocabulary(name) for name in VOCABULARIES))
        for split, path in self.split_files.items():
            questions = parsed.questions[split] = []
            for number, line in enumerate(read_lines(path), 1):
                try:
                    questions.append(parsed.take(json.loads(line.as_py())))
                except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                    told = f"no question with a subgraph: {type(error).__name__}: {error}"
                    raise DataError(f"{path}, line {number:,}: {told}") from None
        return parsed

    def vocabulary(self, name: str) -> list[str]:
        path = self.folder / name
        return read_lines(path).to_pylist() if path.is_file() else []

    def read(self, split: str) -> Columns:
        parsed = self.parsed
        head, relation, tail = (np.frombuffer(column, np.int64) for column in parsed.columns)
        entities, relations = (pa.array(list(names), pa.string()) for names in (parsed.entities, parsed.relations))
        columns = numbered_columns(self.triples[split], head, relation, tail, entities, relations)
        if parsed.several:
            told = " questions name several entities; the first of them in the graph is the topic"
            columns.notes.append(Counted("", parsed.several, told))
        return columns

    def texts(self) -> dict[str, tuple[pa.Array, pa.Array]]:
        texts = self.parsed.texts
        if not texts:
            return {}
        return {"entity_text": tuple(pa.array(list(side), pa.large_string()) for side in (texts, texts.values()))}

    def questions(self) -> dict[str, list[Row]]:
        return self.parsed.questions


class Parsed:
    """What the lines hold, names numbered in the order that they come in."""

    def __init__(self, entity_lines: list[str], relation_lines: list[str]):
        self.entity_lines, self.relation_lines = entity_lines, relation_lines
        self.entities: dict[str, int] = {}
        self.relations: dict[str, int] = {}
        self.columns = (array("q"), array("q"), array("q"))
        self.texts: dict[str, str] = {}
        self.questions: dict[str, list[Row]] = {}
        self.several = 0  # questions with more than one topic

    def take(self, line: dict[str, Any]) -> Row:
        """The question of a line; its subgraph is added to the columns."""
        rog = "graph" in line
        for head, relation, tail in line["graph"] if rog else line["subgraph"]["tuples"]:
            head, tail = self.entity(head), self.entity(tail)
            relation = name_of(relation, "rel_id", self.relation_lines)
            self.columns[0].append(self.entities.setdefault(head, len(self.entities)))
            self.columns[1].append(self.relations.setdefault(relation, len(self.relations)))
            self.columns[2].append(self.entities.setdefault(tail, len(self.entities)))
        topics = self.all_entities(line["q_entity" if rog else "entities"])
        answers = self.all_entities(line["a_entity" if rog else "answers"])
        self.several += len(topics) > 1
        known = [topic for topic in topics if topic in self.entities]
        return " ".join(line["question"].split()), (known or topics or [""])[0], answers

    def all_entities(self, values: Iterable[Any]) -> list[str]:
        return [self.entity(value) for value in values]

    def entity(self, value: Any) -> str:
        """The name of an entity; the text beside it is kept."""
        name = name_of(value, "kb_id", self.entity_lines)
        if isinstance(value, dict) and (text := value.get("text")) and text != name:
            self.texts.setdefault(name, text)
        return name


def name_of(value: Any, key: str, lines: list[str]) -> str:
    """A name that is written as itself, as an object with its id, or as the number of a line."""
    if isinstance(value, dict):
        value = value.get(key) or value["text"]  # a literal, such as a date, has no id
    elif isinstance(value, int):
        if not 0 <= value < len(lines):
            raise IndexError(f"{value} is no line of {VOCABULARIES[key == 'rel_id']}, which has {len(lines):,}")
        value = lines[value]
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no name")
    return value
