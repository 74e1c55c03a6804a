"""How many of 200 questions about the built-in world a run answers right: python -m benchmarks.questions RUN

questions.tsv: kind, question, and the right answers between |, or yes, no, a number, or ? for what nothing in the graph
answers. They were written without a look at the wordings that runs train on. Lines of odd number are for development,
those of even number for the test alone. A list is right if the first answer is; what the graph can't answer, if the run
says that it doesn't know.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kgfast
from kgfast.joint.tasks.qa.paths import Facts

FILE = Path(__file__).with_name("questions.tsv")
HALVES = ("development", "test")
UNANSWERABLE = "?"


class Item(NamedTuple):
    kind: str
    question: str
    expected: str


def read(half: str, file: Path = FILE) -> list[Item]:
    """The questions of a half."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Item(*line.split("\t")) for line in lines[HALVES.index(half) :: 2]]


def is_right(found: dict[str, Any], expected: str) -> bool:
    """Whether what `ask` returned is what was expected."""
    if expected == UNANSWERABLE:
        return found["knows"] is False
    if expected in ("yes", "no") or expected.isdigit():
        return str(found["value"]) == expected
    return bool(found["answers"]) and found["answers"][0]["label"] in expected.split("|")


def measure(run: kgfast.TrainedRun, items: Sequence[Item]) -> dict[str, tuple[int, int]]:
    """{kind: (right, asked)}, "all", and of those with an answer "answerable"."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for item, found in zip(items, run.ask([item.question for item in items]), strict=True):
        answerable = ["answerable"] if item.expected != UNANSWERABLE else []
        for group in (item.kind, *answerable, "all"):
            counts[group][0] += is_right(found, item.expected)
            counts[group][1] += 1
    order = sorted(counts, key=lambda group: (group == "all", group == "answerable", group))
    return {group: (counts[group][0], counts[group][1]) for group in order}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a joint run on world with the task qa")
    parser.add_argument("--half", choices=HALVES, default="test")
    parser.add_argument("--facts", choices=("all", "train"), default="all", help="of the graph, that answers may use")
    given = parser.parse_args()
    run = kgfast.load(given.run)
    if given.facts == "train":
        run.asker.facts = Facts(run.asker.task.edges)
    print(f"{given.half} half, facts: {given.facts}")
    for group, (right, asked) in measure(run, read(given.half)).items():
        print(f"{group:<14}{right:>4} of {asked:>3}  {right / asked:.3f}")


if __name__ == "__main__":
    main()
