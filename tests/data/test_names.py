"""Names are their exact characters at every door; what only looks like one is told, with what differs."""

import pytest
from data_helpers import folder, named, write

from kgfast.data import KnowledgeGraph
from kgfast.data.names import Names, find_by_text, find_mentions, fold, tidy, unfold
from kgfast.errors import DataError
from kgfast.train.id_maps import IdMaps


def load(path, **files):
    return KnowledgeGraph.load(folder(path, **files), cache=False)


def reading(graph):
    return "\n".join(graph.report.reading())


ALIKE = [
    ("Oslo", "Oslo ", "U+0020"),
    ("New York", "New  York", "U+0020"),
    ("New York", "New\u00a0York", "U+00A0"),
    ("New_York", "New York", "U+005F"),
    ("S\u00e3o", "Sa\u0303o", "U+0061 U+0303"),
    ("\u212bngstr", "\u00c5ngstr", "U+212B"),
    ("\u1100\u1161", "\uac00", "U+AC00"),
    ("a\u200bb", "ab", "U+200B"),
    ("\ufeffab", "ab", "U+FEFF"),
    ("a\u00adb", "ab", "U+00AD"),
    ("\u0440ear", "pear", "U+0440"),
    ("O'Hara", "O\u2019Hara", "U+2019"),
    ("a\u2011b", "a-b", "U+2011"),
    ("\ufb01n", "fin", "U+FB01"),
    ("x\ufe0f", "x", "U+FE0F"),
    ("<http://x.org/a>", "http://x.org/a", "U+003C"),
    ("http://x.org/Z%C3%BCri", "http://x.org/Z\u00fcri", "U+00FC"),
    ("Oslo", "OSLO", "case"),
    ("z\u00fcrich", "Z\u00dcRICH", "case"),
    ("http://x.org/oslo", "oslo", "the end of an IRI"),
]


@pytest.mark.parametrize(("one", "other", "told"), ALIKE)
def test_pairs_that_look_alike_are_told(tmp_path, one, other, told):
    graph = load(tmp_path / "e", train=f"q\tr\t{one}\n{other}\tr\tq\n")
    assert graph.num_entities == 3, "exact characters make a name"
    (pair,) = graph.report.look_alikes
    assert {pair.first, pair.second} == {one, other} and told in pair.difference
    assert "Entities that " in reading(graph) and told in reading(graph)
    graph = load(tmp_path / "r", train=f"a\t{one}\tb\nb\t{other}\ta\n")
    assert [pair.where for pair in graph.report.look_alikes] == ["relations"]


@pytest.mark.parametrize(("one", "other", "told"), ALIKE)
def test_every_door_refuses_and_says_what_differs(tmp_path, one, other, told):
    if told == "the end of an IRI":
        one, other = other, one
    graph = load(
        tmp_path,
        train=f"q\t{one}\tq\n{one}\tr\tq\n",
        entity2text=f"q\tq\n{other}\tsome text\n",
        relation2text=f"r\tr\n{other}\tsome text\n",
        qa_train=f"who?\t{other}\tq\nwho?\tq\t{other}\n",
    )
    doors = [
        lambda: graph.entity_id(other),
        lambda: graph.relation_id(other),
        lambda: find_by_text("topic", other, graph.entity_names, graph.entity_text),
        lambda: IdMaps(list(graph.entity_names), ["r"]).entity_id(other),
    ]
    for door in doors:
        with pytest.raises(DataError, match="did you mean") as caught:
            door()
        assert told in str(caught.value) or told == "the end of an IRI" or "against" in str(caught.value)
        assert repr(other) in str(caught.value)
    where = {pair.where for pair in graph.report.look_alikes}
    assert where == {"entity2text.txt", "relation2text.txt", "qa_train.txt"}
    assert graph.report.texts["entity_text"]["unknown"] == 1 and graph.report.questions["train"]["unknown_topic"] == 1


