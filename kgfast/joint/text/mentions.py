"""Mentions of entities in texts: exact names and aliases, as whole words."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from kgfast.data import KnowledgeGraph
from kgfast.data.cache import SMALLEST, cache_folder, unusable
from kgfast.data.names import LETTER

PIECE = re.compile(rf"{LETTER.pattern}+|[^\s]")  # a word, or a sign that needs no space around it
FORMAT = 1


def names_of(graph: KnowledgeGraph) -> dict[str, int]:
    """{text: entity} of labels, or else names, and aliases that are no label; a text of several entities tells none of
    them."""
    labelled: dict[str, set[int]] = defaultdict(set)
    called: dict[str, set[int]] = defaultdict(set)
    labels = graph.entity_text if graph.entity_text is not None else [None] * graph.num_entities
    aliases = graph.entity_alias if graph.entity_alias is not None else [None] * graph.num_entities
    for entity, (name, label, others) in enumerate(zip(graph.entity_names, labels, aliases, strict=True)):
        labelled[(label or name).strip()].add(entity)
        for text in (others or "").split("\t"):
            called[text.strip()].add(entity)
    owners = {text: entities for text, entities in {**called, **labelled}.items() if text}
    return {text: min(entities) for text, entities in owners.items() if len(entities) == 1}


class Finder:
    """Finds names in texts. Time: one look-up a word of the text, whatever the number of names."""

    def __init__(self, names: dict[str, int]):
        self.names = names
        self.by_piece: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for name, entity in names.items():
            piece = PIECE.match(name)
            if piece is not None:
                self.by_piece[piece.group()].append((name, entity))

    def all(self, text: str) -> list[tuple[int, int, int]]:
        """(start, stop, entity) of every name in a text, those inside others too, by start."""
        found = []
        for piece in PIECE.finditer(text):
            for name, entity in self.by_piece.get(piece.group(), ()):
                start, stop = piece.start(), piece.start() + len(name)
                if text.startswith(name, start) and not LETTER.match(text, stop):
                    found.append((start, stop, entity))
        return found


def longest(found: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """From left to right the longest name at each place, none inside another."""
    kept: list[tuple[int, int, int]] = []
    for start, stop, entity in sorted(found, key=lambda one: (one[0], -one[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, stop, entity))
    return kept


def find_mentions(graph: KnowledgeGraph, texts: Sequence[str]) -> np.ndarray:
    """Every name in every text: int32 [M, 4] of text, start, stop (characters), entity. What was found in much text is
    kept in the cache of graphs."""
    names = names_of(graph)
    if sum(map(len, texts)) < SMALLEST:
        return search(names, texts)
    path = cache_folder() / f"mentions-{fingerprint(names, texts)[:32]}.npy"
    try:
        if path.is_file():
            return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        path.unlink(missing_ok=True)  # damaged: found again
    found = search(names, texts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.save(file, found, allow_pickle=False)
        os.replace(file.name, path)
    except OSError as error:
        unusable(error)
    return found


def search(names: dict[str, int], texts: Sequence[str]) -> np.ndarray:
    finder = Finder(names)
    found = [(place, *mention) for place, text in enumerate(texts) for mention in finder.all(text)]
    return np.array(found, np.int32).reshape(-1, 4)


def fingerprint(names: dict[str, int], texts: Sequence[str]) -> str:
    digest = hashlib.sha256(str(FORMAT).encode())
    for name, entity in names.items():
        digest.update(f"{entity}\t{name}\n".encode())
    for text in texts:
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()
