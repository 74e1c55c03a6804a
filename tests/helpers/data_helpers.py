"""Small datasets on disk."""

import gzip
from pathlib import Path

import numpy as np
import torch

TRIPLES = [
    ("Ada Lovelace", "born in", "London"),
    ("Zürich", "liegt in", "Schweiz"),
    ("東京", "首都", "日本"),
    ('a "quoted" name', "born in", "London"),
]
LINES = "".join("\t".join(row) + "\n" for row in TRIPLES)


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def folder(path: Path, **files) -> Path:
    """A dataset folder; keys are file names without .txt."""
    for name, content in files.items():
        write(path / f"{name}.txt", content)
    return path


def named(graph, split="train"):
    return [
        (graph.entity_names[h], graph.relation_names[r], graph.entity_names[t])
        for h, r, t in getattr(graph, split).tolist()
    ]


def mapping(path, header, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress((header + "\n" + "".join(f"{i},{n}\n" for i, n in enumerate(names))).encode()))


def write_ogb(folder, typed=False, protocol=2):
    """A small graph as OGB unpacks it: 5 entities of which the last is in no triple, 2 relations."""
    if typed:
        mapping(folder / "mapping" / "drug_entidx2name.csv.gz", "ent idx,ent name", ["007", "b"])
        mapping(folder / "mapping" / "gene_entidx2name.csv.gz", "ent idx,ent name", ["b", "g", "h"])
        mapping(folder / "mapping" / "relidx2relname.csv.gz", "rel idx,rel name", ["treats", "binds"])
    else:
        mapping(folder / "mapping" / "nodeidx2entityid.csv.gz", "node idx,entity id", ["Q9", "Q7", "Q5", "Q3", "Q1"])
        mapping(folder / "mapping" / "reltype2relid.csv.gz", "reltype,rel id", ["P1", "P2"])
    split = folder / "split" / ("random" if typed else "time")
    split.mkdir(parents=True)
    parts = {"train": ([0, 1, 0], [0, 1, 1], [1, 0, 1]), "valid": ([1], [0], [1]), "test": ([0, 1], [1, 0], [0, 1])}
    for name, columns in parts.items():
        found = {key: np.array(column) for key, column in zip(("head", "relation", "tail"), columns, strict=True)}
        if typed:
            found |= {"head_type": ["drug"] * len(columns[0]), "tail_type": ["gene"] * len(columns[0])}
        else:
            found["tail"] = found["tail"] + 2
        if name != "train":
            found["head_neg"] = np.array([[0, 1]] * len(columns[0]))
            found["tail_neg"] = np.array([[0, 2, 1]] * len(columns[0]), np.int32)
        torch.save(found, split / f"{name}.pt", pickle_protocol=protocol)
    return folder
