"""Files on disk: written whole or not at all, read only where they are plain files.

A folder may come from somebody else, so what lies in it is never followed: a file that is written takes a link's place,
and one that is read must be no link, pipe or device.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

PREFIX, TEMPORARY = ".kgfast-", ".tmp"  # how names of temporary files begin and end
LONGEST = 100  # letters of a name that such a name repeats


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """An OSError inside tells `path`, whatever name was in use there, or none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # of a library that knows nothing but a sentence
            raise OSError(errno.EIO, str(error), os.fspath(path)) from error
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error  # filename2 = None would be told


@contextmanager
def replacing(path: str | os.PathLike, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well, removed when it doesn't.

    durable: the content is on the disk before the name is, and the name before this returns. What processes that are
    dead left behind in that folder is removed first.
    """
    path = Path(path)
    with naming(path), temporary_of(path, new_file) as (handle, temporary):
        yield temporary
        temporary.chmod(stat.S_IMODE(os.fstat(handle).st_mode))  # a library may have put a private file there
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `replacing`, a folder: one that is there is removed as late as can be."""
    with naming(path), temporary_of(path, new_folder) as (_, temporary):
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.rename(temporary, path)


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """The file with this content, durably; the file as it was before where that fails."""
    with replacing(path, durable=True) as temporary, open(temporary, "wb") as file:
        file.write(content)


@contextmanager
def temporary_of(path: Path, make: Callable[[Path], int]) -> Iterator[tuple[int, Path]]:
    """(open, path) of what `make` makes under a name beside `path` that nobody else has; locked, so that it counts as
    in use, and gone afterwards."""
    remove_abandoned(path.parent)
    while True:
        temporary = path.with_name(f"{PREFIX}{path.name[:LONGEST]}.{secrets.token_hex(4)}{TEMPORARY}")
        handle = make(temporary)
        if in_use(handle, temporary):
            break
        os.close(handle)  # somebody took it for a leftover in between
    try:
        yield handle, temporary
    finally:
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)
        os.close(handle)


def new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def new_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def in_use(handle: int, path: Path) -> bool:
    """Mark an open file or folder as in use; False where somebody is about to remove it."""
    with suppress(OSError):  # there are file systems without locks, where leftovers stay
        if not lock(handle):
            return False
    return path.exists()


def lock(handle: int) -> bool:
    """Lock what is open here if nobody else has: the lock ends with the process at the latest."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files and folders whose process is dead. Those that can't be stay: they harm nobody."""
    for path in folder.glob(f"{PREFIX}*{TEMPORARY}"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if lock(handle):
                    shutil.rmtree(path) if stat.S_ISDIR(os.fstat(handle).st_mode) else path.unlink()
            finally:
                os.close(handle)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_plain(path: str | os.PathLike, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a plain file, to be read unless `flags` say more; OSError where it is a link, or waits, or never ends."""
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link, and links are not followed here", os.fspath(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no plain file", os.fspath(path))
    if flags & (os.O_WRONLY | os.O_RDWR) and os.fstat(handle).st_nlink > 1:
        os.close(handle)
        raise OSError(errno.EMLINK, "it has another name (a hard link), which would change too", os.fspath(path))
    mode = "rb" if not flags & (os.O_WRONLY | os.O_RDWR) else "ab" if flags & os.O_APPEND else "r+b"
    return cast(BinaryIO, os.fdopen(handle, mode))


def read_plain(path: str | os.PathLike, most: int) -> bytes:
    """The content of a plain file of at most so many bytes."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and {most:,} are the most here", os.fspath(path))
        return file.read(most)


def plain_folder(path: Path) -> Path:
    """The path of a folder that exists; OSError where it is a link, or no folder."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise OSError(errno.ENOTDIR, "it is no folder, or a link to one", os.fspath(path))
    return path
