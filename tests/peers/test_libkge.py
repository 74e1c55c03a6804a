"""Checkpoints as LibKGE writes them come in with its scores; nothing in a file is executed."""

import os
import re
import sys
import types

import numpy as np
import pytest
import torch

import kgfast
from kgfast import CheckpointError, testing
from kgfast.registry import SCORES

ENTITIES, RELATIONS, DIM = 9, 3, 4
KINDS = {"transe": "TransE", "distmult": "DistMult", "complex": "ComplEx", "rescal": "Rescal", "cp": "CP"}
KINDS |= {"simple": "SimplE", "rotate": "RotatE", "conve": "ConvE"}
WIDTHS = {"rescal": DIM * DIM, "cp": DIM // 2, "rotate": DIM // 2}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(model, ..) -> (path, tables): a file as `torch.save` of LibKGE's training job or `kge package` makes it."""
    module = types.ModuleType("kge.config")
    module.Config = type("Config", (), {"__module__": "kge.config", "__qualname__": "Config"})

    def written(name, norm=1.0, reciprocal=False, packaged=True, embedder="lookup", old=False, **more):
        config, rows = module.Config(), 2 * RELATIONS if reciprocal else RELATIONS
        base = {"class_name": KINDS[name], "l_norm": norm, "entity_embedder": {"dim": DIM}}
        wrapper = {"class_name": "ReciprocalRelationsModel", "base_model": {"type": name, "+++": "+++"}}
        model = "reciprocal_relations_model" if reciprocal else name
        config.folder, config.log_folder = "local/experiments/x", None
        config.options = {"model": model, name: base, "reciprocal_relations_model": wrapper}
        generator = torch.Generator().manual_seed(1)
        tables = [
            torch.randn(count, width, generator=generator)
            for count, width in ((ENTITIES, DIM), (rows, WIDTHS.get(name, DIM)))
        ]
        keys = [f"_{part}_embedder.{'' if old else '_'}embeddings.weight" for part in ("entity", "relation")]
        state = {f"{'_base_model.' if reciprocal else ''}{key}": table for key, table in zip(keys, tables, strict=True)}
        if embedder != "lookup":
            state = {"_entity_embedder.projection.weight": tables[0]}
        checkpoint = {"type": "train", "epoch": 5, "model": (state, None), "config": config, "job_id": "x"}
        checkpoint["valid_trace"] = [{"mean_reciprocal_rank_filtered": np.float64(0.3), "epoch": 5}]
        if packaged:
            names = {"entity_ids": list("ihgfedcba"), "relation_ids": ["r2", "r1", "r0"]}
            checkpoint |= {"type": "package", "dataset": {"num_entities": ENTITIES, "meta": names}}
        path = tmp_path / f"checkpoint_{len(list(tmp_path.iterdir())):05d}.pt"
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "kge", types.ModuleType("kge"))
            patch.setitem(sys.modules, "kge.config", module)
            torch.save(checkpoint | more, path)
        return path, tables

    return written


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize(
    "name, norm, score",
    [
        ("transe", 1.0, "transe_l1"),
        ("transe", 2.0, "transe_l2"),
        ("distmult", 1.0, "distmult"),
        ("complex", 1.0, "complex"),
        ("rescal", 1.0, "rescal"),
        ("cp", 1.0, "cp"),
        ("simple", 1.0, "simple"),
        ("rotate", 1.0, "rotate"),
        ("rotate", 2.0, "rotate_l2"),
    ],
)
def test_tables_come_in(write, name, norm, score, reciprocal):
    path, (entities, relations) = write(name, norm, reciprocal, packaged=False, old=norm == 2)
    model = kgfast.from_libkge(path)
    assert (model.score, model.reciprocal, model.num_relations) == (score, reciprocal, RELATIONS)
    assert torch.equal(model.entities, entities) and torch.equal(model.relations, relations)


def test_scores_are_those_of_libkge(write):
    """Its formulae, written out: of those whose layout could be another."""
    triples = testing.make_triples(6, num_entities=ENTITIES, num_relations=RELATIONS)

    def scores(name, formula, norm=1.0):
        path, (entities, relations) = write(name, norm)
        h, r, t = entities[triples[:, 0]], relations[triples[:, 1]], entities[triples[:, 2]]
        torch.testing.assert_close(kgfast.from_libkge(path).score_triples(triples).detach(), formula(h, r, t))

    def numbers(row):
        return torch.complex(*row.chunk(2, 1))

    def rotated(h, r, t):
        return (numbers(h) * torch.polar(torch.ones_like(r), r) - numbers(t)).abs()

    scores("complex", lambda h, r, t: (numbers(h) * numbers(r) * numbers(t).conj()).sum(1).real)
    scores("cp", lambda h, r, t: (h[:, :2] * r * t[:, 2:]).sum(1))
    scores("simple", lambda h, r, t: ((h[:, :2] * r[:, :2] * t[:, 2:]) + (h[:, 2:] * r[:, 2:] * t[:, :2])).sum(1) / 2)
    scores("rescal", lambda h, r, t: torch.einsum("bi,bij,bj->b", h, r.view(-1, DIM, DIM), t))
    scores("rotate", lambda h, r, t: -rotated(h, r, t).sum(1))
    scores("rotate", lambda h, r, t: -rotated(h, r, t).norm(dim=1), norm=2.0)


def test_rows_in_the_order_of_a_graphs_names(write):
    path, (entities, relations) = write("distmult", reciprocal=True)
    model = kgfast.from_libkge(path, list("abc"), ["r0", "r2"])
    assert torch.equal(model.entities, entities[[8, 7, 6]]) and torch.equal(model.relations, relations[[2, 0, 5, 3]])
    with pytest.raises(CheckpointError, match=re.escape("has no entity called 'x' (1 of 2 lack)")):
        kgfast.from_libkge(path, ["a", "x"])
    short = write("distmult", dataset={"meta": {"entity_ids": ["a"]}})[0]
    with pytest.raises(CheckpointError, match="has 1 entity names for 9 rows"):
        kgfast.from_libkge(short, ["a"])
    with pytest.raises(CheckpointError, match="has no entity names"):
        kgfast.from_libkge(write("distmult", packaged=False)[0], ["a"])


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_what_is_no_checkpoint_is_refused(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, message in (
        (write("conve")[0], "kgfast has no score of LibKGE's ConvE"),
        (write("transe", 3.0)[0], "TransE with l_norm=3.0; kgfast has the norms 1 and 2"),
        (write("distmult", embedder="projection")[0], "only lookup_embedder can be read"),
        (write("distmult", valid_trace=Attack())[0], "can't be read as data alone"),
        (write("distmult", dataset=[1])[0], "is no checkpoint of LibKGE: AttributeError"),
        (write("distmult", model=3)[0], "is no checkpoint of LibKGE: TypeError"),
        (tmp_path / "nothing.pt", "No such file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            kgfast.from_libkge(path)
    assert not (tmp_path / "attacked").exists()
    for content in ({"a": 1}, [1]):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(CheckpointError, match="is no checkpoint of LibKGE"):
            kgfast.from_libkge(tmp_path / "other.pt")
    (tmp_path / "other.pt").write_bytes(b"text")
    with pytest.raises(CheckpointError, match="can't be read as data alone"):
        kgfast.from_libkge(tmp_path / "other.pt")


def test_every_score_that_it_names_is_one():
    from kgfast.peers import libkge

    assert {one(norm) for one in libkge.SCORES.values() for norm in (1, 2.0)} <= set(SCORES)
