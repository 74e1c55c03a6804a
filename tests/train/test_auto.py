"""A weight that follows the graph: chosen by trials on valid, said, kept by a resumed run, and the same each time."""

import io
import json
import time
import weakref
from pathlib import Path

import pytest
from rich.console import Console
from training_helpers import grouped_graph, run, same_bits, small_config

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError
from kgfast.run import loop as run_loop
from kgfast.train import TrainConfig, auto, checkpoint, resolve
from kgfast.train import loop as training_loop

EPOCHS = 40  # of 8 steps: three parts of 20 are a fifth of them and less


@pytest.fixture(scope="module")
def graph():
    return grouped_graph()


def config_of(out, **settings):
    defaults = dict(
        candidates="all", side="both", reciprocal=True, optimizer="adagrad", subsampling=False, regularizer="n3",
        regularizer_weight="auto", epochs=EPOCHS, validate_every=0,
    )  # fmt: skip
    return small_config(out, **{**defaults, **settings})


@pytest.mark.parametrize("best", auto.WEIGHTS)
@pytest.mark.parametrize("trials", [2, 3, 5, 20])
def test_it_climbs_to_the_top_that_it_can_reach(best, trials):
    asked = []

    def measure(weight):
        assert weight not in asked
        asked.append(weight)
        return -abs(auto.WEIGHTS.index(weight) - auto.WEIGHTS.index(best))

    found = auto.climb(measure, trials, 0.0)
    assert len(asked) <= trials and asked[0] == auto.START
    assert found == max(asked, key=lambda weight: -abs(auto.WEIGHTS.index(weight) - auto.WEIGHTS.index(best)))
    if trials == 20:
        assert found == best and len(asked) <= 8


@pytest.mark.parametrize(("margin", "chosen"), [(0.0, 0.01), (0.01, 0.01), (0.02, 0.02), (0.05, 0.05), (0.3, 0.05)])
def test_a_smaller_weight_must_be_better_by_the_margin(margin, chosen):
    found = {0.005: 0.256, 0.01: 0.258, 0.02: 0.254, 0.05: 0.245, 0.1: 0.195, 0.2: 0.1}
    assert auto.climb(found.__getitem__, 9, margin) == chosen


def test_a_long_trial_needs_a_small_margin(graph, tmp_path):
    margins = [auto.Search(config_of(tmp_path, epochs=epochs), graph).margin for epochs in (1, 40, 400)]
    assert margins[0] == auto.MARGIN / (auto.SHORTEST / 8) == margins[1] and margins[2] == auto.MARGIN / (106 / 8)
    assert auto.Search(config_of(tmp_path, batch_size=1, epochs=3), graph).margin == auto.MARGIN / auto.FEWEST


def test_a_run_has_the_bits_of_one_that_was_told_the_weight(graph, tmp_path):
    config = config_of(tmp_path / "auto")
    metrics, printed = run(config, graph)
    chosen = metrics["train"]["auto"]
    tried = {one["regularizer_weight"]: one["mrr"] for one in chosen["trials"]}
    assert list(tried) == [0.05, 0.1] and chosen["regularizer_weight"] == auto.climb(tried.__getitem__, 2, 0.0)
    assert (1 + len(tried)) * chosen["steps"] <= metrics["train"]["steps"] / auto.SHARE
    assert f"regularizer_weight={chosen['regularizer_weight']}: the best on valid" in printed
    assert "regularizer_weight: auto" in (tmp_path / "auto" / "config.yaml").read_text()
    assert (
        f"regularizer_weight, auto: {chosen['regularizer_weight']}" in (tmp_path / "auto" / "report.html").read_text()
    )
    told = config_of(tmp_path / "told", regularizer_weight=chosen["regularizer_weight"])
    other, said = run(told, graph)
    assert "auto" not in other["train"] and "regularizer_weight" not in said
    one, two = (checkpoint.read(each.out, each, graph) for each in (config, told))
    assert same_bits(one.tables, two.tables) and metrics["test"] == other["test"]
    again, _ = run(config_of(tmp_path / "again"), graph)
    assert again["train"]["auto"]["trials"] == chosen["trials"]


