"""Files that other programs read."""

import json

import numpy
import pytest
import torch
from safetensors.torch import load_file

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.evaluate import export
from kgfast.nn import KGEModel

NAMES = ["new york", "łódź", "a[b]"]


def graph_and_model(names=NAMES, relations=("in", "near to"), **options):
    graph = KnowledgeGraph.from_arrays([[0, 0, 1], [1, 1, 2]], entity_names=names, relation_names=relations)
    return graph, KGEModel(3, 2, 4, **{"score": "complex", **options})


def lines(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def test_npy(tmp_path):
    graph, model = graph_and_model()
    written = export(model, graph, tmp_path / "a" / "b")
    folder = tmp_path / "a" / "b"
    assert sorted(path.name for path in written) == sorted(path.name for path in folder.iterdir())
    for name, table in (("entities", model.entities), ("relations", model.relations)):
        array = numpy.load(folder / f"{name}.npy", allow_pickle=False)
        assert array.dtype == numpy.float32
        assert array.tobytes() == table.detach().numpy().tobytes()
    assert lines(folder / "entities.txt") == NAMES
    assert lines(folder / "relations.txt") == ["in", "near to"]
    described = json.loads((folder / "model.json").read_text())
    assert (described["score"], described["dim"], described["reciprocal"]) == ("complex", 4, False)


def test_a_reciprocal_model_names_its_second_relations(tmp_path):
    graph, model = graph_and_model(reciprocal=True)
    export(model, graph, tmp_path)
    assert numpy.load(tmp_path / "relations.npy").shape == (4, 4)
    assert lines(tmp_path / "relations.txt") == ["in", "near to", "in_reverse", "near to_reverse"]
    graph, model = graph_and_model(relations=("in", "in_reverse"), reciprocal=True)
    with pytest.raises(DataError, match="'in_reverse'"):
        export(model, graph, tmp_path)


def test_safetensors(tmp_path):
    graph, model = graph_and_model()
    export(model, graph, tmp_path, "safetensors")
    tables = load_file(tmp_path / "embeddings.safetensors")
    assert torch.equal(tables["entities"], model.entities)
    assert torch.equal(tables["relations"], model.relations)
    assert lines(tmp_path / "entities.txt") == NAMES


def test_word2vec_reads_back_exactly(tmp_path):
    graph, model = graph_and_model()
    export(model, graph, tmp_path, "word2vec")
    header, *rows = lines(tmp_path / "entities.vec")
    assert header == "3 4"
    words, values = zip(*((row.rstrip().split(" ")[0], row.rstrip().split(" ")[1:]) for row in rows), strict=True)
    assert words == ("new_york", "łódź", "a[b]")
    read = numpy.array(values, dtype=numpy.float32)
    assert read.tobytes() == model.entities.detach().numpy().tobytes()


def test_word2vec_refuses_names_that_would_become_one(tmp_path):
    graph, model = graph_and_model(names=["a b", "a_b", "c"])
    with pytest.raises(DataError, match="'a b' and 'a_b' in entities would both be 'a_b'"):
        export(model, graph, tmp_path / "out", "word2vec")
    assert not (tmp_path / "out").exists()


def test_half_precision_is_widened(tmp_path):
    graph, model = graph_and_model(dtype=torch.bfloat16)
    export(model, graph, tmp_path)
    array = numpy.load(tmp_path / "entities.npy")
    assert array.dtype == numpy.float32
    assert torch.equal(torch.from_numpy(array).bfloat16(), model.entities)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    graph, model = graph_and_model()
    export(model, graph, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(numpy, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        export(KGEModel(3, 2, 4, score="complex", seed=1), graph, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_wrong_arguments_are_named(tmp_path):
    graph, model = graph_and_model()
    with pytest.raises(ConfigError, match="format='pickle': must be one of npy, safetensors, word2vec"):
        export(model, graph, tmp_path, "pickle")
    for folder in ("", None, 3, b"x", "a\0"):
        with pytest.raises(DataError, match="out="):
            export(model, graph, folder)
    graph, model = graph_and_model(names=["a\nb", "c", "d"])
    with pytest.raises(DataError, match="line break"):
        export(model, graph, tmp_path)
    other = KGEModel(4, 2, 4, score="complex")
    with pytest.raises(DataError, match="4 rows of entities, the graph 3 names"):
        export(other, graph_and_model()[0], tmp_path)
