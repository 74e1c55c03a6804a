"""A joint step and run: losses, what an absent task does, weightings, mixings, accumulation, bf16, alarms, errors."""

import json
from pathlib import Path

import pytest
import torch
from joint_helpers import joint_config, run_joint, towns, write_towns

from kgfast.data import KnowledgeGraph
from kgfast.errors import CheckpointError, ConfigError, DataError
from kgfast.joint import build
from kgfast.joint.parallel import Processes
from kgfast.joint.step import Step
from kgfast.train import TrainingError

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return towns(tmp_path_factory)


def made(config, graph):
    model = build.build_model(config, graph)
    weights = build.build_weights(config)
    optimizers = build.build_optimizers(config, model, weights)
    model.refresh()
    model.train()
    return model, Step(config, model, weights, optimizers, Processes())


def test_a_run_leaves_everything(graph, tmp_path):
    tasks = ("mlm", "nsp", "link", "qa")
    config = joint_config(tmp_path / "run", tasks, entities="hybrid", steps=6, validate_every=3)
    metrics, printed = run_joint(config, graph)
    run = tmp_path / "run"
    found = {path.name for path in run.iterdir()}
    assert {"config.yaml", "tokenizer.json", "metrics.json", "history.jsonl", "report.html", "checkpoint"} <= found
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert metrics["test"]["mrr"] == metrics["tasks"]["link"]["test"]["mrr"]
    assert set(metrics["tasks"]) == {*tasks, "facts"} and metrics["tasks"]["mlm"]["test"]["perplexity"] > 1
    assert 0 <= metrics["tasks"]["qa"]["test"]["hits@1"] <= 1 and 0 <= metrics["tasks"]["nsp"]["test"]["accuracy"] <= 1
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    logged = [line for line in history if "losses" in line]
    assert set(logged[-1]["losses"]) == set(logged[-1]["weights"]) == set(tasks)
    assert [line["step"] for line in history if "valid" in line] == [3, 6]
    assert "valid: mlm perplexity" in printed
    page = (run / "report.html").read_text()
    for word in ("Losses", "Weights of the tasks", "Map of entities", "Results: qa", "Results: mlm", "Results: link",
                 "Frequency: the same queries", "bigrams", "commonest", "Wrong, and surest",
                 "Furthest off"):  # fmt: skip
        assert word in page


def test_an_absent_task_contributes_exactly_nothing(graph, tmp_path):
    tasks = ("mlm", "link")
    model, step = made(joint_config(tmp_path, tasks), graph)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = step(0, ["link"], {"mlm": 0, "link": 0})
    assert losses[0].isnan() and losses[1] == losses[2] > 0
    for name, value in model.state_dict().items():
        moved = not torch.equal(before[name], value)
        assert moved == name.startswith(("entities.", "relations")), name
    step(1, ["mlm"], {"mlm": 0, "link": 1})
    assert not any(torch.isnan(value).any() for value in model.state_dict().values())


def test_tasks_learn_together(graph, tmp_path):
    config = joint_config(tmp_path, ("mlm", "link", "qa"))
    model, step = made(config, graph)
    names = list(model.tasks)
    losses = torch.stack([step(i, names, dict.fromkeys(names, i)) for i in range(30)])
    assert (losses[-8:].mean(0) < losses[:4].mean(0)).all()


WEIGHTINGS = ["fixed", "uncertainty", "dwa", "gradnorm", {"surgery": "pcgrad"}]


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=str)
def test_each_weighting_trains(graph, tmp_path, weighting):
    weighting = {"method": weighting, "every": 2} if isinstance(weighting, str) else weighting
    config = joint_config(tmp_path, ("mlm", "link"), weighting=weighting, accumulate=2)
    model, step = made(config, graph)
    names = list(model.tasks)
    losses = torch.stack([step(i, names, dict.fromkeys(names, 2 * i)) for i in range(16)])
    assert (losses[-5:, :2].mean(0) < losses[:3, :2].mean(0)).all()
    weights = step.weights.weights().detach()
    assert (weights > 0).all() and (torch.equal(weights, torch.ones(2)) == (step.config.weighting.method == "fixed"))


@pytest.mark.parametrize("mixing", ["every", "proportional", "temperature", "round_robin"])
def test_each_mixing_trains(graph, tmp_path, mixing):
    config = joint_config(tmp_path / "run", ("mlm", "link"), mixing=mixing, steps=24)
    run_joint(config, graph)
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert set(history[-1]["losses"]) == {"mlm", "link"}


