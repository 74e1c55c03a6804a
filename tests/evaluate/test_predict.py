"""Answers by name."""

import pytest
import torch

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.evaluate import predict
from kgfast.evaluate.held import Held
from kgfast.evaluate.predict import Query, predict_all
from kgfast.nn import KGEModel
from kgfast.train.id_maps import IdMaps

NAMES = ["ada", "bob", "cy", "dora", "eve"]


def graph_and_model(**options):
    """Entities on a line at 0 .. 4, one step per relation "next": TransE's best tail of i is i + 1."""
    graph = KnowledgeGraph.from_arrays(
        [[0, 0, 1], [1, 0, 2]], [[0, 0, 3]], [[2, 0, 3]], entity_names=NAMES, relation_names=["next", "same"]
    )
    model = KGEModel(5, 2, 1, score="transe_l1", **options)
    with torch.no_grad():
        model.entities[:, 0] = torch.arange(5.0)
        model.relations[:2, 0] = torch.tensor([1.0, 0.0])
        if options.get("reciprocal"):
            model.relations[2:, 0] = torch.tensor([-1.0, 0.0])
    return graph, model


def names(rows):
    return [row["name"] for row in rows]


@pytest.mark.parametrize("reciprocal", [False, True])
def test_tails_and_heads(reciprocal):
    graph, model = graph_and_model(reciprocal=reciprocal)
    tails = predict(model, graph, head="ada", relation="next", known="mark", loops=True)
    assert names(tails) == ["bob", "ada", "cy", "dora", "eve"]  # ties by lower id
    assert [row["known"] for row in tails] == [True, False, False, True, False]
    assert [row["split"] for row in tails] == ["train", None, None, "valid", None]
    assert [row["rank"] for row in tails] == [1, 2, 3, 4, 5]
    assert tails[0]["score"] == 0.0
    assert tails[2]["score"] == -1.0
    heads = predict(model, graph, relation="next", tail="eve", k=2)
    assert names(heads) == ["dora", "cy"]
    assert [row["known"] for row in heads] == [False, False]


def test_known_answers_of_every_split_are_left_out():
    graph, model = graph_and_model()
    assert names(predict(model, graph, head="ada", relation="next", loops=True)) == ["ada", "cy", "eve"]
    assert names(predict(model, graph, relation="next", tail="dora", loops=True)) == ["bob", "dora", "eve"]
    assert names(predict(model, graph, head="cy", relation="next", k=1, loops=True)) == ["cy"]


def test_nobody_answers_for_themselves_where_train_has_no_loops():
    graph, model = graph_and_model()
    assert names(predict(model, graph, head="ada", relation="next")) == ["cy", "eve"]
    assert names(predict(model, graph, relation="next", tail="dora", known="mark")) == ["cy", "bob", "ada", "eve"]
    assert "ada" in names(predict(model, graph, head="ada", relation="next", known="ignore"))
    looped = KnowledgeGraph.from_arrays(
        [[0, 0, 1], [1, 0, 1]], [[3, 1, 3]], entity_names=NAMES, relation_names=["next", "same"]
    )
    assert names(predict(model, looped, head="ada", relation="next"))[0] == "ada"
    assert "dora" not in names(predict(model, looped, head="dora", relation="same"))  # valid is not train
    assert names(predict(model, looped, head="dora", relation="same", known="mark"))[0] == "dora"  # and holds it
    assert "ada" not in names(predict(model, looped, head="ada", relation="next", loops=False))


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("known", ["exclude", "mark", "ignore"])
def test_many_queries_are_answered_as_each_alone(known, reciprocal):
    graph, model = graph_and_model(reciprocal=reciprocal)
    asked = [
        (None, "next", "dora"),
        ("ada", "next", None),
        ("ada", None, "bob"),
        (None, "same", "cy"),
        ("ada", "next", None),
    ]
    held = Held(graph)
    for _ in range(2):  # read, then sorted
        queries = [Query.of(graph, *names) for names in asked]
        found = predict_all(model, graph, queries, 3, known, held=held)
        assert found == [predict(model, graph, *names, k=3, known=known) for names in asked]


def test_what_a_graph_holds_of_an_entity():
    graph = KnowledgeGraph.from_arrays([[0, 0, 1], [1, 0, 1], [1, 1, 2], [0, 1, 1]], [[2, 0, 0]], [[2, 1, 1]])
    held = Held(graph)
    first = held.of(1)
    assert first["train"].tolist() == [[0, 0, 1], [1, 0, 1], [1, 1, 2], [0, 1, 1]]
    held.sort()
    for entity in range(3):
        expected = {
            split: [row for row in getattr(graph, split).tolist() if entity in (row[0], row[2])]
            for split in ("train", "valid", "test")
        }
        assert {split: rows.tolist() for split, rows in held.of(entity).items()} == expected
    assert held.loops == {0} and held.answers((0, 0, 1), 1) == {0: "train", 1: "train"}


def test_relations():
    graph, model = graph_and_model()
    assert names(predict(model, graph, head="cy", tail="dora", known="mark")) == ["next", "same"]
    assert names(predict(model, graph, head="cy", tail="dora")) == ["same"]


def test_names_alone_are_enough_when_known_answers_do_not_matter():
    graph, model = graph_and_model()
    ids = IdMaps(NAMES, ["next", "same"])
    rows = predict(model, ids, head="ada", relation="next", k=1, known="ignore")
    assert rows == [{"rank": 1, "id": 1, "name": "bob", "label": "bob", "score": 0.0, "known": None}]


def test_texts_stand_for_names():
    graph = KnowledgeGraph.load("world")
    model = KGEModel(graph.num_entities, graph.num_relations, 8, score="distmult")
    by_text = predict(model, graph, head="France", relation="capital", k=3)
    assert by_text == predict(model, graph, head="france", relation="has the capital", k=3)
    assert all(row["label"] == graph.entity_text[row["id"]] for row in by_text)


def test_unknown_names_tell_the_nearest():
    graph, model = graph_and_model()
    with pytest.raises(DataError, match="'dorra'.*'dora'"):
        predict(model, graph, head="dorra", relation="next")
    with pytest.raises(DataError, match="'nest'.*'next'"):
        predict(model, graph, head="dora", relation="nest")


def test_wrong_arguments_are_named():
    graph, model = graph_and_model()
    with pytest.raises(ConfigError, match="two of head, relation and tail, got relation"):
        predict(model, graph, relation="next")
    with pytest.raises(ConfigError, match="got head, relation, tail"):
        predict(model, graph, head="ada", relation="next", tail="bob")
    with pytest.raises(ConfigError, match="k=0"):
        predict(model, graph, head="ada", relation="next", k=0)
    with pytest.raises(ConfigError, match="known='hide'"):
        predict(model, graph, head="ada", relation="next", known="hide")
