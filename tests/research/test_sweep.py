"""A sweep finds settings on valid, goes on where it was stopped, and refuses what can't be right before it trains."""

import json
import sys

import pytest
import yaml
from training_helpers import grouped_graph, write_dataset

from kgfast.cli.main import main
from kgfast.errors import ConfigError, KgfastError
from kgfast.research import sweep as sweeping
from kgfast.research.plan import Plan
from kgfast.train import TrainConfig

SETTINGS = dict(
    model="complex", dim=8, candidates="all", objective="softmax", batch_size=128, epochs=3, validate_every=1,
    threads=1, tensorboard=False, device="cpu",
)  # fmt: skip
SEARCH = dict(lr=dict(low=0.01, high=1.0, log=True), dim=[8, 16])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(grouped_graph(), tmp_path_factory.mktemp("data") / "groups")


@pytest.fixture
def write(data, tmp_path):
    """write(search=.., sweep=.., any setting=..): a file of a sweep."""

    def make(search=SEARCH, sweep=None, **settings):
        path = tmp_path / "sweep.yaml"
        values = {"data": str(data), **SETTINGS, **settings, "search": search}
        path.write_text(yaml.safe_dump(values | ({} if sweep is None else {"sweep": sweep})))
        return path

    return make


def trials_of(study):
    return [(t.number, t.state.name, t.value, t.params) for t in study.get_trials(deepcopy=False)]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """(plan, study, folder) of a sweep without a stop."""
    path = tmp_path_factory.mktemp("whole") / "sweep.yaml"
    path.write_text(yaml.safe_dump({"data": str(data), **SETTINGS, "search": SEARCH, "sweep": {"trials": 7}}))
    plan = Plan.read(path)
    return plan, *sweeping.sweep(plan, str(path.parent / "out"))


def test_the_best_settings_are_written_for_train(whole):
    plan, study, folder = whole
    trials = study.get_trials(deepcopy=False)
    assert len(trials) == 7 and len({json.dumps(trial.params) for trial in trials}) == 7
    best = sweeping.best_trial(study)
    assert best.value == max(trial.value for trial in trials if trial.state.name == "COMPLETE")
    config = TrainConfig.load(folder / "best.yaml")
    assert (config.lr, config.dim, config.out) == (best.params["lr"], best.params["dim"], None)
    metrics = json.loads((folder / f"trial-{best.number:04}" / "metrics.json").read_text())
    assert metrics["valid"]["mrr"] == best.value


def test_a_stopped_sweep_goes_on_as_if_it_had_not(whole, tmp_path, monkeypatch):
    plan, study, _ = whole
    log = sweeping.Pruning.log

    def stopped(watcher, numbers, step, epoch):
        log(watcher, numbers, step, epoch)
        if watcher.trial.number == 2 and "valid/mrr" in numbers and epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(sweeping.Pruning, "log", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweeping.sweep(plan, str(tmp_path / "out"))
    monkeypatch.undo()
    again, _ = sweeping.sweep(plan, str(tmp_path / "out"))
    assert trials_of(again) == trials_of(study)


def test_another_sweep_or_other_data_in_the_folder(whole, write, tmp_path, monkeypatch):
    _, _, folder = whole
    with pytest.raises(ConfigError, match=r"holds another sweep: search\.lr\.high is 1\.0 there, not 0\.5"):
        sweeping.sweep(Plan.read(write(dict(SEARCH, lr=dict(low=0.01, high=0.5, log=True)))), str(folder))
    monkeypatch.setattr(sweeping, "load_graph", lambda plan: grouped_graph(seed=1))
    with pytest.raises(KgfastError, match="its trials are of other data"):
        sweeping.sweep(whole[0], str(folder))


@pytest.mark.slow
def test_processes_share_the_trials(write, tmp_path, capsys):
    file = write(epochs=1, sweep=dict(trials=4, sampler="random", pruner="none"))
    with pytest.raises(SystemExit) as end:
        main(["sweep", str(file), "--processes", "2", "--out", str(tmp_path / "out"), "--json"])
    printed = capsys.readouterr()
    assert not end.value.code, printed.err
    found = json.loads(printed.out)
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 4
    assert len({json.dumps(trial["settings"]) for trial in found["trials"]}) == 4
    assert found["best_settings"] == str(tmp_path / "out" / "best.yaml")


def test_the_command_tells_of_each_trial(write, tmp_path, capsys):
    file = write(search=dict(lr=[0.1, 0.2]), epochs=1)
    for trials, told in ((1, "trial 0"), (2, "going on after 1 trials")):
        with pytest.raises(SystemExit) as end:
            main(["sweep", str(file), "--trials", str(trials), "--out", str(tmp_path / "out")])
        printed = capsys.readouterr()
        assert not end.value.code and told in printed.err, printed.err
        assert "MRR valid" in printed.out and f"kgfast train {tmp_path}" in printed.out.replace("\n", "")


def test_trials_that_cannot_be_are_told(write, tmp_path):
    search = dict(candidates=["sampled", "all"], objective=["softmax", "logistic"])
    plan = Plan.read(write(search=search, epochs=1, sweep=dict(trials=8, pruner="none", sampler="random")))
    study, _ = sweeping.sweep(plan, str(tmp_path / "out"))
    for trial in study.get_trials(deepcopy=False):
        wrong = trial.params == {"candidates": "all", "objective": "logistic"}
        assert trial.state.name == ("FAIL" if wrong else "COMPLETE")
        assert ("candidates=all" in trial.user_attrs.get("reason", "")) == wrong


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(search={}), "search: must be a section"),
        (dict(search=dict(lrr=[1.0])), "unknown setting 'lrr'; did you mean lr"),
        (dict(search=dict(lr=dict(low=0.5, high=0.1))), r"search\.lr: low=0\.5 must be below high=0\.1"),
        (dict(search=dict(lr=dict(low=0, high=1, log=True))), r"search\.lr: log needs a low above 0"),
        (dict(search=dict(lr=dict(low=0.1))), r"search\.lr\.high is missing"),
        (dict(search=dict(lr=dict(low=-1.0, high=0.1))), r"lr=-1\.0: .*greater than 0"),
        (dict(search=dict(lr=0.1)), r"search\.lr=0\.1: must be a list"),
        (dict(search=dict(out=["a"])), r"search\.out: it is no setting to search"),
        (dict(search=dict(negatives=[4, 8])), "negatives=4 has no effect"),
        (dict(sweep=dict(trails=3)), r"unknown setting 'sweep\.trails'; did you mean trials"),
        (dict(sweep=dict(trials=0)), r"sweep\.trials=0"),
        (dict(sweep=dict(metric="test.mrr")), r"sweep\.metric='test\.mrr': must be valid\.METRIC"),
    ],
)
def test_what_is_wrong_is_named_before_anything_trains(write, given, said):
    with pytest.raises(ConfigError, match=said):
        Plan.read(write(**given))


def test_a_missing_package_is_named(write, tmp_path, monkeypatch):
    plan = Plan.read(write())
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(KgfastError, match=r'kgfast sweep needs the package optuna .*pip install "kgfast\[sweep\]"'):
        sweeping.sweep(plan, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
