"""A graph as a dataset folder, which `KnowledgeGraph.load` reads as the same graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from kgfast.core.files import replacing_folder
from kgfast.data.formats import Format, format_of, formats
from kgfast.data.lines import BYTE_ORDER_MARK
from kgfast.data.sources import SPLITS
from kgfast.data.strings import Strings
from kgfast.errors import DataError

BLOCK = 1 << 20  # triples that are written at a time
TEXTS = {
    "entity2text.txt": ("entity_names", "entity_text"),
    "entity2desc.txt": ("entity_names", "entity_description"),
    "entity2alias.txt": ("entity_names", "entity_alias"),
    "relation2text.txt": ("relation_names", "relation_text"),
    "relation2template.txt": ("relation_names", "relation_template"),
}


def save(graph, folder: Path, suffix: str) -> None:
    """See KnowledgeGraph.save. Everything is checked before, and written beside `folder`, then renamed."""
    if not isinstance(suffix, str) or suffix not in formats():
        raise DataError(f"suffix={suffix!r}: unknown kind of file; known are {' '.join(formats())}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder")
    form = format_of(Path(f"train{suffix}"))
    if form.write is None:
        raise DataError(f"suffix {suffix!r}: graphs aren't saved in this format")
    check_names(graph, form, suffix)
    check_questions(graph)
    ends = torch.cat([getattr(graph, split)[:, [0, 2]] for split in SPLITS])
    lost = graph.num_entities - len(ends.unique())
    if lost:
        warnings.warn(f"{lost:,} entities are in no triple: {folder} will not hold them", stacklevel=3)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} can't be written: {error}") from None
    with replacing_folder(folder) as temporary:
        for split in SPLITS:
            if len(getattr(graph, split)):  # an empty file is an error when read
                form.write(temporary / f"{split}{suffix}", triple_blocks(graph, split))
        for file, (names, texts) in TEXTS.items():
            if getattr(graph, texts) is not None:
                write(temporary / file, text_lines(getattr(graph, names), getattr(graph, texts)))
        for split, questions in graph.questions.items():
            write(temporary / f"qa_{split}.txt", question_lines(graph, questions))


def check_names(graph, form: Format, suffix: str) -> None:
    """DataError for a name that the files can't hold: those of triples, or the separated text of all others."""
    texts = {names for names, texts in TEXTS.values() if getattr(graph, texts) is not None}
    texts |= {"entity_names"} if graph.questions else set()
    separated = format_of(Path("entity2text.txt"))
    for names, kind in (("entity_names", "entity"), ("relation_names", "relation")):
        for one in (form, *((separated,) if names in texts else ())):
            if one.refused is None:
                continue
            strings = getattr(graph, names).array
            found = strings.filter(pc.match_substring_regex(strings, one.refused[0]))
            if len(found):
                raise DataError(
                    f"the {kind} name {found[0].as_py()!r} has {one.refused[1]}: {one.suffixes[0]} files can't hold it"
                )


def check_questions(graph) -> None:
    for split, questions in graph.questions.items():
        for text, _topic, answers in questions:
            if not text.strip() or any(letter in text for letter in "\t\r\n"):
                raise DataError(f"a question of {split} is empty, or has a tab or an end of line: {text!r}")
            for name in (graph.entity_names[index] for index in answers):
                if "|" in name:
                    raise DataError(f"{name!r}, an answer of {split}, holds the separator '|': {text!r}")


def triple_blocks(graph, split: str) -> Iterator[list[pa.Array]]:
    triples = getattr(graph, split).numpy()
    columns = (graph.entity_names, graph.relation_names, graph.entity_names)
    for start in range(0, len(triples), BLOCK):
        block = triples[start : start + BLOCK]
        yield [strings.array.take(pa.array(ids)) for strings, ids in zip(columns, block.T, strict=True)]


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
    mark = BYTE_ORDER_MARK.decode()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write((mark if first.startswith(mark) else "") + first + "\n")  # a reader takes the first mark off
        file.writelines(line + "\n" for line in lines)
