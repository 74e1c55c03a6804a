"""Graphs read before: columnar files, the large ones mapped, in `$KGFAST_CACHE` or `~/.cache/kgfast`.

One folder per source, holding entities.arrow, relations.arrow, questions.arrow, triples.npy, report.json and
index.json: sizes and hashes of the source files and of the cached ones. A changed source replaces it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa

from kgfast.core.files import replacing_folder
from kgfast.core.terminal import visible
from kgfast.data.names import Names
from kgfast.data.sources import SPLITS, Sources
from kgfast.data.strings import Strings

FORMAT = 3
SMALLEST = 1 << 20  # bytes of source files below which reading is as fast as a cache
MAPPED_FROM = 1 << 28  # bytes of a file


def cache_folder() -> Path:
    return Path(os.environ.get("KGFAST_CACHE") or Path.home() / ".cache" / "kgfast")


def worthwhile(sources: Sources) -> bool:
    return sum(path.stat().st_size for path in sources.files()) >= SMALLEST


def entry_folder(sources: Sources, options: dict) -> Path:
    """Where the graph of these files, read with these options, is cached."""
    paths = [str(path.resolve()) for path in sources.files()]
    key = hashlib.sha256(json.dumps([paths, options]).encode()).hexdigest()
    return cache_folder() / f"{sources.name}-{key[:16]}"


def stamp(sources: Sources) -> list:
    """Format, and name, size and hash of every source: equal as long as the entry is good.

    The content counts and no time of change, which copies and images of another file may share.
    """
    return [
        FORMAT,
        sources.name,
        [[str(path.resolve()), path.stat().st_size, digest(path)] for path in sources.files()],
    ]


def store(graph, folder: Path, stamped: list) -> None:
    """Write `graph` beside `folder`, then rename. A cache that can't be written (read-only, full) is a
    warning.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder) as temporary:
            write_parts(graph, temporary)
            files = {path.name: [path.stat().st_size, digest(path)] for path in sorted(temporary.iterdir())}
            (temporary / "index.json").write_text(json.dumps({"stamp": stamped, "files": files}), "utf-8")
    except OSError as error:
        unusable(error)


def fetch(folder: Path, stamped: list) -> dict | None:
    """The parts of the graph cached in `folder`, memory-mapped; None if there is none or its sources changed.

    Every file is hashed first. A damaged entry is reported on standard error and counts as none.
    """
    try:
        if not (folder / "index.json").is_file():
            return None
        problem, current = inspect(folder, stamped)
        if problem:
            print(
                visible(f"kgfast: the cache in {folder} is damaged ({problem}); reading the files again"),
                file=sys.stderr,
            )
        return read_parts(folder) if current and not problem else None
    except OSError as error:
        unusable(error)
        return None


def unusable(error: OSError) -> None:
    # one line of code for all causes: Python shows a warning of the same line and text once
    warnings.warn(f"the cache of graphs in {cache_folder()} can't be used: {error}", RuntimeWarning, stacklevel=1)


def inspect(folder: Path, stamped: list) -> tuple[str | None, bool]:
    """(what is wrong with the entry or None, whether it is of today's source files)."""
    try:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        files, current = dict(index["files"]), index["stamp"] == stamped
    except (ValueError, KeyError, TypeError) as error:
        return f"index.json: {error}", False
    if not current:
        return None, False
    for name, (size, hashed) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing", True
        if path.stat().st_size != size or digest(path) != hashed:
            return f"{name} has changed", True
    return None, True


def write_parts(graph, folder: Path) -> None:
    entities = {
        "name": graph.entity_names,
        "iri": graph.entity_names.iris,
        "text": graph.entity_text,
        "description": graph.entity_description,
        "alias": graph.entity_alias,
    }
    write_table(folder / "entities.arrow", entities)
    names = graph.relation_names
    relations = {"name": names, "iri": names.iris, "text": graph.relation_text, "template": graph.relation_template}
    write_table(folder / "relations.arrow", relations)
    write_questions(folder / "questions.arrow", graph.questions)
    triples = np.concatenate([getattr(graph, split).numpy() for split in SPLITS])
    np.save(folder / "triples.npy", triples, allow_pickle=False)
    (folder / "report.json").write_text(json.dumps(graph.report.as_dict()), "utf-8")


def read_parts(folder: Path) -> dict:
    entities, relations = read_table(folder / "entities.arrow"), read_table(folder / "relations.arrow")
    # read, as a mapped file that is cut from outside ends the process; what is large is mapped, on write copied
    large = (folder / "triples.npy").stat().st_size > MAPPED_FROM
    triples = np.load(folder / "triples.npy", mmap_mode="c" if large else None, allow_pickle=False)
    return {
        "triples": triples,
        "entity_names": Names(entities["name"], entities.get("iri")),
        "relation_names": Names(relations["name"], relations.get("iri")),
        "entity_text": texts(entities, "text"),
        "entity_description": texts(entities, "description"),
        "entity_alias": texts(entities, "alias"),
        "relation_text": texts(relations, "text"),
        "relation_template": texts(relations, "template"),
        "questions": read_questions(folder / "questions.arrow"),
        "report": json.loads((folder / "report.json").read_text("utf-8")),
    }


def write_table(path: Path, columns: dict[str, Strings | None]) -> None:
    table = pa.table({name: strings.array for name, strings in columns.items() if strings is not None})
    with path.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.combine_chunks())


def read_table(path: Path) -> dict[str, pa.Array]:
    large = path.stat().st_size > MAPPED_FROM
    with (pa.memory_map if large else pa.OSFile)(os.fsencode(path)) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
    return {name: batch[name] for name in batch.schema.names}


def texts(table: dict[str, pa.Array], name: str) -> Strings | None:
    return Strings(table[name]) if name in table else None


def write_questions(path: Path, questions: dict[str, list]) -> None:
    rows = [(split, *question) for split, of_split in questions.items() for question in of_split]
    split, question, topic, answers = zip(*rows, strict=True) if rows else ((), (), (), ())
    table = pa.table({
        "split": pa.array(split, pa.string()),
        "question": pa.array(question, pa.large_string()),
        "topic": pa.array(topic, pa.int64()),
        "answers": pa.array(answers, pa.large_list(pa.int64())),
    })  # fmt: skip
    metadata = {"splits": json.dumps(list(questions))}  # a split may have no question left
    with path.open("wb") as file, pa.ipc.new_file(file, table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table.combine_chunks())


def read_questions(path: Path) -> dict[str, list]:
    with pa.memory_map(os.fsencode(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    questions: dict[str, list] = {split: [] for split in json.loads(table.schema.metadata[b"splits"])}
    for split, question, topic, answers in zip(*(column.to_pylist() for column in table.columns), strict=True):
        questions[split].append((question, topic, answers))
    return questions


def digest(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            hashed.update(block)
    return hashed.hexdigest()
