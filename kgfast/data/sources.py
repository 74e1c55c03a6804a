"""Which files a graph is read from, a dataset folder, a single file, or a graph that is built in; and which not."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from kgfast.data.formats import ending, endings, format_of, formats, parts_of
from kgfast.data.packed import ENDINGS
from kgfast.errors import DataError

SPLITS = ("train", "valid", "test")
PREPARED = "graph.json"  # a folder that holds it is a prepared graph
BUILT_IN = Path(__file__).parent.parent / "datasets"
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

    def files(self) -> list[Path]:
        triples = [part for path in self.triples.values() for part in parts_of(path)]
        return [*triples, *self.texts.values(), *self.questions.values()]


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


def find_sources(source) -> Sources:
    """Resolve a folder, a file, or the name of a built-in graph; DataError listing what was looked for.

    A bare name of a built-in graph means that graph; a folder of the same name is reached by `./name`.
    """
    if str(source).startswith("sql:"):
        raise DataError("a query can't be loaded by name, as a run would repeat it: KnowledgeGraph.from_sql, or --out")
    path = as_path("source", source)
    if str(source) in built_in_names():
        return folder_sources(BUILT_IN / str(source))
    if path.is_dir() and not parts_of(path):
        if (path / PREPARED).is_file():
            sources = Sources(path.resolve().name, {}, prepared=path)
            find_texts(path, sources)
            return sources
        sources = folder_sources(path)
        sources.unread = unread(path, sources)
        return sources
    if path.is_file() or path.is_dir():
        format_of(path)
        sources = Sources(path.name.split(".")[0] or path.name, {"train": path})
        sources.unread = unread_beside(path)
        return sources
    known = ", ".join(built_in_names()) or "none"
    raise DataError(f"{source}: no such file or folder, nor a built-in graph (built in: {known})")


def folder_of(source) -> Path:
    """The folder of a source's files: of a built-in graph, where it lies."""
    path = BUILT_IN / str(source) if str(source) in built_in_names() else as_path("source", source)
    return path.parent if path.is_file() else path


def built_in_names() -> list[str]:
    if not BUILT_IN.is_dir():
        return []
    return sorted(folder.name for folder in BUILT_IN.iterdir() if folder.is_dir() and split_files(folder, "train"))


def folder_sources(folder: Path) -> Sources:
    triples = {}
    for split in SPLITS:
        found = split_files(folder, split)
        if len(found) > 1:
            raise DataError(f"{folder}: {' and '.join(path.name for path in found)} both hold {split}: keep one")
        if found:
            triples[split] = found[0]
    if "train" not in triples:
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
    read = {path.name for path in (*sources.triples.values(), *sources.files())}
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
