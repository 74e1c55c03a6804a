"""Small datasets on disk."""

from pathlib import Path

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
