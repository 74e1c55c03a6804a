"""An index of entities: it answers as exact search does but for its recall, and a stale or damaged one is refused."""

import json
import shutil
import sys

import pytest
import torch

import kgfast
from kgfast.cli.main import main
from kgfast.core.known import KnownTriples
from kgfast.errors import CheckpointError, ConfigError, KgfastError
from kgfast.nn import KGEModel

faiss = pytest.importorskip("faiss", reason='faiss isn\'t installed (pip install "kgfast[faiss]")')

from kgfast.use import indexing  # noqa: E402
from kgfast.use.index import EntityIndex, read, write  # noqa: E402

ENTITIES, RELATIONS = 400, 3


def model_of(score="distmult", **options):
    return KGEModel(ENTITIES, RELATIONS, 8, score=score, init_scale=1.0, seed=2, **options)


def triples_of(count=60, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(high, (count,), generator=random) for high in (ENTITIES, RELATIONS, ENTITIES)], 1)


def index_of(model, lists=False, monkeypatch=None):
    if lists:
        monkeypatch.setattr(indexing, "HNSW_MOST", 0)
    rows, most = indexing.filled(model, lambda text: None)
    return EntityIndex(model, rows, most)  # an effort that looks at everything


@pytest.mark.parametrize("lists", [False, True], ids=["hnsw", "ivf"])
@pytest.mark.parametrize(
    ("score", "options"),
    [("complex", {"reciprocal": True}), ("transe_l2", {}), ("distmult", {"dtype": torch.float64})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_with_all_effort_it_is_exact(score, options, lists, monkeypatch):
    model = model_of(score, **options)
    index = index_of(model, lists, monkeypatch)
    assert index.kind == ("ivf" if lists else "hnsw")
    hub = torch.cat([torch.full((300, 1), 7), torch.zeros(300, 1, dtype=torch.int64), torch.arange(300)[:, None]], 1)
    known = KnownTriples.from_triples(torch.cat([triples_of(2000, 1), hub]), ENTITIES, RELATIONS)
    asked = torch.cat([triples_of(), hub[:1]])
    for side in ("tail", "head"):
        for exclude in (None, known):
            scores, ids = index.topk(asked, 6, side, exclude)
            exact_scores, exact_ids = model.topk(asked, 6, side, exclude)
            hits = (ids[:, :, None] == exact_ids[:, None, :]).any(2).double().mean()
            assert hits > 0.99  # a graph of neighbours may have lost a row
            same = ids == exact_ids
            assert torch.allclose(scores[same], exact_scores[same], rtol=1e-5, atol=1e-5)
            if exclude is not None:
                for row, found in zip(asked.tolist(), ids.tolist(), strict=True):
                    assert not set(found) & set(known.answers(row, side).tolist())


def test_where_few_or_many_remain(monkeypatch):
    model = model_of()
    index = index_of(model)
    most = torch.stack([torch.full((398,), 5), torch.ones(398, dtype=torch.int64), torch.arange(398)], 1)
    known = KnownTriples.from_triples(most, ENTITIES, RELATIONS)
    asked = torch.tensor([[5, 1, 0]])
    assert index.topk(asked, 4, "tail", known)[1].tolist() == model.topk(asked, 4, "tail", known)[1].tolist()
    index.rows = None  # so many left out, or asked for, are found exactly
    monkeypatch.setattr("kgfast.use.index.FETCHED_MOST", 100)
    known = KnownTriples.from_triples(most[:150], ENTITIES, RELATIONS)
    assert torch.equal(index.topk(asked, 4, "tail", known)[1], model.topk(asked, 4, "tail", known)[1])
    assert torch.equal(index.topk(asked, 200, "head")[1], model.topk(asked, 200, "head")[1])


def test_effort_rises_until_the_recall_is_reached(monkeypatch):
    graph = kgfast.KnowledgeGraph.from_arrays(triples_of(300), None, triples_of(90, 3), ENTITIES, RELATIONS)
    monkeypatch.setattr(indexing, "HNSW_MOST", 0)
    told = []
    low, _ = indexing.build(model_of(), graph, 0.0, told.append)
    high, measured = indexing.build(model_of(), graph, 1.0, told.append)
    assert low.effort <= high.effort == 10  # of 400 // 39 lists
    with pytest.raises(KgfastError, match="recall"):
        indexing.build(model_of(), graph, 1.5)
    assert measured["recall"] == 1.0 and measured["queries"] == 90 and "recall@10" in told[-1]


@pytest.mark.parametrize("score", ["transe_l1", "rotate"])
def test_other_similarities_are_refused_by_name(score):
    with pytest.raises(ConfigError, match=f"model={score}.*similarity is (l1|modulus)"):
        indexing.filled(model_of(score), lambda text: None)


def test_a_run_answers_by_its_index(graph_run, tmp_path, capsys):
    folder = shutil.copytree(graph_run, tmp_path / "run")
    run = kgfast.load(folder)
    query = dict(head=run.entities[0], relation=run.relations[0], k=3)
    with pytest.raises(CheckpointError, match="has no index: `kgfast index"):
        run.predict(**query, index=True)
    with pytest.raises(KgfastError, match="index"):
        run.predict(**query, index="yes")
    main_with(capsys, "index", folder, "--recall", "0.9")
    for known in ("exclude", "mark", "ignore"):
        found = kgfast.load(folder).predict(**query, known=known, index=True)
        exact = run.predict(**query, known=known)
        assert [row["name"] for row in found] == [row["name"] for row in exact]
        assert [row["score"] for row in found] == pytest.approx([row["score"] for row in exact], rel=1e-5)
    output = main_with(capsys, "predict", folder, "--head", query["head"], "--relation", query["relation"], "--index")
    assert run.predict(**query)[0]["name"] in output
    assert run.predict(head=run.entities[0], tail=run.entities[1], index=False)  # relations need none

    about = json.loads((folder / "index" / "index.json").read_text())
    assert about["kind"] == "hnsw" and 0.8 < about["measured"]["recall"] <= 1
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from kgfast.use.server.app import create_app

    served = kgfast.load(folder)
    with TestClient(create_app(served, index=True), base_url="http://127.0.0.1") as client:
        asked = {"queries": [{"head": query["head"], "relation": query["relation"]}], "k": 3}
        results = client.post("/predict", json=asked).json()["results"]
        assert [row["name"] for row in results[0]] == [row["name"] for row in run.predict(**query)]


def test_a_joint_run_answers_by_its_index(joint_run, tmp_path):
    folder = shutil.copytree(joint_run, tmp_path / "run")
    run = kgfast.load(folder)
    write(*indexing.build(run.model, run.graph, 1.0), folder)
    query = dict(head=run.entities[0], relation=run.relations[0], k=3)
    found = kgfast.load(folder, threads=1).predict(**query, index=True)
    assert [row["name"] for row in found] == [row["name"] for row in run.predict(**query)]


def main_with(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return printed.out


def test_stale_and_damaged_ones_are_refused(graph_run, tmp_path):
    folder = shutil.copytree(graph_run, tmp_path / "run")
    run = kgfast.load(folder)
    index, measured = indexing.build(run.model, run.graph)
    write(index, measured, folder)
    assert read(folder, run.model).effort == index.effort
    about, rows = folder / "index" / "index.json", folder / "index" / "entities.faiss"
    good, content = about.read_text(), rows.read_bytes()
    told = json.loads(good)
    about.write_text(json.dumps(told | {"tables": {"model": "00000000"}}))
    with pytest.raises(CheckpointError, match="made from other tables"):
        read(folder, run.model)
    for wrong in ("{", json.dumps(told | {"effort": 0}), json.dumps(told | {"more": 1})):
        about.write_text(wrong)
        with pytest.raises(CheckpointError, match="index is damaged"):
            read(folder, run.model)
    about.write_text(good)
    rows.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="entities.faiss is damaged"):
        read(folder, run.model)
    rows.unlink()
    rows.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="link"):
        read(folder, run.model)


def test_without_faiss_the_extra_is_named(graph_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SystemExit) as ended:
        main(["index", str(graph_run)])
    assert ended.value.code == 2 and 'pip install "kgfast[faiss]"' in capsys.readouterr().err.replace("\n", " ")
