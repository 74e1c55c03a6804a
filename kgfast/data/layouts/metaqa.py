"""MetaQA: kb.txt, a triple a line between |, and 1-hop, 2-hop, 3-hop with vanilla/ and ntm/, each with qa_*.txt.

The folder of a hop, or of one of its two, is the same graph with the questions of that folder alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.columns import Columns
from kgfast.data.layouts import Layout
from kgfast.data.lines import excerpt, read_lines
from kgfast.data.texts import Row
from kgfast.errors import DataError

GRAPH = "kb.txt"
HOPS = ("1-hop", "2-hop", "3-hop")
WORDED = "vanilla"  # as people wrote the templates; ntm: paraphrased by a machine
FILES = {"train": "qa_train.txt", "valid": "qa_dev.txt", "test": "qa_test.txt"}
TOPIC = re.compile(r"\[([^\[\]]+)\]")


class MetaQA(Layout):
    name = "the files of MetaQA"

    def __init__(self, graph: Path, folders: list[Path]):
        self.triples = {"train": graph}
        self.question_files = {
            split: [folder / name for folder in folders if (folder / name).is_file()] for split, name in FILES.items()
        }

    @classmethod
    def find(cls, folder: Path) -> MetaQA | None:
        hops = [folder / hop for hop in HOPS]
        if (folder / GRAPH).is_file() and any(hop.is_dir() for hop in hops):
            return cls(folder / GRAPH, [hop / WORDED for hop in hops])
        whole = folder.resolve()
        if whole.name in HOPS and (whole.parent / GRAPH).is_file():
            return cls(whole.parent / GRAPH, [folder / WORDED])
        if whole.parent.name in HOPS and (whole.parents[1] / GRAPH).is_file():
            return cls(whole.parents[1] / GRAPH, [folder])
        return None

    def files(self) -> list[Path]:
        return [self.triples["train"], *(path for paths in self.question_files.values() for path in paths)]

    def read(self, split: str) -> Columns:
        path = self.triples[split]
        lines = read_lines(path)
        fields = pc.split_pattern(lines, "|")
        parts = pc.list_value_length(fields).to_numpy()
        flat = fields.flatten()
        wrong = np.flatnonzero(parts != 3)
        if not len(wrong) and (empty := pc.index(flat, "").as_py()) >= 0:
            wrong = np.array([empty // 3])
        if len(wrong):
            line = excerpt(lines[int(wrong[0])].as_py())
            raise DataError(f"{path}, line {wrong[0] + 1:,}: expected three names between |: {line}")
        columns, rows = Columns(), np.arange(len(lines))
        columns.append(*(flat.take(pa.array(3 * rows + place)) for place in range(3)))
        return columns

    def questions(self) -> dict[str, list[Row]]:
        found = {split: [row for path in paths for row in rows(path)] for split, paths in self.question_files.items()}
        return {split: questions for split, questions in found.items() if questions}


def rows(path: Path) -> list[Row]:
    """The questions of a file: text with the topic in brackets, a tab, answers between |."""
    questions = []
    for number, line in enumerate(read_lines(path).to_pylist(), 1):
        text, _, answers = line.partition("\t")
        topics = TOPIC.findall(text)
        if len(topics) != 1 or not answers or not all(answers.split("|")):
            told = "expected a question with one [topic], a tab and answers between |"
            raise DataError(f"{path}, line {number:,}: {told}: {excerpt(line)}")
        questions.append((TOPIC.sub(r"\1", text).strip(), topics[0], answers.split("|")))
    return questions
