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
from kgfast.joint.step import Step
from kgfast.joint.text.store import entity_texts
from kgfast.joint.unseen import evaluate_unseen, model_of_texts, rows_of_texts


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


@pytest.mark.parametrize("kind", ["table", "hybrid"])
def test_unseen_entities_are_ranked_by_their_texts(kind, tmp_path_factory):
    """After 60 steps, all entities competing: by text, MRR over ten times that of random ranks where the unseen are
    the answers, over eight times where they are asked about; by table no better than chance where they are answers."""
    graph = unseen_towns(tmp_path_factory)
    config = joint_config(
        "unused", {"link": {"batch_size": 64}}, data="towns", entities=kind, reciprocal=True, lr=5e-3,
        backbone=dict(hidden=16, layers=1, heads=2, max_length=24, dropout=0.0),
    )  # fmt: skip
    model, weights = build.build_model(config, graph), build.build_weights(config)
    step = Step(config, model, weights, build.build_optimizers(config, model, weights), Processes())
    model.refresh()
    for index in range(60):
        step(index, ["link"], {"link": index})
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
