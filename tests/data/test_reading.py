"""Every reader, the report, and errors that name file and line."""

import gzip
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from data_helpers import LINES, TRIPLES, folder, named, write

from kgfast.core.known import KnownTriples
from kgfast.data import KnowledgeGraph
from kgfast.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_tab_separated(tmp_path):
    graph = KnowledgeGraph.load(write(tmp_path / "facts.tsv", LINES))
    assert named(graph) == TRIPLES
    assert graph.name == "facts"
    assert graph.train.dtype == torch.int64 and graph.valid.shape == (0, 3)
    assert list(graph.entity_names) == sorted({name for row in TRIPLES for name in (row[0], row[2])})
    assert graph.entity_names[graph.entity_id("東京")] == "東京"


@pytest.mark.parametrize("form", ["crlf", "gz", "crlf_gz", "blank_end", "no_end", "mark"])
def test_forms_of_text_are_equal(tmp_path, form):
    content = LINES.encode()
    if "crlf" in form:
        content = content.replace(b"\n", b"\r\n")
    content = {
        "blank_end": content + b"\n\r\n\n",
        "no_end": content.rstrip(),
        "mark": b"\xef\xbb\xbf" + content,
    }.get(form, content)
    name = "train.txt.gz" if "gz" in form else "train.txt"
    write(tmp_path / "other" / name, gzip.compress(content) if "gz" in form else content)
    plain = KnowledgeGraph.load(folder(tmp_path / "plain", train=LINES))
    other = KnowledgeGraph.load(tmp_path / "other")
    assert other.fingerprint == plain.fingerprint and named(other) == TRIPLES


def test_comma_separated(tmp_path):
    rows = 'London,"born, in",Ada\nParis,"a ""b""",Ada\n'
    expected = [("London", "born, in", "Ada"), ("Paris", 'a "b"', "Ada")]
    assert named(KnowledgeGraph.load(write(tmp_path / "a.csv", rows))) == expected
    assert named(KnowledgeGraph.load(write(tmp_path / "b.csv", "head,relation,tail\n" + rows))) == expected
    more = "source,Tail,Relation,Head\nw,Ada,is,human\n"
    assert named(KnowledgeGraph.load(write(tmp_path / "c.csv", more))) == [("human", "is", "Ada")]


@pytest.mark.parametrize("integers", [False, True])
def test_parquet(tmp_path, integers):
    columns = ([10, 9, 10], [0, 0, 1], [2, 10, 9]) if integers else zip(*TRIPLES, strict=True)
    table = pa.table(dict(zip(("head", "relation", "tail"), map(list, columns), strict=True)))
    pa.parquet.write_table(table, tmp_path / "train.parquet")
    graph = KnowledgeGraph.load(tmp_path)
    if integers:
        assert list(graph.entity_names) == ["2", "9", "10"]  # by number
        assert graph.train.tolist() == [[2, 0, 0], [1, 0, 2], [2, 1, 1]]
    else:
        assert named(graph) == TRIPLES


