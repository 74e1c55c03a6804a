"""Facts asked of the language model: how triples are said, who competes, and scores against texts read one by one."""

import math

import pytest
import torch
from joint_helpers import joint_config, run_joint, write_towns
from joint_text_helpers import Tasks, texts, world

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint.fact_scores import FactScorer
from kgfast.joint.facts import FEWEST, OTHERS, Facts, evaluate_facts
from kgfast.joint.model.packed import Packed
from kgfast.joint.text.forms import Forms
from kgfast.joint.text.ngrams import DISCOUNT, NGrams

SPEAKS = [("anna", "Danish"), ("bert", "Czech"), ("carl", "Greek"), ("dora", "Irish"), ("emil", "Welsh")]


def speakers(folder, template=None):
    folder.mkdir()
    train = [(name, "speaks", language) for name, language in SPEAKS] + [("anna", "knows", "bert")]
    (folder / "train.txt").write_text("".join("\t".join(row) + "\n" for row in train))
    (folder / "test.txt").write_text("anna\tspeaks\tCzech\nbert\tknows\tcarl\n")
    if template is not None:
        (folder / "relation2template.txt").write_text(f"speaks\t{template}\n")
    return KnowledgeGraph.load(folder, cache=False)


def test_triples_are_said_by_template_or_side_by_side(tmp_path):
    graph = speakers(tmp_path / "one", "[Y] is what [X] talks.")
    forms, speaks = Forms(graph), graph.relation_id("speaks")
    said = forms.say("the [Y]", speaks, "Danish")
    assert said.text == "Danish is what the [Y] talks."
    assert said.text[slice(*said.head)] == "the [Y]" and said.text[slice(*said.tail)] == "Danish"
    assert forms.say("anna", graph.relation_id("knows"), "bert").text == "anna knows bert."
    assert forms.say("anna", speaks, "Czech", bare=True).text == "anna speaks Czech"
    again = KnowledgeGraph.load(save(graph, tmp_path / "copy"), cache=False)
    assert Forms(again).sentences == forms.sentences
    with pytest.raises(DataError, match=r"template of 'speaks' must hold \[X\] and \[Y\] once each: '\[X\] talks'"):
        Forms(speakers(tmp_path / "two", "[X] talks"))


def save(graph, folder):
    graph.save(folder)
    return folder


def test_answers_of_the_relation_compete_but_for_right_ones(tmp_path):
    graph = speakers(tmp_path / "graph")
    facts = Facts.of(graph, "test")
    assert len(facts) == 1 and len(SPEAKS) == FEWEST  # one person is known to anybody: too few
    names = [graph.entity_names[answer] for answer in facts.answers.tolist()]
    assert names == ["Czech", "Greek", "Irish", "Welsh"]  # the right one, and not Danish, which is right too
    assert facts.frequency.tolist() == [1, 1, 1, 1]
    assert facts.mrr(torch.tensor([3.0, 1, 4, 2])) == 1 / 2
    assert facts.mrr(torch.tensor([2.0, 2, 2, 4])) == 1 / 3  # ties count half
    assert facts.random_mrr() == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert facts.normed(torch.tensor([3.0, 3, 3, 3])).exp().tolist() == pytest.approx([0.25] * 4)


def test_facts_of_the_world_are_the_same_for_everybody():
    facts, again = Facts.of(world(), "test"), Facts.of(world(), "test")
    assert torch.equal(facts.answers, again.answers) and len(facts) == 305
    assert int(facts.offsets.diff().max()) == OTHERS + 1
    assert torch.equal(facts.answers[facts.offsets[:-1]], facts.triples[:, 2])
    known = world().known()
    assert len(known) and len(Facts.of(world(), "test", 40)) == 40
    assert facts.random_mrr() < facts.mrr(facts.frequency) < 0.3


