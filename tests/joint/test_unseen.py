"""Entities that the graph never saw, by their texts alone."""

import pytest
import torch
from joint_helpers import joint_config, towns
from joint_text_helpers import HIDDEN, backbone, texts, world
from torch import nn

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint import build
from kgfast.joint.evaluate import evaluate_tasks
from kgfast.joint.model.encoders import EntityEncoder
from kgfast.joint.model.sharing import ENTITIES, Sharing
from kgfast.joint.parallel import Processes
from kgfast.joint.predict import fitted, predict_for_text, triples_of
from kgfast.joint.step import Step
from kgfast.joint.text.store import entity_texts
from kgfast.joint.unseen import (
    evaluate_tasks_unseen,
    evaluate_unseen,
    model_of_edges,
    model_of_texts,
    rows_of_texts,
)  # fmt: skip
from kgfast.reference import SCORES


def joint(kind="hybrid", dim=8):
    """What `unseen` needs of a joint model, untrained."""
    model = nn.Module()
    model.backbone = Sharing(backbone(layers=1), [ENTITIES])
    model.graph, model.texts, model.score = world(), texts(), "complex"
    model.entities = EntityEncoder(kind, world(), texts(), score="complex", dim=dim, hidden=HIDDEN)
    draws = torch.Generator().manual_seed(0)
    model.relation_texts = None
    model.relations = nn.Parameter(torch.randn(2 * world().num_relations, dim, generator=draws))
    return model


def write_other(folder, lines, triples):
    folder.mkdir()
    (folder / "entity2text.txt").write_text("".join(f"{name}\t{text}\n" for name, text in lines.items()))
    for split in ("train", "test"):
        (folder / f"{split}.txt").write_text("".join("\t".join(triple) + "\n" for triple in triples[split]))
    return KnowledgeGraph.load(folder, cache=False)


ATLANTIS = {"atlantis": "Atlantis is an island country.", "poseidonis": "Poseidonis is the capital of Atlantis."}
FACTS = {"train": [("poseidonis", "located_in", "atlantis")], "test": [("atlantis", "capital", "poseidonis")]}


def test_rows_and_relations_of_another_graph(tmp_path):
    model = joint().train()
    other = write_other(tmp_path / "other", ATLANTIS, FACTS)
    tables = model_of_texts(model, other)
    assert model.training and tables.entities.shape == (2, 8) and tables.reciprocal
    assert torch.equal(tables.entities, rows_of_texts(model, entity_texts(other)))
    assert not torch.equal(tables.entities[0], tables.entities[1])
    for place, name in enumerate(other.relation_names):
        known = world().relation_id(name)
        assert torch.equal(tables.relations[place], model.relations[known])
        turned = tables.relations[place + other.num_relations]
        assert torch.equal(turned, model.relations[known + world().num_relations])
    found = evaluate_unseen(model, other)
    assert 0.5 <= found["mrr"] <= 1, "two candidates"


def test_the_row_of_a_text_is_that_of_the_text_encoder():
    """For an entity of the graph, `kind="text"`: the same row as in the graph."""
    model = joint("text").eval()
    model.entities.read_all(model.backbone)
    lines = [entity_texts(world())[entity] for entity in (3, 700)]
    found = rows_of_texts(model, lines)
    torch.testing.assert_close(found, model.entities.rows(torch.tensor([3, 700])).detach(), rtol=1e-4, atol=1e-6)


def unseen_towns(tmp_path_factory):
    """Towns and countries; training sees no triple of every sixth town, test says where those lie."""
    graph = towns(tmp_path_factory, countries=8, towns=12)
    names = [str(name) for name in graph.entity_names]
    hidden = torch.tensor([place for place, name in enumerate(names) if name.startswith("town")][::6])
    by_head = torch.isin(graph.train[:, 0], hidden)
    made = KnowledgeGraph.from_arrays(
        graph.train[~by_head], None, graph.train[by_head], graph.num_entities, graph.num_relations,
        entity_names=names, relation_names=[str(name) for name in graph.relation_names],
    )  # fmt: skip
    made.entity_text, made.entity_description = graph.entity_text, graph.entity_description
    return made


def trained(graph, kind="hybrid", steps=60):
    config = joint_config(
        "unused", {"link": {"batch_size": 64}}, data="towns", entities=kind, reciprocal=True, lr=5e-3,
        backbone=dict(hidden=16, layers=1, heads=2, max_length=24, dropout=0.0),
    )  # fmt: skip
    model, weights = build.build_model(config, graph), build.build_weights(config)
    step = Step(config, model, weights, build.build_optimizers(config, model, weights), Processes())
    model.refresh()
    for index in range(steps):
        step(index, ["link"], {"link": index})
    return model


@pytest.fixture(scope="module")
def of_towns(tmp_path_factory):
    model = trained(towns(tmp_path_factory, countries=8, towns=12))
    model.refresh()
    return model.eval()


