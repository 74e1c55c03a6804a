"""Turtle, TriG, RDF/XML and N-Quads: the same names as N-Triples have, literals as the caller says."""

import gzip

import pytest
from data_helpers import named, write

from kgfast.data import KnowledgeGraph, prepare
from kgfast.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")

STATEMENTS = """<http://x/a> <http://x/p> <http://x/Z\u00fcrich> .
<http://x/a> <http://x/p> "one \\"word\\""@en .
<http://x/a> <http://x/p> "5"^^<http://www.w3.org/2001/XMLSchema#integer> .
<http://x/a> <http://x/q> _:named .
_:named <http://x/q> <http://x/a> .
"""
TURTLE = """@prefix x: <http://x/> .
x:a x:p <http://x/Z\u00fcrich>, "one \\"word\\""@en, 5 ; x:q _:named .
_:named x:q x:a .
"""
XML = """<?xml version="1.0"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:x="http://x/">
  <rdf:Description rdf:about="http://x/a">
    <x:p rdf:resource="http://x/Z\u00fcrich"/>
    <x:p xml:lang="en">one "word"</x:p>
    <x:p rdf:datatype="http://www.w3.org/2001/XMLSchema#integer">5</x:p>
    <x:q rdf:nodeID="named"/>
  </rdf:Description>
  <rdf:Description rdf:nodeID="named"><x:q rdf:resource="http://x/a"/></rdf:Description>
</rdf:RDF>
"""
QUADS = STATEMENTS.replace(" .\n", " <http://x/graph> .\n", 3)
TRIG = f"@prefix x: <http://x/> . x:graph {{ {TURTLE.partition('.')[2]} }}"
FILES = {"a.ttl": TURTLE, "a.rdf": XML, "a.owl": XML, "a.nq": QUADS, "a.trig": TRIG}
LITERALS = ['"5"^^<http://www.w3.org/2001/XMLSchema#integer>', '"one \\"word\\""@en']


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("literals", ["drop", "keep"])
def test_all_hold_the_same(tmp_path, name, literals):
    if not name.endswith(".nq"):
        pytest.importorskip("pyoxigraph", reason="pyoxigraph isn't installed (pip install kgfast[rdf])")
    path = write(tmp_path / f"{name}.gz", gzip.compress(FILES[name].encode()))
    expected = KnowledgeGraph.load(write(tmp_path / "b.nt", STATEMENTS), literals=literals)
    graph = KnowledgeGraph.load(path, literals=literals)
    assert sorted(named(graph)) == sorted(named(expected)) and len(graph.train) == (5 if literals == "keep" else 3)
    assert graph.report.literals == (0 if literals == "keep" else 2)
    assert sorted(name for name in graph.entity_names if name[0] == '"') == (LITERALS if literals == "keep" else [])
    counted = any("statements name a graph, which was left out" in line for line in graph.report.lines())
    assert counted == (name in ("a.nq", "a.trig"))
    prepare(path, tmp_path / "out", literals=literals)
    whole = KnowledgeGraph.load(path, literals=literals, iris="whole")
    assert sorted(named(KnowledgeGraph.load(tmp_path / "out"))) == sorted(named(whole))


def test_nodes_without_names_are_numbered(tmp_path):
    pytest.importorskip("pyoxigraph", reason="pyoxigraph isn't installed (pip install kgfast[rdf])")
    text = "@prefix x: <http://x/> .\nx:a x:p [ x:p [ x:p x:b ] ], _:own, << x:a x:p x:b >> .\n"
    path = write(tmp_path / "facts.ttl", text)
    one, two = (KnowledgeGraph.load(path, cache=False) for _ in range(2))
    assert one.fingerprint == two.fingerprint
    assert {name for name in one.entity_names if name[0] == "_"} >= {"_:facts.1", "_:facts.2", "_:own"}
    assert any("1 statements about statements were left out" in line for line in one.report.lines())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ttl", "<a:a> <a:b> <a:c> .\n<a:a> oops .\n", r"a\.ttl, line 2: "),
        ("a.rdf", "<rdf:RDF", r"a\.rdf"),
        ("a.ttl", "", r"a\.ttl is empty"),
        ("a.ttl", "# nothing\n", "has no triples between resources"),
        ("a.ttl.gz", gzip.compress(b"<a:a> <a:b> <a:c> .", mtime=0)[:-9], "broken gzip data"),
    ],
)
def test_malformed(tmp_path, name, content, message):
    pytest.importorskip("pyoxigraph", reason="pyoxigraph isn't installed (pip install kgfast[rdf])")
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        KnowledgeGraph.load(path)
    with pytest.raises(
        DataError, match=message.replace("has no triples between resources", "no triples could be read")
    ):
        prepare(path, tmp_path / "out", on_bad_line="skip")