@pytest.mark.parametrize(("name", "kind"), [("clm", "gpt"), ("mlm", "bert")])
def test_scores_are_those_of_texts_read_one_by_one(name, kind):
    store = texts("bpe" if kind == "gpt" else "wordpiece")
    model = Tasks([name], store, kind)
    model.texts, model.graph = store, world()
    model.eval()
    forms, triples = Forms(world()), world().test[::60]
    said = forms.say_all(*triples.unbind(1))
    with torch.no_grad():
        found = FactScorer(model, model.tasks[name]).by_tokens(said, triples[:, 0], triples[:, 2])
        expected = [alone(model, name, one) for one in said]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def alone(model, name, said):
    """By PyTorch alone: the parts of the sentence tokenized apart, its tail asked for token by token."""
    tokenizer, backbone = model.texts.tokenizer, model.backbone.backbones[0]
    space = said.text[: said.tail[0]].rstrip()
    parts = [tokenizer.encode([part])[0].long() for part in (space, said.text[len(space) : said.tail[1]])]
    rest = tokenizer.encode([said.text[said.tail[1] :]])[0].long()
    begin, end = torch.tensor([tokenizer.begin]), torch.tensor([tokenizer.end])
    whole = torch.cat([begin, *parts, rest, end])
    first = 1 + len(parts[0])
    asked = range(first, first + len(parts[1]) + (len(rest) if name == "clm" else 0))
    shown = whole.clone()
    if name == "mlm":
        shown[list(asked)] = tokenizer.mask
    hidden = backbone.states(Packed.from_texts([shown]))
    bias = 0 if backbone.lm_bias is None else backbone.lm_bias
    scores = (backbone.lm_transform(hidden) @ backbone.lm_table.T + bias).log_softmax(-1)
    chances = [float(scores[place - (name == "clm"), whole[place]]) for place in asked]
    return sum(chances) / (1 if name == "clm" else len(chances))


def test_unigrams_and_bigrams_by_hand():
    train = Packed.from_texts([torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])])
    held_out = Packed.from_texts([torch.tensor([0, 1, 3]), torch.tensor([3, 2])])
    found = NGrams(train, 5).losses(held_out, torch.tensor([1, 2, 3, 4])).exp().reciprocal()
    single = [4 / 11, 1 / 11, 1 / 11, 2 / 11]
    assert found[0].tolist() == pytest.approx(single)
    after_0 = (2 - DISCOUNT) / 2 + DISCOUNT * 1 / 2 * 4 / 11
    after_1 = DISCOUNT * 2 / 2 * 1 / 11
    assert found[1].tolist() == pytest.approx([after_0, after_1, 1 / 11, 2 / 11])  # 3 begins a text, and was never seen
    everything = Packed.from_flat(torch.tensor([0, 0, 0, 1, 0, 2, 0, 3, 0, 4]), torch.arange(0, 11, 2))
    chances = NGrams(train, 5).losses(everything, torch.arange(1, 10, 2)).exp().reciprocal()
    assert chances.sum(1).tolist() == pytest.approx([1, 1])


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = write_towns(tmp_path_factory.mktemp("data") / "towns", countries=6, towns=5)
    return KnowledgeGraph.load(folder, cache=False)


def test_a_run_tells_facts_and_perplexities(graph, tmp_path):
    config = joint_config(tmp_path / "run", tasks=("mlm", "link"), steps=3)
    metrics, _ = run_joint(config, graph)
    facts, told = metrics["tasks"]["facts"], metrics["tasks"]["mlm"]["test"]
    assert set(facts) == {"test", "valid"} and facts["test"]["facts"] == 2
    for name in ("mrr", "mrr_link", "mrr_bare", "mrr_hidden_subject", "mrr_frequency", "mrr_random"):
        assert 0 < facts["test"][name] <= 1
    assert 1 < told["bigram_perplexity"] < told["unigram_perplexity"]
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Results: facts" in report and "of bigrams" in report
    without, _ = run_joint(config.replace(facts=0, out=str(tmp_path / "without")), graph)
    assert "facts" not in without["tasks"] and without["tasks"]["mlm"] == metrics["tasks"]["mlm"]


def test_facts_need_a_language_model_and_facts(graph):
    model = Tasks(["nsp"], texts(), "bert")
    model.graph = graph
    with pytest.raises(ConfigError, match="asked of a language model"):
        evaluate_facts(model, "test")
    with pytest.raises(ConfigError, match="split='train'"):
        evaluate_facts(model, "train")
    assert math.isfinite(Facts.of(graph, "valid").mrr(torch.zeros(len(Facts.of(graph, "valid").answers))))
