"""Question sets: the topic's mention replaced, answers as CSR, hops counted on the graph."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kgfast.data import KnowledgeGraph
from kgfast.data.names import find_mentions, fold, tidy
from kgfast.data.texts import read_questions
from kgfast.errors import DataError
from kgfast.joint.model.packed import gather_places
from kgfast.joint.tasks.qa.edges import sparse
from kgfast.joint.tasks.qa.kinds import is_choice
from kgfast.joint.tasks.qa.linking import MENTION, Linked, Linker, names_of
from kgfast.joint.text.mentions import PIECE

SPLITS = ("train", "valid", "test")
ROWS = 256  # questions whose reach is looked at together: num_entities x 256 numbers


@dataclass(frozen=True)
class Questions:
    """n questions of one split.

    texts    n strings, in which `MENTION` stands for the topic, and `OTHER` for every other entity
    topics   int64 [n], the entity asked about
    offsets  int64 [n + 1], answers int64 [A], ascending within a question: CSR
             none: nothing answers it
    hops     int64 [n], the fewest steps along edges, either way, from the topic to an answer; 0: more than `max_hops`
    """

    texts: list[str]
    topics: Tensor
    offsets: Tensor
    answers: Tensor
    hops: Tensor

    @classmethod
    def of(cls, graph: KnowledgeGraph, split: str, max_hops: int = 3, linker: Linker | None = None) -> Questions:
        """The questions of a split. Hops are counted over all triples of the graph: they only sort the results. linker:
        of the graph and its `small_words`, for those who read several splits."""
        rows = graph.questions.get(split)
        if not rows:
            there = ", ".join(name for name, found in graph.questions.items() if found) or "none"
            raise DataError(f"graph {graph.name!r} has no {split} questions (qa_{split}.txt); it has: {there}")
        topics = torch.tensor([topic for _, topic, _ in rows])
        sorted_answers = [sorted(set(answers)) for *_, answers in rows]
        counts = torch.tensor([0, *map(len, sorted_answers)])
        answers = torch.tensor([answer for answers in sorted_answers for answer in answers], dtype=torch.int64)
        linker = linker or Linker(graph, small_words(graph))
        texts = [about(linker, text, topic) for text, topic, _ in rows]
        offsets = counts.cumsum(0)
        return cls(texts, topics, offsets, answers, fewest_hops(graph, topics, offsets, answers, max_hops))

    def __len__(self) -> int:
        return len(self.topics)

    def answers_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """CSR (offsets [m + 1], ids) of the answers of the questions `rows` [m]."""
        places, offsets = gather_places(self.offsets, rows)
        return offsets, self.answers[places]


def about(linker: Linker, question: str, topic: int) -> str:
    """A question in which MENTION stands for its topic and OTHER for every other entity; what it gives to choose from
    stays."""
    bare = without_mention(question, sorted(names_of(linker.graph, topic), key=lambda name: (-len(name), name)))
    if is_choice(bare):
        return bare
    others = linker.exact(tidy(bare))
    return Linked(tidy(bare), tuple(others)).bare(None) if others else bare


def without_mention(text: str, names: list[str]) -> str:
    """`text` with the first of `names` that it holds, as a whole word in any case, replaced by MENTION."""
    tidied = tidy(text)
    for name in map(tidy, names):
        if found := find_mentions(name, tidied):
            borders = [0, *(place for span in found for place in span), len(tidied)]
            return MENTION.join(tidied[start:end] for start, end in zip(borders[::2], borders[1::2], strict=True))
    return text


def small_words(graph: KnowledgeGraph) -> set[str]:
    """The words that training questions write small, their topics aside."""
    words: set[str] = set()
    for text, topic, _ in graph.questions.get("train", ()):
        words.update(PIECE.findall(without_mention(text, [graph.label(topic)])))
    return {word for word in words if word == fold(word)}


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
    """The graph with the questions of FOLDER/PREFIX_{train,valid,test}.txt; of several prefixes between commas, with
    all of theirs, one after the other."""
    changed = copy.copy(graph)
    changed.questions = {}
    changed.report = report = copy.copy(graph.report)
    report.questions = {}
    read = set()
    for one in prefix.split(","):
        paths = {split: Path(folder) / f"{one.strip()}_{split}.txt" for split in SPLITS}
        if not paths["train"].is_file():
            raise DataError(f"no file {paths['train']} with questions to train on")
        for split, path in paths.items():
            if path.is_file():
                questions, counts, resembling = read_questions(path, graph.entity_names)
                before = report.questions.get(split)
                report.questions[split] = counts if before is None else together(before, counts)
                changed.questions[split] = changed.questions.get(split, []) + questions
                report.add_look_alikes(*resembling)
                read.add(path.name)
    report.unread = {file: reason for file, reason in report.unread.items() if file not in read}
    return changed


def together(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The counts of two question files as those of one."""
    return {
        key: f"{first[key]}, {value}" if isinstance(value, str) else first[key] + value for key, value in second.items()
    }


def with_fewer_triples(graph: KnowledgeGraph, share: float, seed: int = 0) -> KnowledgeGraph:
    """The graph with only `share` of its training triples, drawn by `seed`; entities, relations and questions stay."""
    if not 0 < share <= 1:
        raise DataError(f"share={share}: must be above 0 and at most 1")
    count = max(1, round(share * len(graph.train)))
    kept = torch.randperm(len(graph.train), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    changed = copy.copy(graph)
    changed.train = graph.train[kept]
    return changed
