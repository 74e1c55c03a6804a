"""The training loop: it learns with every score, keeps its bounds, and leaves a whole run."""

import json
import math

import pytest
import torch
from training_helpers import ENTITIES, grouped_graph, run, small_config

from kgfast.errors import ConfigError, DataError
from kgfast.train import TrainingError, load_run
from kgfast.train import loop as training_loop
from kgfast.train.batches import Batches, frequency_weights

CHANCE = sum(1 / rank for rank in range(1, ENTITIES + 1)) / ENTITIES  # about 0.07

SAMPLED = dict(candidates="sampled", objective="softmax", negatives=16, side="both", lr=0.1, optimizer="adagrad")
DISTANCE = dict(
    candidates="sampled", objective="logistic", negatives=16, side="both", lr=0.02, optimizer="adam",
    margin=4.0, adversarial_temperature=1.0,
)  # fmt: skip
ALL = dict(candidates="all", objective="softmax", side="both", lr=0.1, optimizer="adagrad")


@pytest.fixture(scope="module")
def graph():
    return grouped_graph()


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("transe_l1", DISTANCE),
        ("transe_l2", DISTANCE),
        ("rotate", DISTANCE),
        ("distmult", SAMPLED),
        ("complex", SAMPLED),
        ("simple", SAMPLED),
        ("cp", SAMPLED | dict(reciprocal=True)),
        ("rescal", SAMPLED | dict(lr=0.05)),
        ("complex", ALL | dict(reciprocal=True, regularizer="n3", regularizer_weight=0.01)),
        ("distmult", ALL | dict(objective="bce", all_answers=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else value["candidates"],
)
def test_learns_far_better_than_chance(graph, tmp_path, model, settings):
    config = small_config(
        tmp_path / "run", model=model, dim=16, epochs=40, subsampling=False, lr_schedule="constant",
        validate_every=0, **settings,
    )  # fmt: skip
    metrics, _ = run(config, graph)
    assert metrics["test"]["mrr"] > 6 * CHANCE


def test_leaves_a_whole_run(graph, tmp_path):
    folder = tmp_path / "run"
    metrics, printed = run(small_config(folder, epochs=6, tensorboard=True), graph)
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    for split in ("test", "valid"):
        assert {"mrr", "hits@1", "hits@3", "hits@10", "mean_rank", "head", "tail"} <= metrics[split].keys()
        assert {"amr", "amri", "by_seen"} <= metrics[split].keys() and "per_relation" not in metrics[split]
    assert metrics["tasks"] == {}
    about = metrics["train"]
    assert about["steps"] == 6 * math.ceil(len(graph.train) / 64) and about["epochs"] == 6
    assert about["stopped"] == "epochs" and about["best_epoch"] in (2, 4, 6)
    assert about["triples_per_second"] == pytest.approx(6 * len(graph.train) / about["seconds"])
    assert about["peak_memory_bytes"] > 1 << 20
    assert (folder / "report.html").stat().st_size > 1000
    assert list((folder / "tensorboard").iterdir())
    assert not list(folder.rglob("*tmp*"))
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert all(
        {"step", "epoch", "loss", "triples_per_second", "lr"} <= line.keys() for line in history if "loss" in line
    )
    assert [line["epoch"] for line in history if "valid" in line] == [2, 4, 6]
    assert max(line["valid"]["mrr"] for line in history if "valid" in line) == metrics["valid"]["mrr"]
    assert "valid MRR" in printed


def test_hits_are_those_asked_for(graph, tmp_path):
    metrics, _ = run(small_config(tmp_path / "run", epochs=1, hits="2,5"), graph)
    assert [name for name in metrics["test"]["head"] if "hits" in name] == ["hits@2", "hits@5"]
    assert "Hits@5" in (tmp_path / "run" / "report.html").read_text()
    for wrong in ("0", "1,x", []):
        with pytest.raises(ConfigError, match="hits"):
            small_config(tmp_path / "run", hits=wrong)


def test_load_run_gives_the_best_tables(graph, tmp_path):
    metrics, _ = run(small_config(tmp_path / "run", epochs=8), graph)
    model, ids, config = load_run(tmp_path / "run")
    assert config.dim == model.dim == 16
    assert list(ids.entity_names) == list(graph.entity_names)
    assert list(ids.relation_names) == list(graph.relation_names)
    assert ids.entity_id("entity 7") == 7 and ids.num_relations == 3
    with pytest.raises(DataError, match="no entity is named 'entity 7x'; did you mean 'entity 7'"):
        ids.entity_id("entity 7x")
    from kgfast.evaluate import evaluate

    assert evaluate(model, graph, "test")["mrr"] == metrics["test"]["mrr"]


def test_seed_decides_all(graph, tmp_path):
    entities = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(small_config(tmp_path / name, epochs=2, seed=seed), graph)
        entities.append(load_run(tmp_path / name)[0].entities)
    assert torch.equal(entities[0], entities[1]) and not torch.equal(entities[0], entities[2])


def test_minutes_bound_training(graph, tmp_path):
    config = small_config(tmp_path / "run", epochs=None, minutes=0.01, validate_every=0)
    metrics, _ = run(config, graph)
    assert metrics["train"]["stopped"] == "minutes"
    assert 0.5 < metrics["train"]["seconds"] < 1.5
    assert metrics["train"]["steps"] > 0


def test_early_stopping_keeps_the_best(graph, tmp_path):
    settings = dict(epochs=300, validate_every=1, early_stopping_patience=3, optimizer="row_adagrad", lr=0.3)
    config = small_config(tmp_path / "run", lr_schedule="constant", **settings)
    metrics, _ = run(config, graph)
    about = metrics["train"]
    assert about["stopped"] == "early stopping" and about["epochs"] == about["best_epoch"] + 3 < 300
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert metrics["valid"]["mrr"] == max(line["valid"]["mrr"] for line in history if "valid" in line)


def test_without_valid_triples_there_is_no_validation(graph, tmp_path):
    from kgfast.data import KnowledgeGraph

    alone = KnowledgeGraph.from_arrays(graph.train, num_entities=graph.num_entities)
    config = small_config(tmp_path / "run", epochs=4, validate_every=1, early_stopping_patience=1)
    metrics, printed = run(config, alone)
    assert "no valid triples" in printed
    assert metrics["test"] is None and metrics["valid"] is None and metrics["train"]["epochs"] == 4


def test_validation_on_drawn_triples(graph, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        training_loop,
        "all_ranks",
        lambda model, graph, triples: asked.append(triples) or all_ranks(model, graph, triples),
    )
    from kgfast.evaluate.metrics import all_ranks

    run(small_config(tmp_path / "run", epochs=4, validate_triples=10), graph)
    assert len(asked) == 2 and len(asked[0]) == 10 and torch.equal(asked[0], asked[1])
    valid = set(map(tuple, graph.valid.tolist()))
    assert set(map(tuple, asked[0].tolist())) <= valid


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_the_step(graph, tmp_path, monkeypatch, value):
    build = training_loop.build_step

    def build_broken(*arguments):
        step = build(*arguments)
        return lambda triples, index, weights: step(triples, index, weights) * (value if index == 17 else 1.0)

    config = small_config(tmp_path / "run", epochs=1)
    run(config, graph)
    before = (tmp_path / "run" / "checkpoint" / "checkpoint.json").read_bytes()
    monkeypatch.setattr(training_loop, "build_step", build_broken)
    with pytest.raises(TrainingError, match=rf"loss is {value} at step 17 \(epoch 3\): try a smaller lr") as caught:
        run(config.replace(epochs=6), graph, resume=True)
    assert "checkpoint" in str(caught.value)
    assert (tmp_path / "run" / "checkpoint" / "checkpoint.json").read_bytes() == before


def test_a_run_is_not_overwritten(graph, tmp_path):
    config = small_config(tmp_path / "run", epochs=1)
    run(config, graph)
    with pytest.raises(ConfigError, match="holds a run already"):
        run(config, graph)


def test_default_folders_are_numbered(graph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        run(small_config("elsewhere", epochs=1).replace(out=None), graph)
        assert (tmp_path / "runs" / f"arrays-complex-{number}" / "metrics.json").exists()


def test_epochs_are_permutations_in_even_batches():
    triples = torch.arange(3 * 101).reshape(101, 3)
    weights = torch.arange(101.0)
    batches = Batches(triples, weights, 25, seed=3)
    assert batches.per_epoch == 5
    epochs = []
    for epoch in (0, 1, 0):
        batches.begin(epoch)
        parts = [batches[index] for index in range(5)]
        assert {len(part) for part, _ in parts} == {20, 21}
        epochs.append(torch.cat([part for part, _ in parts]))
        assert torch.equal(torch.cat([part for _, part in parts]), epochs[-1][:, 0] / 3)
        assert torch.equal(epochs[-1][epochs[-1][:, 0].argsort()], triples)
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])


