"""Graphs from DataFrames, SQL and folders of Parquet files."""

import sys

import pyarrow as pa
import pyarrow.parquet
import pytest
from data_helpers import LINES, TRIPLES, named, write

from kgfast.data import KnowledgeGraph, prepare
from kgfast.errors import DataError, KgfastError

pytestmark = pytest.mark.usefixtures("own_cache")
COLUMNS = dict(zip(("from", "type", "to"), map(list, zip(*TRIPLES, strict=True)), strict=True))


class OfArrow:
    """What every library of DataFrames has."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def test_frames(tmp_path):
    table = pa.table({**COLUMNS, "weight": [1, 2, 3, 4]})
    graph = KnowledgeGraph.from_frame(OfArrow(table), OfArrow(table.slice(1, 1)), name="facts")
    assert graph.name == "facts" and named(graph) == TRIPLES and named(graph, "valid") == TRIPLES[1:2]
    assert graph.report.dropped == {"facts": ["'weight'"], "valid": ["'weight'"]}
    pa.parquet.write_table(table, tmp_path / "facts.parquet")
    assert list(KnowledgeGraph.load(tmp_path / "facts.parquet").entity_names) == list(graph.entity_names)
    turned = KnowledgeGraph.from_frame(table, columns=["to", "type", "from"])
    assert named(turned) == [(t, r, h) for h, r, t in TRIPLES]
    views = pa.table([column.cast(pa.string_view()) for column in table.columns[:3]], ["h", "r", "t"])
    assert named(KnowledgeGraph.from_frame(views)) == TRIPLES
    prepare(OfArrow(table), tmp_path / "out")
    assert set(named(KnowledgeGraph.load(tmp_path / "out"))) == set(TRIPLES)
    with pytest.raises(DataError, match="train is no table that Arrow can read: list"):
        KnowledgeGraph.from_frame([1])
    for words, message in (({"header": True}, "header has no meaning"), ({"literals": "keep"}, "literals have no")):
        with pytest.raises(DataError, match=message):
            prepare(table, tmp_path / "no", **words)
    with pytest.raises(DataError, match="frame: no column head"):
        KnowledgeGraph.from_frame(pa.table({"a": [1]}))
    with pytest.raises(DataError, match="frame, row 1: the type is empty|frame, row 1: the relation is empty"):
        KnowledgeGraph.from_frame(pa.table({"h": ["a", "b"], "r": ["r", None], "t": ["c", "d"]}))


def test_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(COLUMNS).astype({"type": "category"})
    assert named(KnowledgeGraph.from_frame(frame[["to", "type", "from"]])) == TRIPLES


def test_sql(tmp_path):
    pytest.importorskip("duckdb", reason="DuckDB isn't installed (pip install kgfast[sql])")
    pa.parquet.write_table(pa.table({**COLUMNS, "weight": [1, 2, 3, 4]}), tmp_path / "facts.parquet")
    text = f"""SELECT "from" AS head, type AS relation, "to" AS tail FROM '{tmp_path}/facts.parquet'"""
    text += " WHERE weight > 1"
    assert named(KnowledgeGraph.from_sql(text)) == TRIPLES[1:]
    prepare(f"sql:{text}", tmp_path / "out")
    assert set(named(KnowledgeGraph.load(tmp_path / "out"))) == set(TRIPLES[1:])
    for wrong, message in (
        ("SELEC", "Parser Error"),
        ("SELECT 1 AS a", "no column head"),
        ("", "no table"),
    ):
        with pytest.raises(DataError, match=message):
            KnowledgeGraph.from_sql(wrong)
    with pytest.raises(DataError, match="a query can't be loaded by name"):  # by the settings of a run, say
        KnowledgeGraph.load(f"sql:{text}")


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("duckdb", "sql", lambda path: KnowledgeGraph.from_sql("SELECT 1")),
        ("pyoxigraph", "rdf", lambda path: KnowledgeGraph.load(write(path / "a.ttl", "<a:a> <a:b> <a:c> ."))),
    ],
)
def test_what_to_install(tmp_path, monkeypatch, package, extra, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(KgfastError, match=rf'needs the package {package} .*pip install "kgfast\[{extra}\]"'):
        call(tmp_path)


def test_folders_of_parquet_files(tmp_path):
    table = pa.table(COLUMNS)
    for place in range(4):
        path = tmp_path / "facts.parquet" / ("deep" if place == 3 else "") / f"part-{place}.parquet"
        path.parent.mkdir(exist_ok=True, parents=True)
        pa.parquet.write_table(table.slice(place, 1), path)
    write(tmp_path / "facts.parquet" / "_SUCCESS", "")
    write(tmp_path / "facts.parquet" / "_metadata.parquet", "no data")
    assert set(named(KnowledgeGraph.load(tmp_path / "facts.parquet"))) == set(TRIPLES)
    (tmp_path / "facts.parquet").rename(tmp_path / "train.parquet")
    write(tmp_path / "test.txt", LINES)
    graph = KnowledgeGraph.load(tmp_path)
    assert set(named(graph)) == set(named(graph, "test")) == set(TRIPLES) and not graph.report.unread
    prepare(tmp_path, tmp_path / "out")
    assert set(named(KnowledgeGraph.load(tmp_path / "out"))) == set(TRIPLES)
    (tmp_path / "train.parquet").rename(tmp_path / "facts")
    with pytest.raises(DataError, match=r"is read as one where its name ends in \.parquet"):
        KnowledgeGraph.load(tmp_path / "facts")
