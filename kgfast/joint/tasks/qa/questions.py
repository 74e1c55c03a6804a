"""Question sets: the topic's mention replaced, answers as CSR, hops counted on the graph."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kgfast.data import KnowledgeGraph
from kgfast.data.names import find_mentions, mention_key, tidy
from kgfast.data.texts import read_questions
from kgfast.errors import DataError
from kgfast.joint.model.packed import gather_places
from kgfast.joint.tasks.qa.edges import sparse

MENTION = "this"  # an ordinary word, so that any tokenizer and any pre-trained model knows it
SPLITS = ("train", "valid", "test")
ROWS = 256  # questions whose reach is looked at together: num_entities x 256 numbers


@dataclass(frozen=True)
class Questions:
    """n questions of one split.

    texts    n strings, in which `MENTION` stands for the topic
    topics   int64 [n], the entity asked about
    offsets  int64 [n + 1], answers int64 [A], ascending within a question: CSR
    hops     int64 [n], the fewest steps along edges, either way, from the topic to an answer; 0: more than `max_hops`
    """

    texts: list[str]
    topics: Tensor
    offsets: Tensor
    answers: Tensor
    hops: Tensor

    @classmethod
    def of(cls, graph: KnowledgeGraph, split: str, max_hops: int = 3) -> Questions:
        """The questions of a split. Hops are counted over all triples of the graph: they only sort the results."""
        rows = graph.questions.get(split)
        if not rows:
            there = ", ".join(name for name, found in graph.questions.items() if found) or "none"
            raise DataError(f"graph {graph.name!r} has no {split} questions (qa_{split}.txt); it has: {there}")
        topics = torch.tensor([topic for _, topic, _ in rows])
        sorted_answers = [sorted(set(answers)) for *_, answers in rows]
        counts = torch.tensor([0, *map(len, sorted_answers)])
        answers = torch.tensor([answer for answers in sorted_answers for answer in answers])
        texts = [without_mention(text, mentions(graph, topic)) for text, topic, _ in rows]
        offsets = counts.cumsum(0)
        return cls(texts, topics, offsets, answers, fewest_hops(graph, topics, offsets, answers, max_hops))

    def __len__(self) -> int:
        return len(self.topics)

    def answers_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """CSR (offsets [m + 1], ids) of the answers of the questions `rows` [m]."""
        places, offsets = gather_places(self.offsets, rows)
        return offsets, self.answers[places]


def mentions(graph: KnowledgeGraph, entity: int) -> list[str]:
    """How a text may mention an entity: its text, name, and name with spaces, longest first."""
    name = str(graph.entity_names[entity])
    found = {graph.label(entity), name, name.replace("_", " ")}
    return sorted(found, key=lambda mention: (-len(mention), mention))


def without_mention(text: str, names: list[str]) -> str:
    """`text` with the first of `names` that it holds, as a whole word in any case, replaced by MENTION."""
    tidied = tidy(text)
    for name in map(tidy, names):
        if found := find_mentions(name, tidied):
            borders = [0, *(place for span in found for place in span), len(tidied)]
            return MENTION.join(tidied[start:end] for start, end in zip(borders[::2], borders[1::2], strict=True))
    return text


class Topics:
    """Finds the entity that a question mentions; texts and names are read once. O(E) to make, O(E) a question."""

    def __init__(self, graph: KnowledgeGraph):
        self.graph = graph
        self.entities: dict[str, set[int]] = {}  # by how a question may mention them
        texts = graph.entity_text if graph.entity_text is not None else [None] * graph.num_entities
        for entity, (name, text) in enumerate(zip(graph.entity_names, texts, strict=True)):
            for key in {mention_key(name), mention_key(name.replace("_", " ")), mention_key(text or name)}:
                if key:
                    self.entities.setdefault(key, set()).add(entity)

    def find(self, question: str) -> int:
        """The entity mentioned: of all texts and names that the question holds, the longest; DataError if there is
        none, or two entities share the longest."""
        asked = mention_key(question)
        held = [key for key in self.entities if key in asked and find_mentions(key, asked)]
        if not held:
            raise DataError(
                f"the question {question!r} mentions no entity of graph {self.graph.name!r}: name the topic"
            )
        longest = max(map(len, held))
        found = sorted(set().union(*(self.entities[key] for key in held if len(key) == longest)))
        if len(found) > 1:
            names = ", ".join(repr(self.graph.entity_names[entity]) for entity in found[:5])
            raise DataError(f"the question {question!r} may be about {names}: name the topic")
        return found[0]


def fewest_hops(graph: KnowledgeGraph, topics: Tensor, offsets: Tensor, answers: Tensor, max_hops: int) -> Tensor:
    """int64 [n]: the fewest steps, at least one, from each topic to one of its answers; 0 where max_hops don't reach.

    Memory: num_entities x 256 numbers, and the edges.
    """
    triples = torch.cat([graph.train, graph.valid, graph.test])
    heads, tails = torch.cat([triples[:, [0, 2]], triples[:, [2, 0]]]).unbind(1)
    size = graph.num_entities
    adjacent = sparse(heads, tails, torch.ones(len(heads)), (size, size))
    hops = torch.zeros(len(topics), dtype=torch.int64)
    for start in range(0, len(topics), ROWS):
        rows = torch.arange(start, min(start + ROWS, len(topics)))
        lengths = offsets[rows + 1] - offsets[rows]
        ids = answers[int(offsets[rows[0]]) : int(offsets[rows[-1] + 1])]
        owner = torch.repeat_interleave(rows - start, lengths)
        reach = torch.zeros(size, len(rows))
        reach[topics[rows], rows - start] = 1
        for step in range(1, max_hops + 1):
            reach = (adjacent @ reach > 0).float()
            met = torch.zeros(len(rows)).index_add(0, owner, reach[ids, owner]) > 0
            hops[rows] = torch.where(met & (hops[rows] == 0), step, hops[rows])
    return hops


def with_questions(graph: KnowledgeGraph, folder, prefix: str = "qa") -> KnowledgeGraph:
    """The graph with the questions of FOLDER/PREFIX_{train,valid,test}.txt, where there is another split of them."""
    changed = copy.copy(graph)
    paths = {split: Path(folder) / f"{prefix}_{split}.txt" for split in SPLITS}
    found = {split: path for split, path in paths.items() if path.is_file()}
    if "train" not in found:
        raise DataError(f"no file {paths['train']} with questions to train on")
    changed.questions = {}
    changed.report = report = copy.copy(graph.report)
    report.questions = {}
    for split, path in found.items():
        changed.questions[split], report.questions[split], resembling = read_questions(path, graph.entity_names)
        report.add_look_alikes(*resembling)
    read = {path.name for path in found.values()}
    report.unread = {file: reason for file, reason in report.unread.items() if file not in read}
    return changed


def with_fewer_triples(graph: KnowledgeGraph, share: float, seed: int = 0) -> KnowledgeGraph:
    """The graph with only `share` of its training triples, drawn by `seed`; entities, relations and questions stay."""
    if not 0 < share <= 1:
        raise DataError(f"share={share}: must be above 0 and at most 1")
    count = max(1, round(share * len(graph.train)))
    kept = torch.randperm(len(graph.train), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    changed = copy.copy(graph)
    changed.train = graph.train[kept]
    return changed
