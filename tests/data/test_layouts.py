"""Folders as OpenKE, MetaQA, OGB, and WebQSP with subgraphs lay theirs out are graphs, or errors with file and line."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from data_helpers import named, write, write_ogb

from kgfast.data import KnowledgeGraph, prepare
from kgfast.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")

OPENKE = {
    "entity2id.txt": "3\nNew York\t1\nann\t0\nbob 2\n",
    "relation2id.txt": "2\r\nknows\t0\r\nlives in\t1\r\n",
    "train2id.txt": "2\n0 2 0\n0\t1\t1\n",  # head, tail, relation
    "test2id.txt": "1\n2 1 1\n",
}
METAQA = {
    "kb.txt": "Kismet|directed_by|William Dieterle\nKismet|release_year|1944\nJewel|directed_by|William Dieterle\n",
    "1-hop/vanilla/qa_train.txt": "who directed [Kismet]\tWilliam Dieterle\n",
    "1-hop/ntm/qa_train.txt": "by whom is [Kismet]\tWilliam Dieterle\n",
    "2-hop/vanilla/qa_train.txt": "films by the director of [Kismet]?\tJewel|Kismet\n",
    "2-hop/vanilla/qa_dev.txt": "which films share a director with [Jewel]\tKismet\n",
}
A, B, R = {"kb_id": "m.a", "text": "Ann"}, {"kb_id": "m.b", "text": "Bob"}, {"rel_id": "r.x", "text": "x"}
DATE = {"kb_id": None, "text": "1944"}
GRAFTNET = {
    "question": "who is  ann's x",
    "entities": [A],
    "answers": [B],
    "subgraph": {"tuples": [[A, R, B], [A, R, DATE]], "entities": [A, B]},
}
NSM = {"question": "x of ann", "entities": [0], "answers": [{"kb_id": "m.b", "text": "Bob"}],
       "subgraph": {"tuples": [[0, 0, 1]], "entities": [0, 1]}}  # fmt: skip
ROG = {"question": "x of Ann?", "q_entity": ["Zed", "Ann"], "a_entity": ["Bob"], "graph": [["Ann", "x", "Bob"]]}


def lay(folder, files):
    for name, content in files.items():
        write(folder / name, content)
    return folder


def told_wrong(folder, words):
    with pytest.raises(DataError, match=words):
        KnowledgeGraph.load(folder)


def test_openke_has_its_columns_in_an_order_of_its_own(tmp_path):
    graph = KnowledgeGraph.load(lay(tmp_path, OPENKE))
    assert named(graph) == [("ann", "knows", "bob"), ("ann", "lives in", "New York")]
    assert named(graph, "test") == [("bob", "lives in", "New York")] and not len(graph.valid)
    assert graph.num_entities == 3 and graph.report.unread == {}
    prepare(tmp_path, tmp_path / "graph")
    assert sorted(named(KnowledgeGraph.load(tmp_path / "graph"))) == sorted(named(graph))


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train2id.txt", "3\n0 2 0\n0 1 1\n", "train2id.txt, line 1: .* number of the lines that follow, 2"),
        ("train2id.txt", "2\n0 2 0\n0 1\n", "train2id.txt, line 3: expected head, tail and relation"),
        ("train2id.txt", "1\n0 2 2\n", r"train2id.txt, triple 1: relation 2 is outside \[0, 2\)"),
        ("train2id.txt", "1\n0 3 0\n", r"tail 3 is outside \[0, 3\)"),
        ("entity2id.txt", "3\na 0\nb 1\nc 3\n", "entity2id.txt: its 3 ids are not 0 to 2"),
        ("entity2id.txt", "3\na 0\nb 1\na 2\n", "'a' is the name of several ids"),
        ("entity2id.txt", "3\na 0\nb 1\nc\n", "entity2id.txt, line 4: expected a name and its number"),
    ],
)
def test_what_is_wrong_with_openkes_files_is_told(tmp_path, file, content, words):
    told_wrong(lay(tmp_path, OPENKE | {file: content}), words)


def test_a_folder_with_a_train_file_is_one_of_ours(tmp_path):
    graph = KnowledgeGraph.load(lay(tmp_path, OPENKE | {"train.txt": "x\ty\tz\n"}))
    assert named(graph) == [("x", "y", "z")] and "train2id.txt" in graph.report.unread


def test_metaqa_with_questions_of_all_hops_or_of_one(tmp_path):
    graph = KnowledgeGraph.load(lay(tmp_path, METAQA))
    assert ("Kismet", "directed_by", "William Dieterle") in named(graph) and len(graph.train) == 3
    names = graph.entity_names
    told = [
        (text, names[topic], [names[answer] for answer in answers]) for text, topic, answers in graph.questions["train"]
    ]
    assert told == [
        ("who directed Kismet", "Kismet", ["William Dieterle"]),
        ("films by the director of Kismet?", "Kismet", ["Jewel", "Kismet"]),
    ]
    assert [text for text, *_ in graph.questions["valid"]] == ["which films share a director with Jewel"]
    for folder, texts in (("2-hop", told[1:]), ("1-hop/vanilla", told[:1])):
        assert [text for text, *_ in KnowledgeGraph.load(tmp_path / folder).questions["train"]] == [texts[0][0]]
    assert KnowledgeGraph.load(tmp_path / "1-hop" / "ntm").questions["train"][0][0] == "by whom is Kismet"
    prepare(tmp_path, tmp_path / "graph")
    again = KnowledgeGraph.load(tmp_path / "graph")
    assert [again.entity_names[topic] for _, topic, _ in again.questions["train"]] == ["Kismet", "Kismet"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("kb.txt", "a|b|c\na|b\n", "kb.txt, line 2: expected three names"),
        ("kb.txt", "a|b|c\na||c\n", "kb.txt, line 2: expected three names"),
        (
            "1-hop/vanilla/qa_train.txt",
            "who is ann\tbob\n",
            r"qa_train.txt, line 1: expected a question with one \[topic\]",
        ),
        ("1-hop/vanilla/qa_train.txt", "who is [ann]\n", "qa_train.txt, line 1"),
    ],
)
def test_what_is_wrong_with_metaqas_files_is_told(tmp_path, file, content, words):
    told_wrong(lay(tmp_path, METAQA | {file: content}), words)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("files", "triples", "question"),
    [
        (
            {"train.json": lines(GRAFTNET)},
            [("m.a", "r.x", "m.b"), ("m.a", "r.x", "1944")],
            ("who is ann's x", "m.a", "m.b"),
        ),
        (
            {"train_simple.json": lines(NSM), "entities.txt": "m.a\nm.b\n", "relations.txt": "r.x\n"},
            [("m.a", "r.x", "m.b")],
            ("x of ann", "m.a", "m.b"),
        ),
        ({"train.jsonl": lines(ROG)}, [("Ann", "x", "Bob")], ("x of Ann?", "Ann", "Bob")),
    ],
    ids=["GraftNet", "NSM", "RoG"],
)
def test_questions_with_subgraphs(tmp_path, files, triples, question):
    dev = {name.replace("train", "dev"): content for name, content in files.items() if "train" in name}
    graph = KnowledgeGraph.load(lay(tmp_path, files | dev))
    assert named(graph) == triples  # those of dev are the same, and were removed
    for split in ("train", "valid"):
        text, topic, answers = graph.questions[split][0]
        assert (text, graph.entity_names[topic], graph.entity_names[answers[0]]) == question
    if "train.json" in files:
        assert graph.label(graph.entity_id("m.a")) == "Ann"
        prepare(tmp_path, tmp_path / "graph")
        again = KnowledgeGraph.load(tmp_path / "graph")
        assert again.label(again.entity_id("m.a")) == "Ann" and again.questions["train"][0][0] == question[0]
    if "train.jsonl" in files:
        assert any("2 questions name several entities" in line for line in graph.report.lines())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]\n", "train.json, line 1: no question with a subgraph"),
        (lines(GRAFTNET, {"question": "what"}), "train.json, line 2: .*KeyError: 'subgraph'"),
        (lines(GRAFTNET | {"entities": [7]}), "7 is no line of entities.txt, which has 0"),
        ("{\n", "train.json, line 1: .*JSONDecodeError"),
    ],
)
def test_what_is_wrong_with_a_line_is_told(tmp_path, content, words):
    told_wrong(lay(tmp_path, {"train.json": content}), words)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("typed", [False, True], ids=["wikikg2", "biokg"])
def test_ogb_graphs_have_all_entities_of_the_mapping(tmp_path, typed, protocol):
    graph = KnowledgeGraph.load(write_ogb(tmp_path, typed, protocol))
    assert graph.num_entities == 5 and [len(graph.train), len(graph.valid), len(graph.test)] == [3, 1, 2]
    expected = ("drug:007", "treats", "gene:g") if typed else ("Q9", "P1", "Q3")
    assert named(graph)[0] == expected
    assert graph.laid_out == tmp_path.resolve() and graph.report.unread == {}


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_ogb_are_data_and_nothing_in_them_runs(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    path = write_ogb(tmp_path / "kg") / "split" / "time" / "train.pt"
    found = {"head": np.array([0]), "relation": np.array([0]), "tail": np.array([1])}
    torch.save(found, path, _use_new_zipfile_serialization=zipped)
    assert len(KnowledgeGraph.load(tmp_path / "kg").train) == 1
    torch.save(found | {"tail": Trap()}, path, _use_new_zipfile_serialization=zipped)
    told_wrong(tmp_path / "kg", r"train.pt can't be read as data alone: .*asks for \w+.mkdir")
    torch.save(found | {"tail": torch.tensor([1])}, path, _use_new_zipfile_serialization=zipped)
    told_wrong(tmp_path / "kg", "train.pt can't be read as data alone: .*only arrays")
    path.write_bytes(pickle.dumps(found)[:20])
    told_wrong(tmp_path / "kg", "train.pt can't be read as data alone")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": [0, 1]}, "head must be integers"),
        ({"tail": np.array([1, 2])}, "tail must be integers"),
        ({"head": np.array([0.5])}, "head must be integers"),
        ({"tail": np.array([9])}, r"tail 9 is outside \[0, 5\)"),
    ],
)
def test_what_is_wrong_with_arrays_of_ogb_is_told(tmp_path, change, words):
    path = write_ogb(tmp_path) / "split" / "time" / "train.pt"
    torch.save({"head": np.array([0]), "relation": np.array([0]), "tail": np.array([1])} | change, path)
    told_wrong(tmp_path, words)