def test_pcgrad_of_tasks_that_agree_is_the_plain_gradient(graph, tmp_path):
    """One task cannot conflict: both ways give the same parameters."""
    results = []
    for surgery in ("none", "pcgrad"):
        model, step = made(joint_config(tmp_path, ("mlm",), weighting={"surgery": surgery}), graph)
        for index in range(3):
            step(index, ["mlm"], {"mlm": index})
        results.append(model.state_dict())
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-6) for name in results[0])


def test_accumulated_gradients_are_the_mean(graph, tmp_path):
    model, step = made(joint_config(tmp_path, ("link",), accumulate=2, clip=0.0), graph)
    single, alone = made(joint_config(tmp_path, ("link",), clip=0.0), graph)
    step(0, ["link"], {"link": 0})
    gradients = []
    for index in range(2):
        for optimizer in alone.optimizers.values():
            optimizer.zero_grad()
        terms, owners, _ = single({"link": single.tasks["link"].batch(index)}, index)
        alone.backward(terms, owners, torch.tensor([True]))
        gradients.append(single.relations.grad.clone())
    assert torch.allclose(model.relations.grad, sum(gradients) / 2, atol=1e-6)


def test_bf16_and_activation_checkpointing_train(graph, tmp_path):
    plain = joint_config(tmp_path, ("mlm", "qa"), entities="text")
    thrifty = plain.replace(precision="bf16", backbone={**plain.backbone.model_dump(), "checkpoint_activations": True})
    results = []
    for config in (plain, thrifty):
        model, step = made(config, graph)
        results.append(torch.stack([step(i, ["mlm", "qa"], {"mlm": i, "qa": i}) for i in range(6)]))
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert torch.allclose(results[0][0], results[1][0], rtol=0.05)


def test_a_starving_task_is_announced(graph, tmp_path):
    config = joint_config(
        tmp_path / "run", dict(mlm=dict(batch_size=8), link=dict(batch_size=32, weight=1e-6)), steps=3
    )
    assert "alarm: task link starves: its weight is 1e-06" in run_joint(config, graph)[1]


def test_what_the_data_lacks_is_an_error_or_left_out(tmp_path):
    bare = KnowledgeGraph.load(write_towns(tmp_path / "bare", questions=False, texts=False), cache=False)
    for tasks, said in ((("qa",), "no train questions"), (("link",), "no texts of entities")):
        with pytest.raises(DataError, match=said):
            run_joint(joint_config(tmp_path / said[:4], tasks, entities="table" if tasks == ("qa",) else "text"), bare)
    config = joint_config(tmp_path / "run", ("mlm", "link", "qa"), entities="hybrid", leave_out=True, steps=2)
    metrics, printed = run_joint(config, bare)
    assert list(metrics["tasks"]) == ["link"]
    for task in ("mlm", "qa"):
        assert f"the task {task} is left out" in printed


def test_a_diverged_run_stops(graph, tmp_path):
    with pytest.raises(TrainingError, match="is no number at step .* try a smaller lr"):
        run_joint(joint_config(tmp_path / "run", ("link",), table_optimizer="adamw", table_lr=1e30, steps=9), graph)


def test_a_tokenizer_that_does_not_fit(graph, tmp_path):
    transformers = pytest.importorskip("transformers")
    run_joint(joint_config(tmp_path / "run", ("mlm",), steps=1), graph)
    small = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(small).save_pretrained(tmp_path / "small")
    config = joint_config(
        tmp_path / "other", ("mlm",), backbone={"path": str(tmp_path / "small")}, tokenizer=str(tmp_path / "run")
    )
    with pytest.raises(CheckpointError, match="tokens don't fit its 50 token embeddings"):
        run_joint(config, graph)
    with pytest.raises(CheckpointError, match="there is no tokenizer"):
        run_joint(joint_config(tmp_path / "third", ("mlm",), tokenizer=str(tmp_path)), graph)


def test_device_and_folder(graph, tmp_path):
    config = joint_config(tmp_path / "run", steps=1)
    run_joint(config, graph)
    with pytest.raises(ConfigError, match="holds a run already"):
        run_joint(config, graph)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            run_joint(config.replace(out=str(tmp_path / "x"), device="cuda"), graph)
    assert Path(config.out, "checkpoint").is_dir()
