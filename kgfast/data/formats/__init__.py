"""The formats of triples there are: each file of this folder adds some; packages and programs add theirs.

Sources, reading, saving and the report look a format up here by the ending of a file's name. A package names the
module of its format in an entry point of the group "kgfast.formats"; a program imports it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pyarrow as pa

from kgfast.data.columns import Columns
from kgfast.data.header import ColumnChoice
from kgfast.data.malformed import BadLines
from kgfast.data.packed import ENDINGS
from kgfast.errors import DataError

GROUP = "kgfast.formats"


@dataclass(frozen=True)
class Format:
    """One way to write triples in a file.

    suffixes  endings of names, with the dot, in lower case
    read      (path, choice) -> Columns; DataError with file and line for anything malformed. `choice` is what the
              caller says of header and columns; a format that has none leaves it alone and says `columns=False`
    write     (path, blocks) writes blocks of three string arrays; None: graphs aren't saved in this format
    stream    (path, choice, bad) yields the Columns of one part of the file after the other, for graphs larger than
              memory; malformed lines go to `bad` (kgfast.data.malformed). None: the file is read as a whole
    packed    whether it is read as .gz, .bz2 and .zst too (`kgfast.data.lines.read_bytes` and `read_lines` unpack)
    columns   whether `header=` and `columns=` have a meaning
    parts     (folder) -> the files in it; None: what bears the name is a file
    iris      whether names are IRIs, which `iris="short"` shortens
    refused   a regular expression of what no name in such a file can hold, and that in words
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, ColumnChoice], Columns]
    write: Callable[[Path, Iterator[list[pa.Array]]], None] | None = None
    stream: Callable[[Path, ColumnChoice, BadLines], Iterator[Columns]] | None = None
    packed: bool = False
    columns: bool = False
    parts: Callable[[Path], list[Path]] | None = None
    iris: bool = False
    refused: tuple[str, str] | None = None


_formats: dict[str, Format] = {}
_loaded = False


def add_format(new: Format) -> None:
    """Files of these endings can be read from now on. DataError where another format has one of them."""
    load_all()
    for suffix in new.suffixes:
        if not (suffix.startswith(".") and suffix == suffix.lower() and suffix not in ENDINGS):
            raise DataError(
                f"suffix {suffix!r}: must be an ending in lower case with its dot, and not {' '.join(ENDINGS)}"
            )
        if suffix in _formats and maker(_formats[suffix]) != maker(new):
            raise DataError(f"suffix {suffix!r} is read by {maker(_formats[suffix])} already")
    _formats.update(dict.fromkeys(new.suffixes, new))


def maker(one: Format) -> str:
    function = getattr(one.read, "func", one.read)
    return f"{function.__module__}.{function.__qualname__}"


def load_all() -> None:
    """Import the files of this folder and the modules that packages name; they call `add_format`."""
    global _loaded
    if not _loaded:
        _loaded = True
        for module in pkgutil.iter_modules(__path__):
            importlib.import_module(f"{__name__}.{module.name}")
        for found in entry_points(group=GROUP):
            found.load()


def formats() -> dict[str, Format]:
    """{suffix: format}, separated text first."""
    load_all()
    return dict(sorted(_formats.items(), key=lambda item: (not item[1].columns, not item[1].packed)))


def endings() -> list[str]:
    """Everything that the name of a file of triples may end in: .txt, .txt.gz, ..."""
    return [suffix + packed for suffix, one in formats().items() for packed in ("", *(ENDINGS if one.packed else ()))]


def parts_of(path: Path) -> list[Path]:
    """The files behind a path: itself, or those of a folder that a format reads as one; none where there are none."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    form = formats().get(ending(path)[0])
    return form.parts(path) if form is not None and form.parts is not None else []


def format_of(path: Path) -> Format:
    """The format that the name of `path` ends in; DataError if it is none."""
    suffix, packed = ending(path)
    found = formats().get(suffix)
    if found is None or (packed and not found.packed):
        known = f"known are {' '.join(formats())}, text also as {' '.join(ENDINGS)}"
        raise DataError(f"{path}: unknown kind of file; {known}")
    return found


def ending(path: Path) -> tuple[str, bool]:
    """(suffix in lower case, whether .gz, .bz2 or .zst follows it)."""
    name = Path(path.name.lower())
    return (Path(name.stem).suffix, True) if name.suffix in ENDINGS else (name.suffix, False)


def read_triples(path: Path, choice: ColumnChoice | None = None) -> Columns:
    """Read one file of triples. DataError with file and line for anything malformed."""
    return format_of(path).read(path, choice or ColumnChoice())


def stream_triples(path: Path, choice: ColumnChoice, bad: BadLines) -> Iterator[Columns]:
    """The same in parts: what is in memory is one of them, whatever the file, where its format can do so."""
    form = format_of(path)
    if form.stream is not None:
        yield from form.stream(path, choice, bad)
    else:
        yield form.read(path, choice)
