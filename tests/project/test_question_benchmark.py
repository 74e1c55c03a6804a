"""The questions of benchmarks/questions.py, and what counts as right."""

import pytest

from benchmarks.questions import HALVES, UNANSWERABLE, is_right, read
from kgfast import KnowledgeGraph


def test_the_questions_are_whole_and_their_answers_are_of_the_world():
    graph = KnowledgeGraph.load("world")
    labels = {graph.label(entity) for entity in range(graph.num_entities)}
    halves = [read(half) for half in HALVES]
    assert [len(half) for half in halves] == [100, 100]
    assert len({item.question for half in halves for item in half}) == 200
    for item in halves[0] + halves[1]:
        told = item.expected in ("yes", "no", UNANSWERABLE) or item.expected.isdigit()
        assert item.question.strip() and (told or set(item.expected.split("|")) <= labels), item


@pytest.mark.parametrize(
    ("found", "expected", "right"),
    [
        (dict(knows=False, value=None, answers=[]), "?", True),
        (dict(knows=True, value=None, answers=[{"label": "Bern"}]), "?", False),
        (dict(knows=True, value=None, answers=[{"label": "Bern"}, {"label": "Rome"}]), "Bern|Oslo", True),
        (dict(knows=True, value=None, answers=[{"label": "Rome"}, {"label": "Bern"}]), "Bern", False),
        (dict(knows=False, value=None, answers=[]), "Bern", False),
        (dict(knows=True, value=3, answers=[]), "3", True),
        (dict(knows=True, value="no", answers=[]), "yes", False),
    ],
)
def test_what_is_right(found, expected, right):
    assert is_right(found, expected) is right