def lands(folder, silent):
    """Places in lands, whose texts say nothing of where they lie: their colour is that of their land. No triple of
    train has the entity `silent`."""
    facts = [(f"place{c}x{t}", "lies_in", f"land{c}") for c in range(4) for t in range(4)]
    facts += [(f"land{c}", "borders", f"land{(c + 1) % 4}") for c in range(4)]
    facts += [(f"land{c}", "has_colour", f"hue{c}") for c in range(4)]
    facts += [(f"place{c}x{t}", "has_colour", f"hue{c}") for c in range(4) for t in range(4)]
    names = sorted({name for head, _, tail in facts for name in (head, tail)})
    test = [(f"place{c}x0", "lies_in", f"land{c}") for c in range(4)]
    quiet = [fact for fact in facts if silent in fact]
    train = [fact for fact in facts if fact not in test and fact not in quiet]
    return write_other(folder, {name: f"This is {name}." for name in names}, {"train": train, "test": [*test, *quiet]})


def test_triples_of_their_own_tell_more_than_texts(of_towns, tmp_path):
    """Where texts say nothing; rows without a triple stay, and so do relations, where these don't learn."""
    other = lands(tmp_path / "lands", silent="place3x3")
    found = evaluate_tasks_unseen(of_towns, other)
    assert list(found) == ["link", "edges"]
    assert found["edges"]["mrr"] > 1.5 * found["link"]["mrr"] and found["edges"]["tail"]["mrr"] > 0.6
    texts, fitted = model_of_texts(of_towns, other), model_of_edges(of_towns, other, learn=False)
    assert torch.equal(fitted.relations, texts.relations)
    moved = (fitted.entities != texts.entities).any(1)
    seen = torch.zeros_like(moved)
    seen[other.train[:, [0, 2]].flatten()] = True
    assert torch.equal(moved, seen)
    again = model_of_edges(of_towns, other, learn=False)
    assert torch.equal(again.entities, fitted.entities)
    assert not torch.equal(model_of_edges(of_towns, other).relations, texts.relations)


def test_a_new_head_is_fitted_to_its_triples(of_towns):
    """All else stays; what its triples say is no answer, and what they lead to is."""
    text = "This place is a town."
    before = of_towns.entities.all_rows().detach().clone()
    edges = [("?", "lies_in", "country3")]
    found = predict_for_text(of_towns, text, "lies_in", 4, edges=edges)
    assert "country3" not in [row["name"] for row in found] and len(found) == 4
    graph = of_towns.graph
    triples = triples_of(graph, edges)
    with torch.no_grad():
        row = rows_of_texts(of_towns, [text])
        new = fitted(of_towns, graph, triples, before, row)
        lies = of_towns.relations[graph.relation_id("lies_in")][None]
        query = [SCORES["complex"].tail_query(one, lies) for one in (row, new)]
    place = [
        int(((one @ before.T)[0].argsort(descending=True) == graph.entity_id("country3")).nonzero()) for one in query
    ]
    assert place[1] == 0, place
    assert torch.equal(of_towns.entities.all_rows(), before)
    with pytest.raises(DataError, match=r"edges\[0\] must be \(head, relation, tail\), one of head and tail '\?'"):
        predict_for_text(of_towns, text, "lies_in", edges=[("?", "borders", "?")])
    with pytest.raises(DataError, match="country99"):
        predict_for_text(of_towns, text, "lies_in", edges=[("?", "borders", "country99")])
    with pytest.raises(ConfigError, match="they need its text"):
        predict_for_text(of_towns, None, "lies_in", entity="country3", edges=edges)


@pytest.mark.parametrize("kind", ["table", "hybrid"])
def test_unseen_entities_are_ranked_by_their_texts(kind, tmp_path_factory):
    """After 60 steps, all entities competing: by text, MRR over ten times that of random ranks where the unseen are
    the answers, over eight times where they are asked about; by table no better than chance where they are answers."""
    graph = unseen_towns(tmp_path_factory)
    model = trained(graph, kind)
    found = evaluate_tasks(model, "test")["link"]["entities"]
    assert set(found) == {"unseen"}
    chance = sum(1 / rank for rank in range(1, graph.num_entities + 1)) / graph.num_entities
    answers, asked = (found["unseen"][side]["mrr"] / chance for side in ("head", "tail"))
    if kind == "hybrid":
        assert answers > 10 and asked > 8, (answers, asked)
    else:
        assert answers < 1.2


def test_errors(tmp_path):
    half = write_other(tmp_path / "half", {"atlantis": ATLANTIS["atlantis"]}, FACTS)
    with pytest.raises(DataError, match="'poseidonis' has no text to know it by"):
        model_of_texts(joint(), half)
    odd = {**FACTS, "test": [("atlantis", "sank_in", "poseidonis")]}
    with pytest.raises(DataError, match="sank_in"):
        model_of_texts(joint(), write_other(tmp_path / "odd", ATLANTIS, odd))
    with pytest.raises(ConfigError, match="not in the graph has no row"):
        rows_of_texts(joint("table"), ["Atlantis."])
    without_texts = joint("table")
    without_texts.backbone = without_texts.texts = None  # as of a run where no task reads any
    with pytest.raises(ConfigError, match="not in the graph has no row"):
        rows_of_texts(without_texts, ["Atlantis."])
