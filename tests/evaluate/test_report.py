"""RUN/report.html and its charts."""

import json
import re
from html.parser import HTMLParser

import pytest
import torch

from kgfast.data import KnowledgeGraph
from kgfast.errors import KgfastError
from kgfast.evaluate import evaluate, write_report
from kgfast.evaluate.embedding_map import ITERATIONS, entity_groups, is_type_name, principal_axes, two_dimensions
from kgfast.nn import KGEModel
from kgfast.pages import plots

VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Checks that tags nest, and collects text by the tag around it."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts, self.tags, self.attributes = [], [], set(), []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))


def run_folder(path, model, graph, history=True):
    """What training leaves, as far as the report reads it."""
    path.mkdir()
    found = evaluate(model, graph)
    train = {"triples_per_second": 12_345.6, "seconds": 83.2, "peak_memory_bytes": 300 * 2**20}
    tasks = {"qa": {"test": {"hits@1": 0.5, "f1": 0.25}}}
    metrics = {"test": found, "valid": None, "train": train, "tasks": tasks}
    (path / "metrics.json").write_text(json.dumps(metrics))
    (path / "config.yaml").write_text("model: distmult\ndim: 8\n")
    if history:
        rows = [{"step": 9 * n, "epoch": n / 2, "loss": 5 / n, "triples_per_second": 1e4 + n} for n in range(1, 9)]
        rows.insert(4, {"step": 36, "epoch": 2.0, "valid": {"mrr": 0.25, "hits@10": 0.5}})
        (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_report_of_the_world(tmp_path):
    graph = KnowledgeGraph.load("world")
    model = KGEModel(graph.num_entities, graph.num_relations, 8, score="distmult")
    run = run_folder(tmp_path / "run", model, graph)
    path = write_report(run, model=model, graph=graph)
    assert path == run / "report.html"
    assert sorted(file.name for file in run.iterdir()) == [
        "config.yaml",
        "history.jsonl",
        "metrics.json",
        "report.html",
    ]
    page = Page(path.read_text(encoding="utf-8"))
    headings = [text for tag, text in page.texts if tag == "h2"]
    assert headings == [
        "Training",
        "Ranking",
        "Best and worst predictions",
        "Relations",
        "Map of entities",
        "Tasks",
        "Settings",
        "Data",
    ]
    assert [text for tag, text in page.texts if tag == "h3"][:3] == ["Loss", "Valid MRR", "Triples a second"]
    cells = [text for tag, text in page.texts if tag == "td"]
    assert set(map(str, graph.relation_names[:])) & set(cells)
    assert "Europe" in [text for tag, text in page.texts if tag == "span"]  # the map's legend
    assert "France" in [text for tag, text in page.texts if tag in ("title", "text")]
    assert any("continent" in text for tag, text in page.texts if tag == "p")


def test_report_is_one_file_without_network_or_scripts(tmp_path):
    graph = KnowledgeGraph.load("world")
    model = KGEModel(graph.num_entities, graph.num_relations, 8, score="distmult")
    html = write_report(run_folder(tmp_path / "run", model, graph), model=model, graph=graph).read_text("utf-8")
    page = Page(html)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not [pair for pair in page.attributes if pair[0] in ("src", "href") or "url(" in str(pair[1])]
    assert "http" not in html
    assert not [pair for pair in page.attributes if "nan" in re.split("[^a-z]+", str(pair[1]))]


def test_names_are_text_not_markup(tmp_path):
    names = ["<script>alert(1)</script>", "a & b", '"c"', "$title"]
    graph = KnowledgeGraph.from_arrays(
        [[0, 0, 1], [1, 0, 2]], None, [[2, 0, 3]], entity_names=names, relation_names=["<i>is</i> $body"]
    )
    model = KGEModel(4, 1, 4, score="distmult")
    run = run_folder(tmp_path / "run", model, graph, history=False)
    page = Page(write_report(run, model=model, graph=graph).read_text(encoding="utf-8"))
    assert page.tags.isdisjoint({"script", "b&b"})
    texts = [text for _, text in page.texts]
    assert "<i>is</i> $body" in texts
    assert set(names) <= set(texts)


@pytest.mark.parametrize("dim", [1, 2])
def test_smallest_models(tmp_path, dim):
    graph = KnowledgeGraph.from_arrays([[0, 0, 1]])  # nothing to rank, too small for a map
    model = KGEModel(2, 1, dim, score="transe_l1")
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text('{"test": null, "valid": null, "train": {}}')
    (run / "config.yaml").write_text("dim: 1\n")
    html = write_report(run, model=model, graph=graph).read_text(encoding="utf-8")
    assert "Too few entities" in html
    wide = KnowledgeGraph.from_arrays([[0, 0, 1], [2, 0, 3]], None, [[1, 0, 2]])
    model = KGEModel(4, 1, dim, score="transe_l1")
    with torch.no_grad():
        model.entities.fill_(1.0)  # all in one place
    Page(write_report(run, model=model, graph=wide).read_text(encoding="utf-8"))


def test_single_predictions_and_baselines_stand_in_the_report(tmp_path):
    graph = KnowledgeGraph.load("world")
    model = KGEModel(graph.num_entities, graph.num_relations, 8, score="distmult")
    run, details = run_folder(tmp_path / "run", model, graph), evaluate(model, graph, details=True)
    page = Page(write_report(run, model=model, graph=graph, details=details).read_text("utf-8"))
    texts = [text.strip() for _, text in page.texts]
    frequency = details["baselines"]["frequency"]["mrr"]
    assert "Furthest off" in texts and f"frequency {frequency:.3f}" in texts
    worst = details["examples"]["worst"][0]
    answers = graph.known().answers(worst["ids"], worst["side"]).tolist()
    place = texts.index(f"rank {worst['rank']:,g} ({worst['by_frequency']:,g})")
    said = texts[texts.index("said", place) + 1 : texts.index("said", place) + 4]
    known = {graph.label(answer) for answer in answers}  # they are left out, and the right one isn't among the first
    assert not known & {word for word in said if word}


@pytest.mark.tsne
def test_maps_by_neighbours_say_so():
    pytest.importorskip("openTSNE")
    centres = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)) * 9
    rows = centres.repeat_interleave(30, 0) + torch.randn(120, 8, generator=torch.Generator().manual_seed(1))
    counted = []
    places, how = two_dimensions(rows, lambda done, total: counted.append((done, total)))
    assert "t-SNE" in how and counted[-1][0] == counted[-1][1] == sum(ITERATIONS)
    near = torch.cdist(places, places).argsort(1)[:, 1:11]
    assert (near // 30 == torch.arange(120)[:, None] // 30).double().mean() > 0.95
    assert torch.equal(places, two_dimensions(rows)[0])
    assert "principal axes" in two_dimensions(rows[:50])[1]


def test_maps_by_axes_say_why():
    rows = torch.randn(120, 8, generator=torch.Generator().manual_seed(1))
    assert "kgfast[report]" in two_dimensions(rows)[1]
    assert "fewer than 100" in two_dimensions(rows[:20])[1]


def test_a_broken_history_is_named(tmp_path):
    graph = KnowledgeGraph.from_arrays([[0, 0, 1], [1, 0, 2]], None, [[2, 0, 0]])
    model = KGEModel(3, 1, 4, score="distmult")
    run = run_folder(tmp_path / "run", model, graph)
    (run / "history.jsonl").write_text('{"epoch": 1')
    with pytest.raises(KgfastError, match="history.jsonl isn't JSON lines"):
        write_report(run, model=model, graph=graph)
    assert not (run / "report.html").exists()


def test_entity_groups():
    world = KnowledgeGraph.load("world")
    relation, group, names = entity_groups(world)
    assert relation == "continent"
    assert {"Europe", "Asia", "Africa"} <= set(names)
    assert names[group[world.entity_id("france")]] == "Europe"
    assert names[group[world.entity_id("japan")]] == "Asia"
    assert entity_groups(KnowledgeGraph.from_arrays([[0, 0, 1], [1, 0, 2], [2, 0, 0]])) is None


def test_type_names():
    assert all(map(is_type_name, ["continent", "has_type", "instanceOf", "rdf:type", "http://a.b/ns#type"]))
    assert not any(map(is_type_name, ["capital", "type_of_union", "prototype", "of", ""]))


def test_principal_axes():
    line = torch.arange(9.0)[:, None] * torch.tensor([[3.0, 4.0, 0.0]]) + 7
    places, share = principal_axes(line)
    assert share == pytest.approx(1.0)
    assert (places[1:, 0] - places[:-1, 0]).abs() == pytest.approx(torch.full((8,), 5.0))
    assert torch.equal(places, principal_axes(line)[0])


def test_ticks_are_round_and_inside():
    assert plots.ticks(0, 1) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for low, high in ((0, 7), (-3.2, 0.1), (1e-9, 3e-9), (12_345, 99_999)):
        found = plots.ticks(low, high)
        assert 2 <= len(found) <= 9
        assert all(low * (1 - 1e-9) - 1e-12 <= value <= high * (1 + 1e-9) + 1e-12 for value in found)
    assert plots.ticks(3, 3) == [3]


def test_thinning_keeps_both_ends():
    points = [(n, n) for n in range(4001)]
    thin = plots.thin(points)
    assert len(thin) <= 402
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert plots.thin(points[:5]) == points[:5]


MARKS = (
    "<td><script>alert(1)</script>",
    "has<img src=x onerror=alert(2)>:type",
    "</title><svg onload=alert(3)>",
    '" onmouseover="alert(4)',
    "</pre><iframe src=javascript:alert(5)>",
    "<!--",
    "&lt;b&gt;$title${body}",
)


@pytest.mark.parametrize("mark", MARKS)
def test_names_are_text_everywhere(tmp_path, mark):
    """Of relations, types, entities, the graph, the run and its settings: no tag but those of the page."""

    def page(mark):
        triples = [(entity, 1, 20 + entity % 2) for entity in range(20)] + [(n, 0, (n + 7) % 20) for n in range(20)]
        graph = KnowledgeGraph.from_arrays(
            torch.tensor(triples[:36]), None, torch.tensor(triples[36:]), num_entities=22,
            entity_names=[f"{mark}{number}" for number in range(22)], relation_names=[mark, f"{mark}:type"], name=mark,
        )  # fmt: skip
        model = KGEModel(22, 2, 8, score="distmult")
        folder = tmp_path / mark.replace("/", "_")
        run = run_folder(folder, model, graph)
        (run / "config.yaml").write_text(f"data: {mark}\n")
        return Page(write_report(run, model=model, graph=graph).read_text(encoding="utf-8"))

    plain, marked = page("plain"), page(mark)
    assert marked.tags == plain.tags
    assert {name for name, _ in marked.attributes} == {name for name, _ in plain.attributes}
    assert any(mark in text for _, text in marked.texts)


def test_no_name_steers_a_terminal(tmp_path):
    """Where the report is printed on one."""
    mark = "\x1b]0;title\x07\x9b2J\u202e"
    graph = KnowledgeGraph.from_arrays(
        [[0, 0, 1], [1, 1, 2]], test=[[2, 0, 0]], entity_names=[f"{mark}{number}" for number in range(3)],
        relation_names=[mark, f"{mark}:type"], name=mark,
    )  # fmt: skip
    model = KGEModel(3, 2, 4, score="distmult")
    run = run_folder(tmp_path / "run", model, graph)
    (run / "config.yaml").write_text("data: a\x1b[2J\nmodel: distmult\n")
    text = write_report(run, model=model, graph=graph).read_text(encoding="utf-8")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert r"\x1b]0;title\x07\x9b2J\u202e" in text and "data: a\\x1b[2J\nmodel: distmult" in text
