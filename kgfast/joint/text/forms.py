"""Triples in words: a template for each relation, or head, relation and tail side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from kgfast.data import KnowledgeGraph
from kgfast.errors import DataError

HEAD, TAIL = "[X]", "[Y]"
THIS = "this"  # stands for a head that is not told


class Said(NamedTuple):
    """A triple in words, and where its head and tail stand there: characters [start, stop)."""

    text: str
    head: tuple[int, int]
    tail: tuple[int, int]


class Forms:
    """How the triples of a graph are said.

    sentences: of each relation its template (relation2template.txt, "[X] is the capital of [Y]."), or else
    "[X] text of the relation [Y]."; bare: the latter without a full stop. labels: of each entity.
    """

    def __init__(self, graph: KnowledgeGraph):
        self.labels = entity_labels(graph)
        texts = relation_texts(graph)
        self.bare = [f"{HEAD} {text} {TAIL}" for text in texts]
        given = graph.relation_template if graph.relation_template is not None else [None] * len(texts)
        self.sentences = [template or f"{bare}." for template, bare in zip(given, self.bare, strict=True)]
        for name, template in zip(graph.relation_names, self.sentences, strict=True):
            if template.count(HEAD) != 1 or template.count(TAIL) != 1:
                raise DataError(
                    f"{graph.name}: the template of {name!r} must hold {HEAD} and {TAIL} once each: {template!r}"
                )

    def say(self, head: str, relation: int, tail: str, *, bare: bool = False) -> Said:
        """A triple in words, of the labels of its head and tail."""
        return fill((self.bare if bare else self.sentences)[relation], head, tail)

    def say_all(self, heads: Tensor | None, relations: Tensor, tails: Tensor, *, bare: bool = False) -> list[Said]:
        """Triples by id [n] each in words; None for heads that are not told."""
        subjects = [THIS] * len(tails) if heads is None else [self.labels[head] for head in heads.tolist()]
        return [
            self.say(subject, relation, self.labels[tail], bare=bare)
            for subject, relation, tail in zip(subjects, relations.tolist(), tails.tolist(), strict=True)
        ]


def fill(template: str, head: str, tail: str) -> Said:
    """A template with both its places filled; what the labels hold is no place."""
    first, second = sorted(((template.index(HEAD), head), (template.index(TAIL), tail)))
    before, between, after = (
        template[: first[0]], template[first[0] + len(HEAD) : second[0]], template[second[0] + len(TAIL) :]
    )  # fmt: skip
    start = len(before)
    again = start + len(first[1]) + len(between)
    spans = (start, start + len(first[1])), (again, again + len(second[1]))
    turned = template.index(HEAD) > template.index(TAIL)
    return Said(f"{before}{first[1]}{between}{second[1]}{after}", *(spans[::-1] if turned else spans))


def entity_labels(graph: KnowledgeGraph) -> list[str]:
    """Of each entity its text, or else its name with spaces for punctuation."""
    texts: Sequence[str | None] = graph.entity_text if graph.entity_text is not None else [None] * graph.num_entities
    return [text or spell(name) for text, name in zip(texts, graph.entity_names, strict=True)]


def relation_texts(graph: KnowledgeGraph) -> list[str]:
    """The text of each relation, or else its name with spaces for punctuation."""
    texts = graph.relation_text if graph.relation_text is not None else [None] * graph.num_relations
    return [text or spell(name) for text, name in zip(texts, graph.relation_names, strict=True)]


def spell(name: str) -> str:
    """A relation's name as words: /people/person/place_of_birth is "people person place of birth"."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in name).split()) or name
