"""Question answering: question sets, what is read from a question, both heads and their gate, and asking by name."""

import functools
import os
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kgfast import ConfigError, DataError, KnowledgeGraph, multitask_loss
from kgfast.data.names import tidy
from kgfast.joint.ask import ask
from kgfast.joint.build import load_graph
from kgfast.joint.config import JointConfig
from kgfast.joint.model.backbone import Backbone, Shape
from kgfast.joint.model.encoders import EntityEncoder
from kgfast.joint.model.sharing import make_sharing
from kgfast.joint.predict import predict_for_text
from kgfast.joint.tasks import ModelDims, task_class
from kgfast.joint.tasks.qa import answering
from kgfast.joint.tasks.qa.answering import Gate, answer_metrics, look
from kgfast.joint.tasks.qa.linking import MENTION, Linker, names_of
from kgfast.joint.tasks.qa.questions import Questions, with_fewer_triples, with_questions, without_mention
from kgfast.joint.text.store import TextStore, all_texts, graph_texts
from kgfast.joint.text.tokenizer import Tokenizer
from kgfast.reference import SCORES

SHAPE = Shape(hidden=64, layers=2, heads=4, max_length=64, dropout=0.0)


@functools.cache
def world():
    return KnowledgeGraph.load("world")


@functools.cache
def texts():
    return TextStore.of_graph(world(), Tokenizer.train(all_texts(graph_texts(world())), vocabulary=1500))


FAMILY = "ann\tparents\tbob\nbob\tspouse\tcat\nbob\tborn\trome\ncat\tborn\toslo\neve\tborn\toslo\n"
QUESTIONS = (
    "where is ann 's father born ?\tann\trome\nwhere is Bob born?\tbob\trome\nwho is born with eve\teve\tcat|ann\n"
)


@pytest.fixture
def family(tmp_path):
    (tmp_path / "train.txt").write_text(FAMILY)
    (tmp_path / "qa_train.txt").write_text(QUESTIONS)
    (tmp_path / "other_train.txt").write_text(QUESTIONS.splitlines()[0] + "\n")
    return KnowledgeGraph.load(tmp_path, cache=False), tmp_path


def test_a_question_set(family):
    graph, _ = family
    questions = Questions.of(graph, "train")
    assert questions.texts == ["where is this 's father born ?", "where is this born?", "who is born with this"]
    assert [graph.entity_names[topic] for topic in questions.topics] == ["ann", "bob", "eve"]
    offsets, answers = questions.answers_of(torch.tensor([2, 0]))
    assert offsets.tolist() == [0, 2, 3]
    assert [graph.entity_names[answer] for answer in answers] == ["ann", "cat", "rome"]
    assert questions.hops.tolist() == [2, 1, 2]  # eve, oslo, cat
    assert Questions.of(graph, "train", max_hops=1).hops.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match=r"no test questions \(qa_test.txt\); it has: train"):
        Questions.of(graph, "test")


def test_a_mention_is_a_whole_word_in_any_case():
    assert without_mention("Is Rome in ROMEO?", ["rome"]) == "Is this in ROMEO?"
    assert without_mention("no mention", ["rome"]) == "no mention"
    assert {"New York City", "new_york_city", "NYC"} < names_of(world(), world().entity_id("new_york_city"))


@pytest.mark.parametrize(
    "name",
    ["[REC]", "(500) Days of Summer", "$9.99", "...And Justice", "Yahoo!", "C++", "'71", "*batteries not included",
     "!!!", "\u00a1Three Amigos!", "M*A*S*H", "#Horror", "8\u00bd", "\u6771\u4eac", "Z\u00fcrich"],
)  # fmt: skip
def test_topics_in_every_writing(name):
    graph = KnowledgeGraph.from_arrays([[0, 0, 1], [1, 0, 2]], entity_names=["Days", name, "other"])
    other_form = unicodedata.normalize("NFD", name)
    wordings = [
        f"who acted in {name}",
        name,
        f"is {name}, or not?",
        f"who, in {name.upper()}?",
        f"a\u200b \u00a0{name} b",
    ]
    for question in (*wordings, f"in {other_form}?", f"in  {name.replace(' ', '  ')}?"):
        assert [one.entities for one in Linker(graph).exact(tidy(question))] == [(1,)], question
        assert MENTION in without_mention(question, list(names_of(graph, 1)))
    assert not Linker(graph).exact("Monday's others")


