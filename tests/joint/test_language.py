"""Language tasks: each trains a little on the world graph's text and beats chance by the margin its test states."""

import dataclasses

import pytest
import torch
from joint_text_helpers import LENGTH, Tasks, dims, texts, tokenizer, world

from kgfast import Term, multitask_loss
from kgfast.errors import ConfigError, DataError
from kgfast.joint.tasks import Task, task_class
from kgfast.joint.tasks.clm import shift
from kgfast.joint.text.corpus import Corpus, verbalise
from kgfast.joint.text.language import read
from kgfast.joint.text.store import TextStore
from kgfast.testing import assert_no_worse

LANGUAGE = {"mlm": "bert", "nsp": "bert", "clm": "gpt", "contrast": "bert"}


def make(name, **options):
    kind = LANGUAGE[name]
    cls = task_class(name)
    store = texts("wordpiece" if kind == "bert" else "bpe")
    return cls(cls.Options(**options), world(), store, dims(kind), seed=0)


def unigram_perplexity(corpus, vocabulary):
    """Held-out perplexity of the train frequencies of tokens (plus one), which know no context."""
    split = torch.repeat_interleave(corpus.split[corpus.document], corpus.offsets.diff())
    counts = torch.bincount(corpus.tokens[split == 0].long(), minlength=vocabulary).double() + 1
    return float((-(counts / counts.sum()).log()[corpus.tokens[split == 2].long()]).mean().exp())


@pytest.mark.parametrize("name", LANGUAGE)
def test_batches_depend_on_seed_and_step_alone(name):
    task, again = make(name), make(name)
    for _ in range(2):
        again.batch(0)  # a task that was used before, in another order
    for step in (len(task) + 1, 3):
        first, second = task.batch(step), again.batch(step)
        for field in dataclasses.fields(first):
            one, other = getattr(first, field.name), getattr(second, field.name)
            flat = [
                [part for part in vars(x).values() if part is not None] if hasattr(x, "tokens") else [x]
                for x in (one, other)
            ]
            for left, right in zip(*flat, strict=True):
                assert (
                    all(map(torch.equal, left, right))
                    if isinstance(left, tuple)
                    else torch.equal(torch.as_tensor(left), torch.as_tensor(right))
                )
    assert not torch.equal(task.batch(0).packed.tokens, task.batch(1).packed.tokens)
    assert isinstance(task, Task)


@pytest.mark.parametrize("name", LANGUAGE)
def test_an_epoch_reads_every_example_once(name):
    task = make(name, batch_size=50)
    rows = torch.cat([task.schedule.rows(step) for step in range(len(task))])
    assert torch.equal(rows.sort().values, torch.arange(task.schedule.count))


def test_masked_tokens():
    task = make("mlm", batch_size=200)
    batch = task.batch(0)
    whole = read(task.texts, task.spans[task.schedule.rows(0)])
    changed = batch.packed.tokens != whole.tokens
    hidden = torch.zeros(len(changed), dtype=torch.bool).index_fill(0, batch.places, True)
    assert not (changed & ~hidden).any()
    assert torch.equal(whole.tokens[batch.places], batch.targets)
    ordinary = task.ordinary(whole.tokens)
    assert ordinary[batch.places].all()
    assert hidden.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.02)
    shown = batch.packed.tokens[batch.places]
    assert (shown == tokenizer().mask).double().mean() == pytest.approx(0.8, abs=0.05)
    assert (shown == batch.targets).double().mean() == pytest.approx(0.1, abs=0.04)


def test_the_step_of_a_short_text_hides_a_token():
    task = make("mlm", batch_size=1, mask=0.001)
    assert all(len(task.batch(step).places) >= 1 for step in range(20))


