"""`fetch`: a dataset by its name, from where it is published, or from the cache."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from kgfast.core import checks
from kgfast.core.files import naming, read_plain, replacing_folder, write_whole
from kgfast.data.cache import cache_folder, digest
from kgfast.data.published.download import Advance, Say, download
from kgfast.data.published.table import DATASETS, Dataset, File
from kgfast.data.published.unpack import unpack
from kgfast.data.sources import as_path
from kgfast.errors import DataError

Bar = Callable[[str], AbstractContextManager[Advance]]
MOST_BYTES = 1 << 24  # of a record


def datasets() -> dict[str, Dataset]:
    """{name: dataset} of all that can be fetched."""
    return {dataset.name: dataset for dataset in DATASETS}


def datasets_folder() -> Path:
    """Where fetched datasets lie: $KGFAST_DATASETS, or `datasets` in the cache."""
    return Path(os.environ.get("KGFAST_DATASETS") or cache_folder() / "datasets")


def find(name: object) -> Dataset:
    """The dataset of this name; DataError with names that are near."""
    found = datasets().get(name) if isinstance(name, str) else None
    if found is None:
        near = difflib.get_close_matches(str(name).lower(), datasets(), 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(datasets())}"
        raise DataError(f"no dataset {name!r} can be fetched; {hint}")
    return found


def fetched_folder(name: str) -> Path:
    """The folder of a dataset that was fetched; DataError that says how where it wasn't."""
    folder = datasets_folder() / find(name).name
    if not folder.is_dir():
        raise DataError(f"{name} is the name of a dataset that isn't here yet: kgfast data fetch {name}")
    return folder


def fetch(
    name: str,
    *,
    folder: str | os.PathLike | None = None,
    mirror: str | os.PathLike | None = None,
    again: bool = False,
    bar: Bar | None = None,
    say: Say | None = None,
) -> Path:
    """The folder of a dataset, fetched where it isn't in the cache yet; `KnowledgeGraph.load(name)` reads it then.

    Args:
        name: one of `kgfast data list`.
        folder: where datasets lie; None: $KGFAST_DATASETS, or `datasets` in the cache.
        mirror: an address, or a folder, that has the files as NAME/FILE; None: $KGFAST_MIRROR, or their authors'.
        again: fetch it even if it is there.
        bar: makes a progress bar: called with words, yields the function of (done, total).
        say: called with a sentence before another try.

    Each file is compared with its checksum where one is known. Else its SHA-256 is kept beside the folder, in
    NAME.json, and what is fetched later is compared with that: trust on first use. What is there already is compared
    with what was unpacked. DataError for what differs, is no plain file in an archive, or can't be fetched; nothing
    half is left.
    """
    dataset, again = find(name), checks.flag("again", again)
    root = datasets_folder() if folder is None else as_path("folder", folder)
    place = root / dataset.name
    if place.is_dir() and not again:
        compare(place, record_of(dataset.name, root))
        return place
    before = record_of(dataset.name, root).get("fetched", {})
    addresses = [address_of(dataset, file, mirror) for file in dataset.files]
    with naming(root):
        root.mkdir(parents=True, exist_ok=True)
    with replacing_folder(place) as whole:
        fetched = {}
        for file, address in zip(dataset.files, addresses, strict=True):
            known = before.get(file.name, {}).get("sha256")
            fetched[file.name] = take(dataset, file, address, whole, known, bar or silent, say or ignore)
        files = {str(path.relative_to(whole)): [path.stat().st_size, digest(path)] for path in files_in(whole)}
        told = {"dataset": dataset.name, "licence": dataset.licence, "cite": dataset.cite, "source": dataset.source}
        write_whole(record_path(dataset.name, root), json.dumps({**told, "fetched": fetched, "files": files}).encode())
    return place


def take(
    dataset: Dataset, file: File, address: str, whole: Path, before: str | None, bar: Bar, say: Say
) -> dict[str, Any]:
    """Fetch one file, compare it, put it or what it holds into the folder; what the record says of it. before: the
    SHA-256 that it had when it was fetched first."""
    path = whole / (f".{file.name}" if file.unpacked else file.name)
    with bar(f"fetching {file.name}") as advance:
        download(address, path, dataset.most, advance, say)
    size, sha256 = path.stat().st_size, digest(path)
    if file.checksum is not None:
        compare_sum(address, path, file.checksum, sha256)
    elif before is not None and before != sha256:
        raise DataError(
            f"{address} has the SHA-256 {sha256}, and had {before} when it was fetched first. No "
            f"checksum is known that decides. To trust what it is now, remove {dataset.name}.json beside the dataset"
        )
    if file.unpacked:
        unpack(path, whole, dataset.members, dataset.most)
        path.unlink()
    return {"address": address, "bytes": size, "sha256": sha256, "known": file.checksum is not None}


def address_of(dataset: Dataset, file: File, mirror: str | os.PathLike | None) -> str:
    mirror = mirror or os.environ.get("KGFAST_MIRROR")
    if not mirror:
        return file.address
    if not isinstance(mirror, str) or "://" not in mirror:
        mirror = as_path("mirror", mirror).resolve().as_uri()
    if not mirror.startswith(("https://", "http://", "file://")):
        raise DataError(f"mirror={mirror!r}: must be an address of http, https or file, or a folder")
    return f"{mirror.rstrip('/')}/{dataset.name}/{file.name}"


def compare_sum(address: str, path: Path, known: str, sha256: str) -> None:
    """DataError unless the file has the checksum that is known: SHA-256, or the id that git gives its content."""
    kind, _, wanted = known.partition(":")
    if kind == "git":
        hashed = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    found = sha256 if kind == "sha256" else hashed.hexdigest()
    if found != wanted:
        told = "SHA-256" if kind == "sha256" else "git id"
        raise DataError(f"{address} is not what was published: its {told} is {found}, and should be {wanted}")


def record_path(name: str, root: Path) -> Path:
    return root / f"{name}.json"


def record_of(name: str, root: Path | None = None) -> dict[str, Any]:
    """What was written down when a dataset was fetched; empty where it never was."""
    path = record_path(name, root or datasets_folder())
    if not path.is_file():
        return {}
    try:
        found = json.loads(read_plain(path, MOST_BYTES))
        if not isinstance(found["fetched"], dict) or not isinstance(found["files"], dict):
            raise TypeError("its parts are no objects")
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it, and fetch {name} again") from None


def compare(folder: Path, record: dict[str, Any]) -> None:
    """DataError unless the files are those that were unpacked."""
    there = {str(path.relative_to(folder)): path for path in files_in(folder)}
    for name, (size, sha256) in record.get("files", {}).items():
        path = there.get(name)
        if path is None or path.stat().st_size != size or digest(path) != sha256:
            what = "is missing" if path is None else "has changed"
            raise DataError(f"{folder / name} {what} since it was fetched: --again fetches it anew")


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def silent(words: str) -> AbstractContextManager[Advance]:
    return nullcontext(lambda done, total: None)


def ignore(sentence: str) -> None:
    """For those who don't listen."""
