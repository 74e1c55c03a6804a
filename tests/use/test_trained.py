"""A trained run of either kind: loaded, asked, and what it refuses."""

import json
import sys

import pytest
import torch

import kgfast
from kgfast.errors import ConfigError, DataError, KgfastError
from kgfast.evaluate import predict
from kgfast.joint.tasks.qa.answering import threshold


def test_a_run_on_the_graph_answers(graph_run):
    loaded = kgfast.load(graph_run)
    assert isinstance(loaded, kgfast.TrainedRun) and "graph, complex, 72 entities" in repr(loaded)
    assert len(loaded.entities) == 72 and list(loaded.relations) == ["0", "1", "2"]
    rows = loaded.predict(head="entity 0", relation="0", k=3)
    assert rows == predict(loaded.model, loaded.graph, head="entity 0", relation="0", k=3)
    assert [row["rank"] for row in rows] == [1, 2, 3] and not any(row["known"] for row in rows)
    queries = [loaded.query(head="entity 0", relation="0"), loaded.query(relation="1", tail="entity 40")]
    assert loaded.predict_all(queries, k=3)[0] == rows


def test_scores_and_ranks_by_name_and_by_id(graph_run):
    loaded = kgfast.load(graph_run)
    ids = loaded.graph.test[:4]
    names = [(loaded.entities[h], loaded.relations[r], loaded.entities[t]) for h, r, t in ids.tolist()]
    assert torch.equal(loaded.score(names), loaded.score(ids)) and loaded.score(ids).shape == (4,)
    assert loaded.score([]).shape == (0,)
    ranks = loaded.rank(names, side="head")
    assert torch.equal(ranks, loaded.model.rank(ids, "head", known=loaded.graph.known()))
    assert (loaded.rank(ids, known=False) >= loaded.rank(ids)).all()
    with pytest.raises(DataError, match="no entity is named 'entity 99'"):
        loaded.score([("entity 99", "0", "entity 1")])
    with pytest.raises(ConfigError, match=r"triples\[1\] must be"):
        loaded.score([("entity 1", "0", "entity 1"), ("entity 1", "0")])


def test_neighbours_nearest_and_rows(graph_run):
    loaded = kgfast.load(graph_run)
    around = loaded.neighbours("entity 0")
    assert around and all("entity 0" in (one["head"], one["tail"]) for one in around)
    assert loaded.neighbours("entity 0", k=2) == around[:2] and around[0]["split"] == "train"
    near = loaded.nearest("entity 0", k=4)
    rows = loaded.model.entities
    cosines = torch.nn.functional.cosine_similarity(rows, rows[loaded.graph.entity_id("entity 0")][None])
    assert [one["score"] for one in near] == pytest.approx(cosines.sort(descending=True).values[1:5].tolist(), abs=1e-6)
    assert "entity 0" not in [one["name"] for one in near]
    row = loaded.embedding("entity 3")
    assert torch.equal(row, rows[loaded.graph.entity_id("entity 3")].detach()) and row.data_ptr() != rows.data_ptr()
    assert loaded.embedding("2", kind="relation").shape == (16,)
    with pytest.raises(KgfastError, match="kind='entities'"):
        loaded.embedding("2", kind="entities")


def test_to_dataframe(graph_run, monkeypatch):
    pytest.importorskip("pandas")
    loaded = kgfast.load(graph_run)
    frame = loaded.to_dataframe()
    assert frame.shape == (72, 16) and frame.index.name == "entity"
    assert torch.equal(torch.tensor(frame.loc["entity 3"].to_numpy()), loaded.embedding("entity 3"))
    assert loaded.to_dataframe("relation").shape == (3, 16)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(KgfastError, match=r"to_dataframe needs the package pandas.*kgfast\[dataframe\]"):
        loaded.to_dataframe()


def test_names_alone(graph_run):
    loaded = kgfast.load(graph_run, names_only=True)
    assert loaded.predict(head="entity 0", relation="0", known="ignore")[0]["known"] is None
    assert loaded.rank([("entity 0", "0", "entity 30")], known=False) >= 1
    for refused in (lambda: loaded.predict(head="entity 0", relation="0"), lambda: loaded.neighbours("entity 0")):
        with pytest.raises(KgfastError, match="names_only=True"):
            refused()


def test_a_run_on_the_graph_alone_has_no_words_for_it(graph_run):
    loaded = kgfast.load(graph_run)
    with pytest.raises(KgfastError, match="was not trained with questions"):
        loaded.ask("where?")
    with pytest.raises(KgfastError, match="reads no texts"):
        loaded.predict_for_text("a text", "0")


def test_a_joint_run_answers_many_questions_at_once(joint_run):
    loaded = kgfast.load(joint_run)
    assert "joint run of link, qa" in repr(loaded)
    questions = ["where does town1x1 lie", "what colour has country2", "what is the flag of town0x3"]
    together = loaded.ask(questions, k=2, always=True)
    assert [found["topic"] for found in together] == ["town1x1", "country2", "town0x3"]
    for question, found in zip(questions, together, strict=True):
        alone = loaded.ask(question, k=2, always=True)
        for one, other in zip(alone["answers"], found["answers"], strict=True):
            assert one["name"] == other["name"] and one["support"] and len(one["support"]) == len(other["support"])
            assert one["probability"] == pytest.approx(other["probability"], rel=1e-4)
    assert loaded.ask([]) == []
    about = loaded.ask(["where does it lie"], ["town1x1"], always=True)[0]
    assert about["topic"] == "town1x1"
    assert len(loaded.predict(head="town1x1", relation="lies_in", known="mark", k=4)) == 4
    text = "This place is a town of country{}. Its people wave a {} flag."
    colours = ["red", "green", "blue"] * 2
    found = [loaded.predict_for_text(text.format(c, colours[c]), "lies_in", k=4) for c in range(6)]
    assert {len(rows) for rows in found} == {4}
    assert sum(rows[0]["name"] == f"country{c}" for c, rows in enumerate(found)) >= 3  # of towns never seen


def test_it_says_that_it_does_not_know(joint_run):
    loaded = kgfast.load(joint_run)
    saved = json.loads((joint_run / "metrics.json").read_text())["tasks"]["qa"]["valid"]["threshold"]
    assert loaded.threshold == saved
    question = "where does town1x1 lie"
    sure = loaded.ask(question, always=True)["answers"][0]["probability"]
    for level, knows in ((sure * 1.01, False), (sure * 0.99, True)):
        loaded.threshold = level
        assert loaded.ask(question)["knows"] is knows and bool(loaded.ask(question)["answers"]) is knows
        assert loaded.ask(question, always=True)["answers"]
    loaded.threshold = None
    assert loaded.ask(question)["knows"] is None and loaded.ask(question)["answers"]


def test_the_threshold_weighs_right_answers_against_wrong_ones():
    sure = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    assert threshold(sure, torch.tensor([1, 1, 0, 0, 1])) == pytest.approx(0.8)
    assert threshold(sure, torch.tensor([1, 0, 1, 1, 0])) == pytest.approx(0.6)
    assert threshold(sure, torch.tensor([1, 1, 1, 1, 1])) == pytest.approx(0.5)
    assert threshold(sure, torch.zeros(5)) > float(sure[0])
    assert threshold(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([1, 0, 0])) > 0.5  # equal ones go together
