"""The command line on joint runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from joint_helpers import SMALL, write_towns

from kgfast import load
from kgfast.cli.main import main
from kgfast.errors import ConfigError

pytest.importorskip("transformers")


@pytest.fixture
def kgfast(capsys):
    """kgfast(*arguments) -> (exit code, standard output, standard error)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return exit.value.code or 0, output.out, output.err

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_towns(tmp_path_factory.mktemp("data") / "towns")


@pytest.fixture(scope="module")
def settings(data, tmp_path_factory):
    """joint.yaml with all kinds of tasks."""
    values = dict(SMALL, data=str(data), entities="hybrid", steps=25)
    values["tasks"] = dict(mlm={"batch_size": 8}, link={"batch_size": 16}, qa={"batch_size": 16})
    path = tmp_path_factory.mktemp("settings") / "joint.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "towns"
    command = [sys.executable, "-m", "kgfast", "train", str(settings), "--out", str(folder), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == json.loads((folder / "metrics.json").read_text())
    return folder


def test_train_prints_tables_and_goes_on(settings, kgfast, tmp_path):
    words = ["train", settings, "steps=2", "tasks.link.batch_size=8", "--out", tmp_path / "run"]
    code, output, error = kgfast(*words)
    assert code == 0, error
    for word in ("MRR", "perplexity", "Hits@1", "1 hop", "together", "2 steps", "report.html"):
        assert word in output
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["tasks"]["link"]["batch_size"] == 8 and saved["dim"] == 16
    assert kgfast(*words)[0] == 2  # it holds a run
    code, output, error = kgfast("train", "--resume", "--out", tmp_path / "run", "steps=3", "--json")
    assert code == 0, error
    assert json.loads(output)["train"]["steps"] == 3


@pytest.mark.parametrize(("recipe", "tasks"), [("kgqa", {"link", "qa"}), ("text", {"link"}), ("joint", None)])
def test_recipes_start(data, kgfast, tmp_path, recipe, tasks):
    small = ["steps=2", "backbone.hidden=16", "backbone.heads=2", "tokenizer.vocabulary=400", "tensorboard=false"]
    code, output, error = kgfast(
        "train", "--recipe", recipe, "--data", data, "--dim", 16, *small, "--out", tmp_path / "run", "--json"
    )
    assert code == 0, error
    assert set(json.loads(output)["tasks"]) == (tasks or {"mlm", "nsp", "link", "qa", "facts"})


def test_evaluate(run, kgfast):
    code, output, _ = kgfast("evaluate", run, "--json")
    assert code == 0
    saved = json.loads((run / "metrics.json").read_text())["tasks"]
    for task, metrics in json.loads(output).items():
        for key, value in metrics.items():
            if isinstance(value, float):
                assert value == pytest.approx(saved[task]["test"][key], abs=1e-4), (task, key)
    code, output, _ = kgfast("evaluate", run, "--split", "valid")
    assert code == 0 and "perplexity" in output


def test_ask_names_answers_and_triples(run, kgfast):
    code, output, _ = kgfast("ask", run, "where does town1x1 lie", "--json", "-k", 3, "--always")
    assert code == 0
    found = json.loads(output)
    assert found["topic"] == "town1x1" and [answer["rank"] for answer in found["answers"]] == [1, 2, 3]
    assert sum(bool(answer["support"]) for answer in found["answers"]) > 0
    code, output, _ = kgfast("ask", run, "where does it lie", "--topic", "town1x1", "--always")
    assert code == 0 and " 1  " in output
    code, output, _ = kgfast("ask", run, "where does it lie")
    assert code == 0 and "I don't know: the question names nothing of the graph" in output


def test_ask_a_file_of_questions(run, kgfast, tmp_path):
    (tmp_path / "questions.txt").write_text("where does town1x1 lie\nwhat colour has it\tcountry2\n")
    code, output, _ = kgfast("ask", run, "--file", tmp_path / "questions.txt", "--json", "-k", 1, "--always")
    rows = [json.loads(line) for line in output.splitlines()]
    assert code == 0 and [row["topic"] for row in rows] == ["town1x1", "country2"]
    assert [len(row["answers"]) for row in rows] == [1, 1]
    code, output, _ = kgfast("ask", run, "--file", tmp_path / "questions.txt", "-k", 1, "--always")
    assert code == 0 and output.index("where does town1x1 lie") < output.index("what colour has it")
    (tmp_path / "questions.txt").write_text("where does town1x1 lie\nwhere is it\ttown9\n")
    code, output, error = kgfast("ask", run, "--file", tmp_path / "questions.txt")
    assert (code, output) == (2, "") and "questions.txt:2: no entity is named 'town9'" in " ".join(error.split())


def test_ask_is_a_conversation_on_a_terminal(run, kgfast, monkeypatch):
    code, _, error = kgfast("ask", run)
    assert code == 2 and "give a question, or --file" in " ".join(error.split())
    lines = iter(["where does town1x1 lie", "where is it", ""])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    code, output, error = kgfast("ask", run, "--always", "-k", 1)
    assert code == 0 and re.search(r"^ 1  \d\.\d{3}  ", output, re.M) and "names nothing of the graph" in output


def test_ask_says_that_it_does_not_know(run, kgfast, tmp_path):
    """A run whose valid questions asked for more than any probability."""
    other = tmp_path / "run"
    shutil.copytree(run, other)
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["tasks"]["qa"]["valid"]["threshold"] = 1.5
    (other / "metrics.json").write_text(json.dumps(metrics))
    code, output, _ = kgfast("ask", other, "where does town1x1 lie")
    assert code == 0 and "I don't know: no answer is as likely as 1.50" in output
    found = json.loads(kgfast("ask", other, "where does town1x1 lie", "--json")[1])
    assert found["knows"] is False and found["answers"] == []
    assert json.loads(kgfast("ask", other, "where does town1x1 lie", "--always", "--json")[1])["answers"]


def test_predict_also_for_a_text(run, kgfast):
    code, output, _ = kgfast("predict", run, "--head", "town1x1", "--relation", "lies_in", "--known", "mark", "--json")
    assert code == 0 and len(json.loads(output)["answers"]) == 10
    text = "This place is a town of country1."
    code, output, error = kgfast("predict", run, "--head-text", text, "--relation", "lies_in", "-k", 4, "--json")
    assert code == 0, error
    assert len(json.loads(output)["answers"]) == 4
    code, _, error = kgfast("predict", run, "--head-text", text, "--head", "town1x1", "--relation", "lies_in")
    assert code == 2 and "--head-text needs --relation" in error


def test_predict_for_a_new_head_with_triples(run, kgfast, tmp_path):
    file, text = tmp_path / "edges.txt", "This place is a town."
    file.write_text("?\tlies_in\tcountry1\n")
    asked = ["predict", run, "--head-text", text, "--relation", "lies_in", "--json", "--edges"]
    code, output, error = kgfast(*asked, file)
    assert code == 0, error
    found = json.loads(output)
    assert found["edges"] == [["?", "lies_in", "country1"]]
    assert len(found["answers"]) == 10 and "country1" not in [row["name"] for row in found["answers"]]
    file.write_text("?\tlies_in\tcountry1\ntown1x1\tlies_in\tcountry1\n")
    code, _, error = kgfast(*asked, file)
    assert code == 2 and "edges.txt:2: must be head, relation and tail" in " ".join(error.split())
    code, _, error = kgfast("predict", run, "--head", "town1x1", "--relation", "lies_in", "--edges", file)
    assert code == 2 and "need --head-text" in " ".join(error.split())


def test_predict_for_the_text_of_a_relation(run, kgfast):
    code, _, error = kgfast("predict", run, "--head", "town1x1", "--relation-text", "lies inside")
    assert code == 2 and "relations.kind=table" in error
    code, _, error = kgfast("predict", run, "--relation-text", "lies inside")
    assert code == 2 and "--relation-text needs one of --head, --tail and --head-text" in " ".join(error.split())


def test_evaluate_on_entities_known_by_their_texts(run, kgfast, tmp_path):
    other = write_towns(tmp_path / "other", countries=2, towns=3, questions=False)
    code, output, error = kgfast("evaluate", run, "--unseen", other, "--json")
    assert code == 0, error
    found = json.loads(output)
    assert 0 < found["link"]["mrr"] <= 1 and 0 < found["edges"]["mrr"] <= 1
    code, output, _ = kgfast("evaluate", run, "--unseen", other, "--split", "valid")
    assert code == 0 and "valid" in output and "edges" in output
    code, _, error = kgfast("evaluate", run, "--unseen", tmp_path / "nothing")
    assert code == 2 and "nothing" in error


def test_evaluate_refuses_what_joint_runs_have_no_use_for(run, kgfast):
    for option in (["--details"], ["--ties", "optimistic"], ["--batch-size", 4]):
        code, _, error = kgfast("evaluate", run, *option)
        assert code == 2 and option[0] in error


def test_export(run, kgfast, tmp_path):
    assert kgfast("export", run, "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "entities.npy").exists()


def test_ablate(settings, kgfast, tmp_path):
    words = [settings, "steps=2", "--seeds", 2, "--alone", "link", "--out", tmp_path / "all"]
    code, output, error = kgfast("ablate", *words, "--json")
    assert code == 0, error
    found = json.loads(output)
    assert set(found["runs"]) == {"joint", "link"} and found["seeds"] == [0, 1]
    cell = found["runs"]["link"]["link"]["mrr"]
    assert cell["mean"] == pytest.approx(sum(cell["values"]) / 2) and cell["spread"] >= 0
    code, output, error = kgfast("ablate", *words)  # nothing is trained twice
    assert code == 0 and "trained alone" in output and "training" not in error
    assert json.loads((tmp_path / "all" / "ablation.json").read_text()) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--recipe", "joint"), "data is missing"),
        (("train", "--recipe", "joint", "--data", "world", "--negatives", "3"), "unknown setting 'negatives'"),
        (("train", "--data", "world", "tasks.lnk.n3=1"), "tasks.lnk"),
        (("ablate", "tasks.link.n3=0.1", "data=world"), "out is missing"),
    ],
)
def test_mistakes_cost_a_line_and_code_2(kgfast, words, said):
    code, output, error = kgfast(*words)
    assert (code, output) == (2, "")
    assert said in " ".join(error.split()) and "Traceback" not in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="device='cuda': no CUDA device is available"):
        load("run", device="cuda")


