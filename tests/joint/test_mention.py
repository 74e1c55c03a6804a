"""Mentions of entities in texts, and the bridge between them and the table of entities."""

import pytest
import torch
from joint_helpers import SMALL, joint_config, run_joint, write_towns
from joint_text_helpers import texts, tokenizer, world

from kgfast import multitask_loss
from kgfast.data import KnowledgeGraph
from kgfast.errors import DataError
from kgfast.joint.build import build_model
from kgfast.joint.text import mentions as finding
from kgfast.joint.text.corpus import Corpus
from kgfast.joint.text.language import read
from kgfast.joint.text.mentioned import anchors_of, mentioned
from kgfast.joint.text.mentions import Finder, find_mentions, longest, names_of

pytest.importorskip("transformers")
GPT = dict(kind="gpt", hidden=16, layers=1, heads=2, max_length=24)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = write_towns(tmp_path_factory.mktemp("data") / "towns", countries=5, towns=5)
    return KnowledgeGraph.load(folder, cache=False)


def test_names_are_found_whole_and_the_longest_counts():
    finder = Finder({"Guinea": 0, "Guinea-Bissau": 1, "New Guinea": 2, "Niger": 3, "東京": 4})
    text = "Guinea, New Guinea-Bissau and Nigeria; Niger's. 大東京市"
    found = [(text[start:stop], entity) for start, stop, entity in finder.all(text)]
    assert found == [("Guinea", 0), ("New Guinea", 2), ("Guinea", 0), ("Guinea-Bissau", 1), ("Niger", 3), ("東京", 4)]
    assert [text[start:stop] for start, stop, _ in longest(finder.all(text))] == [
        "Guinea",
        "New Guinea",
        "Niger",
        "東京",
    ]


def test_aliases_count_and_a_name_of_two_tells_neither(tmp_path):
    (tmp_path / "train.txt").write_text("a\tr\tb\nb\tr\tc\n")
    (tmp_path / "entity2text.txt").write_text("a\tSpringfield\nb\tSpringfield\nc\tParis\n")
    (tmp_path / "entity2alias.txt").write_text("c\tCity of Light\tLutetia\na\tThe First\nx\tNobody\n")
    graph = KnowledgeGraph.load(tmp_path, cache=False)
    names = {name: graph.entity_names[entity] for name, entity in names_of(graph).items()}
    assert names == {"The First": "a", "Paris": "c", "City of Light": "c", "Lutetia": "c"}


