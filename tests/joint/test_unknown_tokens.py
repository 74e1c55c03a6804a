"""Texts that a tokenizer can't read, and texts that spell special tokens."""

import pytest
import torch
from joint_helpers import joint_config, run_joint, write_towns
from joint_text_helpers import LENGTH, Tasks, dims, tokenizer, world

from kgfast.data import KnowledgeGraph
from kgfast.errors import DataError
from kgfast.joint.tasks import task_class
from kgfast.joint.text.corpus import Corpus
from kgfast.joint.text.language import read
from kgfast.joint.text.store import TextStore
from kgfast.joint.text.tokenizer import Tokenizer

GREEK = "αβγδεζηθικλμνξοπρστυφχψω"


def store_of(documents, tokens, split=None):
    """A text store whose corpus is these documents, the last third of them held out unless `split` says otherwise."""
    store = TextStore.of_graph(world(), tokens, LENGTH)
    places = torch.arange(len(documents))
    store.corpus = Corpus(tokens, documents, torch.where(places % 3 < 2, 0, 2) if split is None else split)
    return store


def mixed(count=30):
    """Every second word is of letters that the tokenizer never saw; some documents have no other."""
    words = ["oslo", "river", "city", "mountain", "the capital", "people"]
    strange = [GREEK[i : i + 5] for i in range(0, 20, 3)]
    documents = [[" ".join(f"{words[(i + j) % 6]} {strange[(i * j) % 7]}" for j in range(6))] for i in range(count)]
    return [*documents, [f"{GREEK[:4]} {GREEK[5:9]}"], [GREEK], [f"{GREEK[::-1]} {GREEK}"]]


def unknown_bpe():
    """A byte-pair tokenizer of letters, not bytes, with a token for those that it does not know."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<what>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<what>", "<s>", "</s>", "<pad>"], show_progress=False
    )
    made.train_from_iterator(["oslo river city mountain the capital people"] * 5, trainer)
    return Tokenizer(made)


# --- no target, and told


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_unknown_tokens_are_no_targets(name):
    tokens = tokenizer() if name == "mlm" else unknown_bpe()
    assert tokens.unknown is not None
    store = store_of(mixed(), tokens)
    cls = task_class(name)
    task = cls(cls.Options(batch_size=1), world(), store, dims("bert" if name == "mlm" else "gpt"), seed=0)
    spans = task.spans_of("train")
    assert 0 < len(task.spans) < len(spans), "a text of nothing but [UNK] is no example"
    for step in range(2 * len(task)):
        batch = task.batch(step)
        assert len(batch.targets) and (batch.targets != tokens.unknown).all()
    held_out = task.spans_of("test")
    asked = torch.cat([batch.targets for batch in task.all_tokens(held_out, "test")])
    whole = read(store, held_out).tokens
    known = ~torch.isin(whole, torch.tensor([tokens.unknown, tokens.begin, tokens.end]))
    assert not (asked == tokens.unknown).any()
    assert len(asked) == int(known.sum()) + (len(held_out) if name == "clm" else 0), "every other token, and ends"


def test_the_share_of_unknown_tokens_is_beside_perplexity():
    store = store_of(mixed(), tokenizer())
    model = Tasks(["mlm"], store, hidden=16)
    found = model.metrics("mlm")
    inside = torch.cat([store.corpus.tokens[start:stop] for start, stop in model.tasks["mlm"].spans_of("test")])
    unknown = inside == tokenizer().unknown
    assert found["unknown"] == pytest.approx(float(unknown.double().mean())) and 0.2 < found["unknown"] < 0.8
    assert found["tokens"] == int((~unknown).sum())
    assert store.unknown_shares()["corpus"] > 0.2 and store.unknown_shares()["relation"] == 0


def test_unknown_tokens_do_not_flatter():
    """A model that is sure of [UNK] gains nothing by it: perplexity is that of the words it does not know."""
    store = store_of(mixed(), tokenizer())
    model = Tasks(["mlm"], store, hidden=16)
    before = model.metrics("mlm")["perplexity"]
    with torch.no_grad():
        model.backbone.backbones[0].lm_bias[tokenizer().unknown] += 8
    assert model.metrics("mlm")["perplexity"] > 2 * before


def test_a_held_out_text_without_a_known_token():
    documents = [["oslo is a city"], ["the river"], [GREEK]]
    found = Tasks(["mlm"], store_of(documents, tokenizer()), hidden=16).metrics("mlm")
    assert found["tokens"] == 0 and found["unknown"] == 1 and found["perplexity"] != found["perplexity"]


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_nothing_but_unknown_tokens_is_refused(name):
    tokens = tokenizer() if name == "mlm" else unknown_bpe()
    store = store_of([[GREEK], [GREEK[3:9]], [GREEK]], tokens)
    cls = task_class(name)
    with pytest.raises(DataError, match=rf"task {name}: 100 % of the training text's tokens are \[UNK\]"):
        cls(cls.Options(), world(), store, dims("bert" if name == "mlm" else "gpt"), 0)


def test_a_tokenizer_that_does_not_fit_is_told_when_training_starts(tmp_path):
    graph = KnowledgeGraph.load(write_towns(tmp_path / "towns", countries=4, towns=4), cache=False)
    Tokenizer.train([f"{GREEK} a town is red. {GREEK}"] * 5, vocabulary=300).save(tmp_path)
    config = joint_config(tmp_path / "run", ("mlm", "link"), tokenizer={"path": str(tmp_path)})
    metrics, said = run_joint(config, graph)
    lines = " ".join(said.split())
    assert "warning: tokens are [UNK]: " in lines and "% of corpus" in lines and "does not fit the language" in lines
    assert 0.3 < metrics["tasks"]["mlm"]["test"]["unknown"] < 1
    _, said = run_joint(joint_config(tmp_path / "own", ("mlm", "link")), graph)
    assert "UNK" not in said, "the tokenizer of the data set's own texts"


def test_the_role_of_the_unknown_token_is_what_the_model_gives():
    import tokenizers

    assert unknown_bpe().roles["unknown"] == "<what>"
    assert tokenizer("bpe").unknown is not None, "there is a token of the name, though bytes need none"
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.add_special_tokens(["<|endoftext|>"])
    assert Tokenizer(made, {"unknown": "<|endoftext|>"}).unknown is None, "the end of a text is a target"


# --- special tokens that a text spells


def word_level():
    """Its words are what stands between spaces, and special tokens are among them."""
    import tokenizers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "§"]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(dict(zip(words, range(8), strict=True)), unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([*words[:5], "§"])
    return Tokenizer(made)


def unigram():
    """Pieces as XLM-R's: special tokens are pieces like others, and the cheapest."""
    import tokenizers

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz<>/"]
    scores = [0.0] * 5 + [-3.0] * (len(pieces) - 5)
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=3))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.add_special_tokens(pieces[:5])
    return Tokenizer(made)


