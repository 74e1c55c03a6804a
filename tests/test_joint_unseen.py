"""Entities that the graph never saw, by their texts alone."""

import pytest
import torch
from joint_text_helpers import HIDDEN, backbone, texts, world
from torch import nn

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint.encoders import EntityEncoder
from kgfast.joint.sharing import ENTITIES, Sharing
from kgfast.joint.texts import entity_texts
from kgfast.joint.unseen import evaluate_unseen, model_of_texts, rows_of_texts


def joint(kind="hybrid", dim=8):
    """What `unseen` needs of a joint model, untrained."""
    model = nn.Module()
    model.backbone = Sharing(backbone(layers=1), [ENTITIES])
    model.graph, model.texts, model.score = world(), texts(), "complex"
    model.entities = EntityEncoder(kind, world(), texts(), score="complex", dim=dim, hidden=HIDDEN)
    draws = torch.Generator().manual_seed(0)
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


def test_errors(tmp_path):
    half = write_other(tmp_path / "half", {"atlantis": ATLANTIS["atlantis"]}, FACTS)
    with pytest.raises(DataError, match="'poseidonis' has no text to know it by"):
        model_of_texts(joint(), half)
    odd = {**FACTS, "test": [("atlantis", "sank_in", "poseidonis")]}
    with pytest.raises(DataError, match="sank_in"):
        model_of_texts(joint(), write_other(tmp_path / "odd", ATLANTIS, odd))
    with pytest.raises(ConfigError, match="not in the graph has no row"):
        rows_of_texts(joint("table"), ["Atlantis."])
