"""Runs side by side: what counts as one row, what stands in it, and the page."""

import json
import statistics
from html.parser import HTMLParser

import pytest
import yaml

from kgfast.cli.main import main
from kgfast.errors import CheckpointError, ConfigError
from kgfast.research.compare import best, compare
from kgfast.research.page import write_comparison

KEYS = ("mrr", "hits@1", "hits@3", "hits@10", "mean_rank")


def leave_run(path, mrr, *, checksum="aa", finished=True, **settings):
    """What a run on the graph alone leaves, as far as comparisons read it."""
    path.mkdir()
    chosen = dict(data="graph", model="complex", lr=0.1, seed=0, threads=2, out=str(path))
    (path / "config.yaml").write_text(yaml.safe_dump(chosen | settings))
    found = dict(zip(KEYS, (mrr, mrr / 2, mrr, 2 * mrr, 10 / mrr), strict=True))
    metrics = {"test": found, "valid": found, "tasks": {}, "train": {"seconds": 3.5, "stopped": "epochs"}}
    metrics["made_by"] = {"data_sha256": checksum, "torch": "2"}
    if finished:
        (path / "metrics.json").write_text(json.dumps(metrics))
    lines = [{"step": n, "epoch": n / 2, "loss": 1 / n} for n in range(1, 5)]
    lines.append({"step": 4, "epoch": 2.0, "valid": {"mrr": mrr}})
    (path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def runs(tmp_path):
    """Two rates with three and two seeds."""
    slow = [leave_run(tmp_path / f"slow-{seed}", 0.2 + 0.01 * seed, seed=seed) for seed in range(3)]
    fast = [leave_run(tmp_path / f"fast-{seed}", 0.3 + 0.02 * seed, seed=seed, lr=0.5) for seed in (1, 0)]
    return [*slow, *fast]


def test_runs_that_differ_in_the_seed_alone_are_one_row(runs):
    found = compare(runs)
    assert found.settings == ["lr"] and found.metrics == ["test.mrr", "test.hits@1", "test.hits@10"]
    first, second = found.rows  # the best first
    assert first.settings == {"lr": 0.5} and [run.seed for run in first.runs] == [0, 1]
    assert first.metrics["test.mrr"] == {"mean": 0.31, "spread": pytest.approx(0.02 / 2**0.5), "values": [0.3, 0.32]}
    assert second.metrics["test.mrr"]["spread"] == statistics.stdev([0.2, 0.21, 0.22])
    assert best(found.rows, "test.mrr") is first and first.name == "lr=0.5"


def test_lower_ranks_and_shorter_times_are_better(runs):
    found = compare(runs, ["test.mean_rank", "train.seconds"])
    assert [row.settings["lr"] for row in found.rows] == [0.5, 0.1]
    assert found.rows[0].metrics["test.mean_rank"]["mean"] < found.rows[1].metrics["test.mean_rank"]["mean"]


def test_where_the_data_lay_does_not_count_but_what_it_was(runs, tmp_path):
    elsewhere = leave_run(tmp_path / "elsewhere", 0.25, data="/other/graph", seed=7)
    assert compare([*runs, elsewhere]).settings == ["lr"]
    changed = leave_run(tmp_path / "changed", 0.25, checksum="bb", seed=7)
    assert compare([*runs, changed]).settings == ["lr", "data_sha256"]
    other = leave_run(tmp_path / "other", 0.25, checksum="cc", data="other")
    assert compare([*runs, other]).settings == ["data", "lr"]


def test_unfinished_runs_are_left_out_and_named(runs, tmp_path):
    open_run = leave_run(tmp_path / "open", 0.9, finished=False)
    assert [run.path for run in compare([*runs, open_run]).unfinished] == [open_run]
    with pytest.raises(ConfigError, match="none of the runs is finished"):
        compare([open_run])


def test_what_is_wrong_is_named(runs, tmp_path):
    with pytest.raises(ConfigError, match="slow-0 is given twice"):
        compare([runs[0], runs[0].parent / "." / "slow-0"])
    with pytest.raises(ConfigError, match=r"metric='test.mr'.* test\.mrr"):
        compare(runs, ["test.mr"])
    with pytest.raises(CheckpointError, match="nowhere: no such run"):
        compare([tmp_path / "nowhere"])
    (runs[0] / "metrics.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="metrics.json is damaged"):
        compare(runs)


class Chart(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.lines, self.colours, self.open = 0, set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.lines += tag == "polyline"
        self.colours |= {value for name, value in attributes if name == "stroke" and tag == "polyline"}
        assert tag not in ("script", "link")


def test_the_page_draws_every_run_in_the_colour_of_its_row(runs, tmp_path):
    text = write_comparison(tmp_path / "page.html", compare(runs)).read_text()
    chart = Chart(text)
    assert chart.lines == 5 and len(chart.colours) == 2  # the losses; one validation each is a dot
    assert "<b>0.310</b>" in text and "lr=0.5" in text and "MRR valid" in text


def kgfast(*words):
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    assert not end.value.code


def test_the_command(runs, tmp_path, capsys):
    kgfast("compare", *runs, "--page", tmp_path / "page.html")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["run", "lr", "seeds"]
    assert "fast-0" in printed[1] and "0.3100 ± 0.0141" in printed[1] and "slow-0" in printed[2]
    kgfast("compare", *runs, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][0]["metrics"]["valid.mrr"]["values"] == [0.3, 0.32] and found["page"] is None


def test_many_settings_stand_below(tmp_path, capsys):
    others = dict(dim=8, model="rotate", optimizer="adam", epochs=3, batch_size=5, margin=2.0, negatives=4)
    runs = [leave_run(tmp_path / "one", 0.5), leave_run(tmp_path / "two", 0.4, **others)]
    kgfast("compare", *runs)
    printed = capsys.readouterr().out
    assert printed.split()[:2] == ["run", "seeds"] and "negatives" in printed.split("setting")[1]
