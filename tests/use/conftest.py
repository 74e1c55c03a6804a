"""A run of each kind, trained once for the tests of this room."""

import pytest
from joint_helpers import joint_config, run_joint, write_towns
from training_helpers import grouped_graph, run, small_config, write_dataset

from kgfast.data import KnowledgeGraph


@pytest.fixture(scope="session")
def graph_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph")
    data = write_dataset(grouped_graph(), folder / "data")
    graph = KnowledgeGraph.load(data, cache=False)
    run(small_config(folder / "run", data=str(data), epochs=12, validate_every=0), graph)
    return folder / "run"


@pytest.fixture(scope="session")
def joint_run(tmp_path_factory):
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("joint")
    data = write_towns(folder / "towns")
    tasks = {"link": {"batch_size": 32}, "qa": {"batch_size": 32}}
    settings = dict(data=str(data), entities={"kind": "hybrid"}, steps=60, lr=1e-2, table_lr=0.1)
    run_joint(joint_config(folder / "run", tasks, **settings), KnowledgeGraph.load(data, cache=False))
    return folder / "run"
