"""Which columns are read: headers in many words, told columns, what was dropped, and what is in doubt."""

import pyarrow as pa
import pyarrow.parquet
import pytest
from data_helpers import folder, named, write

from kgfast.data import KnowledgeGraph
from kgfast.errors import DataError

ROWS = [("ann", "knows", "bob"), ("bob", "likes", "cat")]


def table(order, header, separator="\t", more=()):
    """Lines under a header; `order` says which of head, relation, tail each column holds."""
    rows = [separator.join([*(row[place] for place in order), *more]) for row in ROWS]
    return "\n".join([header, *rows]) + "\n"


def load(path, content, name="train.tsv", **words):
    return KnowledgeGraph.load(write(path / name, content), cache=False, **words)


def reading(graph):
    return "\n".join(graph.report.reading())


HTR, HRT, TRH = (0, 2, 1), (0, 1, 2), (2, 1, 0)


@pytest.mark.parametrize(
    ("header", "order"),
    [
        ("Head\tRelation\tTail", HRT),
        ("subject\tpredicate\tobject", HRT),
        ("OBJECT\tPREDICATE\tSUBJECT", TRH),
        ("h\tr\tt", HRT),
        ("t\tr\th", TRH),
        ("?s\t?p\t?o", HRT),
        (":START_ID\t:TYPE\t:END_ID", HRT),
        (":START_ID(Person)\t:END_ID(Place)\t:TYPE", HTR),
        ("source\ttarget\ttype", HTR),
        ("src\tdst\tedge_type", HTR),
        ("head_id\trelation_id\ttail_id", HRT),
        ("HeadEntity\tTailEntity\tRelationName", HTR),
        ("entity1\trel\tentity2", HRT),
        ("node1\tlabel\tnode2", HRT),
        ("from\tto\tlabel", HTR),
        ("item\tproperty\tvalue", HRT),
        ('"subject"\t"relation"\t"object"', HRT),
        ("\ufeff#Subject \t Predicate \t Object", HRT),
        ("头实体\t关系\t尾实体", HRT),
        ("Ziel\tBeziehung\tQuelle", TRH),
    ],
)
def test_headers_in_other_words(tmp_path, header, order):
    graph = load(tmp_path, table(order, header))
    assert named(graph) == ROWS
    assert "train.tsv: line 1 was taken for a header" in reading(graph)
    assert named(load(tmp_path, table(order, header.replace("\t", ",").replace("\ufeff", ""), ","), "a.csv")) == ROWS


def test_parquet_columns_in_other_words(tmp_path):
    columns = dict(zip(("o", "p", "s", "since"), (["bob"], ["knows"], ["ann"], [3]), strict=True))
    pa.parquet.write_table(pa.table(columns), tmp_path / "train.parquet")
    graph = KnowledgeGraph.load(tmp_path, cache=False)
    assert named(graph) == ROWS[:1]
    assert "tail is 'o'" in reading(graph) and "the column 'since' was not read" in reading(graph)


def test_a_header_above_numbers_whatever_its_words(tmp_path):
    rows = "".join(f"{i}\t0\t{(i + 1) % 12}\n" for i in range(12))
    for header in ("h\tr\tt", "von\tart\tnach", "vertex a\tkind of\tvertex b"):
        graph = load(tmp_path, f"{header}\n{rows}")
        assert [graph.entity_id(str(i)) for i in range(12)] == list(range(12)), header
        assert "line 1 was taken for a header" in reading(graph)
    first = load(tmp_path, "a\tr\tb\n1\tr\t2\na\tr\t3\n")  # a stands again: no header
    assert len(first.train) == 3


def test_a_doubt_is_told_and_changes_nothing(tmp_path):
    doubtful = ("tail\thead\tpartof", "0\t1\t2", "Unnamed: 0\tUnnamed: 1\tUnnamed: 2", "subject\twhat\tobject")
    for line in (*doubtful, "kopf\trelation\tende", "od\tEdge Type\tdo", "von\tnach\tpredicate"):
        graph = load(tmp_path, table(HRT, line))
        assert len(graph.train) == 3
        assert "line 1 may be a header" in reading(graph) and "header=yes" in reading(graph)
        assert named(load(tmp_path, table(HRT, line), header=True)) == ROWS
        silent = load(tmp_path, table(HRT, line), header=False)
        assert len(silent.train) == 3 and "header" not in reading(silent)