def test_frequency_weights_by_hand():
    triples = torch.tensor([[0, 0, 1], [0, 0, 2], [3, 1, 2]])
    weights = frequency_weights(triples, 4)
    raw = torch.tensor([2 + 1 + 6.0, 2 + 1 + 6.0, 1 + 1 + 6.0]).rsqrt()
    torch.testing.assert_close(weights, raw / raw.mean())


def test_tables_in_host_memory_learn_the_same_and_may_move(graph, tmp_path):
    settings = dict(epochs=4, candidates="sampled", negatives=8, negative_filter="mask", lr_schedule="constant")
    expected, _ = run(small_config(tmp_path / "whole", **settings), graph)
    config = small_config(tmp_path / "host", tables="host", **settings)
    run(config.replace(epochs=2), graph)
    metrics, _ = run(config.replace(tables="device"), graph, resume=True)
    assert metrics["test"] == expected["test"] and metrics["valid"] == expected["valid"]
    tables = [load_run(tmp_path / name)[0].entities for name in ("whole", "host")]
    assert torch.equal(*tables)


def test_device(graph, tmp_path):
    found = "cuda" if torch.cuda.is_available() else "cpu"
    assert small_config(tmp_path / "auto", device="auto").device == found
    if found == "cpu":
        with pytest.raises(ConfigError, match="device='cuda:0': no CUDA device is available"):
            run(small_config(tmp_path / "gpu", device="cuda:0"), graph)
        assert not (tmp_path / "gpu" / "checkpoint").exists()
