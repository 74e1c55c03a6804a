"""Joint tables that begin as those of a run on the graph alone."""

import io

import pytest
import torch
from joint_helpers import joint_config, run_joint, write_towns
from rich.console import Console

from kgfast.data import KnowledgeGraph
from kgfast.errors import CheckpointError, ConfigError
from kgfast.joint.build import build_model
from kgfast.joint.config import JointConfig, resolve
from kgfast.joint.start import start_tables
from kgfast.train import TrainConfig, train
from kgfast.train.checkpoint import load_run


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return KnowledgeGraph.load(write_towns(tmp_path_factory.mktemp("data") / "towns"), cache=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory, graph):
    """On a graph without some of the entities."""
    folder = tmp_path_factory.mktemp("runs") / "graph"
    fewer = KnowledgeGraph.from_arrays(*smaller(graph))
    config = TrainConfig(
        data="towns", model="complex", dim=16, reciprocal=True, epochs=2, batch_size=16, out=str(folder), threads=1,
        tensorboard=False, device="cpu", candidates="all", objective="softmax",
    )  # fmt: skip
    train(config, console=Console(file=io.StringIO()), graph=fewer)
    return folder


def smaller(graph):
    kept = [name for name in graph.entity_names if not name.startswith("town5")][::-1]  # other ids
    place = {name: index for index, name in enumerate(kept)}
    names = list(graph.entity_names)
    rows = [
        [place[names[head]], relation, place[names[tail]]]
        for head, relation, tail in graph.train.tolist()
        if names[head] in place and names[tail] in place
    ]
    return torch.tensor(rows), None, None, len(kept), graph.num_relations, kept, list(graph.relation_names)


def settings(run, out="unused", **more):
    return joint_config(out, reciprocal=True, entities={"from": str(run)}, relations=str(run), **more)


def test_rows_are_matched_by_name(graph, run):
    config, told = settings(run), []
    model = build_model(config, graph)
    before = model.entities.table.detach().clone()
    start_tables(config, model, told.append)
    saved, names, _ = load_run(run)
    for entity, name in enumerate(graph.entity_names):
        there = names.entity_names.find(name)
        expected = before[entity] if there is None else saved.entities[there]
        assert torch.equal(model.entities.table[entity], expected), name
    assert torch.equal(model.relations, saved.relations)  # relations have the same names
    assert len(told) == 1 and "6 of 45 entities are not there" in told[0]


def test_a_run_begins_there_and_goes_on_without(graph, run, tmp_path):
    config = settings(run, tmp_path / "joint", steps=1, table_lr=1e-9)
    _, output = run_joint(config, graph)
    assert "6 of 45 entities are not there" in output
    again, _ = run_joint(config.replace(steps=2), graph, resume=True)
    assert again["train"]["steps"] == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (dict(dim=8), "entities.from=.*: it was trained with dim=16, this run has dim=8"),
        (dict(model="distmult"), "entities.from=.*: it was trained with model=complex"),
        (dict(reciprocal=False), "relations.from=.*: it was trained with reciprocal=True"),
    ],
)
def test_what_does_not_fit_is_refused(graph, run, more, said):
    config = settings(run).replace(**more)
    with pytest.raises(ConfigError, match=said):
        start_tables(config, build_model(config, graph), print)


def test_other_runs_and_words(graph, run, tmp_path):
    run_joint(joint_config(tmp_path / "joint", steps=1), graph)
    config = settings(tmp_path / "joint")
    with pytest.raises(CheckpointError, match="it is a joint run"):
        start_tables(config, build_model(config, graph), print)
    with pytest.raises(ConfigError, match="entities.from has no effect with entities.kind=text"):
        JointConfig(data="world", tasks=["link"], entities={"kind": "text", "from": str(run)})
    pairs = ["data=world", "tasks=link", f"entities.from={run}", f"relations.from={run}", "entities=hybrid"]
    config = resolve(None, pairs)
    assert getattr(config.entities, "from") == getattr(config.relations, "from") == str(run)
    assert config.entities.kind == "hybrid"
    config.save(tmp_path / "config.yaml")
    assert JointConfig.load(tmp_path / "config.yaml") == config