def test_no_pair_where_none_is(tmp_path):
    names = ["/m/02js_6", "/m/02js6_", "1", "10", "1.0", "a", "b", "ab", "\u4e2d", "l0", "lo", "C", "C++", "http://"]
    graph = load(tmp_path, train="".join(f"{name}\tr\t{name}\n" for name in names))
    assert graph.report.look_alikes == [] and graph.report.reading() == []


def test_names_with_what_cannot_be_seen(tmp_path):
    graph = load(tmp_path, train="a \tr\tb\u200b\nc\ufffd\t\u00a0r\td\n")
    assert "Names of entities that begin or end with white space" in reading(graph) and ": 3, such as" in reading(graph)
    assert "Names of relations that begin" in reading(graph) and r"'b\u200b'" in reading(graph)


def test_a_great_many_pairs(tmp_path):
    rows = "".join(f"n{i}\tr\tN{i}\n" for i in range(3000))
    report = load(tmp_path, train=rows).report
    assert (len(report.look_alikes), report.look_alike_count) == (1000, 3000)
    assert "3,000 pairs of names look alike" in "\n".join(report.lines())


STATEMENTS = "".join(f"<http://x.org/{h}> <http://x.org/p> <http://x.org/{t}> .\n" for h, t in ("ab", "bc"))


def mixed(path, train=STATEMENTS, suffix="txt", iris="short", **files):
    write(path / "train.nt", train)
    return KnowledgeGraph.load(folder(path, **files), cache=False, iris=iris)


@pytest.mark.parametrize(
    "row",
    [
        "a\tp\tb",
        "http://x.org/a\thttp://x.org/p\thttp://x.org/b",
        "<http://x.org/a>\t<http://x.org/p>\t<http://x.org/b>",
    ],
)
def test_iris_of_another_file_are_met(tmp_path, row):
    graph = mixed(tmp_path / "short", test=row + "\n")
    assert named(graph, "test") == [("a", "p", "b")] and graph.num_entities == 3
    graph = mixed(tmp_path / "whole", test=row + "\n", iris="whole")
    if "http" in row:
        assert named(graph, "test") == [("http://x.org/a", "http://x.org/p", "http://x.org/b")]
    else:
        assert graph.num_entities == 5 and "the end of an IRI" in reading(graph)


def test_iris_in_texts_and_questions(tmp_path):
    texts = "http://x.org/a\tAy\n<http://x.org/b>\tBee\nc\tCee\n"
    graph = mixed(
        tmp_path,
        entity2text=texts,
        relation2text="http://x.org/p\tto\n",
        qa_train="q?\t<http://x.org/a>\tb|http://x.org/c\n",
    )
    assert graph.entity_text == ["Ay", "Bee", "Cee"] and graph.relation_text == ["to"]
    assert graph.questions == {"train": [("q?", 0, [1, 2])]}
    for name in ("a", "http://x.org/a", "<http://x.org/a>"):
        assert graph.entity_id(name) == 0 and graph.relation_id("http://x.org/p") == 0
    with pytest.raises(DataError, match=r"did you mean 'a', short for 'http://x\.org/a'\?"):
        graph.entity_id("http://other.org/a")


def test_short_names_of_several_iris(tmp_path):
    graph = mixed(tmp_path, STATEMENTS + "<http://y.org/a> <http://x.org/p> <http://x.org/b> .\n", test="a\tp\tb\n")
    assert named(graph, "test") == [("a", "p", "b")] and graph.num_entities == 5
    assert "short for more than one IRI" in reading(graph) and "such as 'a'" in reading(graph)


def test_iris_only_in_the_test(tmp_path):
    write(tmp_path / "test.nt", STATEMENTS)
    graph = KnowledgeGraph.load(folder(tmp_path, train="a\tp\tb\nb\tp\tc\n"), cache=False)
    assert named(graph) == named(graph, "test") and graph.num_entities == 3


