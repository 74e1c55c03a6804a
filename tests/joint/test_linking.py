"""Which entities a question names, and what kind of question it is."""

import functools

import pytest

from kgfast import KnowledgeGraph
from kgfast.joint.tasks.qa.kinds import COUNT, LIST, YES_NO, kind_of
from kgfast.joint.tasks.qa.linking import Linker
from kgfast.joint.tasks.qa.questions import Questions, about, small_words
from kgfast.joint.text import mentions

pytest.importorskip("rapidfuzz")


@functools.cache
def linker():
    graph = KnowledgeGraph.load("world")
    return Linker(graph, small_words(graph) | {"what", "main", "capital"})


def named(question):
    """The entities that a question names, as their names; several for a mention that they share."""
    names = linker().graph.entity_names
    return ["|".join(names[entity] for entity in mention.entities) for mention in linker().link(question).mentions]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the capital of South Sudan?", ["south_sudan"]),  # the longest, not Sudan
        ("which countries border niger", ["niger"]),
        ("Where is Washington, D.C.?", ["washington_d_c"]),
        ("Who borders both France and the UK?", ["france", "united_kingdom"]),
        ("what do they speak in the usa?", ["united_states"]),
        ("Is Holland a monarchy?", ["netherlands", "monarchy"]),
        ("What is it?", []),
        ("What is the main city of Peru?", ["peru"]),  # "main" is a word of questions, the Main a river
        ("Where does the Main flow?", ["main"]),
        ("What is the capital of Swizerland?", ["switzerland"]),
        ("What is the capital of Kyrgystan?", ["kyrgyzstan"]),
        ("capital of new zeland", ["new_zealand"]),
        ("Which language has Cote d'Ivoire?", ["cote_d_ivoire"]),
        ("Which language has Sao Tome and Principe?", ["sao_tome_and_principe"]),
        ("What is the Danish currency?", ["danish|denmark"]),
        ("asdf qwer zxcv", []),
    ],
)
def test_names_aliases_and_misspellings(question, expected):
    found = named(question)
    assert [set(one.split("|")) for one in found] == [set(one.split("|")) for one in expected]


def test_in_texts_a_name_is_its_label_before_it_is_an_alias():
    graph = linker().graph
    assert mentions.names_of(graph)["Danish"] == graph.entity_id("danish")  # of Denmark, too, who asks
    assert mentions.names_of(graph)["Siam"] == graph.entity_id("thailand")


def test_words_of_questions_are_corrected_and_names_stand_in_their_places():
    linked = linker().link("What is the captial of Swizerland and of Peru?")
    assert linked.text == "What is the capital of Swizerland and of Peru?"
    assert linked.bare(0) == "What is the capital of this and of that?"
    assert linked.bare(1) == "What is the capital of that and of this?"
    assert linked.bare(1, others=True) == "What is the capital of Swizerland and of this?"
    graph = linker().graph
    assert about(linker(), "Does France border Spain?", graph.entity_id("france")) == "Does this border that?"
    assert about(linker(), "Is Peru a republic or a monarchy?", graph.entity_id("peru")) == (
        "Is this a republic or a monarchy?"
    )


def test_every_mention_stands_where_it_is_written():
    for question, topic, _ in linker().graph.questions["test"][::40]:
        for mention in linker().link(question).mentions:
            assert question[mention.start : mention.stop].lower() == mention.name
        assert any(topic in mention.entities for mention in linker().link(question).mentions)


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Is Sweden in the European Union", YES_NO),
        ("does the Rhine flow through Poland?", YES_NO),
        ("tell me whether Sweden is in the European Union", YES_NO),
        ("Is Bolivia landlocked, coastal or an island country?", LIST),
        ("how many neighbours does China have?", COUNT),
        ("Do you know the number of neighbours of China?", COUNT),
        ("Who are Germany's neighbours?", LIST),
        ("Isolated countries?", LIST),
        ("", LIST),
    ],
)
def test_kinds_of_questions(question, kind):
    assert kind_of(question) == kind


def test_questions_that_nothing_answers(tmp_path):
    (tmp_path / "train.txt").write_text("ann\tparents\tbob\n")
    (tmp_path / "qa_train.txt").write_text("who are the parents of ann\tann\tbob\nhow old is ann\tann\t\n")
    graph = KnowledgeGraph.load(tmp_path, cache=False)
    questions = Questions.of(graph, "train")
    assert questions.texts == ["who are the parents of this", "how old is this"]
    assert questions.offsets.tolist() == [0, 1, 1] and questions.hops.tolist() == [1, 0]