def test_causal_targets_are_the_tokens_behind():
    store = texts("bpe")
    packed = store.packed("entity", torch.arange(5))
    batch = shift(packed, store.tokenizer)
    assert len(batch.places) == len(packed.tokens) - 5
    text = packed.select(torch.tensor([0])).tokens
    assert torch.equal(packed.tokens[batch.places[: len(text) - 1]], text[:-1])
    assert torch.equal(batch.targets[: len(text) - 1], text[1:])
    assert batch.targets[len(text) - 2] == tokenizer("bpe").end


def test_next_sentences_are_next_or_of_another_document():
    task = make("nsp", batch_size=400)
    firsts = task.firsts[task.schedule.rows(0)]
    batch = task.batch(0)
    assert batch.targets.double().mean() == pytest.approx(0.5, abs=0.1)
    corpus, end = task.corpus, tokenizer().end
    known = {tuple(sentence(corpus, i)): [] for i in range(len(corpus))}
    for i in range(len(corpus)):
        known[tuple(sentence(corpus, i))].append(int(corpus.document[i]))
    for place in range(0, len(firsts), 7):
        tokens = batch.packed.select(torch.tensor([place])).tokens.tolist()
        cut = tokens.index(end)
        first, second = tokens[1:cut], tokens[cut + 1 : -1]
        if len(tokens) == LENGTH:  # cut to fit
            continue
        assert first == sentence(corpus, int(firsts[place]))
        if batch.targets[place]:
            assert second == sentence(corpus, int(firsts[place]) + 1)
        else:
            assert set(known[tuple(second)]) - {int(corpus.document[firsts[place]])}
    assert len(batch.halves) == 2 * len(firsts) + 1


def sentence(corpus, index):
    return corpus.tokens[int(corpus.offsets[index]) : int(corpus.offsets[index + 1])].tolist()


@pytest.mark.slow
def test_masked_language_model_beats_word_frequencies():
    """250 steps: held-out perplexity at most 0.9 of that of word frequencies, which is about 250."""
    store = texts(triples=False)
    model = Tasks(["mlm"], store, options={"mlm": {"mask": 0.25}}, hidden=32)
    model.fit(250, 6e-3)
    assert model.metrics("mlm")["perplexity"] < 0.9 * unigram_perplexity(store.corpus, len(tokenizer()))


def test_causal_language_model_beats_word_frequencies():
    """60 steps: held-out perplexity at most half of that of word frequencies."""
    model = Tasks(["clm"], texts("bpe"), kind="gpt")
    before = model.metrics("clm")["perplexity"]
    model.fit(60, 4e-3)
    after = model.metrics("clm")
    assert after["perplexity"] < 0.5 * unigram_perplexity(texts("bpe").corpus, len(tokenizer("bpe")))
    assert before > len(tokenizer("bpe")) / 2 and after["tokens"] > 1000


def facts_store():
    """Every country's triples in words, a document each; a fifth of the countries held out."""
    graph = world()
    documents = {}
    for head, words in zip(graph.train[:, 0].tolist(), verbalise(graph, graph.train), strict=True):
        documents.setdefault(head, []).append(words)
    documents = [document for document in documents.values() if len(document) > 1]
    store = TextStore.of_graph(graph, tokenizer(), LENGTH)
    store.corpus = Corpus(tokenizer(), documents, torch.where(torch.arange(len(documents)) % 5 > 0, 0, 2))
    return store


@pytest.mark.slow
def test_next_sentence_prediction_beats_chance():
    """300 steps: 65 % of held-out pairs, where chance is 50 % and its deviation 2 %."""
    model = Tasks(["nsp"], facts_store(), hidden=32)
    model.fit(300, 4e-3)
    found = model.metrics("nsp")
    assert found["pairs"] > 400 and found["accuracy"] > 0.65


@pytest.mark.slow
def test_contrast_of_texts_beats_chance():
    """60 steps: filtered MRR at least 4 times that of a random order of 1,126 entities (0.007)."""
    model = Tasks(["contrast"], texts(), options={"contrast": {"batch_size": 32, "evaluate_triples": 200}})
    model.fit(60, 3e-3)
    count = world().num_entities
    chance = sum(1 / rank for rank in range(1, count + 1)) / count
    assert model.metrics("contrast")["mrr"] > 4 * chance