def test_blank_nodes_of_several_files(tmp_path):
    write(tmp_path / "test.nt", "_:n <http://x.org/p> <http://x.org/a> .\n")
    graph = mixed(tmp_path, STATEMENTS + "_:n <http://x.org/p> <http://x.org/a> .\n")
    assert "Blank nodes that are in several files, and were taken as the same: 1." in reading(graph)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (r"<http://x.org/\u00G9>", "an escape in it is broken"),
        (r"<http://x.org/\u00>", "an escape in it is broken"),
        (r"<http://x.org/\U000000>", "an escape in it is broken"),
        (r"<http://x.org/\x41>", "an escape in it is broken"),
        (r"<http://x.org/a\\b>", "an escape in it is broken"),
        (r"<http://x.org/a\>", "an escape in it is broken"),
        (r"<http://x.org/\U00110000>", r"\\U00110000 in .* is no Unicode character"),
        (r"<http://x.org/\uDFFF>", r"\\uDFFF in .* is no Unicode character"),
        (r"<http://x.org/\u0020>", r"\\u0020 in .* is ' ', which no IRI may hold"),
        (r"<http://x.org/\u000A>", r"which no IRI may hold"),
        (r"<http://x.org/\u003e>", r"\\u003e in .* is '>', which no IRI may hold"),
    ],
)
@pytest.mark.parametrize("place", range(3))
def test_broken_escapes(tmp_path, broken, message, place):
    parts = ["<http://x.org/a>", "<http://x.org/p>", "<http://x.org/b>"]
    parts[place] = broken
    with pytest.raises(DataError, match=rf"train\.nt, line 3: .*{message}"):
        mixed(tmp_path, STATEMENTS + " ".join(parts) + " .\n")


def test_escapes_that_are_right(tmp_path):
    content = r"<http://x.org/Z\u00fcri> <http://x.org/p> <http://x.org/\U0001F600> ." + "\n"
    content += r'<http://x.org/a> <http://x.org/p> "\t\u00fc\"\\" .' + "\n"
    assert named(mixed(tmp_path, content)) == [("Z\u00fcri", "p", "\U0001f600")]
    with pytest.raises(DataError, match=r"line 2: not an N-Triples statement \(an escape in it is broken\)"):
        mixed(tmp_path, content.replace(r"\t", r"\q"))


def test_names_find_all_as_find(tmp_path):
    names = Names(["a", "b", "http://y.org/c"], ["http://x.org/a", "http://x.org/b", "http://y.org/c"])
    asked = ["a", "<http://x.org/a>", "http://x.org/b", "<http://y.org/c>", "c", "<a>", ""]
    assert names.find_all(asked).tolist() == [-1 if (found := names.find(text)) is None else found for text in asked]
    assert names.find_all(asked).tolist() == [0, 0, 1, 2, -1, -1, -1]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("[REC]", "who acted in [REC]?", True),
        ("(500) Days", "is (500) days good", True),
        ("$9.99", "it costs $9.99", True),
        ("Yahoo!", "who founded YAHOO!", True),
        ("?", "what?", False),
        ("!!!", "is !!! a band", True),
        ("Rome", "is it in Romeo", False),
        ("Z\u00fcrich", "in Zu\u0308rich", True),
        ("New York", "in New\u00a0 york now", True),
        ("\u6771\u4eac", "\u6771\u4eac\u306f\u3069\u3053", True),
        ("Stra\u00dfe", "die STRASSE", True),
        ("ab", "a\u200bb", True),
    ],
)
def test_mentions_in_running_text(name, text, found):
    assert bool(find_mentions(fold(name), fold(text))) == found
    for start, stop in find_mentions(fold(name), fold(text)):
        start, stop = unfold(tidy(text), start, stop)
        assert fold(tidy(text)[start:stop]) == fold(name)


def test_each_mention_once():
    assert find_mentions("a a", "xa a a, a a a; A A") == [(3, 6), (8, 11), (15, 18)]
