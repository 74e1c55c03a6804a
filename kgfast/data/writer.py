"""A graph as a dataset folder: the format that `KnowledgeGraph.load` reads."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from kgfast.data.sources import SPLITS
from kgfast.data.strings import Strings
from kgfast.errors import DataError

BLOCK = 100_000  # lines that are made at a time
TEXTS = {
    "entity2text.txt": ("entity_names", "entity_text"),
    "entity2desc.txt": ("entity_names", "entity_description"),
    "relation2text.txt": ("relation_names", "relation_text"),
}


def save(graph, folder: Path) -> None:
    """See KnowledgeGraph.save. Everything is checked before, and written beside `folder`, then renamed."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder")
    check_names("entity", graph.entity_names)
    check_names("relation", graph.relation_names)
    check_answers(graph)
    ends = torch.cat([getattr(graph, split)[:, [0, 2]] for split in SPLITS])
    lost = graph.num_entities - len(ends.unique())
    if lost:
        warnings.warn(f"{lost:,} entities are in no triple: {folder} will not hold them", stacklevel=3)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp's own mode would lock others out
        for split in SPLITS:
            write(temporary / f"{split}.txt", triple_lines(graph, split))
        for file, (names, texts) in TEXTS.items():
            if getattr(graph, texts) is not None:
                write(temporary / file, text_lines(getattr(graph, names), getattr(graph, texts)))
        for split, questions in graph.questions.items():
            write(temporary / f"qa_{split}.txt", question_lines(graph, questions))
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already if it was renamed


def check_names(kind: str, names: Strings) -> None:
    found = names.array.filter(pc.match_substring_regex(names.array, r"[\t\r\n]"))
    if len(found):
        raise DataError(f"the {kind} name {found[0].as_py()!r} has a tab or an end of line: no line can hold it")


def check_answers(graph) -> None:
    for split, questions in graph.questions.items():
        for text, _topic, answers in questions:
            for name in (graph.entity_names[index] for index in answers):
                if "|" in name:
                    raise DataError(f"{name!r}, an answer of {split}, holds the separator '|': {text!r}")


def triple_lines(graph, split: str) -> Iterator[str]:
    triples = getattr(graph, split).numpy()
    columns = (graph.entity_names, graph.relation_names, graph.entity_names)
    for start in range(0, len(triples), BLOCK):
        block = triples[start : start + BLOCK]
        names = [strings.array.take(pa.array(ids)) for strings, ids in zip(columns, block.T, strict=True)]
        yield from pc.binary_join_element_wise(*names, pa.scalar("\t", pa.large_string())).to_pylist()


def text_lines(names: Strings, texts: Strings) -> Iterator[str]:
    for name, text in zip(names, texts, strict=True):
        if text is not None:
            yield f"{name}\t{text}"


def question_lines(graph, questions: list) -> Iterator[str]:
    for text, topic, answers in questions:
        names = "|".join(graph.entity_names[index] for index in answers)
        yield f"{text}\t{graph.entity_names[topic]}\t{names}"


def write(path: Path, lines: Iterator[str]) -> None:
    """The lines with LF ends; no file if there are none, for an empty file is an error when read."""
    first = next(lines, None)
    if first is None:
        return
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(first + "\n")
        file.writelines(line + "\n" for line in lines)
