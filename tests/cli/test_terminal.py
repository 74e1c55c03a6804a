"""What reaches the terminal: names are text, and nothing of them steers it; an interrupt is one line."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from kgfast.cli.main import main
from kgfast.core.terminal import STEERING, Screen, visible

TRICKS = {
    "title": "a\x1b]0;owned\x07",
    "clear": "b\x1b[2J",
    "link": "c\x1b]8;;http://example.org\x1b\\d\x1b]8;;\x1b\\",
    "C1": "e\x9b2Jf\x9d0;owned\x9c",
    "override": "g\u202ehtap\u202c",
    "isolate": "h\u2067i\u2069",
    "delete": "j\x7f\x08\x08\x08",
    "line": "k\u2028l",
    "emoji": ":cat:",
    "markup": "[red]m[/red]",
}


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
    """A run on a graph whose names are tricks."""
    folder = tmp_path_factory.mktemp("tricks")
    names = list(TRICKS.values())
    pairs = [(one, f"r\x1b[31m{number % 2}", other) for number, one in enumerate(names) for other in names[:3]]
    (folder / "train.txt").write_text("".join("\t".join(pair) + "\n" for pair in pairs), encoding="utf-8", newline="")
    (folder / "entity2text.txt").write_text("".join(f"{name}\tlabel {name}\n" for name in names), encoding="utf-8")
    settings = ["dim=4", "epochs=1", "negatives=2", "tensorboard=false", "threads=1"]
    with pytest.raises(SystemExit) as exit:
        main(["train", "--data", str(folder), *settings, "--out", str(folder / "run"), "--json"])
    assert not exit.value.code
    return folder / "run"


def steering(text):
    return set(STEERING.findall(text)) - {"\n"}


@pytest.mark.parametrize("what", TRICKS)
def test_text_is_shown_and_not_obeyed(what):
    shown = visible(TRICKS[what])
    assert not steering(shown)
    file = io.StringIO()
    Screen(file=file, width=200).print(TRICKS[what])
    assert file.getvalue() == shown + "\n"


def test_other_scripts_are_left_alone():
    text = "Zürich 東京 עברית فارسی\u200cها 👩\u200d🚀 naïve \\x1b"
    assert visible(text) == text


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "RUN", "--tail", TRICKS["clear"], "--relation", "r\x1b[31m0", "--known", "ignore"),
        ("predict", "RUN", "--tail", TRICKS["title"], "--relation", "r\x1b[31m0", "--known", "mark"),
        ("predict", "RUN", "--tail", "\x1b[2Jnobody", "--relation", "\x9bnothing"),
        ("evaluate", "RUN", "--split", "train", "--details"),
        ("evaluate", "RUN", "--split", "\x1b[2J"),
        ("export", "RUN", "--out", "RUN/\x1b[2J"),
        ("evaluate", "RUN/\x1b[2J\u202e"),
        ("data", "RUN/.."),
        ("train", "RUN/\x9b2J.yaml"),
    ],
    ids=lambda words: " ".join(words[:3]).encode("unicode_escape").decode(),
)
def test_no_command_prints_what_steers(kgfast, run, words):
    _, output, error = kgfast(*(word.replace("RUN", str(run)) for word in words))
    assert not steering(output + error)


def test_json_is_the_same_and_steers_nothing(kgfast, run):
    words = ("--tail", TRICKS["clear"], "--relation", "r\x1b[31m0", "--known", "ignore", "-k", 99, "--json")
    code, output, _ = kgfast("predict", run, *words)
    assert code == 0 and not steering(output)
    assert {answer["name"] for answer in json.loads(output)["answers"]} == set(TRICKS.values())


def test_files_hold_the_names_themselves(kgfast, run, tmp_path):
    assert kgfast("export", run, "--out", tmp_path)[0] == 0
    assert sorted((tmp_path / "entities.txt").read_bytes().decode().split("\n")[:-1]) == sorted(TRICKS.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--resume"), "resume: needs out=RUN"),
        (("train", "--resume", "--data", "world"), "resume: needs out=RUN"),
        (("train", "--resume", "--out", "nowhere"), "resume: there is no folder out='nowhere'"),
        (("train", "--resume", "--out", "nowhere", "--data", "world"), "resume: there is no folder out='nowhere'"),
        (("train", "--resume", "--out", "empty"), "out='empty' holds no config.yaml"),
        (("evaluate", "nowhere"), "nowhere: no such run"),
        (("evaluate", "empty"), "empty holds no checkpoint (empty/checkpoint/checkpoint.json is missing)"),
        (("ask", "empty", "who?"), "empty holds no checkpoint"),
        (("evaluate", "empty", "--threads", "100000"), "empty holds no checkpoint"),
        (("bench", "--threads", "100000"), "threads=100000: must be from 1 to"),
    ],
)
def test_what_is_missing_is_named(kgfast, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, _, error = kgfast(*words)
    assert code == 2 and said in error
    assert sorted(os.listdir(tmp_path)) == ["empty"]


def test_threads_of_a_command_are_bounded(kgfast, run):
    code, _, error = kgfast("evaluate", run, "--split", "train", "--threads", "100000")
    assert code == 2 and "threads=100000: must be from 1 to" in error


def test_standard_output_that_is_full_is_an_error():
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "kgfast", "data", "world"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "No space left on device: 'standard output'" in done.stderr


KERNEL = """
import signal, torch, typer
from kgfast.cli.interrupt import Commands
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have it ignored
app = typer.Typer(cls=Commands, add_completion=False)
@app.command()
def work():
    table = torch.ones(12000, 12000)
    print("ready", flush=True)
    table @ table  # many seconds without a look at signals
@app.command()
def loop():
    print("ready", flush=True)
    while True:
        torch.ones(10)
app()
"""


@pytest.mark.parametrize("command", ["work", "loop"])
def test_an_interrupt_is_one_line_at_once(command):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", KERNEL, command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        line = process.stderr.readline()
        seconds = time.monotonic() - begin
        assert (line, process.communicate(timeout=60)[1], process.returncode) == ("interrupted\n", "", 130)
    assert seconds < 4  # half a second of patience and a busy machine; the kernel alone takes far longer


def test_training_that_is_interrupted_says_where_it_can_go_on(kgfast, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def interrupt():
        while not (tmp_path / "run" / "history.jsonl").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    settings = ["dim=8", "negatives=4", "minutes=5", "tensorboard=false", "threads=1"]
    code, _, error = kgfast("train", "--data", "world", *settings, "--out", "run")
    assert code == 130 and error.endswith("stopped by SIGINT; a checkpoint is in run, go on with resume\n")
    assert (tmp_path / "run" / "checkpoint" / "checkpoint.json").exists()
