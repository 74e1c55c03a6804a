"""An evaluation that was stopped goes on where it was, and is the same as one that was not."""

import pytest
import torch

import kgfast
from kgfast import testing
from kgfast.evaluate import evaluate
from kgfast.evaluate import kept as keeping
from kgfast.evaluate.kept import KeptRanks


@pytest.fixture
def case(monkeypatch):
    monkeypatch.setattr(keeping, "SECONDS", 0.0)
    triples = testing.make_triples(60, num_entities=20, num_relations=3, seed=1)
    graph = kgfast.KnowledgeGraph.from_arrays(triples, test=triples[:40], num_entities=20, num_relations=3)
    return kgfast.nn.ComplEx(20, 3, 8, seed=2), graph


def ranked(case, folder, most=None, **options):
    """(result, batches that were ranked); `most`: stopped in the batch after so many."""
    model, graph = case
    batches = 0

    class Stopped(Exception):
        pass

    def count(done, total):
        nonlocal batches
        batches += 1
        if batches == most:
            raise Stopped

    kept = None if folder is None else KeptRanks(folder)
    try:
        found = evaluate(model, graph, "test", batch_size=4, progress=count, kept=kept, **options)
    except Stopped:
        return None, batches
    kept and kept.remove()
    return found, batches


@pytest.mark.parametrize("options", [{}, {"triples": 30, "seed": 3}, {"candidates": 7}, {"ties": "optimistic"}])
def test_it_goes_on(case, tmp_path, options):
    whole, batches = ranked(case, None, **options)
    assert ranked(case, tmp_path / "kept", most=3, **options) == (None, 3)
    assert ranked(case, tmp_path / "kept", **options) == (whole, batches - 3)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("change", ["table", "ties", "damage", "cut", "link"])
def test_what_is_of_another_evaluation_counts_as_none(case, tmp_path, change):
    folder, options = tmp_path / "kept", {}
    ranked(case, folder, most=5)
    (file,) = folder.iterdir()
    if change == "table":
        with torch.no_grad():
            case[0].entities[0, 0] += 1
    elif change == "ties":
        options["ties"] = "pessimistic"
    elif change == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.write_bytes(b"nothing" if change == "damage" else file.read_bytes()[:200])
    assert ranked(case, folder, **options) == ranked(case, None, **options)


def test_what_is_short_leaves_nothing(case, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "SECONDS", 60.0)
    ranked(case, tmp_path / "kept", most=3)
    assert not (tmp_path / "kept").exists()