def test_parquet_errors(tmp_path):
    pa.parquet.write_table(pa.table({"head": ["a"], "how": ["r"], "tail": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column relation; it has head, how, tail"):
        KnowledgeGraph.load(tmp_path / "a.parquet")
    table = pa.table({"head": ["a", None], "relation": ["r", "r"], "tail": ["b", "c"]})
    pa.parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet, row 1: the head is empty"):
        KnowledgeGraph.load(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: "):
        KnowledgeGraph.load(write(tmp_path / "c.parquet", "PAR1 no more"))


STATEMENTS = r"""# a comment
<http://x.org/e/Q1> <http://x.org/p/P1> <http://x.org/e/Q2> .
<http://x.org/e/Q1> <http://x.org/p/P1> "a \"literal\" <x> ."@en-GB .
	<http://x.org/e/Q2>	<http://x.org/p#P2>	_:b.1. # odd spaces

<http://x.org/e/Q2><http://x.org/p/P1><http://x.org/e/Z\u00fcrich>.
<http://x.org/e/Q1> <http://x.org/p/P1> "5"^^<http://www.w3.org/2001/XMLSchema#integer> .
<http://x.org/e/Q1> <http://x.org/p/P1> <http://y.org/e/Q2> .
"""


def test_ntriples(tmp_path):
    path = write(tmp_path / "facts.nt.gz", gzip.compress(STATEMENTS.encode()))
    graph = KnowledgeGraph.load(path)
    ours, theirs = "http://x.org/e/Q2", "http://y.org/e/Q2"  # their short names collide
    assert named(graph) == [
        ("Q1", "P1", ours),
        (ours, "P2", "_:b.1"),
        (ours, "P1", "Zürich"),
        ("Q1", "P1", theirs),
    ]
    assert graph.report.literals == 2
    assert any("2 IRIs were kept whole" in line for line in graph.report.lines())
    whole = KnowledgeGraph.load(path, iris="whole")
    assert named(whole)[1] == (ours, "http://x.org/p#P2", "_:b.1")


def test_malformed_ntriples(tmp_path):
    lines = ["<a:s> <a:p> <a:o> .\n"] * 3000
    lines[2345] = "<a:s> <a:p> oops .\n"
    with pytest.raises(DataError, match=r"x\.nt, line 2346: not an N-Triples statement: '<a:s> <a:p> oops \.'"):
        KnowledgeGraph.load(write(tmp_path / "x.nt", "".join(lines)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a\tb\n", r"expected 3 tab-separated columns, found 2: 'a\\tb'"),
        (b"a\tb\tc\td\n", "expected 3 tab-separated columns, found 4"),
        (b"\n", "expected 3 tab-separated columns, found 0: ''"),
        (b"a\t\tc\n", "the relation is empty"),
        (b"a\xff\tb\tc\n", r"not valid UTF-8: 'a\\udcff"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_malformed_line_12345(tmp_path, line, message, packed):
    lines = [b"h%d\tr\tt%d\r\n" % (i, i) for i in range(20_000)]
    lines[12_344] = line
    content = b"".join(lines)
    path = write(tmp_path / ("train.txt" + ".gz" * packed), gzip.compress(content, 1) if packed else content)
    with pytest.raises(DataError, match=r"train\.txt(\.gz)?, line 12345: " + message) as caught:
        KnowledgeGraph.load(tmp_path)
    assert str(path) in str(caught.value)


def test_malformed_csv(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv, line 3: expected 3 comma-separated columns, found 2"):
        KnowledgeGraph.load(write(tmp_path / "a.csv", "head,relation,tail\na,b,c\nd,e\n"))


def test_missing_and_empty(tmp_path):
    with pytest.raises(DataError, match="no such file or folder, nor a built-in graph"):
        KnowledgeGraph.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no training triples. Looked for train\.txt.*the folder holds test\.txt"):
        KnowledgeGraph.load(folder(tmp_path / "a", test=LINES))
    folder(tmp_path / "b" / "inner", train=LINES)
    with pytest.raises(DataError, match="did you mean its folder inner"):
        KnowledgeGraph.load(tmp_path / "b")
    for content in ("", "\n\r\n", gzip.compress(b"")):
        with pytest.raises(DataError, match=r"train\.txt is empty"):
            KnowledgeGraph.load(folder(tmp_path / "c", train=content))
    with pytest.raises(DataError, match="unknown kind of file; known are .txt .tsv"):
        KnowledgeGraph.load(write(tmp_path / "x.docx", "a"))
    with pytest.raises(DataError, match="broken gzip data"):
        KnowledgeGraph.load(write(tmp_path / "x.tsv.gz", gzip.compress(LINES.encode())[:-9]))
    write(tmp_path / "d" / "train.tsv", LINES)
    with pytest.raises(DataError, match=r"train\.txt and train\.tsv both hold train"):
        KnowledgeGraph.load(folder(tmp_path / "d", train=LINES))


def test_report(tmp_path):
    train = "a\tr\tb\n" * 3 + "b\tr\ta\na\ts\tc\nc\tinv\ta\nb\ts\td\nd\td\td\nx\ts\ty\n"
    valid = "a\tr\tb\na\ts\tnew\na\ts\tnew\n"
    test = "a\ts\tnew\na\tnewer\tb\nd\tinv\tb\n"
    graph = KnowledgeGraph.load(folder(tmp_path, train=train, valid=valid, test=test))
    report = graph.report
    assert report.read == {"train": 9, "valid": 3, "test": 3}
    assert report.duplicates == {"train": 2, "valid": 1, "test": 0}
    assert (
        report.triples
        == {"train": 7, "valid": 2, "test": 3}
        == {split: len(getattr(graph, split)) for split in ("train", "valid", "test")}
    )
    assert named(graph)[:2] == [("a", "r", "b"), ("b", "r", "a")]
    assert report.leaked == {"valid in train": 1, "test in train": 0, "test in valid": 1}
    assert report.unseen_entities == {"all": 1, "valid": 1, "test": 1}
    assert report.unseen_relations == {"all": 1, "valid": 0, "test": 1}
    assert report.unseen_triples == {"valid": 1, "test": 2}
    assert report.self_loops == {"train": 1, "valid": 0, "test": 0}
    pairs = {(pair.relation, pair.inverse): (pair.share, pair.triples) for pair in report.inverse_pairs}
    assert pairs == {("r", "r"): (1.0, 2), ("inv", "s"): (1.0, 1)}
    # valid's (a r b) has (b r a) in train; test's (d inv b) has (b s d)
    assert report.inverse_leaked == {"valid": 1, "test": 1}
    text = "\n".join(report.lines())
    assert "Leakage: 1 triples of valid are also in train; they were kept." in text
    assert "r is symmetric in 100% of 2 training triples." in text
    assert json.loads(json.dumps(report.as_dict()))["fingerprint"] == graph.fingerprint


def test_texts(tmp_path):
    folder(
        tmp_path,
        train="a\tr\tb\nb\tr\tc\n",
        entity2text="b\tBee\ttwo\r\na\tAy\r\nzz\tnobody\r\na\tagain\r\nc\t \n",
        relation2text="r\trelates to",
    )
    write(tmp_path / "entity2desc_short.txt.gz", gzip.compress(b"c\tthe third\n"))
    write(tmp_path / "entity2textlong.txt", "c\tvery long\n")
    graph = KnowledgeGraph.load(tmp_path)
    assert graph.entity_text == ["Ay", "Bee\ttwo", None]
    assert graph.entity_description == [None, None, "the third"]
    assert graph.relation_text == ["relates to"]
    assert [graph.label(i) for i in range(3)] == ["Ay", "Bee\ttwo", "c"]
    counts = {"file": "entity2text.txt", "covered": 2, "unknown": 1, "repeated": 1}
    assert graph.report.texts["entity_text"] == counts
    assert any("entity2textlong.txt was not read" in line for line in graph.report.lines())
    with pytest.raises(DataError, match="no entity is named 'Ay'; it is the text of 'a'"):
        graph.entity_id("Ay")
    write(tmp_path / "entity2text.txt", "a\tx\nno tab here\n")
    with pytest.raises(DataError, match=r"entity2text\.txt, line 2: expected a name, a tab and a text"):
        KnowledgeGraph.load(tmp_path)
    write(tmp_path / "entity2text.txt", b"a\tx\nb\t\xe9\n")
    with pytest.raises(DataError, match=r"entity2text\.txt, line 2: not valid UTF-8"):
        KnowledgeGraph.load(tmp_path)


def test_questions(tmp_path):
    train = "what is a ?\ta\tb|c|b\nwho ?\tnobody\ta\nwhich ?\ta\tnothing\nsome ?\ta\tb|nothing\n"
    graph = KnowledgeGraph.load(folder(tmp_path, train="a\tr\tb\nb\tr\tc\n", qa_train=train))
    assert graph.questions == {"train": [("what is a ?", 0, [1, 2]), ("some ?", 0, [1])]}
    counts = graph.report.questions["train"]
    assert (counts["read"], counts["unknown_topic"], counts["no_known_answer"]) == (4, 1, 1)
    assert counts["unknown_answers"] == 1
    for bad, message in (
        ("q\ta\n", "found 2"),
        ("q\ta\tb||c\n", "an answer is empty"),
        ("\ta\tb\n", "is empty"),
    ):
        with pytest.raises(DataError, match=rf"qa_train\.txt, line 2: .*{message}"):
            KnowledgeGraph.load(folder(tmp_path, qa_train="q\ta\tb\n" + bad))


def test_ids_of_names(tmp_path):
    graph = KnowledgeGraph.load(folder(tmp_path, train="Paris\tcapital_of\tFrance\nLyon\tin\tFrance\n"))
    assert graph.entity_names[graph.entity_id("Lyon")] == "Lyon"
    with pytest.raises(DataError, match="no entity is named 'Pariss'; did you mean 'Paris'"):
        graph.entity_id("Pariss")
    with pytest.raises(DataError, match="no relation is named 'capital of'; did you mean 'capital_of'"):
        graph.relation_id("capital of")
    with pytest.raises(IndexError):
        graph.entity_names[3]
    assert graph.entity_names[-1] == "Paris" and graph.entity_names[:2] == ["France", "Lyon"]


def test_ids_do_not_depend_on_the_order_of_lines(tmp_path):
    rows = [f"e{i % 97}\tr{i % 7}\te{i % 89}\n" for i in range(500)]
    one = KnowledgeGraph.load(folder(tmp_path / "1", train="".join(rows)))
    two = KnowledgeGraph.load(folder(tmp_path / "2", train="".join(reversed(rows))))
    assert one.entity_names == two.entity_names and set(named(one)) == set(named(two))


def test_save_and_load(tmp_path):
    graph = KnowledgeGraph.load(
        folder(
            tmp_path / "a",
            train=LINES,
            test=LINES,
            entity2text="London\tthe city\n",
            qa_test="q ?\tLondon\t東京\n",
        )
    )
    graph.save(tmp_path / "b")
    again = KnowledgeGraph.load(tmp_path / "b")
    assert again.fingerprint == graph.fingerprint
    assert again.questions == graph.questions and again.entity_text == graph.entity_text
    with pytest.raises(DataError, match="not an empty folder"):
        graph.save(tmp_path / "b")
    bad = KnowledgeGraph.from_arrays([[0, 0, 1]], entity_names=["a\tb", "c"])
    with pytest.raises(DataError, match="has a tab"):
        bad.save(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with pytest.warns(UserWarning, match="1 entities are in no triple"):
        KnowledgeGraph.from_arrays([[0, 0, 1]], num_entities=3).save(tmp_path / "c")


def test_from_arrays():
    train = np.array([[0, 0, 1], [2, 1, 0], [0, 0, 1]], np.int32)
    graph = KnowledgeGraph.from_arrays(train, test=torch.tensor([[3, 0, 0]]), num_relations=4)
    assert graph.train.tolist() == [[0, 0, 1], [2, 1, 0]] and graph.train.dtype == torch.int64
    assert (graph.num_entities, graph.num_relations) == (4, 4)
    assert graph.entity_names == ["0", "1", "2", "3"] and graph.report.duplicates["train"] == 1
    assert graph.known().answers((0, 0, 0), "head").tolist() == [3]
    assert len(graph.known("train")) == 2
    with pytest.raises(DataError, match="no split 'all'"):
        graph.known("all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": [[0, 0, 5]], "num_entities": 5}, r"train\[0\]: tail id 5 is outside \[0, 5\)"),
        ({"train": [[0, 0, 1]], "test": [[0, -1, 0]]}, r"test\[0\]: relation id -1"),
        ({"train": [[0, 0]]}, r"train must have shape \[M, 3\]"),
        ({"train": [[0.5, 0, 1]]}, "train must hold integer ids"),
        ({"train": "abc"}, "train is no array of integers"),
        ({"train": np.empty((0, 3), np.int64)}, "train has no triples"),
        ({"train": [[0, 0, 1]], "entity_names": ["a"]}, r"train\[0\]: tail id 1 is outside \[0, 1\)"),
        ({"train": [[0, 0, 1]], "entity_names": ["a", "a"]}, r"entity_names\[1\] repeats 'a'"),
        ({"train": [[0, 0, 1]], "entity_names": ["a", ""]}, r"entity_names\[1\] must be a string"),
        ({"train": [[0, 0, 1]], "relation_names": ["a"], "num_relations": 2}, "1 names for 2 ids"),
        ({"train": [[0, 0, 1], [0, 0, 10**15]]}, r"train\[1\]: entity id 1000000000000000 would make 1,000,000,000,0"),
        ({"train": [[10**9, 0, 1]]}, r"train\[0\]: entity id 1000000000 would make .*, or give num_entities"),
        ({"train": [[0, 10**12, 1]]}, r"train\[0\]: relation id 1000000000000 would make .*, or give num_relations"),
        ({"train": [[0, 0, 1]], "test": [[0, 0, 1], [10**11, 0, 1]]}, r"test\[1\]: entity id 100000000000 would make"),
        ({"train": [[0, 0, 1]], "num_entities": 10**15}, "num_entities=1000000000000000: must be from 1 to"),
        ({"train": [[0, 0, 1]], "num_relations": 0}, "num_relations=0: must be from 1"),
        ({"train": [[0, 0, 1]], "num_entities": 2.0}, "num_entities must be an integer, not 2.0"),
        ({"train": [[0, 0, 1]], "num_entities": True}, "num_entities must be an integer, not True"),
        ({"train": [[0, 0, 10**20]]}, "train is no array of integers of 64 bits"),
        ({"train": np.array([[0, 0, 2**63 + 5]], np.uint64)}, r"train\[0\]: tail id 9223372036854775813 is beyond"),
        ({"train": [[0, 0, 1]], "entity_names": ["a", "\ud800"]}, r"entity_names\[1\] is no valid text"),
        ({"train": [[0, 0, 1]], "entity_names": "ab"}, "entity_names must be a list of strings, not 'ab'"),
    ],
)
def test_from_arrays_errors(options, message):
    with pytest.raises(DataError, match=message):
        KnowledgeGraph.from_arrays(**options)


def test_ids_of_every_integer_type():
    for kind in (np.uint8, np.int16, np.uint32, np.int64, np.uint64):
        rows = np.array([[0, 0, 5]], kind)
        assert KnowledgeGraph.from_arrays(rows).train.tolist() == [[0, 0, 5]]
        assert len(KnownTriples.from_triples(rows, 6, 1)) == 1
    with pytest.raises(DataError, match=r"triples\[0\]: tail id 9223372036854775813 is beyond"):
        KnownTriples.from_triples(np.array([[0, 0, 2**63 + 5]], np.uint64), 6, 1)
    with pytest.raises(DataError, match="triples is no array of integers"):
        KnownTriples.from_triples("x", 6, 1)
    assert KnowledgeGraph.from_arrays([[0, 0, 9_999_999]]).num_entities == 10_000_000


OTHERS = {
    "dev.txt": "a file of valid triples must be called valid.txt",
    "validation.tsv": "a file of valid triples must be called valid.tsv",
    "val.csv.gz": "a file of valid triples must be called valid.csv.gz",
    "Test.txt": "a file of test triples must be called test.txt",
    "testing.nt": "a file of test triples must be called test.nt",
    "test.xlsx": "test triples are read from files that end in .txt",
    "test.txt.xz": "test triples are read from files that end in .txt",
    "train.json": "train is from train.txt",
    "training.txt": "train is from train.txt",
    "entity2text.tsv": "entity text is read from entity2text.txt",
    "entity2descriptions.csv": "entity description is read from entity2desc.txt",
    "relation2text.csv": "relation text is read from relation2text.txt",
    "qa_dev.txt": "questions are read from qa_train.txt",
    "README.md": "",
    ".DS_Store": "",
    "relations.dict": "",
}


@pytest.mark.parametrize("file", OTHERS)
def test_files_that_are_not_read(tmp_path, file):
    write(tmp_path / file, "a\tr\tb\n")
    (tmp_path / "more").mkdir()
    report = KnowledgeGraph.load(folder(tmp_path, train="a\tr\tb\n"), cache=False).report
    assert set(report.unread) == {file, "more/"} and report.unread[file].startswith(OTHERS[file])
    assert any(file in line for line in report.lines()) and any("more/" in line for line in report.lines())


def test_a_file_alone_tells_of_those_beside_it(tmp_path):
    folder(tmp_path, train=LINES, valid=LINES, entity2text="London\tcity\n", notes="x")
    report = KnowledgeGraph.load(tmp_path / "train.txt", cache=False).report
    assert set(report.unread) == {"valid.txt", "entity2text.txt"}
    assert "valid.txt was not read: train.txt alone was given, and not its folder." in report.lines()


def test_a_great_many_files_that_are_not_read(tmp_path):
    for i in range(60):
        write(tmp_path / f"part-{i:02}.bin", "x")
    report = KnowledgeGraph.load(folder(tmp_path, train=LINES), cache=False).report
    assert len(report.unread) == 60 and any("and 20 more" in line for line in report.lines())


def real_data(name):
    given = os.environ.get("KGFAST_DATA")
    path = Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (path / name).is_dir():
        pytest.skip(f"no {name} in {path}: set KGFAST_DATA to the folder that holds it")
    return path / name


def test_fb15k237():
    graph = KnowledgeGraph.load(real_data("fb15k-237"))
    assert [len(rows) for rows in (graph.train, graph.valid, graph.test)] == [272_115, 17_535, 20_466]
    assert (graph.num_entities, graph.num_relations) == (14_541, 237)
    assert graph.report.unseen_entities["all"] == 36
    assert graph.report.texts["entity_description"]["covered"] == 14_541
    assert len(graph.known()) == 272_115 + 17_535 + 20_466 - sum(graph.report.leaked.values())


def test_pathquestion():
    graph = KnowledgeGraph.load(real_data("pathquestion-2h"))
    assert {split: len(rows) for split, rows in graph.questions.items()} == {
        "train": 1527,
        "valid": 192,
        "test": 189,
    }
    text, topic, answers = graph.questions["train"][0]
    assert graph.entity_names[topic] in text and all(0 <= answer < graph.num_entities for answer in answers)


@pytest.mark.parametrize("name", ["umls", "nations"])
def test_small_sets(name):
    assert sum(KnowledgeGraph.load(real_data(name)).report.duplicates.values()) == 0


def test_built_in_world(tmp_path, monkeypatch):
    graph = KnowledgeGraph.load("world")
    assert graph.name == "world" and min(len(graph.train), len(graph.valid), len(graph.test)) > 0
    counts = (*graph.report.questions.values(), *graph.report.texts.values())
    assert all(value == 0 for count in counts for key, value in count.items() if key.startswith("unknown"))
    monkeypatch.chdir(folder(tmp_path / "world", train=LINES).parent)
    assert KnowledgeGraph.load("world").fingerprint == graph.fingerprint
    assert named(KnowledgeGraph.load("./world")) == TRIPLES


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, names of files are text")
def test_names_of_files_that_are_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr("kgfast.data.cache.SMALLEST", 0)
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    write(Path(os.fsdecode(os.fsencode(path) + b"/\x1b[2J\xfe.bin")), "x")
    pa.parquet.write_table(pa.table({"h": ["a"], "r": ["r"], "t": ["b"]}), tmp_path / "test.parquet")
    (tmp_path / "test.parquet").rename(path / "test.parquet")
    for _ in range(2):
        graph = KnowledgeGraph.load(folder(path, train="a\tr\tb\n"))
        assert named(graph, "test") == [("a", "r", "b")]
        assert r"Not read: '\x1b[2J\udcfe.bin'." in graph.report.lines()
    for suffix in (".txt", ".csv", ".parquet"):
        graph.save(path / suffix, suffix)
        assert named(KnowledgeGraph.load(path / suffix)) == [("a", "r", "b")]
