"""Tokenizers, texts, corpus, packed Transformers and entity encoders."""

import gzip

import pytest
import torch
from joint_text_helpers import HIDDEN, LENGTH, backbone, texts, tokenizer, world

from kgfast.data import KnowledgeGraph
from kgfast.errors import CheckpointError, ConfigError, DataError, KgfastError
from kgfast.joint.attention import Plan
from kgfast.joint.backbone import Backbone, Shape
from kgfast.joint.corpus import Corpus, sentences, verbalise
from kgfast.joint.encoders import EntityEncoder
from kgfast.joint.packed import Encoded, Packed
from kgfast.joint.pooling import POOLINGS, pool
from kgfast.joint.sharing import ENTITIES, Sharing
from kgfast.joint.texts import TextStore, all_texts, entity_texts, graph_texts, spell
from kgfast.joint.tokens import Tokenizer


def packed_of(*lengths, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return Packed.from_texts([torch.randint(5, 300, (length,), generator=draws) for length in lengths])


# --- tokenizer


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_tokenizer_is_the_same_for_the_same_texts(kind):
    lines = list(all_texts(graph_texts(world())))
    first, second = (Tokenizer.train(lines, kind=kind, vocabulary=1200) for _ in range(2))
    assert first.fingerprint == second.fingerprint and len(first) <= 1200
    assert first.fingerprint != tokenizer(kind).fingerprint
    tokens, offsets = first.encode(["Oslo is the capital of Norway.", "", "日本"])
    assert tokens.dtype == torch.int32 and offsets.tolist()[1] == offsets.tolist()[2] < len(tokens)
    assert first.decode(tokens[: offsets[1]]).lower().replace(" .", ".") == "oslo is the capital of norway."


def test_a_tokenizer_is_saved_and_found_again(tmp_path):
    made = tokenizer()
    made.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == made.fingerprint and again.roles == made.roles
    again.check_fits(made.fingerprint, "the run")
    with pytest.raises(CheckpointError, match="the run was trained with another tokenizer"):
        again.check_fits("f" * 64, "the run")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is no tokenizer"):
        Tokenizer.load(tmp_path)
    with pytest.raises(CheckpointError, match="there is no tokenizer"):
        Tokenizer.load(tmp_path / "nothing")


def test_tokenizer_errors():
    with pytest.raises(ConfigError, match="wordpiece, bpe"):
        Tokenizer.train(["a"], kind="words")
    with pytest.raises(ConfigError, match="vocabulary=10"):
        Tokenizer.train(["a"], vocabulary=10)
    with pytest.raises(DataError, match="no text"):
        Tokenizer.train([" "])


# --- packed texts


def test_packed_texts_are_cut_and_joined():
    packed = packed_of(3, 1, 5)
    assert packed.positions.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4] and packed.lengths.tolist() == [3, 1, 5]
    assert packed.rows.tolist() == [0] * 3 + [1] + [2] * 5
    picked = packed.select(torch.tensor([2, 0, 2]))
    assert picked.offsets.tolist() == [0, 5, 8, 13]
    assert torch.equal(picked.tokens, torch.cat((packed.tokens[4:], packed.tokens[:3], packed.tokens[4:])))
    both = Packed.cat([packed, Packed.empty(), picked])
    assert len(both) == 6 and both.offsets.tolist() == [0, 3, 4, 9, 14, 17, 22]
    encoded = Encoded(torch.arange(22.0)[:, None], both.offsets, torch.arange(6.0)[:, None])
    part = encoded.slice(1, 3)
    assert part.hidden[:, 0].tolist() == list(range(3, 9)) and part.offsets.tolist() == [0, 1, 6]
    assert encoded.select(torch.tensor([5, 1])).hidden[:, 0].tolist() == [*range(17, 22), 3]
    with pytest.raises(KgfastError, match="text 1 has no tokens"):
        Packed.from_flat(torch.arange(3), torch.tensor([0, 3, 3]))
    with pytest.raises(KgfastError, match="offsets must ascend"):
        Packed.from_flat(torch.arange(3), torch.tensor([0, 2]))


