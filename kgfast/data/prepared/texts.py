"""Texts and questions of a source, written beside a prepared graph."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from kgfast.data.sources import TEXTS, Sources
from kgfast.errors import DataError


def copy_texts(sources: Sources, folder: Path) -> None:
    """Files of kgfast's own are copied; what another program's layout holds is written as they would have it."""
    for file in (*sources.texts.values(), *sources.questions.values()):
        shutil.copyfile(file, folder / file.name)
    if sources.layout is None:
        return
    for role, (names, texts) in sources.layout.texts().items():
        told = zip(names.to_pylist(), texts.to_pylist(), strict=True)
        write(folder / TEXTS[role][0], ((name, " ".join(text.split())) for name, text in told))
    for split, questions in sources.layout.questions().items():
        if any("|" in answer for *_, answers in questions for answer in answers):
            raise DataError(f"{sources.name}: an answer of {split} has a | in its name, which separates answers")
        rows = ((" ".join(text.split()), topic, "|".join(answers)) for text, topic, answers in questions)
        write(folder / f"qa_{split}.txt", rows)


def write(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Lines of fields between tabs; DataError for a name that can't stand in one."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            if any(letter in field for field in row for letter in "\t\r\n"):
                raise DataError(f"{path.name}: {row!r} holds a tab or an end of line, which such a file can't say")
            file.write("\t".join(row) + "\n")
