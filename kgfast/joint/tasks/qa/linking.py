"""Which entities a question names: exact names, texts and aliases first, then what is written nearly like one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kgfast.data import KnowledgeGraph
from kgfast.data.names import fold, tidy, unfold
from kgfast.joint.needs import needs
from kgfast.joint.text.mentions import PIECE, Finder, longest

MENTION = "this"  # an ordinary word, so that any tokenizer and any pre-trained model knows it
OTHER = "that"  # stands for every other entity that a question names
LONGEST = 5  # words of what may be a misspelt name
SHORTEST = 4  # letters of what may be a misspelt word or name
ALIKE = 0.75  # the least similarity of a misspelling: 1 - edits / letters


@dataclass(frozen=True)
class Mention:
    """text[start:stop] of a question names one of `entities`: several where they share the name."""

    start: int
    stop: int
    entities: tuple[int, ...]
    name: str  # as the graph has it, folded
    similarity: float = 1.0  # of what is written and the name


@dataclass(frozen=True)
class Linked:
    """A question in tidy words, misspelt ones corrected, and its mentions from left to right, none inside another."""

    text: str
    mentions: tuple[Mention, ...]

    def bare(self, place: int | None, others: bool = False) -> str:
        """The question about its mention `place`, for which MENTION stands; OTHER stands for the others, unless
        `others` stay."""
        text = self.text
        for number in range(len(self.mentions) - 1, -1, -1):
            mention = self.mentions[number]
            if number == place or not others:
                text = text[: mention.start] + (MENTION if number == place else OTHER) + text[mention.stop :]
        return text


class Linker:
    """Finds the entities that texts name. One look-up a word for exact names; what is left over is compared with all.

    ordinary  words, folded, of which questions are made. A name that is one of them ("Main", "Split") counts where it
              is written as the graph has it; only words that are not among them may be misspelt ones.
    """

    def __init__(self, graph: KnowledgeGraph, ordinary: Iterable[str] = ()):
        self.graph, self.ordinary = graph, frozenset(ordinary)
        self.written: dict[str, set[str]] = {}
        owners: dict[str, list[int]] = defaultdict(list)
        for entity in range(graph.num_entities):
            for name in names_of(graph, entity):
                key = fold(name)
                if owners[key][-1:] != [entity]:
                    owners[key].append(entity)
                if name != graph.entity_names[entity] or name == graph.label(entity):  # else it is an id, not a word
                    self.written.setdefault(key, set()).add(tidy(name))
        self.entities = {name: tuple(entities) for name, entities in owners.items()}
        self.finder = Finder({name: place for place, name in enumerate(self.entities)})
        self.names = list(self.entities)

    def exact(self, text: str) -> list[Mention]:
        """The names that a tidy text holds: whole words in any case, from left to right the longest at each place."""
        found = [(*unfold(text, start, stop), place) for start, stop, place in self.finder.all(fold(text))]
        found = [
            (start, stop, place)
            for start, stop, place in found
            if text[start:stop] in self.written.get(self.names[place], ()) or not self.is_ordinary(text[start:stop])
        ]
        return [
            Mention(start, stop, self.entities[self.names[place]], self.names[place])
            for start, stop, place in longest(found)
        ]

    def is_ordinary(self, text: str) -> bool:
        """Whether all words are ordinary ones, written small."""
        return text == fold(text) and all(word in self.ordinary for word in PIECE.findall(text))

    def link(self, question: str) -> Linked:
        """A question with its mentions, misspelt ones too, and its misspelt words corrected."""
        text = tidy(question)
        mentions = self.exact(text)
        for found in self.misspelt(text, mentions):
            if not any(found.start < other.stop and other.start < found.stop for other in mentions):
                mentions.append(found)
        mentions.sort(key=lambda mention: mention.start)
        return self.corrected(text, mentions)

    def misspelt(self, text: str, known: Sequence[Mention]) -> list[Mention]:
        """What is nearly a name, the most alike first: words outside of `known`, one of which is not ordinary."""
        words = [
            (piece.start(), piece.end(), fold(piece.group()) in self.ordinary)
            for piece in PIECE.finditer(text)
            if not any(piece.start() < mention.stop and mention.start < piece.end() for mention in known)
        ]
        found = []
        for first in range(len(words)):
            for last in range(first, min(first + LONGEST, len(words))):
                start, stop = words[first][0], words[last][1]
                if all(ordinary for *_, ordinary in words[first : last + 1]):
                    continue
                name, similarity = nearest(fold(text[start:stop]), self.names)
                if name is not None and not self.better_word(text, words[first : last + 1], similarity):
                    found.append(Mention(start, stop, self.entities[name], name, similarity))
        return sorted(found, key=lambda mention: (-mention.similarity, mention.start - mention.stop))

    def better_word(self, text: str, words: Sequence[tuple[int, int, bool]], similarity: float) -> bool:
        """Whether a single word is more like an ordinary word than it is like a name."""
        return len(words) == 1 and nearest(fold(text[words[0][0] : words[0][1]]), self.ordinary)[1] > similarity

    def corrected(self, text: str, mentions: Sequence[Mention]) -> Linked:
        """The text with its misspelt words replaced by ordinary ones, and the mentions where they stand then."""
        inside = [(mention.start, mention.stop) for mention in mentions]
        moved, shift, parts, end = {}, 0, [], 0
        for piece in PIECE.finditer(text):
            start, stop, word = piece.start(), piece.end(), fold(piece.group())
            moved[start] = shift
            if word in self.ordinary or any(first <= start < last for first, last in inside):
                continue
            better, _ = nearest(word, self.ordinary)
            if better is not None:
                parts += [text[end:start], better]
                shift, end = shift + len(better) - (stop - start), stop
        placed = tuple(
            Mention(m.start + moved[m.start], m.stop + moved[m.start], m.entities, m.name, m.similarity)
            for m in mentions
        )
        return Linked("".join(parts) + text[end:], placed)


def names_of(graph: KnowledgeGraph, entity: int) -> set[str]:
    """How a text may name an entity: its name, also with spaces, its text, and its aliases."""
    name = str(graph.entity_names[entity])
    aliases = graph.entity_alias[entity] if graph.entity_alias is not None else None
    found = {name, name.replace("_", " "), graph.label(entity), *(aliases or "").split("\t")}
    return {text for text in found if fold(text)}


def nearest(word: str, among: Iterable[str]) -> tuple[str | None, float]:
    """(the one of `among` that a misspelt word means, their similarity); (None, 0.0) where none is like it."""
    if len(word) < SHORTEST or not any(letter.isalpha() for letter in word):
        return None, 0.0
    process, distance = needs("rapidfuzz.process"), needs("rapidfuzz.distance")
    close = process.extractOne(
        word, among, scorer=distance.OSA.normalized_similarity, score_cutoff=ALIKE, processor=None
    )
    return (None, 0.0) if close is None or len(close[0]) < SHORTEST else (close[0], float(close[1]))
