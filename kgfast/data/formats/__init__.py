"""The formats of triples: the file `formats/NAME.py` holds one, and lists what it can do in a Format.

Sources, reading, saving and the report look a format up here by the ending of a file's name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from kgfast.data.columns import Columns
from kgfast.data.header import ColumnChoice
from kgfast.errors import DataError

PACKED = ".gz"


@dataclass(frozen=True)
class Format:
    """One way to write triples in a file.

    suffixes  endings of names, with the dot, in lower case
    read      (path, choice) -> Columns; DataError with file and line for anything malformed. `choice` is what the
              caller says of header and columns; a format that has none leaves it alone and says `columns=False`
    write     (path, blocks) writes blocks of three string arrays; None: graphs aren't saved in this format
    packed    whether it is read as .gz too (`kgfast.data.lines.read_bytes` and `read_lines` unpack)
    columns   whether `header=` and `columns=` have a meaning
    iris      whether names are IRIs, which `iris="short"` shortens
    refused   a regular expression of what no name in such a file can hold, and that in words
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, ColumnChoice], Columns]
    write: Callable[[Path, Iterator[list[pa.Array]]], None] | None = None
    packed: bool = False
    columns: bool = False
    iris: bool = False
    refused: tuple[str, str] | None = None


_formats: dict[str, Format] = {}


def add_format(new: Format) -> None:
    """Read files of these endings from now on. DataError where another format has one of them."""
    for suffix in new.suffixes:
        if not (suffix.startswith(".") and suffix == suffix.lower() and suffix != PACKED):
            raise DataError(f"suffix {suffix!r}: must be an ending in lower case with its dot, and not {PACKED}")
        if formats().get(suffix, new) is not new:
            raise DataError(f"suffix {suffix!r}: another format has it")
    _formats.update(dict.fromkeys(new.suffixes, new))


def formats() -> dict[str, Format]:
    """{suffix: format}, those of this folder first."""
    if not _formats:
        names = sorted((module.name for module in pkgutil.iter_modules(__path__)), reverse=True)
        for name in names:  # separated text comes first: messages name it first
            for new in importlib.import_module(f"{__name__}.{name}").FORMATS:
                _formats.update(dict.fromkeys(new.suffixes, new))
    return _formats


def endings() -> list[str]:
    """Everything that the name of a file of triples may end in: .txt, .txt.gz, ..."""
    return [suffix + packed for suffix, one in formats().items() for packed in (("", PACKED) if one.packed else ("",))]


def format_of(path: Path) -> Format:
    """The format that the name of `path` ends in; DataError if it is none."""
    suffix, packed = ending(path)
    found = formats().get(suffix)
    if found is None or (packed and not found.packed):
        raise DataError(f"{path}: unknown kind of file; known are {' '.join(formats())}, text also as {PACKED}")
    return found


def ending(path: Path) -> tuple[str, bool]:
    """(suffix in lower case, whether .gz follows it)."""
    name = path.name.lower()
    return Path(name.removesuffix(PACKED)).suffix, name.endswith(PACKED)


def read_triples(path: Path, choice: ColumnChoice | None = None) -> Columns:
    """Read one file of triples. DataError with file and line for anything malformed."""
    return format_of(path).read(path, choice or ColumnChoice())
