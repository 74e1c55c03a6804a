"""Archives from elsewhere: plain files go below the folder, within limits; anything else is an error, and nothing of it
is written."""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, NamedTuple, cast

from kgfast.errors import DataError

MOST_FILES = 10_000
BLOCK = 1 << 20
BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


class Member(NamedTuple):
    """A file of an archive."""

    name: str
    size: int  # as the archive says
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def unpack(archive: Path, folder: Path, members: Mapping[str, str], most: int) -> None:
    """Write the files of an archive (.zip, .tar, .tar.gz, ..) into `folder`.

    members  {name in the archive: name in the folder}: only those, all of which must be there; empty: all, without the
             folder that all of them share
    most     bytes of all files; DataError beyond, as for what is no plain file, or lies outside of the folder
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                write(archive.name, within(archive.name, zip_members(opened), most), folder, members, most)
        else:
            with tarfile.open(archive, "r:*") as packed:
                write(archive.name, within(archive.name, tar_members(packed), most), folder, members, most)
    except BROKEN as error:
        raise DataError(f"{archive.name} is no whole archive: {type(error).__name__}: {error}") from None


def zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{info.filename!r} in {archive.filename} is no plain file")
        if not info.is_dir():
            yield Member(info.filename, info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]


def tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive:
        if not (info.isreg() or info.isdir()):
            raise DataError(f"{info.name!r} in {archive.name!s} is no plain file")
        if info.isreg():
            yield Member(
                info.name.removeprefix("./"),
                info.size,
                lambda info=info: cast(IO[bytes], archive.extractfile(info)),  # type: ignore[misc]
            )


def within(where: str, members: Iterator[Member], most: int) -> list[Member]:
    """The members; DataError before anything is unpacked where they are too many, too large, or out of place."""
    found: list[Member] = []
    size = 0
    for member in members:
        check_name(where, member.name)
        found.append(member)
        size += member.size
        if len(found) > MOST_FILES or size > most:
            raise DataError(f"{where} has more than {MOST_FILES:,} files or {most:,} bytes, the most that are expected")
    return found


def write(where: str, found: list[Member], folder: Path, wanted: Mapping[str, str], most: int) -> None:
    if missing := [name for name in wanted if name not in {member.name for member in found}]:
        raise DataError(f"{where} has no {missing[0]}; it has {', '.join(member.name for member in found[:10])}")
    chosen = [member for member in found if not wanted or member.name in wanted]
    shared = "" if wanted else common_folder([member.name for member in chosen])
    left = most
    for member in chosen:
        target = folder / (wanted[member.name] if wanted else member.name.removeprefix(shared))
        if target.exists():
            raise DataError(f"{where} holds {member.name!r} twice")
        target.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as content, target.open("xb") as file:
            while block := content.read(min(BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise DataError(f"{where} has more than {most:,} bytes, the most that are expected")
                file.write(block)


def check_name(where: str, name: str) -> None:
    """DataError unless it is a path below a folder, on every system."""
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        raise DataError(f"{where} holds {name!r}, which isn't a path below its folder")


def common_folder(names: list[str]) -> str:
    first = names[0].partition("/")[0] + "/" if names else ""
    return first if first != "/" and all(name.startswith(first) for name in names) else ""
