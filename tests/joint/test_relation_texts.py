"""Rows of relations from a table and from what relations of like texts have."""

import math

import pytest
import torch
import torch.nn.functional as F
from joint_helpers import joint_config, run_joint, write_towns
from joint_text_helpers import HIDDEN, backbone, texts, world

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint import build
from kgfast.joint.evaluate import evaluate_tasks
from kgfast.joint.model.encoders import WHOLE
from kgfast.joint.model.relations import SHARP, RelationTexts
from kgfast.joint.model.sharing import RELATIONS, Sharing
from kgfast.joint.parallel import Processes
from kgfast.joint.predict import predict_for_text
from kgfast.joint.step import Step
from kgfast.joint.unseen import model_of_texts, relations_of_texts


@pytest.mark.parametrize("sets", [1, 2])
def test_rows_are_those_of_the_table_and_of_like_relations(sets):
    """As written out, with a relation that train never saw."""
    graph, width = world(), 6
    new = graph.num_relations - 1
    kept = KnowledgeGraph.from_arrays(
        graph.train[graph.train[:, 1] != new], None, None, graph.num_entities, graph.num_relations
    )
    table = torch.nn.Parameter(torch.randn(sets * graph.num_relations, width))
    made, sharing = RelationTexts(kept, texts(), table, hidden=HIDDEN), Sharing(backbone(layers=1), [RELATIONS])
    made.read_all(sharing)
    with torch.no_grad():
        made.gate.weight.normal_(0, 0.1)
    x, rows = made.memory, table.detach().unflatten(0, (sets, -1))
    z = F.normalize(x, dim=1)
    assert made.log_scale.item() == pytest.approx(math.log(SHARP))
    for relation in (0, 3, new):
        others = [j for j in range(graph.num_relations) if j not in (relation, new)]
        weights = (SHARP * z[others] @ z[relation]).softmax(0)
        for side in range(sets):
            place = relation + side * graph.num_relations
            like = weights @ rows[side, others]
            gate = made.gate(made.norm(x))[relation].unflatten(0, (sets, -1))[side].sigmoid()
            expected = like if relation == new else gate / WHOLE * table[place] + (1 - gate) * like
            torch.testing.assert_close(made(table)[place], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(made.both(table)[1][place], like, rtol=1e-4, atol=1e-5)
    (by_text,) = torch.autograd.grad(made.both(table)[1].sum(), table, allow_unused=True)
    assert by_text is None, "what texts learn leaves the rows alone"
    names = dict(made.named_parameters())
    gradients = torch.autograd.grad(made(table).square().sum(), list(names.values()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_one_relation_has_nothing_to_learn_from():
    graph = KnowledgeGraph.from_arrays(torch.tensor([[0, 0, 1]]), num_relations=2)
    with pytest.raises(DataError, match=r"relations.kind=hybrid needs two relations in train"):
        RelationTexts(graph, texts(), torch.zeros(2, 4), hidden=HIDDEN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Towns whose test asks for a relation that train doesn't have, and whose text is like that of one that it has."""
    made = write_towns(tmp_path_factory.mktemp("data") / "towns")
    test = [line.replace("lies_in", "stands_in") for line in (made / "train.txt").read_text().splitlines()]
    (made / "test.txt").write_text("".join(f"{line}\n" for line in test if "stands_in" in line))
    lines = {"lies_in": "this town lies in the country", "stands_in": "this town stands in the country",
             "has_colour": "flag of a colour", "borders": "next along any border"}  # fmt: skip
    (made / "relation2text.txt").write_text("".join(f"{name}\t{text}\n" for name, text in lines.items()))
    return made


def trained(folder, steps=60, **settings):
    config = joint_config(
        "unused", {"link": {"batch_size": 32}}, data=str(folder), reciprocal=True, lr=5e-3,
        relations={"kind": "hybrid"}, backbone=dict(hidden=16, layers=1, heads=2, max_length=24, dropout=0.0),
        **settings,
    )  # fmt: skip
    graph = KnowledgeGraph.load(folder, cache=False)
    model, weights = build.build_model(config, graph), build.build_weights(config)
    step = Step(config, model, weights, build.build_optimizers(config, model, weights), Processes())
    model.refresh()
    for index in range(steps):
        step(index, ["link"], {"link": index})
    model.refresh()
    return model.eval()


def test_a_relation_of_a_like_text_is_known(folder, tmp_path):
    """In the graph, by a text alone, and in another graph."""
    model = trained(folder, entities="hybrid")
    found = evaluate_tasks(model, "test")["link"]["relations"]
    assert list(found) == ["unseen"]
    assert found["unseen"]["tail"]["mrr"] > 0.5, "chance is 0.1"
    text = "this town stands in the country"
    rows = relations_of_texts(model, [text, "along any border"])
    assert rows.shape == (4, 16) and not torch.equal(rows[0], rows[1])
    answers = predict_for_text(model, None, None, 3, entity="town2x1", relation_text=text)
    assert "country2" in [row["name"] for row in answers] and "town2x1" not in [row["name"] for row in answers]
    asked = predict_for_text(model, None, None, 43, "head", entity="country2", relation_text=text)
    places = [row["rank"] for row in asked if row["name"].startswith("town2x")]
    assert len(asked) == model.graph.num_entities - 1 and sum(places) / len(places) < 15

    other = write_towns(tmp_path / "other", countries=2, towns=2, questions=False)
    for file in ("train.txt", "valid.txt", "test.txt"):
        (other / file).write_text((other / file).read_text().replace("borders", "touches"))
    graph = KnowledgeGraph.load(other, cache=False)
    tables = model_of_texts(model, graph)
    touches = graph.relation_id("touches")
    for side in range(2):
        row = tables.relations[touches + side * graph.num_relations]
        expected = relations_of_texts(model, ["touches"])[side]
        assert torch.equal(row, expected)
    lies = graph.relation_id("lies_in"), model.graph.relation_id("lies_in")
    assert torch.equal(tables.relations[lies[0]], model.relations[lies[1]].detach())


def test_errors(folder):
    table = trained(folder, steps=0, entities="hybrid")
    for given in (
        dict(entity="town2x1"),
        dict(relation="lies_in"),
        dict(text="a", entity="town2x1", relation="lies_in"),
    ):
        with pytest.raises(ConfigError, match="one of text and entity, and one of relation and relation_text"):
            predict_for_text(table, **given)
    with pytest.raises(DataError, match="is empty"):
        relations_of_texts(table, [" "])


@pytest.mark.parametrize("sharing", ["hard", "soft", "routed"])
def test_runs_with_other_tasks(sharing, folder, tmp_path):
    """With each sharing, and norms of gradients at the learned rows."""
    graph = KnowledgeGraph.load(folder, cache=False)
    config = joint_config(
        tmp_path / "run", ("mlm", "link", "relation", "mention", "qa"), data=str(folder), sharing=sharing,
        model="complex", relations={"kind": "hybrid", "refresh": 2}, steps=2, weighting="gradnorm",
    )  # fmt: skip
    metrics, _ = run_joint(config, graph)
    assert metrics["tasks"]["link"]["test"]["relations"]["unseen"]["mrr"] > 0