@pytest.mark.slow
def test_two_processes_train_as_one(settings, tmp_path):
    """torchrun: both ranks take part, the run is written once, and it resumes with as many processes only."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "kgfast", "train", str(settings), "steps=3", "--out", str(tmp_path / "run"), "--json",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["train"]["steps"] == 3
    with pytest.raises(SystemExit):
        main(["train", "--resume", "--out", str(tmp_path / "run"), "steps=4"])


@pytest.mark.slow
def test_facts(run, kgfast):
    code, output, error = kgfast("evaluate", run, "--facts", "--json")
    assert code == 0, error
    assert json.loads(output)["facts"] == json.loads((run / "metrics.json").read_text())["tasks"]["facts"]["test"]
    assert "no subject" in kgfast("evaluate", run, "--facts")[1]
    code, _, error = kgfast("evaluate", run, "--facts", "--unseen", "world")
    assert code == 2 and "doesn't go together" in error


@pytest.mark.slow
def test_the_page_tells_the_truth(tmp_path):
    """The settings of docs/joint.md and of the demo are valid, and every command has the options that it shows."""
    from pathlib import Path

    from kgfast.joint.config import resolve

    root = Path(__file__).parents[2]
    page = (root / "docs" / "joint.md").read_text(encoding="utf-8")
    (tmp_path / "joint.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    for file in (tmp_path / "joint.yaml", root / "examples" / "world.yaml"):
        small = ["steps=1", "backbone.hidden=16", "backbone.layers=1", "dim=16", "entities.refresh=8", "threads=1"]
        config = resolve(file, [*small, "facts=20", "tensorboard=false", f"out={tmp_path / file.parent.name}"])
        assert list(config.tasks)[-2:] == ["link", "qa"]
    from joint_helpers import run_joint

    from kgfast.data import KnowledgeGraph

    metrics, _ = run_joint(config, KnowledgeGraph.load(config.data))
    assert metrics["tasks"]["qa"]["test"]["questions"] == 892
