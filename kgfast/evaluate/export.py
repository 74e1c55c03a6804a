"""Embeddings in formats that other programs read: npy, safetensors and word2vec text."""

import json
import re

from kgfast.core.files import replacing
from kgfast.data.sources import as_path
from kgfast.errors import ConfigError, DataError

FORMATS = ("npy", "safetensors", "word2vec")
REVERSE = "_reverse"  # names the relation row r + num_relations of a reciprocal model


def export(model, graph, folder, format="npy"):
    """Write the tables and the names of their rows into `folder`; returns the paths written.

    npy          entities.npy [C, D], relations.npy [R, ...]
    safetensors  embeddings.safetensors with the tensors "entities" and "relations"
    word2vec     entities.vec, relations.vec: "rows width", then "name x1 x2 ..." a row, exact for float32;
                 white space inside a name becomes an underscore

    Always: entities.txt and relations.txt, one name a line, line i is row i; model.json: score, dim,
    reciprocal, halves. A reciprocal model has 2 R relation rows; row r + R is named after r with "_reverse"
    (it ranks heads as tails). bfloat16 tables are written as float32. Every file is complete or absent:
    written aside, then renamed. `graph` is a KnowledgeGraph or an id map (entity_names, relation_names).
    Memory: one copy of a table where the model is on a GPU or in bfloat16, else O(1). Raises ConfigError on
    an unknown format, DataError on names that the format can't hold.
    """
    if format not in FORMATS:
        raise ConfigError(f"format={format!r}: must be one of {', '.join(FORMATS)}")
    names = {"entities": list(map(str, graph.entity_names)), "relations": relation_row_names(model, graph)}
    tables = {"entities": as_exported(model.entities), "relations": as_exported(model.relations)}
    for what, table in tables.items():
        if len(names[what]) != len(table):
            raise DataError(f"the model has {len(table)} rows of {what}, the graph {len(names[what])} names")
        for name in names[what]:
            if re.search(r"[\r\n]", name):
                raise DataError(f"name {name!r} in {what} holds a line break: {what}.txt has one name a line")
    words = {what: word2vec_names(names[what], what) for what in tables} if format == "word2vec" else {}
    folder = as_path("out", folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for what, table in tables.items():
        if format == "npy":
            written.append(write_npy(folder / f"{what}.npy", table))
        elif format == "word2vec":
            written.append(write_word2vec(folder / f"{what}.vec", table, words[what]))
    if format == "safetensors":
        written.append(write_safetensors(folder / "embeddings.safetensors", tables))
    for what, lines in names.items():
        written.append(write_text(folder / f"{what}.txt", "".join(name + "\n" for name in lines)))
    description = {
        "score": model.score,
        "dim": model.dim,
        "num_entities": model.num_entities,
        "num_relations": model.num_relations,
        "reciprocal": bool(model.reciprocal),
        "row": "complex, rotate, simple, cp: first half, then second half (real, then imaginary); "
        "relations of rotate: phases in radians",
    }
    written.append(write_text(folder / "model.json", json.dumps(description, indent=2) + "\n"))
    return written


def write_text(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return path


def as_exported(parameter):
    """The table on the CPU, contiguous, float32 or float64; no copy where it is so already."""
    table = parameter.detach().cpu().contiguous()
    return table if table.dtype.itemsize >= 4 else table.float()


def relation_row_names(model, graph):
    names = list(map(str, graph.relation_names))
    if not model.reciprocal:
        return names
    reverse = [name + REVERSE for name in names]
    taken = set(names).intersection(reverse)
    if taken:
        raise DataError(f"relation {min(taken)!r} has the name that the reverse row of another relation would get")
    return names + reverse


def write_npy(path, table):
    import numpy

    with replacing(path) as temporary, temporary.open("wb") as file:
        numpy.save(file, table.numpy(), allow_pickle=False)
    return path


def write_safetensors(path, tables):
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(tables, temporary, metadata={"format": "pt"})
    return path


def word2vec_names(names, what):
    """Names without white space; DataError where two become one."""
    first: dict[str, str] = {}
    for name in names:
        word = re.sub(r"\s", "_", name)
        if word in first:
            raise DataError(
                f"word2vec separates by spaces: {first[word]!r} and {name!r} in {what} would both be {word!r}"
            )
        first[word] = name
    return list(first)


def write_word2vec(path, table, names):
    line = "%s" + " %.9g" * table.shape[1] + "\n"
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{table.shape[0]} {table.shape[1]}\n")
        for name, row in zip(names, table, strict=True):
            file.write(line % (name, *row.tolist()))
    return path
