"""Which files of a folder a graph is read from, and which not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from kgfast.data.columns import Columns
from kgfast.data.formats import Format, ending, endings, format_of, formats, parts_of, read_triples, stream_triples
from kgfast.data.header import ColumnChoice
from kgfast.data.layouts import Layout, layout_of
from kgfast.data.malformed import BadLines
from kgfast.data.packed import ENDINGS
from kgfast.data.texts import Row, question_rows, text_lines
from kgfast.errors import DataError

SPLITS = ("train", "valid", "test")
PREPARED = "graph.json"  # a folder that holds it is a prepared graph
TEXTS = {
    # what it is: file names, the first that exists is read
    "entity_text": ("entity2text.txt",),
    "entity_description": ("entity2desc.txt", "entity2desc*.txt", "entity2textlong.txt"),
    "entity_alias": ("entity2alias.txt",),
    "relation_text": ("relation2text.txt",),
    "relation_template": ("relation2template.txt",),
}
# What others call the splits.
CALLED = {
    "train": {"train", "training", "trn"},
    "valid": {"valid", "validation", "val", "dev", "devel", "development"},
    "test": {"test", "testing", "tst"},
}


@dataclass
class Sources:
    """The files of one graph, by what they hold."""

    name: str
    triples: dict[str, Path]
    texts: dict[str, Path] = field(default_factory=dict)
    questions: dict[str, Path] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)  # what else is there, with the reason if there is one

    prepared: Path | None = None  # the folder, where the triples are in a prepared graph
    layout: Layout | None = None  # what reads all of it, where another program laid the folder out
    laid_out: Path | None = None  # that folder

    def files(self) -> list[Path]:
        if self.layout is not None:
            return self.layout.files()
        triples = [part for path in self.triples.values() for part in parts_of(path)]
        return [*triples, *self.texts.values(), *self.questions.values()]

    def formats(self) -> dict[str, Format]:
        """{split: format}; none where a layout reads it."""
        return {} if self.layout is not None else {split: format_of(path) for split, path in self.triples.items()}

    def read(self, split: str, choice: ColumnChoice) -> Columns:
        """The triples of a split."""
        return self.layout.read(split) if self.layout is not None else read_triples(self.triples[split], choice)

    def stream(self, split: str, choice: ColumnChoice, bad: BadLines) -> Iterator[Columns]:
        """The same, part by part where their format can do so."""
        if self.layout is not None:
            yield self.layout.read(split)
        else:
            yield from stream_triples(self.triples[split], choice, bad)

    def told_texts(self) -> Iterator[tuple[str, str, pa.Array, pa.Array]]:
        """(role, where it stands, names, texts) of the texts."""
        if self.layout is not None:
            yield from ((role, self.layout.name, *told) for role, told in self.layout.texts().items())
        yield from ((role, path.name, *text_lines(path)) for role, path in self.texts.items())

    def asked(self) -> Iterator[tuple[str, str, list[Row]]]:
        """(split, where it stands, rows) of the questions."""
        if self.layout is not None:
            yield from ((split, self.layout.name, rows) for split, rows in self.layout.questions().items())
        yield from ((split, path.name, question_rows(path)) for split, path in self.questions.items())


def as_path(name: str, value: object) -> Path:
    """A path that the machine can look up, whether something is there or not; DataError names the argument."""
    try:
        text = os.fspath(value)  # type: ignore[call-overload]
        if not isinstance(text, str) or not text:
            raise ValueError("it is empty" if isinstance(text, str) else "it is of bytes")
        os.stat(text)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, TypeError, ValueError) as error:
        shown = value if len(str(value)) < 200 else f"{str(value)[:200]}..."
        raise DataError(f"{name}={shown!r} is no path: {error}") from None
    return Path(text)


def folder_sources(folder: Path) -> Sources:
    triples = {}
    for split in SPLITS:
        found = split_files(folder, split)
        if len(found) > 1:
            raise DataError(f"{folder}: {' and '.join(path.name for path in found)} both hold {split}: keep one")
        if found:
            triples[split] = found[0]
    if "train" not in triples:
        if (layout := layout_of(folder)) is not None:
            return Sources(folder.resolve().name, dict(layout.triples), layout=layout, laid_out=folder.resolve())
        raise DataError(f"{folder} has no training triples. {looked_for(folder)}")
    sources = Sources(folder.resolve().name, triples)
    find_texts(folder, sources)
    return sources


def find_texts(folder: Path, sources: Sources) -> None:
    for role, patterns in TEXTS.items():
        found = [path for pattern in patterns for path in text_files(folder, pattern)]
        found = list(dict.fromkeys(found))  # a file may match two patterns
        if found:
            sources.texts[role] = found[0]
    for split in SPLITS:
        found = text_files(folder, f"qa_{split}.txt")
        if found:
            sources.questions[split] = found[0]


def split_files(folder: Path, split: str) -> list[Path]:
    return [folder / (split + end) for end in endings() if parts_of(folder / (split + end))]


def unread(folder: Path, sources: Sources) -> dict[str, str]:
    """Everything in `folder` that isn't read, those first that may belong to the graph, with the reason."""
    paths = [path for path in (*sources.triples.values(), *sources.files()) if path.is_relative_to(folder)]
    read = {path.relative_to(folder).parts[0] for path in paths}
    others = sorted((path for path in folder.iterdir() if path.name not in read), key=lambda path: path.name)
    found = {path.name: reason(path, sources) for path in others if not path.is_dir()}
    folders = {f"{path.name}/": "" for path in others if path.is_dir()}
    return dict(sorted(found.items(), key=lambda item: not item[1])) | folders