def test_a_resumed_run_keeps_the_choice(graph, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    whole = config_of(tmp_path / "whole")
    metrics, _ = run(whole, graph)
    cut = whole.replace(out=str(tmp_path / "cut"), checkpoint_every=1e-9)
    monkeypatch.setattr(run_loop, "CHECKPOINT_SHARE", 0)
    with monkeypatch.context() as patch:
        take = training_loop.Training.take_step

        def stopping(training):
            if training.position.step == 33:
                raise Stop
            return take(training)

        patch.setattr(training_loop.Training, "take_step", stopping)
        with pytest.raises(Stop):
            run(cut, graph)
    monkeypatch.setattr(auto, "Search", None)  # nothing is searched again
    resumed, printed = run(cut, graph, resume=True)
    first, second = metrics["train"]["auto"], resumed["train"]["auto"]
    assert second["trials"] == first["trials"] and "at step 33" in printed
    assert f"auto kept: regularizer_weight={first['regularizer_weight']}" in printed
    one, two = (checkpoint.read(each.out, each, graph) for each in (whole, cut))
    assert same_bits(one.tables, two.tables) and same_bits(one.optimizer, two.optimizer)
    assert resumed["test"] == metrics["test"]
    assert resolve(None, [], dict(out=cut.out, resume=True)).regularizer_weight == "auto"


@pytest.mark.parametrize(
    ("settings", "valid", "why"),
    [
        (dict(epochs=2), True, "16 steps are too few to choose by"),
        (dict(), False, "no valid triples to choose by"),
        (dict(minutes=1e-7), True, "0 trials fitted into 1 / 5 of the minutes"),
    ],
)
def test_where_nothing_can_be_tried_the_usual_weight_is_taken_and_said(graph, tmp_path, settings, valid, why):
    if not valid:
        sizes = dict(num_entities=graph.num_entities, num_relations=graph.num_relations)
        graph = KnowledgeGraph.from_arrays(graph.train, graph.valid[:0], graph.test, **sizes)
    metrics, printed = run(config_of(tmp_path / "run", **settings), graph)
    assert metrics["train"]["auto"]["regularizer_weight"] == auto.START
    assert f"regularizer_weight={auto.START}: {why}" in printed


def test_the_trials_that_fitted_into_the_minutes_decide(graph, tmp_path, monkeypatch):
    search, clock = auto.Search(config_of(tmp_path / "run", epochs=400, minutes=5), graph), iter(range(10**6))
    monkeypatch.setattr(auto.time, "monotonic", lambda: next(clock))  # a step takes a second, the search has 60
    choice = search.run(0.0, lambda done, total: None)
    assert choice.steps == 106 and choice.trials == [] and choice.regularizer_weight == auto.START
    search.steps, seen = 19, []
    choice = search.run(next(clock), lambda done, total: seen.append((done, total)))
    assert [one["regularizer_weight"] for one in choice.trials] == [0.05, 0.1]
    assert choice.regularizer_weight in (0.05, 0.1) and choice.why == "2 trials fitted into 1 / 5 of the minutes"
    assert seen == [(done, 6 * 19) for done in range(1, len(seen) + 1)] and len(seen) == 59


def test_a_trial_that_diverges_is_the_worst(graph, tmp_path):
    search = auto.Search(config_of(tmp_path / "run", lr=1e30), graph)
    choice = search.run(time.monotonic(), lambda done, total: None)
    assert [one["mrr"] for one in choice.trials] == [0.0, 0.0] and choice.regularizer_weight == auto.START


def test_while_trials_still_gain_much_a_smaller_weight_must_be_better_by_as_much(graph, tmp_path, monkeypatch):
    search, found = auto.Search(config_of(tmp_path / "run", epochs=400), graph), iter([0.2, 0.25, 0.24, 0.3])
    monkeypatch.setattr(search, "mrr", lambda: next(found))
    choice = search.run(time.monotonic(), lambda done, total: None)
    assert [one["regularizer_weight"] for one in choice.trials] == [0.05, 0.1, 0.02]
    assert search.margin == 0.25 / 0.2 - 1 and choice.regularizer_weight == 0.05


def test_the_tables_of_the_search_leave_before_those_of_the_run_are_made(graph, tmp_path, monkeypatch):
    made, build = [], auto.build_model

    def build_watched(*arguments):
        model = build(*arguments)
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(auto, "build_model", build_watched)
    auto.choose(config_of(tmp_path / "run"), graph, Console(file=io.StringIO()))
    assert len(made) == 1 and made[0]() is None


def test_the_minutes_hold_the_search_too(graph, tmp_path):
    metrics, _ = run(config_of(tmp_path / "run", minutes=1), graph)
    line = json.loads((Path(tmp_path) / "run" / "checkpoint" / "checkpoint.json").read_text())["position"]
    assert line["elapsed"] >= line["seconds"] + metrics["train"]["auto"]["seconds"]


def test_what_the_setting_may_be():
    recipe = dict(data="world", recipe="complex-n3")
    assert TrainConfig(**recipe).regularizer_weight == "auto"
    assert resolve(None, ["data=world", "recipe=complex-n3", "regularizer_weight=0.1"]).regularizer_weight == 0.1
    for wrong in ("much", -1, float("nan"), True):
        with pytest.raises(ConfigError, match=r"regularizer_weight=.*: (must be|Input should be) a"):
            TrainConfig(**recipe, regularizer_weight=wrong)
    with pytest.raises(ConfigError, match="must be a number with regularizer=l2"):
        TrainConfig(**recipe, regularizer="l2")
    with pytest.raises(ConfigError, match="regularizer_weight='auto' has no effect"):
        resolve(None, [], dict(data="world", regularizer_weight="auto"))