def test_mentions_of_much_text_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("KGFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(finding, "SMALLEST", 10)
    lines = ["Paris is the capital of France.", "nothing", "The Seine flows through Paris."]
    found = find_mentions(world(), lines)
    assert {world().entity_names[entity] for entity in found[:, 3]} == {"paris", "france", "seine"}
    (file,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(finding, "search", None)
        assert (find_mentions(world(), lines) == found).all()
    file.write_bytes(b"damaged")
    assert (find_mentions(world(), lines) == found).all()
    assert len(find_mentions(world(), [*lines, "Peru is far from Chile."])) == len(found) + 2


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_mentions_are_the_tokens_of_names(kind):
    corpus = Corpus.of_graph(world(), tokenizer(kind), mentions=True)
    plain = Corpus.of_graph(world(), tokenizer(kind))
    assert torch.equal(corpus.tokens, plain.tokens) and torch.equal(corpus.offsets, plain.offsets)
    assert len(corpus.mentions) > 5000
    assert bool((corpus.mentions[1:, 0] >= corpus.mentions[:-1, 1]).all())
    names = {entity: name for name, entity in names_of(world()).items()}
    for first, stop, entity in corpus.mentions[::500].tolist():
        written = tokenizer(kind).decode(corpus.tokens[first:stop])
        wanted = tokenizer(kind).decode(tokenizer(kind).encode([names[entity]])[0])
        assert written.strip() == wanted.strip()


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_what_enters_a_causal_model_depends_on_what_was_read(kind):
    """However a text goes on, what enters up to a token is the same: nothing is told of tokens that are asked for."""
    lines = ["Guinea is far.", "Guinea-Bissau is far.", "Papua New Guinea has a coast.", "Papua New York.", "Nigeria."]
    corpus = Corpus(tokenizer(kind), [[line] for line in lines], torch.zeros(len(lines)), world())
    bounds = corpus.offsets.tolist()
    texts_of = [list(zip(corpus.tokens[a:b].tolist(), corpus.entered[a:b].tolist(), strict=True)) for a, b in
                zip(bounds, bounds[1:], strict=False)]  # fmt: skip
    names = {world().entity_names[entity] for text in texts_of for _, entity in text if entity >= 0}
    assert {"guinea", "guinea_bissau", "papua_new_guinea"} <= names
    for one in texts_of:
        for other in texts_of:
            for length in range(1, min(len(one), len(other)) + 1):
                if [token for token, _ in one[:length]] == [token for token, _ in other[:length]]:
                    assert one[:length] == other[:length]


def with_mentions(kind):
    store = texts(kind)
    corpus = Corpus.of_graph(world(), store.tokenizer, held_out=0.1, mentions=True)
    made = type(store)(store.tokenizer, store.max_length)
    made.groups, made.corpus = store.groups, corpus
    return made


def test_mentions_in_a_pack_and_the_entities_beside_them():
    store = with_mentions("wordpiece")
    spans = store.corpus.spans("train", 46)[[5, 900, 40]]
    packed = read(store, spans)
    there = mentioned(store, packed, spans)
    assert len(there) > 5 and bool((there.text.diff() >= 0).all())
    names = {entity: name for name, entity in names_of(world()).items()}
    for first, stop, entity in zip(there.first.tolist(), there.stop.tolist(), there.entity.tolist(), strict=True):
        wanted = store.tokenizer.decode(store.tokenizer.encode([names[entity]])[0])
        assert store.tokenizer.decode(packed.tokens[first:stop]) == wanted
    before = anchors_of(there, torch.arange(len(there)), None).tolist()
    shown = torch.arange(len(there)) % 3 != 0
    asked = (~shown).nonzero()[:, 0]
    besides = dict(zip(asked.tolist(), anchors_of(there, asked, shown).tolist(), strict=True))
    text, entity = there.text.tolist(), there.entity.tolist()
    for place in range(len(there)):
        earlier = [entity[i] for i in range(place) if text[i] == text[place]]
        assert before[place] == ([earlier[0], earlier[-1]] if earlier else [-1, -1])
        if place in besides:
            seen = [i for i in range(len(there)) if text[i] == text[place] and shown[i]]
            last = [entity[i] for i in seen if i < place]
            first = entity[seen[0]] if seen else -1
            assert besides[place] == [first, last[-1] if last else first]
    some = there.first[::2] + 1
    kept = there.without(some)
    assert all(not ((some >= a) & (some < b)).any() for a, b in zip(kept.first, kept.stop, strict=True))
    assert len(kept) < len(there)


def model_of(graph, name, **settings):
    config = joint_config("unused", tasks=(name, "mention", "link"), **settings)
    return build_model(config, graph), config


@pytest.mark.parametrize(("name", "backbone"), [("mlm", SMALL["backbone"]), ("clm", GPT)])
def test_entities_enter_through_a_gate_that_begins_at_nothing(graph, name, backbone):
    model, _ = model_of(graph, name, backbone=backbone)
    model.eval()
    task = model.tasks[name]
    batch = task.batch(0)
    entered = batch.packed.entities
    assert bool((entered >= 0).any())
    if name == "mlm":  # no name with a hidden token is told
        assert bool((entered[batch.places] < 0).all())
        masked = model.tasks["mention"].batch(0)
        assert bool((masked.packed.tokens[masked.places] == model.tokenizer.mask).all())
        assert bool((masked.packed.entities[masked.places] < 0).all())
    with torch.no_grad():
        bare = model.backbone.backbones[0].states(read(model.texts, task.spans_of_step(0)))
        before = model.backbone.encode(batch.packed, name).hidden
        if name == "clm":
            torch.testing.assert_close(before, bare)
        model.tasks["mention"].inputs.gate.fill_(0.5)
        after = model.backbone.encode(batch.packed, name).hidden
    changed = ((after - before).abs().amax(1) > 1e-6).nonzero()[:, 0]
    assert int(changed[0]) >= int((entered >= 0).nonzero()[0]) if name == "clm" else len(changed)


@pytest.mark.parametrize(
    ("name", "backbone", "sharing"),
    [
        ("mlm", SMALL["backbone"], "hard"),
        ("clm", GPT, "soft"),
        ("clm", GPT, {"mode": "routed", "experts": 2, "top_k": 1}),
    ],
)
def test_texts_learn_the_table(graph, tmp_path, name, backbone, sharing):
    tasks = {name: {"batch_size": 8, "triples": 8}, "mention": {"batch_size": 8, "triples": 8}, "link": {}}
    metrics, _ = run_joint(joint_config(
        tmp_path / "run", tasks=tasks, steps=40, backbone=backbone, sharing=sharing, lr=5e-3, entities="hybrid",
    ), graph)  # fmt: skip
    facts = metrics["tasks"]["facts"]["test"]
    assert {"mrr", "mrr_table", "mrr_mixed"} <= set(facts)
    found = metrics["tasks"]["mention"]["test"]
    assert found["mrr"] > 2 * sum(1 / rank for rank in range(1, graph.num_entities + 1)) / graph.num_entities


@pytest.mark.parametrize("score", ["transe_l1", "rotate", "rescal"])
@pytest.mark.parametrize("reciprocal", [False, True])
def test_queries_of_any_score(graph, score, reciprocal):
    """A state that is sure of relation and subject asks what the score itself would ask."""
    config = joint_config("unused", tasks=("mlm", "mention"), model=score, reciprocal=reciprocal, dim=8)
    model = build_model(config, graph)
    task, relations = model.tasks["mention"], len(model.relations)
    query = task.query
    for part in (query.reads, query.gate):
        torch.nn.init.zeros_(part.weight)
    with torch.no_grad():
        query.reads.bias.zero_().view(-1, relations)[:, 1] = 100
        query.gate.bias.zero_()[1] = 100  # the first entity as head
        found = task.queries(model, torch.randn(2, 16), torch.tensor([[3, 5], [4, 4]]))
        expected = query.score.tail_query(model.entities.table[[3, 4]], model.relations[[1, 1]])
    torch.testing.assert_close(found, expected)
    assert len(query.makers) == (1 if reciprocal else 2)


def test_texts_teach_the_table_only_where_they_are_told_to(graph):
    for teach in (False, True):
        tasks = {"clm": {"batch_size": 8}, "mention": {"batch_size": 8, "teach": teach}}
        model = build_model(joint_config("unused", tasks=tasks, backbone=GPT), graph)
        model.train()
        torch.nn.init.ones_(model.tasks["mention"].inputs.gate)
        terms, _, _ = model({name: task.batch(0) for name, task in model.tasks.items()}, 0)
        multitask_loss(terms)[0].backward()
        for table in (model.entities.table, model.relations):
            assert (table.grad is not None and bool(table.grad.any())) == teach
        assert bool(model.tasks["mention"].query.reads.weight.grad.any())


def test_a_graph_that_no_text_names_is_refused(graph, tmp_path):
    (tmp_path / "train.txt").write_text("e1\tr\te2\ne2\tr\te3\n")
    (tmp_path / "entity2text.txt").write_text("".join(f"e{i}\tsame\n" for i in (1, 2, 3)))
    nameless = KnowledgeGraph.load(tmp_path, cache=False)
    with pytest.raises(DataError, match="task mention: no text names an entity"):
        model_of(nameless, "mlm")
