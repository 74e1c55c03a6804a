"""`kgfast reproduce`: the table is right, a figure is made again, and a slip is one."""

import json
from pathlib import Path

import pytest

from kgfast.cli.main import main
from kgfast.errors import ConfigError
from kgfast.research import reproduce
from kgfast.research.reproduce import Figure, find, table
from kgfast.train.config import TrainConfig

MEASURED = (Path(__file__).parents[2] / "docs" / "measured.md").read_text(encoding="utf-8")
QUICK = "world-complex-n3"


def kgfast(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


@pytest.mark.parametrize("name", table())
def test_every_figure_stands_in_the_docs(name):
    published = table()[name]
    TrainConfig(data="world", **published.settings)
    mrr = published.figures["test.mrr"].ours
    rows = [row for row in MEASURED.splitlines() if " ".join(f"{value:.4f}" for value in mrr) in row]
    assert len(rows) == 1
    told = [f"{key}={value}" for key, value in published.settings.items()]
    options = [f"--{key} {value}" for key, value in published.settings.items()]
    assert all(pair in rows[0] or option in rows[0] for pair, option in zip(told, options, strict=True))
    hits = published.figures["test.hits@10"].ours
    assert all(f"{value}".removeprefix("0") in rows[0] for value in hits)
    assert (published.source is None) == all(figure.theirs is None for figure in published.figures.values())


def test_tolerance_and_verdict():
    three = Figure(ours=[0.30, 0.31, 0.32])
    assert three.mean == pytest.approx(0.31) and three.tolerance == pytest.approx(0.03)
    assert [three.verdict(value) for value in (0.279, 0.281, 0.339, 0.341)] == ["below", "within", "within", "above"]
    assert Figure(ours=[0.3, 0.3001]).tolerance == 0.005 and Figure(ours=[0.3]).tolerance == 0.01
    assert Figure(ours=[0.3]).verdict(float("nan")) != "within"


def test_a_figure_is_made_again_and_a_slip_ends_with_one(tmp_path, monkeypatch, capsys):
    code, output, error = kgfast(capsys, "reproduce", QUICK, "--out", tmp_path / "run", "--json")
    found = json.loads(output)
    assert code == 0 and found["within"] and set(found["figures"]) == {"test.mrr", "test.hits@10"}
    assert find(QUICK).command() in error and "minutes on machine C" in error
    assert found["minutes"] > 0 and (tmp_path / "run" / "report.html").exists()
    saved = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert found["figures"]["test.mrr"]["measured"] == saved["mrr"]

    hopeful = find(QUICK).model_copy(
        update={"figures": {"test.mrr": Figure(ours=[0.9])}, "settings": find(QUICK).settings | {"epochs": 1}}
    )
    monkeypatch.setattr(reproduce, "table", lambda: {QUICK: hopeful})
    code, output, error = kgfast(capsys, "reproduce", QUICK, "--out", tmp_path / "slip")
    assert (
        code == 1 and "below 0.9000 ± 0.0100" in error.replace("\n", " ") and "0.9000" in output and "below" in output
    )


def test_what_there_is(capsys):
    code, output, _ = kgfast(capsys, "reproduce")
    assert code == 0 and all(name in output for name in table())
    code, output, _ = kgfast(capsys, "reproduce", "--json")
    assert list(json.loads(output)) == list(table())
    with pytest.raises(ConfigError, match="did you mean world-complex-n3"):
        find("world-complex")


def test_other_data_is_refused_before_training(tmp_path, capsys):
    name = "fb15k-237-transe"
    code, _, error = kgfast(capsys, "reproduce", name, "--data", "world", "--out", tmp_path / "run")
    assert code == 2 and "world has 3,467 / 356 / 356 triples" in error and not (tmp_path / "run").exists()
    code, _, error = kgfast(capsys, "reproduce", name, "--data", tmp_path / "nowhere")
    assert code == 2 and "nowhere" in error