def test_other_questions_and_fewer_triples(family):
    graph, folder = family
    changed = with_questions(graph, folder, "other")
    assert "other_train.txt" in graph.report.unread and "other_train.txt" not in changed.report.unread
    assert changed.report.questions["train"]["read"] == 1
    assert len(with_questions(graph, folder, "other").questions["train"]) == 1
    assert len(graph.questions["train"]) == 3
    both = with_questions(graph, folder, "qa, other")
    assert len(both.questions["train"]) == both.report.questions["train"]["read"] == 4
    assert both.report.questions["train"]["file"] == "qa_train.txt, other_train.txt"
    with pytest.raises(DataError, match="no file .*third_train.txt"):
        with_questions(graph, folder, "third")
    fewer = with_fewer_triples(graph, 0.6, seed=1)
    assert len(fewer.train) == 3 and fewer.num_entities == graph.num_entities
    assert torch.equal(fewer.train, with_fewer_triples(graph, 0.6, seed=1).train)
    with pytest.raises(DataError, match="share=0"):
        with_fewer_triples(graph, 0)


def test_a_run_is_told_which_questions_and_how_many_triples(family):
    _, folder = family
    told = JointConfig(data=str(folder), tasks={"qa": {}}, questions="other", triples=0.6)
    graph = load_graph(told)
    assert len(graph.questions["train"]) == 1 and len(graph.train) == 3
    assert torch.equal(graph.train, load_graph(told.replace(seed=5)).train), "the same for each seed"
    whole = load_graph(told.replace(questions="qa", triples=1.0))
    assert len(whole.questions["train"]) == 3 and len(whole.train) == 5
    with pytest.raises(DataError, match="no file .*third_train.txt"):
        load_graph(told.replace(questions="third"))
    with pytest.raises(ConfigError, match="triples"):
        told.replace(triples=0)


def test_tokens_are_looked_at_within_their_text():
    hidden, looks = torch.randn(7, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    offsets = torch.tensor([0, 2, 7])
    for text, (first, last) in enumerate(((0, 2), (2, 7))):
        part = hidden[first:last]
        expected = (looks @ part.t() / 8**0.5).softmax(1) @ part
        torch.testing.assert_close(look(hidden, offsets, looks)[text], expected, rtol=1e-10, atol=1e-12)


def test_hits_and_f1():
    probabilities = torch.tensor([[0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.0, 0.0, 0.0]])
    hits, f1 = answer_metrics(probabilities, torch.tensor([0, 2, 3, 4]), torch.tensor([0, 1, 0, 0]))
    assert hits.tolist() == [1, 0, 0]
    assert f1.tolist() == [1, 0, 0]


def test_the_gate_sums_logarithms():
    gate = Gate().double()
    following, embedding = (torch.rand(6, 4, dtype=torch.float64).softmax(0) for _ in range(2))
    found = gate(following, embedding.t().log(), torch.tensor([0.0, 0.2, 0.9, 1.0]))
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4, dtype=torch.float64))
    alpha, beta = nn.functional.softplus(gate.levels)
    expected = alpha * (following.t() + answering.FLOOR / 6).log() + beta * embedding.t().log()
    torch.testing.assert_close(found, expected.log_softmax(1))


