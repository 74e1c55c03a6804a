"""Results say what made them, and nothing about who did."""

import getpass
import json
import platform
import subprocess
from pathlib import Path

import torch
from training_helpers import grouped_graph, run, small_config

import kgfast
from kgfast.run import made_by as made

ROOT = Path(kgfast.__file__).parents[1]


def test_results_and_report_say_what_made_them(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(Path.home() / "bin" / "kgfast"), "train", "a b", f"data={Path.home()}/graph"])
    graph = grouped_graph()
    metrics, _ = run(small_config(tmp_path / "run", epochs=1), graph)
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["made_by"]
    assert found == metrics["made_by"]
    assert found["version"] == kgfast.__version__ and found["torch"] == torch.__version__
    assert found["command"] == "kgfast train 'a b' data=~/graph"
    assert found["data_sha256"] == graph.fingerprint and found["threads"] == 1
    assert found["machine"].keys() == {"processor", "cores", "level", "system"}
    told = json.dumps(found["machine"])
    assert platform.node() not in told and str(Path.home()) not in told
    assert getpass.getuser() not in found["machine"].values()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Made by" in page and graph.fingerprint in page and "kgfast train" in page


def test_the_program_has_its_bare_name():
    assert made.command(["/opt/x/kgfast/__main__.py", "info"]) == "kgfast info"
    assert made.command(["tests/one.py"]) == "one.py"
    assert made.command([""]) == made.command(["-c"]) == "python"


def test_the_commit_is_that_of_the_source(monkeypatch, tmp_path):
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
        assert head.returncode or str(made.commit()).startswith(head.stdout.strip())
    monkeypatch.setattr(made, "__file__", str(tmp_path / "site" / "kgfast" / "run" / "made_by.py"))
    note = json.dumps({"url": "https://example.org/kgfast", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}})
    monkeypatch.setattr(made, "distribution", lambda name: type("Found", (), {"read_text": lambda self, name: note})())
    assert made.commit() == "c0ffee"
    monkeypatch.setattr(made, "distribution", lambda name: type("Found", (), {"read_text": lambda *_: None})())
    assert made.commit() is None
