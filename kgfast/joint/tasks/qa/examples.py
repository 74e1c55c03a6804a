"""Questions for the report: right over the most hops, and the surest mistakes, as `ask` answers them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kgfast.joint.task import Shown
from kgfast.joint.tasks.qa.answering import answer_metrics
from kgfast.pages.blocks import Example
from kgfast.run.seeds import generator

LOOKED_AT = 512  # questions of a split
SHOWN = 6  # of either kind
SAID = 3  # answers of the model that an example shows
RIGHT = 6  # right answers that an example names


@dataclass(frozen=True)
class Answers:
    """What the model said to the questions `rows` [n]: hits and F1 [n], its first answers and their chances
    [n, SAID]."""

    rows: Tensor
    hits: Tensor
    f1: Tensor
    chances: Tensor
    entities: Tensor


def shown(task: Any, model: Any, split: str) -> Shown | None:
    """Examples of a split, each of another wording, and what the commonest answer of train would reach."""
    questions = task.load(split)
    answered = (questions.offsets.diff() > 0).nonzero()[:, 0]
    if not len(answered):
        return None
    draws = generator(0, f"qa/shown/{split}")
    found = said(task, model, split, answered[torch.randperm(len(answered), generator=draws)[:LOOKED_AT].sort().values])
    hops, sure = questions.hops[found.rows], found.chances[:, 0]
    right = ranked((hops, found.f1, sure), found.hits == 1)
    wrong = ranked((sure,), found.hits == 0)
    examples = {
        title: [example(task, split, found, place) for place in varied(places, questions.texts, found.rows)]
        for title, places in (("Right, over the most hops", right), ("Wrong, and surest", wrong))
    }
    drawn = f"Of {len(found.rows):,} of {len(answered):,} questions, drawn. " if len(found.rows) < len(answered) else ""
    note = f"{drawn}As kgfast ask answers them, with the chance of each answer."
    return Shown(examples, note, {"commonest": commonest(task, split)})


@torch.no_grad()
def said(task: Any, model: Any, split: str, rows: Tensor) -> Answers:
    """What the surer of the task's heads and the reading of `ask` says to questions."""
    device, parts = model.relations.device, []
    for part in rows.split(64):
        batch = task.of(split, part)
        encoded = model.backbone.encode(batch.texts.to(device), task.name)
        chances = task.probabilities(model, batch.topics.to(device), encoded)[task.main].cpu()
        if "following" in task.options.heads:
            asked = task.understood(batch, encoded)
            surer = asked.max(1, keepdim=True).values >= chances.max(1, keepdim=True).values
            chances = torch.where(surer, asked, chances)
        measured = answer_metrics(chances, batch.offsets, batch.answers)
        sorted_chances, entities = chances.sort(dim=1, descending=True, stable=True)  # ties as the metrics break them
        parts.append((*measured, sorted_chances[:, :SAID], entities[:, :SAID]))
    return Answers(rows, *(torch.cat(column) for column in zip(*parts, strict=True)))


def ranked(keys: Sequence[Tensor], chosen: Tensor) -> list[int]:
    """Places chosen by a bool [n], the highest keys first, the first key above all."""
    columns = [key.tolist() for key in keys]
    places = chosen.nonzero()[:, 0].tolist()
    return sorted(places, key=lambda place: tuple(-column[place] for column in columns))


def varied(places: Sequence[int], texts: Sequence[str], rows: Tensor) -> list[int]:
    """The first SHOWN places, of questions that differ in more than their topics."""
    firsts: dict[str, int] = {}
    for place in places:
        firsts.setdefault(texts[int(rows[place])], place)
    return [*firsts.values()][:SHOWN]


def example(task: Any, split: str, found: Answers, place: int) -> Example:
    row, label = int(found.rows[place]), task.graph.label
    question, _, answers = task.graph.questions[split][row]
    right = sorted(set(answers))
    names = [str(label(answer)) for answer in right[:RIGHT]]
    names += [f"and {len(right) - RIGHT} more"] if len(right) > RIGHT else []
    chances, entities = found.chances[place].tolist(), found.entities[place].tolist()
    first = [
        (str(label(entity)), f"{chance:.0%}", entity in right)
        for chance, entity in zip(chances, entities, strict=True)
        if chance >= 0.005
    ]
    hops = int(task.load(split).hops[row])
    verdict = f"{hops} hop{'s' * (hops != 1)}" if hops else "further"
    return Example(question, names, first, verdict)


def commonest(task: Any, split: str) -> float:
    """The share of a split's answered questions that the commonest answer of train is an answer of."""
    counts = Counter(answer for _, _, answers in task.graph.questions["train"] for answer in set(answers))
    most = max(sorted(counts), key=counts.__getitem__, default=None)
    asked = [answers for _, _, answers in task.graph.questions[split] if answers]
    return sum(most in answers for answers in asked) / len(asked)
