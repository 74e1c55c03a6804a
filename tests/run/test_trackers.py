"""Trackers are told of a run from its start to its results, each through its own package, which is a stand-in here."""

import sys
import types

import pytest
from training_helpers import grouped_graph, run, small_config

from kgfast.errors import CheckpointError, ConfigError, KgfastError
from kgfast.run.trackers import Tracker, run_id
from kgfast.train import train


class Package(types.ModuleType):
    """A package whose functions write down how they are called; `answers` has what they return."""

    def __init__(self, name, **answers):
        super().__init__(name)
        self.calls, self.answers = [], answers

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*values, **named):
            self.calls.append((name, values, named))
            return self.answers.get(name, self)

        return call

    def all(self, name):
        return [(values, named) for called, values, named in self.calls if called == name]


@pytest.fixture
def package(monkeypatch):
    """package(name): the stand-in for the package of that name, fresh."""

    def make(name, **answers):
        made = Package(name, **answers)
        monkeypatch.setitem(sys.modules, name, made)
        monkeypatch.delitem(sys.modules, f"kgfast.run.trackers.{name}", raising=False)
        return made

    return make


@pytest.fixture(scope="module")
def graph():
    return grouped_graph()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_is_told_as_it_goes(package, graph, tmp_path, name):
    told = package(name)
    metrics, _ = run(small_config(tmp_path / "run", epochs=4, trackers=name), graph)
    ((_, begun),) = told.all("init")
    assert begun["project"] == "kgfast" and begun["config"]["dim"] == 16 and begun["resume"] == "allow"
    assert run_id(tmp_path / "run") in (begun.get("id"), begun["name"].partition("-")[2])
    logged = [(values[0], named["step"]) for values, named in told.all("log")]
    assert [numbers["valid/mrr"] for numbers, _ in logged if "valid/mrr" in numbers][-1] == metrics["valid"]["mrr"]
    assert any("train/loss" in numbers and "epoch" in numbers for numbers, _ in logged)
    last, step = logged[-1]
    assert step == metrics["train"]["steps"] and last["results/test/hits_at_10"] == metrics["test"]["hits@10"]
    assert not any("@" in key for numbers, _ in logged for key in numbers)
    assert [called for called, _, _ in told.calls][-1] == "finish"
    if name == "wandb":
        assert told.all("finish") == [((), {"exit_code": 0})]


def test_mlflow_goes_on_with_the_same_run(package, graph, tmp_path):
    told = package("mlflow")
    config = small_config(tmp_path / "run", epochs=2, trackers=["mlflow"])
    run(config, graph)
    assert told.all("start_run") == [((), {"run_name": "run", "tags": {"kgfast_id": run_id(tmp_path / "run")}})]
    assert told.all("log_params")[0][0][0]["model"] == "complex" and told.all("end_run") == [(("FINISHED",), {})]
    earlier = types.SimpleNamespace(info=types.SimpleNamespace(run_id="earlier"))
    told = package("mlflow", search_runs=[earlier])
    run(config.replace(epochs=4), graph, resume=True)
    ((_, asked),) = told.all("search_runs")
    assert run_id(tmp_path / "run") in asked["filter_string"]
    assert told.all("start_run") == [((), {"run_id": "earlier"})] and not told.all("log_params")


class Witness(Tracker):
    def __init__(self, fail_at=None):
        self.steps, self.ended, self.fail_at = [], [], fail_at

    def log(self, numbers, step, epoch):
        self.steps.append(step)
        if self.fail_at is not None and step >= self.fail_at:
            raise self.failure

    def close(self, ended):
        self.ended.append(ended)


@pytest.mark.parametrize(
    ("failure", "ended"), [(ValueError("full"), "failed"), (KeyboardInterrupt(), "stopped"), (None, "finished")]
)
def test_how_a_run_ended(graph, tmp_path, failure, ended):
    witness = Witness(None if failure is None else 1)
    witness.failure = failure
    config = small_config(tmp_path / "run", epochs=2)
    if failure is None:
        train(config, graph=graph, trackers=[witness])
    else:
        with pytest.raises(type(failure)):
            train(config, graph=graph, trackers=[witness])
    assert witness.ended == [ended] and witness.steps == sorted(witness.steps)


def test_a_missing_package_is_named_before_anything_is_written(graph, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(KgfastError, match=r'trackers=wandb needs the package wandb .*pip install "kgfast\[wandb\]"'):
        run(small_config(tmp_path / "run", trackers="wandb"), graph)
    assert not (tmp_path / "run").exists()


def test_wrong_names_and_a_damaged_id(tmp_path):
    with pytest.raises(ConfigError, match=r"trackers.*'wand'.*'wandb', 'mlflow' or 'trackio'"):
        small_config(tmp_path, trackers="wand")
    (tmp_path / "tracker_id").write_text("../x")
    with pytest.raises(CheckpointError, match="tracker_id is damaged"):
        run_id(tmp_path)