@pytest.mark.parametrize(
    "make", [tokenizer, lambda: tokenizer("bpe"), word_level, unigram], ids=["wordpiece", "bpe", "words", "unigram"]
)
def test_special_tokens_in_a_text_are_text(make):
    tokens = make()
    special = {tokens.pad, tokens.begin, tokens.end, tokens.mask}
    names = [tokens.roles[role] for role in ("pad", "begin", "end", "mask")]
    lines = [*names, " ".join(names), "".join(names * 3), f"a {names[3]} b{names[2]}", f"({names[0]})", "a b", ""]
    found, offsets = tokens.encode(lines)
    assert not special & set(found.tolist())
    lengths = offsets.diff().tolist()
    assert min(lengths[:-1]) > 0 and lengths[-1] == 0
    alone, _ = tokens.encode(["a b"])
    assert torch.equal(found[offsets[-3] : offsets[-2]], alone), "other texts are as they were"
    packed = TextStore(tokens, 32).pack(lines)
    for place in range(len(packed)):
        text = packed.select(torch.tensor([place])).tokens.tolist()
        assert [token for token in text if token in special] == [tokens.begin, tokens.end]


def test_a_special_token_of_one_character_is_left_out():
    tokens = word_level()
    assert tokens.encode(["a § b §"])[0].tolist() == tokens.encode(["a b"])[0].tolist()


def test_many_special_tokens_in_a_text_are_no_deep_recursion():
    found, _ = unigram().encode(["<s> " * 5000])
    assert len(found) > 15000 and not set(found.tolist()) & {0, 1, 2, 4}


# --- no more tokens than asked for


@pytest.mark.parametrize(("letters", "vocabulary"), [(147, 300), (148, 300), (220, 301), (900, 1000)])
def test_a_vocabulary_has_at_most_the_tokens_asked_for(letters, vocabulary):
    """Where letters are too many, the rarest are unknown, the same ones every time."""
    draws = torch.Generator().manual_seed(letters)
    alphabet = [chr(0x0E01 + i) if i < 40 else chr(0xAC00 + 7 * i) for i in range(letters)]
    often = [alphabet[i] for i in torch.randint(40, (400,), generator=draws)]
    lines = ["".join(often[i : i + 8]) for i in range(0, 400, 8)] * 3 + ["".join(alphabet)]
    first, second = (Tokenizer.train(lines, vocabulary=vocabulary) for _ in range(2))
    assert len(first) <= vocabulary and first.fingerprint == second.fingerprint
    shown, _ = first.encode([" ".join(sorted(set(often)))])
    assert first.unknown not in shown.tolist(), "frequent letters are kept"
