"""The command line, run in this process; what must not import torch, in another one."""

import io
import json
import os
import re
import subprocess
import sys

import numpy
import pytest
import yaml

from kgfast.cli.main import main

SMALL = [
    "--recipe",
    "transe",
    "--model",
    "distmult",
    "--dim",
    "16",
    "--epochs",
    "2",
    "--negatives",
    "16",
    "validate_every=1",
    "tensorboard=false",
]


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
def run(tmp_path_factory):
    """A run on the built-in graph, and what training printed with --json."""
    folder = tmp_path_factory.mktemp("runs") / "world"
    command = [
        sys.executable,
        "-m",
        "kgfast",
        "train",
        "--data",
        "world",
        *SMALL,
        "--out",
        str(folder),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_train_leaves_a_run(run):
    folder, done = run
    printed = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert printed.pop("run") == str(folder)
    assert printed == json.loads((folder / "metrics.json").read_text())
    assert printed["test"]["mrr"] > 0
    assert {"config.yaml", "checkpoint", "history.jsonl", "report.html"} <= {path.name for path in folder.iterdir()}
    assert "valid MRR" in done.stderr
    assert yaml.safe_load((folder / "config.yaml").read_text())["dim"] == 16


def test_settings_precedence(tmp_path, kgfast):
    (tmp_path / "run.yaml").write_text(
        "data: world\nrecipe: transe\nmodel: distmult\ndim: 4\nlr: 0.5\nepochs: 1\nseed: 7\n"
    )
    out = tmp_path / "out"
    words = [
        tmp_path / "run.yaml",
        "dim=6",
        "lr=0.25",
        "negatives=4",
        "tensorboard=false",
        "validate_every=0",
    ]
    code, output, _ = kgfast("train", *words, "--lr", "0.125", "--out", out)
    assert code == 0
    assert "MRR" in output
    assert "report.html" in output.replace("\n", "")
    found = yaml.safe_load((out / "config.yaml").read_text())
    assert [found[key] for key in ("dim", "lr", "negatives", "seed", "model")] == [6, 0.125, 4, 7, "distmult"]


def test_resume_goes_on(run, tmp_path, kgfast):
    out = tmp_path / "out"
    first = [word if word != "2" else "1" for word in SMALL]
    assert kgfast("train", "--data", "world", *first, "--out", out)[0] == 0
    code, _, error = kgfast("train", "--data", "world", *SMALL, "--out", out)
    assert code == 2
    assert "holds a run already" in error.replace("\n", " ")
    code, output, _ = kgfast("train", "--resume", "--out", out, "--epochs", "2", "--json")
    assert code == 0
    assert json.loads(output)["train"]["epochs"] == 2


def test_evaluate(run, kgfast):
    folder, _ = run
    code, output, error = kgfast("evaluate", folder, "--json")
    assert (code, error) == (0, "")
    found = json.loads(output)
    saved = json.loads((folder / "metrics.json").read_text())["test"]
    assert found["mrr"] == pytest.approx(saved["mrr"], abs=1e-9)
    code, output, _ = kgfast("evaluate", folder, "--split", "valid", "--details")
    assert code == 0
    for word in ("valid", "tail", "head", "borders", "n-1", "Hits@10", "AMRI", "together", "triples of the relation",
                 "  frequency", "  chance"):  # fmt: skip
        assert word in output
    code, output, _ = kgfast("evaluate", folder, "--hits", "2,50")
    assert code == 0 and "Hits@50" in output and "Hits@3" not in output and "query in train" in output
    code, _, error = kgfast("evaluate", folder, "--hits", "2,x")
    assert code == 2 and "--hits 2,x" in error


def test_evaluation_of_a_part_says_so(run, kgfast):
    folder, _ = run
    code, output, _ = kgfast(
        "evaluate", folder, "--split", "train", "--triples", "100", "--candidates", "20", "--details"
    )
    assert code == 0 and output.count("sampled") == 7 and "100 of" in output and "95 % confidence" in output
    assert "ranked among 20 entities drawn by seed 0" in output
    code, output, error = kgfast("evaluate", folder, "--candidates", "100000")
    assert code == 2 and "candidates=100000" in error


def test_predict(run, kgfast):
    folder, _ = run
    code, output, _ = kgfast("predict", folder, "--head", "France", "--relation", "capital", "-k", 3, "--json")
    assert code == 0
    found = json.loads(output)
    assert [row["rank"] for row in found["answers"]] == [1, 2, 3]
    assert "paris" not in [row["name"] for row in found["answers"]]  # known
    code, output, _ = kgfast("predict", folder, "--relation", "borders", "--tail", "spain", "--known", "mark")
    assert code == 0
    assert "known" in output
    code, _, error = kgfast("predict", folder, "--head", "frence", "--relation", "capital")
    assert code == 2
    assert "'france'" in error
    assert kgfast("predict", folder, "--head", "france")[0] == 2


def test_predict_a_file_of_queries(run, kgfast, tmp_path, monkeypatch):
    folder, _ = run
    (tmp_path / "queries.txt").write_text("France\tborders\t?\r\n\n?\tcapital\tParis\nfrance\t?\tgermany\n")
    code, output, _ = kgfast("predict", folder, "--file", tmp_path / "queries.txt", "-k", 2, "--json")
    rows = [json.loads(line) for line in output.splitlines()]
    assert code == 0 and [len(row["answers"]) for row in rows] == [2, 2, 2]
    alone = json.loads(kgfast("predict", folder, "--head", "France", "--relation", "borders", "-k", 2, "--json")[1])
    assert rows[0] == alone and rows[1]["head"] is None and rows[2]["relation"] is None
    code, output, _ = kgfast("predict", folder, "--file", tmp_path / "queries.txt", "--known", "mark", "-k", 1200)
    assert code == 0 and "?  capital  Paris" in output
    assert re.search(r"\bfrance +France .*in train", output)
    (tmp_path / "queries.txt").write_text("\ufeffFrance\tborders\t?\n")
    output = kgfast("predict", folder, "--file", tmp_path / "queries.txt", "-k", 2, "--json")[1]
    assert json.loads(output) == alone
    wrong = {
        "a\tb\n": "queries.txt:1: must be head, relation and tail",
        "france\tborders\tspain\n": "queries.txt:1: must be head",
        "france\tborders\t?\nfrence\tborders\t?\n": "queries.txt:2: no entity is named 'frence'",
    }
    for text, said in wrong.items():
        (tmp_path / "queries.txt").write_text(text)
        code, output, error = kgfast("predict", folder, "--file", tmp_path / "queries.txt")
        assert (code, output) == (2, "") and said in " ".join(error.split())
    monkeypatch.setattr("sys.stdin", io.StringIO("france\tborders\t?\n"))
    assert kgfast("predict", folder, "--file", "-", "--json")[0] == 0
    code, _, error = kgfast("predict", folder, "--file", "-", "--head", "france")
    assert code == 2 and "--file has the queries" in " ".join(error.split())


def test_nobody_is_their_own_answer_unless_asked(run, kgfast):
    folder, _ = run
    query = ("predict", folder, "--head", "France", "--relation", "borders", "-k", 1200, "--json")
    names = [row["name"] for row in json.loads(kgfast(*query)[1])["answers"]]
    assert "france" not in names
    looped = [row["name"] for row in json.loads(kgfast(*query, "--loops")[1])["answers"]]
    assert "france" in looped and [name for name in looped if name != "france"] == names


def test_predict_when_the_data_is_gone(run, kgfast, tmp_path):
    folder, _ = run
    (tmp_path / "train.txt").write_text("a\tr\tb\nb\tr\tc\n")
    code, _, error = kgfast("predict", folder, "--head", "france", "--relation", "capital", "--data", tmp_path)
    assert code == 2
    assert "trained on other data" in error.replace("\n", " ")
    query = ("--head", "france", "--relation", "capital")
    assert kgfast("predict", folder, *query, "--data", tmp_path, "--known", "ignore")[0] == 0


def test_export(run, kgfast, tmp_path):
    folder, _ = run
    code, output, _ = kgfast("export", folder, "--format", "npy", "--out", tmp_path / "npy", "--json")
    assert code == 0
    assert len(json.loads(output)["files"]) == 5
    names = (tmp_path / "npy" / "entities.txt").read_text(encoding="utf-8").splitlines()
    assert numpy.load(tmp_path / "npy" / "entities.npy", allow_pickle=False).shape == (len(names), 16)
    code, output, _ = kgfast("export", folder, "--format", "safetensors", "--out", tmp_path / "st")
    assert code == 0
    assert "embeddings.safetensors" in output
    code, _, error = kgfast("export", folder, "--format", "zip", "--out", tmp_path / "zip")
    assert code == 2
    assert "npy, safetensors, word2vec" in error
    code, _, error = kgfast("export", folder, "--format", "hf", "--out", tmp_path / "hf")
    assert code == 2 and "was trained on the graph alone and has no Transformer" in error


def test_ask_says_why_not(run, kgfast):
    folder, _ = run
    code, output, error = kgfast("ask", folder, "Which city is the capital of France?")
    assert (code, output) == (2, "")
    assert "was not trained with questions" in error.replace("\n", " ")


def test_data(kgfast, tmp_path):
    code, output, _ = kgfast("data", "world")
    assert code == 0
    assert "1,126 entities" in output
    code, output, _ = kgfast("data", "world", "--json")
    assert json.loads(output)["name"] == "world"
    code, output, error = kgfast("data", tmp_path / "absent")
    assert (code, output) == (2, "")
    assert "absent" in error


def test_data_tells_what_it_did_not_take(kgfast, tmp_path):
    (tmp_path / "train.tsv").write_text("wer\tmag\twen\tseit\na\tr\tb\t1\nb\tr\tc\t2\n")
    (tmp_path / "dev.tsv").write_text("a\tr\tc\n")
    code, _, error = kgfast("data", tmp_path)
    assert code == 2 and "--columns" in error
    code, output, _ = kgfast("data", tmp_path, "--columns", "wer,mag,wen")
    assert code == 0 and "dev.tsv was not read" in output and "the column 'seit' was not read" in output
    code, output, _ = kgfast("data", tmp_path, "--header", "yes", "--columns", "3,2,1", "--json")
    found = json.loads(output)
    assert (found["entities"], found["dropped"]) == (3, {"train.tsv": ["'seit'"]}) and "dev.tsv" in found["unread"]
    assert kgfast("data", tmp_path, "--header", "perhaps")[0] == 2


def test_data_writes_a_folder_to_train_on(kgfast, tmp_path):
    rows = "".join(f"e{i % 7}\tr{i % 2}\te{i * i % 11}\n" for i in range(60))
    (tmp_path / "facts.tsv").write_text(rows + "a line\n")
    out = tmp_path / "out"
    code, output, error = kgfast("data", tmp_path / "facts.tsv", "--split", "0.8,0.1,0.1")
    assert (code, output) == (2, "") and "--split is of what --out FOLDER writes" in error
    code, _, error = kgfast("data", tmp_path / "facts.tsv", "--out", out)
    assert code == 2 and "line 61" in error and not out.exists()
    words = ("--on-bad-line", "skip", "--split", "0.8,0.1,0.1", "--seed", 1)
    code, output, _ = kgfast("data", tmp_path / "facts.tsv", "--out", out, *words)
    assert code == 0 and "1 line can't be read and was left out" in output and "line 61: expected 3" in output
    report = json.loads(kgfast("data", out, "--json")[1])
    assert report["triples"]["valid"] == report["triples"]["test"] > 0 == report["unseen_entities"]["all"]
    small = ("--dim", 4, "--epochs", 1, "tensorboard=false", "--out", tmp_path / "run")
    assert kgfast("train", "--data", out, *small)[0] == 0
    code, output, _ = kgfast("predict", tmp_path / "run", "--head", "e1", "--relation", "r1", "--json")
    assert code == 0 and json.loads(output)["answers"]


def test_train_is_told_of_columns(kgfast, tmp_path):
    (tmp_path / "train.tsv").write_text("wer\twen\tmag\na\tb\tr\nb\tc\tr\n")
    small = ("--dim", 4, "--epochs", 1, "tensorboard=false", "--out", tmp_path / "run")
    code, _, error = kgfast("train", "--data", tmp_path, "--header", "yes", "--columns", "1,3,2", *small)
    assert code == 0 and "3 entities, 1 relations" in error and "line 1 was taken for a header" in error
    code, output, _ = kgfast("predict", tmp_path / "run", "--head", "a", "--relation", "r", "--json")
    assert code == 0 and "b" not in [row["name"] for row in json.loads(output)["answers"]]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_names_outside_of_the_output_encoding(tmp_path, encoding):
    (tmp_path / "train.txt").write_text(
        "\u6771\u4eac\tin\t\u65e5\u672c\n\U0001f600 \tin\t\u65e5\u672c\n", encoding="utf-8"
    )
    call = [sys.executable, "-m", "kgfast", "data", str(tmp_path)]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(call, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert rb"'\U0001f600 '" in done.stdout
    done = subprocess.run([*call, "--json"], capture_output=True, env=environment)
    assert "'\U0001f600 '" in json.loads(done.stdout)["notes"][0]
    done = subprocess.run([*call[:-1], str(tmp_path / "\u6771")], capture_output=True, env=environment)
    assert done.returncode == 2 and b"Traceback" not in done.stderr and rb"\u6771" in done.stderr


def test_info(kgfast):
    code, output, _ = kgfast("info", "--json")
    assert code == 0
    found = json.loads(output)
    assert found["backends"]["cpu"] is None
    assert found["cpu level"] in found["cpu levels"]
    assert found["threads"] >= 1
    code, output, _ = kgfast("info")
    assert code == 0
    assert "backend cpu" in output


def test_info_says_which_extras_lack_what(kgfast, monkeypatch):
    from kgfast.cli import info

    lines = ["torch>=2.6", 'nowhere>=1; extra == "one"', 'torch>=2; extra == "one"', "kgfast[one]; extra == 'two'"]
    monkeypatch.setattr(info, "requires", lambda name: [*lines, 'elsewhere; extra == "test"'])
    code, output, _ = kgfast("info", "--json")
    assert code == 0 and json.loads(output)["extras"] == {"one": ["nowhere"], "two": ["nowhere"]}
    assert 'pip install "kgfast[two]" (for nowhere)' in kgfast("info")[1]


def test_bench_is_checked_and_measures(kgfast, monkeypatch):
    from kgfast.cli import bench

    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "SIZE", bench.SMALL)
    code, output, _ = kgfast("bench", "--dim", 32, "--json")
    assert code == 0
    found = json.loads(output)
    assert len(found["results"]) == sum(len(scores) for *_, scores in bench.OPS) + len(bench.SCORES)
    for row in found["results"]:
        assert row["triples_per_second"] == pytest.approx(33e3 / row["milliseconds"])


def test_bench_refuses_a_wrong_op():
    from kgfast.cli import bench
    from kgfast.errors import KgfastError

    def wrong(case, impl=None):
        found = bench.ranks(case, impl)
        return found if impl else [found[0] + 2]

    with pytest.raises(KgfastError, match="differs from the reference"):
        bench.check("rank", wrong, bench.Case.make("distmult", bench.SMALL, 8))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--epoch", "3"), "--epochs"),
        (("train", "--data", "world", "negative=3"), "did you mean negatives"),
        (("train", "--data", "world", "--negative-sharing", "all"), "negative_sharing='all'"),
        (("train", "a.yaml", "b.yaml"), "one YAML file at most"),
        (("train",), "data is missing"),
        (("evaluate", "/nowhere/run"), "no such run"),
        (("evaluat", "x"), "evaluate"),
        (("export", "x"), "--out"),
        (("train", "--data", "world", "--out", ""), "out=''"),
        (("train", "--data", "world", "lr=yes", "--out", "x"), "lr='yes': must be a valid number"),
    ],
)
def test_mistakes_cost_a_line_and_code_2(kgfast, words, said):
    code, output, error = kgfast(*words)
    assert (code, output) == (2, "")
    assert said in " ".join(error.split())
    assert "Traceback" not in error