def test_contrast_leaves_out_known_answers():
    task = make("contrast", batch_size=64)
    batch = task.batch(0)
    triples = task.triples[task.schedule.rows(0)]
    train = {tuple(row) for row in world().train.tolist()}
    offsets, places = batch.known
    for row in range(0, batch.queries, 5):
        head, relation, tail = triples[row % len(triples)].tolist()
        found = set(batch.tails[places[offsets[row] : offsets[row + 1]]].tolist())
        asked = (lambda e: (head, relation, e)) if row < len(triples) else (lambda e: (e, relation, tail))  # noqa: B023
        assert found == {entity for entity in batch.tails.tolist() if asked(entity) in train}
        assert int(batch.tails[batch.targets[row]]) == (tail if row < len(triples) else head)


@pytest.mark.parametrize("several", [False, True], ids=["one answer", "several"])
@pytest.mark.parametrize("biased", [False, True], ids=["", "bias"])
def test_known_answers_do_not_compete(several, biased):
    """`Term.known` in the compiled path: values and gradients of the reference in float64, float32 no worse."""
    draws = torch.Generator().manual_seed(0)
    query, table = (torch.randn(shape, generator=draws, dtype=torch.float64) for shape in ((7, 5), (11, 5)))
    bias = torch.randn(11, generator=draws, dtype=torch.float64) if biased else None
    targets = torch.tensor([1, 2, -100, 4, 5, 6, 0])
    if several:
        targets = (torch.tensor([0, 1, 3, 3, 4, 5, 6, 8]), torch.tensor([1, 2, 7, 3, 9, 9, 1, 0]))
    known = (torch.tensor([0, 2, 2, 5, 6, 6, 7, 9]), torch.tensor([1, 3, 3, 4, 5, 10, 2, 0, 1]))

    def run(dtype, impl):
        parts = [one.to(dtype).requires_grad_() for one in (query, table, *([bias] if biased else []))]
        term = Term(*parts[:2], targets, bias=parts[2] if biased else None, known=known)
        loss, _ = multitask_loss([term], impl=impl)
        return [loss.detach(), *torch.autograd.grad(3 * loss, parts)]

    exact = run(torch.float64, "reference")
    for found, wanted in zip(run(torch.float64, None), exact, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    for found, plain, wanted in zip(run(torch.float32, None), run(torch.float32, "reference"), exact, strict=True):
        assert_no_worse(found, plain, wanted)


def test_errors():
    def build(name, store, kind="bert"):
        cls = task_class(name)
        return cls(cls.Options(), world(), store, dims(kind), 0)

    bare = TextStore.of_graph(world(), tokenizer(), LENGTH)
    for name in ("mlm", "nsp"):
        with pytest.raises(DataError, match=f"task {name} needs a corpus"):
            build(name, bare)
        with pytest.raises(ConfigError, match="BERT-like"):
            build(name, texts(), "gpt")
    with pytest.raises(ConfigError, match="GPT-like"):
        build("clm", texts())
    with pytest.raises(DataError, match="texts of entities"):
        build("contrast", None)
    with pytest.raises(ConfigError, match="no task 'mml'; there are .*mlm"):
        task_class("mml")
    lonely = TextStore.of_graph(world(), tokenizer(), LENGTH)
    lonely.corpus = Corpus(tokenizer(), [["One sentence."]], torch.zeros(1, dtype=torch.int64))
    with pytest.raises(DataError, match="two sentences"):
        build("nsp", lonely)
    with pytest.raises(DataError, match="no examples"):
        task = Corpus(tokenizer(), [["One sentence."]], torch.ones(1, dtype=torch.int64))
        lonely.corpus = task
        build("mlm", lonely)