def test_a_first_line_whose_names_occur_nowhere_else(tmp_path):
    rows = "".join(f"e{i % 7}\tr{i % 2}\te{i % 5}\n" for i in range(40))
    strange = "od\tvztah\tdo\n"
    graph = KnowledgeGraph.load(folder(tmp_path / "a", train=strange + rows, test=strange + rows), cache=False)
    assert reading(graph).count("line 1 may be a header, as its names occur nowhere else") == 2
    graph = KnowledgeGraph.load(folder(tmp_path / "b", train=strange + rows + "od\tr0\te1\n" + strange), cache=False)
    assert "header" not in reading(graph)


def test_the_header_again_in_the_middle(tmp_path):
    graph = load(tmp_path, "head\trelation\ttail\na\tr\tb\nhead\trelation\ttail\nc\tr\td\n")
    assert "1 further lines hold the words of the header, and were read as triples" in reading(graph)


def test_header_words_as_data(tmp_path):
    content = "head\trelation\ttail\nann\tknows\tbob\n"
    assert len(load(tmp_path, content).train) == 1
    assert named(load(tmp_path, content, header="no")) == [("head", "relation", "tail"), ROWS[0]]


def test_columns_that_were_dropped(tmp_path):
    header = "id\thead\trelation\ttail\ttime\tweight\t"
    graph = load(tmp_path, f"{header}\n1\tann\tknows\tbob\t2014\t0.5\t\n2\tann\tknows\tbob\t2015\t0.1\tx\n")
    assert graph.report.dropped == {"train.tsv": ["'id'", "'time'", "'weight'", "number 7"]}
    assert "the columns 'id', 'time', 'weight', number 7 were not read" in reading(graph)
    assert graph.report.duplicates["train"] == 1


@pytest.mark.parametrize("name", ["label", "Sign", "is_true", "polarity", "class"])
@pytest.mark.parametrize("value", ["-1", "0", "False", "no"])
def test_a_dropped_column_that_says_false(tmp_path, name, value):
    graph = load(tmp_path, f"subject\tpredicate\tobject\t{name}\na\tr\tb\t1\nc\tr\td\t{value}\n")
    assert f"the column '{name}' was not read" in reading(graph)
    assert f"the column '{name}' holds -1, 0, false or the like for 1 of the triples" in reading(graph)
    told = load(tmp_path, f"a\tr\tb\t1\nc\tr\td\t{value}\n", columns="1,2,3")
    assert "the column number 4 holds -1, 0, false" in reading(told)
    weights = load(tmp_path, f"a\tr\tb\t0.7\nc\tr\td\t{value}\n", columns="1,2,3")
    assert "holds" not in reading(weights)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("head\trelation\ttail\ttail", "the column 'tail' stands twice"),
        ("head\thead\trelation\ttail", "the column 'head' stands twice"),
        ("s\tp\to\to", "the column 'o' stands twice"),
        ("head\trelation\ttail\tTail", "'tail' and 'Tail' may both be the tail"),
        ("predicate\tsubject\tpredicate\tobject", "the column 'predicate' stands twice"),
        ("relation\tx_id\tx_name\ty_id", "'x_id' and 'x_name' may both be the head"),
        ("head_id\thead_name\trelation\ttail_id", "'head_id' and 'head_name' may both be the head"),
    ],
)
def test_columns_that_could_be_several(tmp_path, header, message):
    with pytest.raises(DataError, match=rf"train\.tsv, line 1: {message}.*columns=A,B,C"):
        load(tmp_path, f"{header}\na\tb\tc\td\n")