class Model(nn.Module):
    """The parts of a joint model that questions and links see."""

    def __init__(self, graph, store, score="complex", dim=32, entities="table", seed=0, names=("qa",), **options):
        super().__init__()
        torch.manual_seed(seed)
        self.graph, self.texts, self.score = graph, store, score
        bare = Backbone.from_shape(SHAPE, store.tokenizer, seed=seed)
        self.backbone = make_sharing("hard", bare, ["qa", "entities"])
        self.entities = EntityEncoder(
            entities, graph, store, score=score, dim=dim, hidden=bare.hidden, seed=seed, init_scale=0.3
        )
        width, count = SCORES[score].relation_width(dim), graph.num_relations
        self.relations = nn.Parameter(torch.randn(2 * count, width) * 0.1)
        dims = ModelDims(bare.hidden, dim, score, width, graph.num_entities, count, len(store.tokenizer))
        self.tasks = nn.ModuleDict()
        for name in names:
            made = task_class(name)
            self.tasks[name] = made(made.Options(**options.get(name, {})), graph, store, dims, seed)

    def both_relations(self):
        return self.relations, None

    def terms(self, step):
        terms = []
        for name, task in self.tasks.items():
            batch = task.batch(step)
            packed = task.requests(batch)
            terms += task.terms(self, batch, None if packed is None else self.backbone.encode(packed, name))
        return terms

    def fit(self, steps, lr=3e-3):
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        self.train()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1, (step + 1) / 10) * (1 - step / steps)
            total, _ = multitask_loss(self.terms(step))
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()
        self.eval()
        return self


def world_model(**settings):
    return Model(world(), texts(), **settings)


@functools.cache
def trained():
    options = dict(qa={"batch_size": 48, "max_hops": 2, "n3": 0.003}, link={"batch_size": 64})
    return world_model(names=("qa", "link"), **options).fit(80, lr=2e-2)


@pytest.mark.slow
def test_questions_about_the_world_are_learned():
    model = trained()
    with torch.no_grad():
        result = model.tasks["qa"].evaluate(model, "test")
    assert result["hits@1"] > 0.4  # one of 1,126 entities: chance is 0.001
    assert result["heads"]["following"]["hits@1"] > 0.4
    assert result["heads"]["embedding"]["hits@1"] > 0.05
    assert set(result["heads"]) == {"known", "following", "embedding", "together"}
    assert result["asked"]["hits@1"] > result["heads"]["known"]["hits@1"]  # along held-out facts too
    counts = {hops: row["questions"] for hops, row in result["hops"].items()}
    assert sum(counts.values()) == result["questions"] == len(world().questions["test"]) and len(counts) > 1


@pytest.mark.slow
def test_ask_names_answers_and_their_support():
    found = ask(trained(), "What is the capital of Egypt?", k=3)
    assert found["topic"] == "egypt"
    best = found["answers"][0]
    assert [answer["rank"] for answer in found["answers"]] == [1, 2, 3]
    assert best["name"] == "cairo"
    assert best["support"][0] == {
        "head": "Egypt", "relation": "has the capital", "tail": "Cairo", "known": True, "split": "train", "share": 1.0
    }  # fmt: skip
    assert found["answers"] == ask(trained(), "what is the capital of this?", topic="egypt", k=3)["answers"]
    with pytest.raises(DataError, match="no entity is named 'egyptt'; did you mean 'egypt'"):
        ask(trained(), "what is the capital?", topic="egyptt")
    for empty in ("", " \t", "\u200b"):
        with pytest.raises(DataError, match="is empty"):
            ask(trained(), empty, topic="egypt")
    with pytest.raises(ConfigError, match="k=0"):
        ask(trained(), "What is the capital of Egypt?", k=0)


def test_the_question_that_the_readme_shows():
    found = ask(trained(), "What is officially spoken in the country governed from Belgrade?", k=1)
    assert found["topic"] == "belgrade" and found["answers"][0]["label"] == "Serbian"
    steps = [(step["head"], step["relation"], step["tail"]) for step in found["answers"][0]["support"]]
    assert steps == [("Serbia", "has the capital", "Belgrade"), ("Serbia", "has the official language", "Serbian")]