def test_each_distinct_text_once(monkeypatch):
    packed = packed_of(3, 1, 5, 3)
    twice = Packed.cat([packed, packed.select(torch.tensor([3, 1]))])
    distinct, place = twice.distinct()
    assert len(distinct) == 4 and place.tolist() == [0, 1, 2, 3, 3, 1]
    assert torch.equal(distinct.tokens, packed.tokens)
    other = Packed(packed.tokens, packed.positions, torch.ones_like(packed.tokens), packed.offsets)
    assert len(Packed.cat([packed, other]).distinct()[0]) == 8, "segments tell texts apart"
    swapped = Packed.from_texts([torch.tensor([7, 8, 9]), torch.tensor([9, 8, 7]), torch.tensor([7, 8])])
    assert len(swapped.distinct()[0]) == 3
    monkeypatch.setattr(Packed, "hashes", lambda self: self.offsets[1:] * 0)
    distinct, place = twice.distinct()
    assert len(distinct) == 6 and place.tolist() == list(range(6)), "a collision must not merge texts"


# --- texts and corpus


def test_texts_of_a_graph_are_enclosed_and_cut():
    store = TextStore.of_graph(world(), tokenizer(), 16)
    begin, end = tokenizer().begin, tokenizer().end
    packed = store.packed("entity")
    assert len(packed) == world().num_entities and int(packed.lengths.max()) == 16
    assert (packed.tokens[packed.offsets[:-1]] == begin).all() and (packed.tokens[packed.offsets[1:] - 1] == end).all()
    ids = torch.tensor([5, 0, 5])
    assert torch.equal(store.packed("entity", ids).tokens, packed.select(ids).tokens)
    assert torch.equal(store.pack([entity_texts(world())[5]]).tokens, packed.select(ids[:1]).tokens)
    pairs = store.pairs("entity", ids, "relation", torch.tensor([0, 1, 2]))
    assert int(pairs.lengths.max()) <= 16 and (pairs.segments[pairs.offsets[1:] - 1] == 1).all()
    first = pairs.select(torch.tensor([1]))
    cut = first.tokens.tolist().index(end)
    assert first.segments.tolist() == [0] * (cut + 1) + [1] * (len(first.tokens) - cut - 1)
    assert "question/train" in store and store.count("question/test") == len(world().questions["test"])
    with pytest.raises(KgfastError, match="no texts called 'relations'; there are entity"):
        store.packed("relations")
    with pytest.raises(KgfastError, match="outside"):
        store.packed("entity", torch.tensor([world().num_entities]))
    with pytest.raises(ConfigError, match="max_length=3"):
        TextStore(tokenizer(), 3)


def test_labels_and_descriptions_are_joined(tmp_path):
    (tmp_path / "train.txt").write_text("a\t/x/has_part.y\tb\nb\t/x/has_part.y\tc\n")
    (tmp_path / "entity2text.txt").write_text("a\tAlpha\nb\tBeta\n")
    (tmp_path / "entity2desc.txt").write_text("a\tAlpha is first.\nb\tIt is second.\n")
    graph = KnowledgeGraph.load(tmp_path, cache=False)
    assert entity_texts(graph) == ["Alpha is first.", "Beta: It is second.", None]
    assert spell("/x/has_part.y") == "x has part y"
    assert verbalise(graph, graph.train) == ["Alpha x has part y Beta.", "Beta x has part y c."]
    store = TextStore.of_graph(graph, tokenizer())
    assert store.present("entity").tolist() == [True, True, False]


