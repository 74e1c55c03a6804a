"""`kgfast plan`: what it prints, and which sizes it asks for."""

import json

import pytest

from kgfast.cli.main import main
from kgfast.train import plan as planning

SIZES = ("--entities", "2000", "--relations", "5", "--triples", "9000")
SMALL = ("dim=16", "batch_size=64", "negatives=4", "threads=1", "device=cpu", "epochs=2")


@pytest.fixture
def plan(capsys, monkeypatch):
    """plan(*arguments) -> (exit code, standard output, standard error)."""
    monkeypatch.setattr(planning, "SECONDS", 0.05)
    monkeypatch.setattr(planning, "SAMPLE_BYTES", 1 << 22)

    def call(*arguments):
        with pytest.raises(SystemExit) as exit:
            main(["plan", *arguments, *SMALL])
        output = capsys.readouterr()
        return exit.value.code or 0, output.out, output.err

    return call


def test_tables_of_memory_and_time(plan):
    code, output, error = plan(*SIZES, "--held-out", "100")
    assert code == 0 and "measuring steps" in error
    for words in ("the tables of 2,000 entities and 5 relations", "while training", "free here", "a checkpoint",
                  "an epoch of 141 steps", "the final evaluation", "writing a checkpoint"):  # fmt: skip
        assert words in " ".join(output.split())
    assert "doesn't fit" not in output


def test_what_does_not_fit(plan):
    code, output, error = plan("--entities", "2000000000", *SIZES[2:], "--no-time", "dim=8192")
    assert code == 0 and "It doesn't fit" in output and "a step" not in output and not error


def test_one_object(plan):
    code, output, _ = plan(*SIZES, "--no-time", "--json")
    found = json.loads(output)
    assert code == 0 and found["size"]["entities"] == 2000 and found["step_seconds"] is None and found["fits"] is True
    assert found["training_bytes"] == sum(part["bytes"] for part in found["training"])


def test_sizes_of_a_graph_that_is_there(plan):
    code, output, _ = plan("--data", "world", "--no-time", "--json")
    size = json.loads(output)["size"]
    assert code == 0 and size["entities"] > 1000 and size["triples"] > 3000 and size["held_out"] > 500
    assert json.loads(plan("--data", "world", "--triples", "7", "--no-time", "--json")[1])["size"]["triples"] == 7


def test_a_size_that_is_missing(plan):
    code, _, error = plan(*SIZES[:2])
    assert code == 2 and "--relations is missing: give the three sizes, or --data" in error
