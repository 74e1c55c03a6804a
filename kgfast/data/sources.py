"""Which files a graph is read from: a dataset folder, a single file, or a graph that is built in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kgfast.data.readers import FORMATS, file_format
from kgfast.errors import DataError

SPLITS = ("train", "valid", "test")
BUILT_IN = Path(__file__).parent.parent / "datasets"
TEXTS = {
    # what it is: file names, the first that exists is read
    "entity_text": ("entity2text.txt",),
    "entity_description": ("entity2desc.txt", "entity2desc*.txt", "entity2textlong.txt"),
    "relation_text": ("relation2text.txt",),
}


@dataclass
class Sources:
    """The files of one graph, by what they hold."""

    name: str
    triples: dict[str, Path]
    texts: dict[str, Path] = field(default_factory=dict)
    questions: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def files(self) -> list[Path]:
        return [*self.triples.values(), *self.texts.values(), *self.questions.values()]


def find_sources(source) -> Sources:
    """Resolve a folder, a file, or the name of a built-in graph; DataError listing what was looked for.

    A bare name of a built-in graph means that graph; a folder of the same name is reached by `./name`.
    """
    path = Path(source)
    if str(source) in built_in_names():
        return folder_sources(BUILT_IN / str(source))
    if path.is_dir():
        return folder_sources(path)
    if path.is_file():
        file_format(path)
        return Sources(path.name.split(".")[0] or path.name, {"train": path})
    known = ", ".join(built_in_names()) or "none"
    raise DataError(f"{source}: no such file or folder, nor a built-in graph (built in: {known})")


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
    for role, patterns in TEXTS.items():
        found = [path for pattern in patterns for path in text_files(folder, pattern)]
        found = list(dict.fromkeys(found))  # a file may match two patterns
        if found:
            sources.texts[role] = found[0]
        if found[1:]:
            others = ", ".join(path.name for path in found[1:])
            sources.notes.append(f"{role} is from {found[0].name}; {others} was not read.")
    for split in SPLITS:
        found = text_files(folder, f"qa_{split}.txt")
        if found:
            sources.questions[split] = found[0]
    return sources


def split_files(folder: Path, split: str) -> list[Path]:
    names = [
        split + suffix + packed for suffix in FORMATS for packed in ("", ".gz") if suffix + packed != ".parquet.gz"
    ]
    return [folder / name for name in names if (folder / name).is_file()]


def text_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for packed in ("", ".gz") for path in folder.glob(pattern + packed) if path.is_file())


def looked_for(folder: Path) -> str:
    """What is missing and what is there instead."""
    suffixes = " ".join(suffix.removeprefix(".") for suffix in FORMATS)
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir() and split_files(path, "train"))
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    shown = ", ".join(files[:10]) + (f" and {len(files) - 10} more" if len(files) > 10 else "")
    looked = f"Looked for train.txt, or train with another of the endings {suffixes} (text also as .gz)"
    if inner:
        return f"{looked}; did you mean its folder {' or '.join(inner)}?"
    return f"{looked}; the folder holds {shown or 'no files'}."