def test_held_out_entities_are_in_no_training_sentence():
    graph, corpus = world(), texts(held_out=0.1).corpus
    assert [int((corpus.split == part).sum()) for part in (1, 2)] == [graph.num_entities // 10] * 2
    held = (corpus.split[: graph.num_entities] > 0).nonzero()[:, 0]
    lines = entity_texts(graph)
    heads = graph.train[:, 0]
    for entity in held[:20].tolist():
        inside = (corpus.document == entity).nonzero()[:, 0]
        assert len(inside) == len(sentences(lines[entity])), "its triples are put into words for nobody"
    assert len(corpus) > (~torch.isin(heads, held)).sum()
    trained, tested = corpus.spans("train", 30), corpus.spans("test", 30)
    assert int((trained[:, 1] - trained[:, 0]).max()) <= 30 and int((trained[:, 1] - trained[:, 0]).min()) > 0
    covered = (trained[:, 1] - trained[:, 0]).sum() + (tested[:, 1] - tested[:, 0]).sum()
    valid = corpus.spans("valid", 30)
    assert covered + (valid[:, 1] - valid[:, 0]).sum() == len(corpus.tokens), "every token is in one span"
    first = corpus.following("test")
    assert torch.equal(corpus.document[first], corpus.document[first + 1])


def test_a_corpus_takes_text_files(tmp_path):
    file = tmp_path / "notes.txt.gz"
    file.write_bytes(gzip.compress(b"One sentence. Two sentences!\n\nAnother paragraph.\n"))
    plain = Corpus.of_graph(world(), tokenizer(), triples=False, held_out=0.0)
    more = Corpus.of_graph(world(), tokenizer(), triples=False, held_out=0.0, files=[file])
    assert len(more) == len(plain) + 3 and len(more.split) == len(plain.split) + 2
    with pytest.raises(DataError, match="no file"):
        Corpus.of_graph(world(), tokenizer(), files=[tmp_path / "missing.txt"])
    with pytest.raises(ConfigError, match="held_out=0.7"):
        Corpus.of_graph(world(), tokenizer(), held_out=0.7)
    bare = KnowledgeGraph.from_arrays([[0, 0, 1]])
    with pytest.raises(DataError, match="no text to learn language from"):
        Corpus.of_graph(bare, tokenizer(), triples=False)


def test_sentences():
    assert sentences("It is 3.5 km long. Its mouth (in e.g. the sea) is wide! Why? 12 know.") == [
        "It is 3.5 km long.", "Its mouth (in e.g. the sea) is wide!", "Why?", "12 know.",
    ]  # fmt: skip


# --- the Transformer


@pytest.mark.parametrize("kind", ["bert", "gpt"])
@pytest.mark.parametrize("lengths", [(7,), (1, 1), (5, 12, 1, 48, 30, 31, 12, 7, 2)], ids=str)
def test_packed_equals_padded(kind, lengths):
    """Values and all gradients, as if each text went alone."""
    model = backbone(kind, packing="packed").double()
    packed = packed_of(*lengths)
    weight = torch.randn(sum(lengths), HIDDEN, dtype=torch.float64)
    found = []
    for packing in ("packed", "padded"):
        model.choose_packing(packing)
        assert model.packing == packing
        model.zero_grad()
        encoded = model(packed)
        (encoded.hidden * weight).sum().backward(retain_graph=True)
        encoded.pooled.square().sum().backward()
        gradients = [one.grad for one in model.model.parameters() if one.grad is not None]
        found.append([encoded.hidden.detach(), encoded.pooled.detach(), *gradients])
    assert len(found[0]) == len(found[1]) > 20
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    alone = model(packed.select(torch.tensor([len(lengths) - 1]))).pooled[0]
    torch.testing.assert_close(alone, model(packed).pooled[-1], rtol=1e-9, atol=1e-9)


def test_a_causal_backbone_sees_nothing_ahead():
    model = backbone("gpt").eval()
    packed = packed_of(9, 6)
    changed = Packed(packed.tokens.clone(), packed.positions, packed.segments, packed.offsets)
    changed.tokens[5] += 1
    difference = (model(packed).hidden - model(changed).hidden).abs().amax(1)
    assert (difference[:5] == 0).all() and (difference[5:9] > 1e-6).all() and (difference[9:] == 0).all()


def test_the_plan_of_buckets_wastes_little():
    packed = texts().packed("entity", torch.arange(600))
    plan = Plan.of(packed, causal=False)
    assert torch.equal(plan.places[plan.rows], torch.arange(len(packed.tokens)))
    assert len(plan.places) < 1.25 * len(packed.tokens)
    assert len(packed) * int(packed.lengths.max()) > 1.4 * len(packed.tokens), "what padding to the longest would cost"


@pytest.mark.parametrize("how", POOLINGS)
def test_pooling(how):
    hidden = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 3, 4, 9])
    eager = {
        "mean": lambda part: part.mean(0),
        "first": lambda part: part[0],
        "last": lambda part: part[-1],
    }[how]
    expected = torch.stack([eager(hidden[i:j]) for i, j in ((0, 3), (3, 4), (4, 9))])
    torch.testing.assert_close(pool(hidden, offsets, how), expected)
    assert torch.autograd.gradcheck(lambda x: pool(x, offsets, how), hidden)