def unread_beside(path: Path) -> dict[str, str]:
    """The files beside a single one that look like further splits, texts or questions of the same graph."""
    try:
        beside = folder_sources(path.parent)
    except DataError:  # no folder of a graph
        return {}
    if beside.layout is not None:
        return {}
    if path.name not in {file.name for file in beside.files()}:
        return {}
    told = f"{path.name} alone was given, and not its folder"
    return {file.name: told for file in beside.files() if file.name != path.name}


def reason(path: Path, sources: Sources) -> str:
    """Why a file of the folder isn't read, where it looks as if it should be; else nothing."""
    stem = path.name.lower().split(".")[0]
    for split, names in CALLED.items():
        if stem in names:
            if split in sources.triples:
                return f"{split} is from {sources.triples[split].name}"
            if ending(path)[0] in formats():
                return f"a file of {split} triples must be called {split}{''.join(path.suffixes).lower()}"
            return f"{split} triples are read from files that end in {' '.join(formats())}"
    for role, patterns in TEXTS.items():
        if role in sources.texts and any(
            path.match(pattern + packed) for pattern in patterns for packed in ("", *ENDINGS)
        ):
            return f"{role.replace('_', ' ')} is from {sources.texts[role].name}"
        if stem.startswith(patterns[0].split(".")[0]):
            return f"{role.replace('_', ' ')} is read from {patterns[0]}, also as {' '.join(ENDINGS)}"
    if stem.startswith("qa_"):
        return f"questions are read from qa_train.txt, qa_valid.txt and qa_test.txt, also as {' '.join(ENDINGS)}"
    return ""


def text_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for packed in ("", *ENDINGS) for path in folder.glob(pattern + packed) if path.is_file())


def looked_for(folder: Path) -> str:
    """What is missing and what is there instead."""
    suffixes = " ".join(suffix.removeprefix(".") for suffix in formats())
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir() and split_files(path, "train"))
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    shown = ", ".join(files[:10]) + (f" and {len(files) - 10} more" if len(files) > 10 else "")
    looked = f"Looked for train.txt, or train with another of the endings {suffixes} (text also as {' '.join(ENDINGS)})"
    if next(folder.glob("*.parquet"), None):
        return f"{looked}; a folder of Parquet files is read as one where its name ends in .parquet."
    if inner:
        return f"{looked}; did you mean its folder {' or '.join(inner)}?"
    return f"{looked}; the folder holds {shown or 'no files'}."
