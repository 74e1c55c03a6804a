"""Texts of entities and relations, and questions, matched to the names of a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.lines import excerpt, read_lines
from kgfast.data.look_alikes import LookAlike
from kgfast.data.names import Names
from kgfast.data.strings import Strings
from kgfast.errors import DataError

Question = tuple[str, int, list[int]]
Row = tuple[str, str, list[str]]  # a question as its file has it: text, topic, answers
Resembling = tuple[list[LookAlike], int]


def text_lines(path: Path) -> tuple[pa.Array, pa.Array]:
    """(names, texts) of lines of name, tab, text (further tabs belong to the text); DataError with the line for one
    without a tab."""
    lines = read_lines(path)
    fields = pc.split_pattern(lines, "\t", max_splits=1)
    lengths = pc.list_value_length(fields).to_numpy()
    wrong = np.flatnonzero(lengths != 2)
    if len(wrong):
        line = excerpt(lines[int(wrong[0])].as_py())
        raise DataError(f"{path}, line {wrong[0] + 1}: expected a name, a tab and a text: {line}")
    flat = fields.flatten()
    rows = np.arange(len(lines))
    return flat.take(pa.array(2 * rows)), flat.take(pa.array(2 * rows + 1))


def match_texts(file: str, written: pa.Array, told: pa.Array, names: Names) -> tuple[Strings, dict, Resembling]:
    """(text or None by id, counts, unknown names that look like known ones) of the names and texts that a file has.

    Of two lines for one name the first counts; names that aren't in the graph are counted and left out, since
    real text files cover more than their graph.
    """
    rows = np.arange(len(written))
    ids = names.find_all(written)
    place = np.full(len(names) + 1, -1, np.int64)  # unknown names, id -1, share the extra entry
    place[ids[::-1]] = rows[::-1]  # backwards, so that the first of a name's lines is the one that stays
    place = place[:-1]
    texts = told.take(pa.array(place, mask=place < 0))
    texts = pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.equal(texts, ""), None, texts)
    known = ids[ids >= 0]
    counts = {
        "file": file,
        "covered": len(names) - texts.null_count,
        "unknown": int((ids < 0).sum()),
        "repeated": len(known) - len(np.unique(known)),
    }
    return Strings(texts), counts, names.resembling(file, written, ids)


def question_rows(path: Path) -> list[Row]:
    """The lines of question, tab, topic, tab, a|b|c. Nothing behind the second tab: a question that nothing answers.
    DataError with the line for a malformed one."""
    rows = [line.split("\t") for line in read_lines(path).to_pylist()]
    for place, row in enumerate(rows):
        where = f"{path}, line {place + 1}: "
        shown = excerpt("\t".join(row))
        if len(row) != 3:
            raise DataError(f"{where}expected question, topic and answers between tabs, found {len(row)}: {shown}")
        if not all((row[0].strip(), row[1], *(row[2].split("|") if row[2] else ()))):
            raise DataError(f"{where}question, topic or an answer is empty: {shown}")
    return [(row[0].strip(), row[1], row[2].split("|") if row[2] else []) for row in rows]


def read_questions(path: Path, names: Names) -> tuple[list[Question], dict, Resembling]:
    """`match_questions` of a file's lines."""
    return match_questions(path.name, question_rows(path), names)


def match_questions(file: str, rows: list[Row], names: Names) -> tuple[list[Question], dict, Resembling]:
    """([(question, topic entity id, ids of the answers)], counts, unknown names that look like known ones).

    A question whose topic isn't in the graph, or none of whose answers is, is counted and left out; so is an unknown
    answer beside known ones.
    """
    answers = [list(dict.fromkeys(of_row)) for _, _, of_row in rows]
    every = [topic for _, topic, _ in rows] + [answer for of_row in answers for answer in of_row]
    written = pa.array(every, pa.large_string())
    found = names.find_all(written)
    topics, flat = found[: len(rows)].tolist(), iter(found[len(rows) :].tolist())
    counts: dict[str, Any] = {
        "file": file,
        "read": len(rows),
        "unknown_topic": 0,
        "no_known_answer": 0,
        "unknown_answers": 0,
    }
    questions = []
    for (text, _, _), topic, of_row in zip(rows, topics, answers, strict=True):
        ids = [next(flat) for _ in of_row]
        known = [index for index in ids if index >= 0]
        if topic < 0:
            counts["unknown_topic"] += 1
        elif of_row and not known:
            counts["no_known_answer"] += 1
        else:
            counts["unknown_answers"] += len(ids) - len(known)
            questions.append((text, topic, known))
    return questions, counts, names.resembling(file, written, found)