def test_the_walk_leaves_the_rows_alone_and_the_gate_moves_alone():
    model = world_model(qa={"batch_size": 256, "evidence": 0.7})
    terms = {term.name: term for term in model.terms(0)}
    assert set(terms) == {"qa/following", "qa/embedding", "qa/n3", "qa/evidence", "qa/gate"}
    table, task = model.entities.table, model.tasks["qa"]
    for name, rows, relations, gate in (
        ("qa/following", False, False, False),
        ("qa/embedding", True, False, False),
        ("qa/evidence", True, True, False),
        ("qa/gate", False, False, True),
    ):
        loss, _ = multitask_loss([terms[name]])
        of_rows, of_relations, of_gate, of_reader = torch.autograd.grad(
            loss, [table, model.relations, task.gate.levels, task.reader.hops.weight], allow_unused=True
        )
        assert (of_rows is not None and bool(of_rows.any())) == rows
        assert (of_relations is not None and bool(of_relations.any())) == relations
        assert (of_gate is not None and bool(of_gate.any())) == gate
        assert (of_reader is not None and bool(of_reader.any())) == (name == "qa/following")
    held, batch = task.held_out, task.batch(0)
    assert len(terms["qa/gate"].losses) == int(held[batch.topics].sum()) > 0
    taught = int((~held[batch.topics]).sum())
    assert len(terms["qa/embedding"].query) == len(terms["qa/evidence"].losses) == taught
    assert terms["qa/evidence"].weight == 0.7


def test_half_precision_ends_where_the_walk_begins():
    model = world_model(names=("qa", "link"), qa={"batch_size": 16, "dropout": 0.0}, link={"batch_size": 16})
    whole, _ = multitask_loss(model.terms(0))
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = multitask_loss(model.terms(0))
    total.backward()
    torch.testing.assert_close(total, whole, rtol=0.02, atol=0)
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("score", ["transe_l1", "distmult", "rotate", "cp"])
@pytest.mark.parametrize("heads", [("embedding",), ("following",)], ids=lambda heads: heads[0])
def test_each_head_learns_alone_with_every_score(score, heads):
    model = world_model(score=score, dim=16, qa={"heads": heads, "batch_size": 64, "max_hops": 2})
    before, _ = multitask_loss(model.terms(0)[:1])
    model.fit(15, lr=1e-2)
    after, _ = multitask_loss(model.terms(0)[:1])
    assert after < before - 0.02
    with torch.no_grad():
        assert heads[0] in model.tasks["qa"].evaluate(model, "valid")["heads"]


@pytest.mark.slow
def test_an_entity_of_which_there_is_only_a_text():
    model = world_model(entities="text", dim=16)
    model.entities.read_all(model.backbone)
    text = "A landlocked country in Africa."
    for empty in ("", "  ", "\t\n", "\u00a0", "\u200b"):
        with pytest.raises(DataError, match="is empty: the tokenizer finds no token in it"):
            predict_for_text(model, empty, "continent")
    for side in ("tail", "head"):
        found = predict_for_text(model, text, "continent", k=4, side=side)
        assert [row["rank"] for row in found] == [1, 2, 3, 4]
        assert found[0]["score"] >= found[3]["score"]
    with pytest.raises(ConfigError, match="entities=table"):
        predict_for_text(trained(), text, "continent")
    with pytest.raises(ConfigError, match="without the task qa"):
        ask(SimpleNamespace(tasks={}), "what?")


def data_folder(name):
    root = Path(os.environ.get("KGFAST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"no {root / name}: set KGFAST_DATA to a folder that holds {name}")
    return root / name


@pytest.mark.slow
def test_paths_that_training_never_saw_are_followed():
    graph = KnowledgeGraph.load(data_folder("pathquestion-2h"), cache=False)
    store = TextStore(Tokenizer.train(all_texts(graph_texts(graph)), vocabulary=1500))
    model = Model(graph, store, qa={"heads": ("following",), "max_hops": 2, "predicted": 0}).fit(80, lr=5e-3)
    with torch.no_grad():
        result = model.tasks["qa"].evaluate(model, "test")
    assert result["hits@1"] > 0.8  # one of 1,069 entities


def test_a_batch_of_one_question_has_all_terms():
    model = world_model(qa={"batch_size": 1})
    held = model.tasks["qa"].held_out
    seen = set()
    for step in range(200):
        is_held = bool(held[model.tasks["qa"].batch(step).topics])
        if is_held in seen:
            continue
        seen.add(is_held)
        terms = model.terms(step)
        total, each = multitask_loss(terms)
        total.backward()
        assert [term.name for term in terms] == ["qa/following", "qa/embedding", "qa/n3", "qa/gate"]
        assert bool(total.isfinite()) and [float(loss) > 0 for loss in each.detach()] == [
            True,
            not is_held,
            not is_held,
            is_held,
        ]
    assert seen == {True, False}
