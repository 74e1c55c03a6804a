"""Tokenizers, packed texts, texts of a graph, and the corpus."""

import gzip
import json
import os

import pytest
import torch
from joint_helpers import joint_config
from joint_text_helpers import packed_of, texts, tokenizer, world

from kgfast.data import KnowledgeGraph
from kgfast.errors import CheckpointError, ConfigError, DataError, KgfastError
from kgfast.joint.build import build_tokenizer
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.text.corpus import Corpus, sentences, verbalise
from kgfast.joint.text.forms import spell
from kgfast.joint.text.store import TextStore, all_texts, entity_texts, graph_texts
from kgfast.joint.text.tokenizer import Tokenizer

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


SPECIAL_TOKENS = {
    "[" * 100_000: "cannot be read",
    "[1]": "must hold names and values, got a list",
    '{"mask_token": 3}': "mask_token must be a token, not 3",
    '{"mask_token": {"content": []}}': "mask_token must be a token",
    "\xff": "cannot be read",
}


@pytest.mark.parametrize("content", SPECIAL_TOKENS, ids=lambda content: content[:20])
def test_what_describes_no_special_tokens(tmp_path, content):
    tokenizer().save(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(content, "latin-1")
    with pytest.raises(CheckpointError, match=rf"special_tokens_map\.json: {SPECIAL_TOKENS[content]}"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "huge"])
def test_a_tokenizer_of_a_run_is_made_of_plain_files(tmp_path, name, kind):
    tokenizer().save(tmp_path)
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read: it (is a link|is no plain file|has 1,)"):
        Tokenizer.load(tmp_path, of_run=True)


def test_a_tokenizer_may_be_made_of_links_where_it_is_no_runs(tmp_path):
    made = tokenizer()
    (tmp_path / "blobs").mkdir()
    made.save(tmp_path / "blobs")
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert Tokenizer.load(tmp_path).fingerprint == made.fingerprint


def test_special_tokens_are_part_of_what_a_run_was_trained_with(tmp_path):
    made = tokenizer()
    made.save(tmp_path)
    path = tmp_path / "special_tokens_map.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token": "[SEP]"}))
    again = Tokenizer.load(tmp_path)
    again.check_fits(made.fingerprint, "an early run")  # which doesn't say what its special tokens were
    with pytest.raises(CheckpointError, match=r"special tokens: mask was '\[MASK\]' and is '\[SEP\]' now"):
        again.check_fits(made.fingerprint, "the run", made.roles)


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


def test_a_tokenizer_reads_files_of_a_corpus_as_the_corpus_does(tmp_path):
    """Packed ones too, and of what is no text the line is named."""
    lines = ["quixotic zebras", "quixotic zebras jump"] * 4
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    config = joint_config(tmp_path / "run", ("mlm",), corpus={"files": [str(tmp_path / "more.txt.gz")]})
    made = build_tokenizer(config, world(), None)
    assert made.decode(made.encode(["zebras"])[0]) == "zebras"
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"quixotic\nz\xe9bras"))
    with pytest.raises(DataError, match=r"more\.txt\.gz, line 2: not valid UTF-8"):
        build_tokenizer(config, world(), None)
