"""Whatever a graph holds, it is the same when saved and read again, or it is refused before anything is written."""

import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kgfast.data import KnowledgeGraph
from kgfast.data.names import Names
from kgfast.errors import DataError

SUFFIXES = (".txt", ".tsv", ".csv", ".parquet")
TRICKY = [
    "head", "relation", "tail", "h", "r", "t", "subject", "predicate", "object", ":START_ID", "0", "1", "2", "007",
    "\ufeff", "\ufeffa", '"', '"a"', ' "a"', "a,b", "'", " ", "\u00a0", "#", "<http://x/a>", "http://x/a", "a|b",
    "NULL", "nan", "\x00", "\x1f\x8b", "\u2028", "\x85", "\x0b", "label", "-1", "\\N",
    "cafe\u0301", "caf\u00e9", "\U0001f600",
]  # fmt: skip
NAMES = st.one_of(st.sampled_from(TRICKY), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6))
FIRST = [
    ("head", "relation", "tail"),
    ("o", "p", "s"),
    ("source", "target", "type"),
    ("\ufeffa", "r", "b"),
    tuple("xyz"),
]
LINES_BREAK = set("\t\r\n")


@st.composite
def graphs(draw):
    entities = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    relations = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    ids = st.tuples(*(st.integers(0, len(names) - 1) for names in (entities, relations, entities))).map(list)
    train, other = draw(st.lists(ids, min_size=1, max_size=6)), draw(st.lists(ids, max_size=3))
    return KnowledgeGraph.from_arrays(train, other or None, entity_names=entities, relation_names=relations)


def rows(graph, split):
    names = (graph.entity_names, graph.relation_names, graph.entity_names)
    return [tuple(strings[i] for strings, i in zip(names, row, strict=True)) for row in getattr(graph, split).tolist()]


@pytest.mark.filterwarnings("ignore:.* entities are in no triple")
@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=graphs())
def test_saved_and_read_again(tmp_path_factory, suffix, graph):
    folder: Path = tmp_path_factory.mktemp("graph") / "saved"
    texts = [*graph.entity_names, *graph.relation_names]
    refused = suffix in (".txt", ".tsv") and any(LINES_BREAK & set(text) for text in texts)
    if refused:
        with pytest.raises(DataError, match="a tab or an end of line"):
            graph.save(folder, suffix)
        assert not list(folder.parent.iterdir())
        return
    graph.save(folder, suffix)
    again = KnowledgeGraph.load(folder, cache=False)
    assert [rows(again, split) for split in ("train", "valid")] == [rows(graph, split) for split in ("train", "valid")]


@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(NAMES.filter(lambda name: not LINES_BREAK & set(name)), min_size=2, max_size=5, unique=True),
    words=st.lists(st.text(string.ascii_letters, min_size=1), min_size=5, max_size=5),
)
@example(names=["\ufeffa", "a"], words=["x"] * 5)
def test_texts_and_questions_too(tmp_path_factory, names, words):
    folder = tmp_path_factory.mktemp("graph") / "saved"
    train = [[i, 0, (i + 1) % len(names)] for i in range(len(names))]
    graph = KnowledgeGraph.from_arrays(train, entity_names=names, relation_names=["\ufeffr"])
    graph.entity_text = Names(words[: len(names)])
    graph.relation_text = Names(words[:1])
    graph.questions = {"train": [(words[0], 0, [1])]}
    if "|" in names[1]:
        with pytest.raises(DataError, match=r"holds the separator '\|'"):
            graph.save(folder)
        return
    graph.save(folder)
    again = KnowledgeGraph.load(folder, cache=False)
    assert rows(again, "train") == rows(graph, "train")
    texts = dict(zip(again.entity_names, again.entity_text, strict=True))
    assert texts == dict(zip(names, words, strict=False)) and list(again.relation_text) == words[:1]
    ((text, topic, answers),) = again.questions["train"]
    assert (text, again.entity_names[topic], [again.entity_names[i] for i in answers]) == (
        words[0],
        names[0],
        [names[1]],
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("first", FIRST)
def test_a_first_triple_that_looks_like_something_else(tmp_path, suffix, first):
    entities, relations = [first[0], first[2], "1", "2", "3"], [first[1], "likes"]
    triples = [[0, 0, 1], [2, 1, 3], [3, 1, 4], [2, 0, 4]]
    graph = KnowledgeGraph.from_arrays(triples, triples[:1], entity_names=entities, relation_names=relations)
    graph.save(tmp_path / "saved", suffix)
    again = KnowledgeGraph.load(tmp_path / "saved", cache=False)
    assert rows(again, "train") == rows(graph, "train") and rows(again, "valid") == [first]
    assert not any("may be" in line for line in again.report.reading())


def test_formats_that_cannot_be_written(tmp_path):
    graph = KnowledgeGraph.from_arrays([[0, 0, 1]])
    for suffix, message in ((".nt", "aren't saved in this format"), (".docx", "unknown kind of file")):
        with pytest.raises(DataError, match=message):
            graph.save(tmp_path / "saved", suffix)