def test_debug_shows_the_traceback(monkeypatch):
    from kgfast.errors import KgfastError

    monkeypatch.setenv("KGFAST_DEBUG", "1")
    with pytest.raises(KgfastError, match="no such run"):
        main(["evaluate", "/nowhere/run"])


def test_a_folder_that_is_no_run(kgfast, tmp_path):
    code, _, error = kgfast("predict", tmp_path, "--head", "a", "--relation", "b")
    assert code == 2
    assert "holds no checkpoint" in error.replace("\n", " ")


def test_names_with_brackets_are_printed_as_they_are(kgfast, tmp_path):
    lines = [f"x{n}[red]\tis [a]\ty{n % 3}[/red]\n" for n in range(12)]
    (tmp_path / "train.txt").write_text("".join(lines))
    small = [
        "--recipe",
        "transe",
        "--model",
        "distmult",
        "--dim",
        "4",
        "--epochs",
        "1",
        "--negatives",
        "4",
        "validate_every=0",
    ]
    out = tmp_path / "run"
    code, output, _ = kgfast("train", "--data", tmp_path, *small, "tensorboard=false", "--out", out)
    assert (code, "report.html" in output.replace("\n", "")) == (0, True)  # nothing to evaluate, and no table
    code, output, _ = kgfast("predict", out, "--head", "x1[red]", "--relation", "is [a]")
    assert code == 0
    assert "y2[/red]" in output
    code, _, error = kgfast("evaluate", out)
    assert code == 2
    assert "no test triples" in error


def test_help_of_train_names_what_there_is(kgfast, monkeypatch):
    from kgfast.reference import SCORES
    from kgfast.registry import Objective
    from kgfast.run.optimizers import ROW_OPTIMIZERS
    from kgfast.run.recipes import GRAPH, JOINT

    monkeypatch.setenv("COLUMNS", "400")
    code, output, _ = kgfast("train", "--help")
    assert code == 0
    for words in (SCORES, GRAPH, JOINT, ROW_OPTIMIZERS, Objective.words()):
        assert ", ".join(words) in output


def test_help_does_not_import_torch():
    program = "import sys, kgfast.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\nx / 0\n", "own.py, line 2: ZeroDivisionError: division by zero"),
        ("def\n", "own.py, line 1: SyntaxError: invalid syntax"),
        ("import no_such_module\n", "own.py, line 1: ModuleNotFoundError"),
        (b"\xff\n", "own.py, line 1: SyntaxError"),
    ],
)
def test_what_a_file_of_ones_own_raises_is_named(kgfast, tmp_path, text, said):
    (tmp_path / "own.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    code, output, error = kgfast("--import", tmp_path / "own.py", "info")
    assert (code, output) == (2, "") and said in " ".join(error.split()) and "Traceback" not in error