def test_activation_checkpointing_changes_nothing():
    results = []
    for checkpointed in (False, True):
        model = backbone()
        if checkpointed:
            model.checkpoint_activations()
        model.train()
        model(packed_of(9, 4, 12)).hidden.square().sum().backward()
        results.append([one.grad for one in model.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_the_same_seed_gives_the_same_backbone():
    before = torch.random.get_rng_state()
    first, second, third = backbone(seed=3), backbone(seed=3), backbone(seed=4)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator is left alone"
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert not torch.equal(first.token_embeddings, third.token_embeddings)


def test_a_local_checkpoint_is_a_backbone(tmp_path):
    """What transformers saved: hidden states and masked-LM logits are its own."""
    import transformers

    tokens = tokenizer()
    tokens.save(tmp_path)
    options = dict(vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=64, max_position_embeddings=40)  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**options)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path)
    ours = Backbone.from_checkpoint(tmp_path, Tokenizer.load(tmp_path)).eval()
    assert ours.packing == "packed" and ours.kind == "bert" and ours.max_length == 40
    packed = packed_of(9, 4)
    logits = torch.cat([theirs(input_ids=packed.tokens[None, i:j]).logits[0] for i, j in ((0, 9), (9, 13))])
    found = ours.lm_transform(ours(packed).hidden) @ ours.token_embeddings.T + ours.lm_bias
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
    larger = Tokenizer.train(all_texts(graph_texts(world())), vocabulary=2000)
    with pytest.raises(CheckpointError, match="tokens don't fit its"):
        Backbone.from_checkpoint(tmp_path, larger)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match="no safetensors"):
        Backbone.from_checkpoint(tmp_path, tokens)
    with pytest.raises(CheckpointError, match="no config.json"):
        Backbone.from_checkpoint(tmp_path / "nothing", tokens)


@pytest.mark.parametrize("family", ["RobertaModel", "GPT2Model", "LlamaModel", "ElectraModel"])
def test_families_of_checkpoints(family, tmp_path):
    import transformers

    tokens = tokenizer()
    torch.manual_seed(0)
    config = getattr(transformers, family.replace("Model", "Config"))(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=60, pad_token_id=0, bos_token_id=2, eos_token_id=3, embedding_size=16,
    )  # fmt: skip
    getattr(transformers, family)(config).save_pretrained(tmp_path)
    model = Backbone.from_checkpoint(tmp_path, tokens)
    assert model.packing == "packed" and model.causal == (family in ("GPT2Model", "LlamaModel"))
    encoded = model(packed_of(9, 40, 1))
    assert encoded.hidden.shape == (50, 32) and encoded.pooled.isfinite().all()
    assert model.lm_transform(encoded.hidden).shape[1] == model.token_embeddings.shape[1]


def test_shapes_are_checked():
    for change, words in (
        ({"kind": "rnn"}, "bert, gpt"), ({"hidden": 30}, "multiple of heads=4"), ({"layers": 0}, "layers=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            Backbone.from_shape(Shape(**change), tokenizer())
    with pytest.raises(ConfigError, match="packing='tight'"):
        backbone(packing="tight")
    with pytest.raises(ConfigError, match="pooling='max'"):
        backbone(pooling="max")


# --- entities


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
        expected = gate * entities.table + (1 - gate) * texts_alone
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


def test_row_dropout_leaves_the_text_alone():
    sharing, entities = (
        Sharing(backbone(hidden=HIDDEN, layers=1), [ENTITIES]),
        encoder("hybrid", row_dropout=0.3, refresh=32),
    )
    entities.read_all(sharing)
    entities.train()
    rows = []
    for step in (0, 0, 1):
        refreshed(entities, sharing.eval(), None, step)
        rows.append(entities.all_rows().detach())
        entities.release()
    entities.eval()
    plain = entities.all_rows().detach()
    dropped = ((rows[0] - plain).abs().amax(1) > 1e-6).double().mean()
    assert dropped == pytest.approx(0.3, abs=0.05)
    torch.testing.assert_close(rows[0], rows[1])
    assert (rows[0] - rows[2]).abs().max() > 1e-3


def test_encoder_errors():
    with pytest.raises(ConfigError, match="table, text, hybrid"):
        encoder("words")
    for options, words in (
        ({"refresh": 0}, "refresh=0"),
        ({"row_dropout": 1.0}, "row_dropout"),
        ({"hidden": 0}, "backbone"),
    ):
        with pytest.raises(ConfigError, match=words):
            encoder("hybrid", **options)
    with pytest.raises(DataError, match="no texts of entities, which entities=text needs"):
        EntityEncoder("text", KnowledgeGraph.from_arrays([[0, 0, 1]]), None, score="complex", dim=4, hidden=8)