def test_a_parquet_column_that_stands_twice(tmp_path):
    arrays = [pa.array([text]) for text in ("a", "r", "b", "c")]
    pa.parquet.write_table(pa.Table.from_arrays(arrays, ["head", "relation", "tail", "tail"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the column 'tail' stands twice"):
        KnowledgeGraph.load(tmp_path / "a.parquet")


def test_told_columns(tmp_path):
    content = "w\tto who\tfrom who\thow\n1\tbob\tann\tknows\n2\tcat\tbob\tlikes\n"
    for columns in ("from who,how,to who", ["from who", "how", "to who"], "3,4,2", (3, 4, 2)):
        graph = load(tmp_path, content, columns=columns, header=True)
        assert named(graph) == ROWS
        assert graph.report.dropped == {"train.tsv": ["'w'"]}
    assert named(load(tmp_path, content, columns="from who,how,to who")) == ROWS
    assert named(load(tmp_path, "ann\tbob\tknows\nbob\tcat\tlikes\n", columns="1,3,2")) == ROWS
    pa.parquet.write_table(pa.table({"x": ["ann"], "y": ["knows"], "z": ["bob"]}), tmp_path / "a.parquet")
    assert named(KnowledgeGraph.load(tmp_path / "a.parquet", columns="x,y,z")) == ROWS[:1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"columns": "a,b"}, "three different names or numbers"),
        ({"columns": "1,1,2"}, "three different names or numbers"),
        ({"columns": 7}, "must be three names or numbers"),
        ({"columns": "head,tail,relation"}, "stand for head, relation and tail in this order"),
        ({"columns": "1,2,9"}, r"no column '1'; the first line holds 'ann', 'knows', 'bob'.*numbers from 1 to 3"),
        ({"columns": "x,y,z"}, r"no column 'x'; the first line holds"),
        ({"header": "maybe"}, "header must be yes, no or auto, not 'maybe'"),
        ({"header": 1}, "header must be yes, no or auto, not 1"),
    ],
)
def test_wrong_words(tmp_path, words, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, "ann\tknows\tbob\n", **words)


def test_words_without_meaning(tmp_path):
    with pytest.raises(DataError, match="no file of triples has columns"):
        load(tmp_path, "<a:a> <a:b> <a:c> .\n", "train.nt", header=True)


def test_four_columns_ask_for_a_word(tmp_path):
    with pytest.raises(DataError, match=r"line 1: expected 3 tab-separated columns, found 4: .*columns=A,B,C"):
        load(tmp_path, "a\tr\tb\t2014\n")
    with pytest.raises(DataError, match=r"found 1: 'a;r;b' \(are its parts separated by semicolons\?\)"):
        load(tmp_path, "a;r;b\n", "a.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"a", "r", "b"\n', "line 1: a space before a quote"),
        ('a,r,b\nc,\t"r",d\n', "line 2: a space before a quote"),
        (' "a",r,b\n', "line 1: a space before a quote"),
        ('"a\nb",r,c\r\nd, "r",e\n', "line 3: a space before a quote"),
        ('"a" ,r,b\n', "line 1: ',' expected after '\"'"),
        ('x,r,b\n"a"b,r,b\n', "line 2: ',' expected after '\"'"),
        ('a,r,"b\n', "line 1: unexpected end of data"),
    ],
)
def test_quotes_where_csv_has_none(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, content, "a.csv")


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('a,5" pipe,b\n', ("a", '5" pipe', "b")),
        ('"say ""x"", and",r,b\n', ('say "x", and', "r", "b")),
        ('"a\nb",r,"c, d"\n', ("a\nb", "r", "c, d")),
        ('"""",r," "\n', ('"', "r", " ")),
    ],
)
def test_quotes_that_are_right(tmp_path, content, row):
    assert named(load(tmp_path, content, "a.csv")) == [row]


def test_quotes_in_tab_separated_text_are_told(tmp_path):
    assert 'names such as "a" hold quotes' in reading(load(tmp_path, '"a"\t"r"\t"b"\n'))


def test_texts_with_all_ends_of_lines(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        content = {"train": f"a\tr\tb{end}b\tr\ta{end}", "entity2text": f"a\tAy{end}b\tBee{end}"}
        graph = KnowledgeGraph.load(folder(tmp_path, **content), cache=False)
        assert graph.entity_text == ["Ay", "Bee"] and len(graph.train) == 2
