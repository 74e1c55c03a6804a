"""Rows of entities: from a table, from texts, and both."""

import pytest
import torch
from joint_text_helpers import HIDDEN, LENGTH, backbone, texts, tokenizer, world

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint.model.encoders import WHOLE, EntityEncoder
from kgfast.joint.model.packed import Encoded
from kgfast.joint.model.sharing import ENTITIES, Sharing
from kgfast.joint.text.store import TextStore, entity_texts


def encoder(kind, graph=None, store=None, **options):
    options = {"score": "complex", "dim": 16, "hidden": HIDDEN, "seed": 0, **options}
    return EntityEncoder(kind, graph or world(), store or texts(), **options)


def refreshed(entities, sharing, wanted, step):
    ids = entities.choose(wanted, step)
    entities.receive(ids, sharing.encode(entities.requests(ids), ENTITIES))
    return ids


def test_rows_of_a_table():
    entities = encoder("table", store=None)
    assert entities.all_rows() is entities.table
    assert torch.equal(entities.rows(torch.tensor([3, 3])), entities.table[[3, 3]])
    with pytest.raises(ConfigError, match="not in the graph has no row"):
        entities.text_rows(Encoded(torch.zeros(1, HIDDEN), torch.tensor([0, 1]), torch.zeros(1, HIDDEN)))


@pytest.mark.parametrize("kind", ["text", "hybrid"])
def test_rows_from_texts(kind):
    """Rows of all and of some agree; gradients reach the table, the projection, and the Transformer."""
    sharing, entities = Sharing(backbone(), [ENTITIES]), encoder(kind, refresh=50)
    entities.read_all(sharing)
    ids = torch.tensor([7, 3, 900, 7])
    wanted = torch.tensor([3, 7, 7])
    entities.train()
    chosen = refreshed(entities, sharing, wanted, 5)
    some = entities.rows(ids)
    rows = entities.all_rows()
    torch.testing.assert_close(some, rows[ids])
    assert rows.shape == (world().num_entities, 16) and entities.all_rows() is rows
    rows.square().sum().backward()
    assert sharing.backbone_of(ENTITIES).token_embeddings.grad.abs().sum() > 0
    for name, parameter in entities.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    before = entities.memory.clone()
    entities.release()
    changed = (entities.memory != before).any(1).nonzero()[:, 0]
    assert torch.isin(changed, chosen).all()
    if kind == "hybrid":
        entities.eval()
        texts_alone = entities.project(entities.normed(entities.memory))
        gate = entities.gate(entities.normed(entities.memory)).sigmoid()
        expected = gate / WHOLE * entities.table + (1 - gate) * texts_alone
        assert torch.allclose(gate, torch.tensor(WHOLE)), "rows begin whole"
        seen = ~entities.by_text
        torch.testing.assert_close(entities.all_rows()[seen], expected[seen])


def test_unseen_entities_use_text_alone():
    graph = world()
    kept = (graph.train[:, [0, 2]] != 5).all(1)
    smaller = KnowledgeGraph.from_arrays(
        graph.train[kept], graph.valid, graph.test, graph.num_entities, graph.num_relations,
        entity_names=list(graph.entity_names),
    )  # fmt: skip
    smaller.entity_text, smaller.entity_description = graph.entity_text, graph.entity_description
    sharing, entities = Sharing(backbone(), [ENTITIES]), encoder("hybrid", graph=smaller)
    entities.read_all(sharing)
    entities.eval()
    with torch.no_grad():
        encoded = sharing.eval().encode(texts().packed("entity", torch.tensor([5, 6])), ENTITIES)
        alone = entities.text_rows(encoded)
        rows = entities.rows(torch.tensor([5, 6]))
    torch.testing.assert_close(rows[0], alone[0], rtol=1e-5, atol=1e-6)
    assert (rows[1] - alone[1]).abs().max() > 1e-3, "a seen entity has its row in it"


def test_an_entity_without_text_has_its_row_alone():
    store = TextStore(tokenizer(), LENGTH)
    lines = entity_texts(world())
    lines[8] = None
    store.add("entity", lines)
    entities = encoder("hybrid", store=store).train()
    torch.testing.assert_close(entities.all_rows()[8], entities.table[8])
    assert not torch.isin(8, torch.cat([entities.choose(torch.tensor([8]), step) for step in range(9)]))


def test_the_texts_of_a_step():
    entities = encoder("hybrid", refresh=100)
    wanted = torch.tensor([4, 4, 9, 1000])
    first = entities.choose(wanted, 3)
    assert torch.isin(wanted, first).all() and len(first) <= 100 and len(first.unique()) == len(first)
    assert torch.equal(first, encoder("hybrid", refresh=100).choose(wanted, 3)), "of seed, step and wishes alone"
    assert not torch.equal(first, entities.choose(wanted, 4))
    many = entities.choose(torch.arange(world().num_entities), 3)
    assert len(many) <= 100
    seen = torch.cat([entities.choose(None, step) for step in range(-(-world().num_entities // 100))])
    assert len(seen.unique()) == world().num_entities, "every text has its turn"
    whole = encoder("hybrid", refresh=10**6)
    assert torch.equal(whole.choose(None, 0), torch.arange(world().num_entities))


def test_rows_by_text_alone():
    """Of a hybrid: the projection of every text, an entity without one has its row; within a step and outside."""
    store = TextStore(tokenizer(), LENGTH)
    store.add("entity", [None if entity == 8 else line for entity, line in enumerate(entity_texts(world()))])
    sharing, entities = Sharing(backbone(layers=1), [ENTITIES]), encoder("hybrid", store=store, refresh=32)
    entities.read_all(sharing)
    entities.train()
    refreshed(entities, sharing, None, 0)
    ids = torch.tensor([8, 3, 900])
    some = entities.both_rows(ids)[1]
    rows = entities.both_rows()[1]
    torch.testing.assert_close(rows[ids], some)
    assert torch.equal(rows[8], entities.table[8])
    expected = entities.project(entities.normed(entities.pooled()))
    torch.testing.assert_close(rows[9:], expected[9:])
    assert (rows - entities.all_rows()).abs().amax(1)[9:].min() > 0
    texts_alone = encoder("text")
    torch.testing.assert_close(*texts_alone.both_rows())
    assert encoder("table").both_rows()[1] is None


def test_encoder_errors():
    with pytest.raises(ConfigError, match="table, text, hybrid"):
        encoder("words")
    for options, words in (
        ({"refresh": 0}, "refresh=0"),
        ({"hidden": 0}, "backbone"),
    ):
        with pytest.raises(ConfigError, match=words):
            encoder("hybrid", **options)
    with pytest.raises(DataError, match="no texts of entities, which entities=text needs"):
        EntityEncoder("text", KnowledgeGraph.from_arrays([[0, 0, 1]]), None, score="complex", dim=4, hidden=8)
