"""What of a pretrained Transformer learns: frozen weights, adapters, number types, a learning rate of its own."""

import json
import sys
from pathlib import Path

import pytest
import torch
from joint_helpers import joint_config, run_joint, write_towns
from pretrained_helpers import bert, gpt2, save
from safetensors.torch import load_file
from training_helpers import same_bits

from kgfast.data import KnowledgeGraph
from kgfast.errors import CheckpointError, ConfigError, KgfastError
from kgfast.joint import build, checkpoint
from kgfast.joint.checkpoint import load_run
from kgfast.joint.evaluate import evaluate_tasks
from kgfast.joint.model.adapt import frozen_weights

pytest.importorskip("transformers")
LORA = dict(rank=4, alpha=8, dropout=0.1)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return KnowledgeGraph.load(
        write_towns(tmp_path_factory.mktemp("data") / "towns", countries=4, towns=4), cache=False
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny pretrained models: GPT-2 and BERT with their heads, and a BERT without."""
    made = {"gpt2": gpt2(), "bert": bert(), "bert alone": bert().base_model}
    return {name: save(model, tmp_path_factory.mktemp("pretrained")) for name, model in made.items()}


def configured(out, folder, tasks=("link",), *, data="towns", steps=3, **settings):
    backbone = dict(path=str(folder), max_length=24, **settings.pop("backbone", {}))
    return joint_config(out, tasks, data=data, steps=steps, backbone=backbone, **settings)


def learning(model):
    return {name for name, one in model.backbone.named_parameters() if one.requires_grad}


def test_what_freezes(folders, graph):
    def names(what, folder="bert", **more):
        config = configured("unused", folders[folder], ("mlm", "link"), backbone=dict(freeze=what, **more))
        return learning(build.build_model(config, graph))

    everything = names(False)
    without_embeddings = names("embeddings")
    assert {".".join(name.split(".")[-2:]) for name in everything - without_embeddings} == {
        "word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"}  # fmt: skip
    one_layer = names(1)
    assert not any("layer.0." in name or "embeddings" in name for name in one_layer)
    assert {name for name in without_embeddings if "layer.1." in name} == {
        name for name in one_layer if "layer.1." in name
    }
    assert names("1") == one_layer, "as the command line has it"
    head = names(True, "bert alone")
    assert head and all("lm_head" in name or "lm_bias" in name for name in head), "a head that begins anew learns"
    with pytest.raises(ConfigError, match="backbone.freeze=3: this Transformer has 2 layers"):
        names(3)
    with pytest.raises(ConfigError, match="tasks.mlm has nothing to learn: backbone.freeze=true"):
        names(True)


@pytest.mark.parametrize("entities", ["text", "hybrid"])
def test_a_frozen_run(folders, graph, tmp_path, entities):
    """Its weights are the folder's, neither learned nor stored; texts are read once, and rows learn from them."""
    config = configured(
        tmp_path / "run", folders["bert"], ("link", "nsp"), entities=entities, backbone=dict(freeze=True)
    )
    reads = []
    read_all = build.EntityEncoder.read_all
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.EntityEncoder, "read_all", lambda self, *more: reads.append(1) or read_all(self, *more))
        metrics, _ = run_joint(config, graph)
    assert len(reads) == 1, "the memory stays right"
    stored = load_file(next((tmp_path / "run" / "checkpoint").glob("model-*.safetensors")))
    assert not any(name.startswith("backbone.") for name in stored) and "entities.memory" in stored
    manifest = json.loads((tmp_path / "run" / "checkpoint" / "checkpoint.json").read_text())
    assert len(manifest["frozen"]) == 64
    model = build.build_model(config, graph)
    optimizers = build.build_optimizers(config, model, build.build_weights(config))
    held = {id(one) for group in optimizers["dense"].param_groups for one in group["params"]}
    assert held and not held & {id(one) for one in model.backbone.parameters()}
    assert not model.train().backbone.backbones[0].model.training, "no dropout"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kgfast.joint.checkpoint.load_graph", lambda *_: graph)
        again, _ = load_run(tmp_path / "run")
    for one, other in zip(model.backbone.parameters(), again.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
    found = evaluate_tasks(again, "test")["link"]["mrr"]
    assert found == metrics["test"]["mrr"]


def test_a_folder_that_was_replaced(folders, graph, tmp_path):
    copy = tmp_path / "bert"
    copy.mkdir()
    for file in folders["bert"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = configured(tmp_path / "run", copy, entities="text", backbone=dict(freeze=True))
    run_joint(config, graph)
    model = bert()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[3] += 1e-3
    model.save_pretrained(copy)
    with pytest.raises(CheckpointError, match="frozen weights of backbone.path are not those that the run was trained"):
        run_joint(config.replace(steps=5), graph, resume=True)


@pytest.mark.parametrize("kind", ["frozen", "layers", "lora"])
def test_a_resume(folders, graph, tmp_path, kind):
    """The bits of a run that was not cut, optimizer states included."""
    if kind == "lora":
        pytest.importorskip("peft")
    settings = {
        "frozen": (("link", "nsp"), "bert", dict(freeze=True, dtype="bfloat16")),
        "layers": (("mlm", "link"), "bert", dict(freeze=1, lr=1e-4)),
        "lora": (("clm", "link"), "gpt2", dict(lora=LORA)),
    }
    tasks, folder, backbone = settings[kind]
    whole = configured(tmp_path / "whole", folders[folder], tasks, entities="hybrid", steps=5, backbone=backbone)
    run_joint(whole, graph)
    cut = whole.replace(out=str(tmp_path / "cut"))
    run_joint(cut.replace(steps=3), graph)
    run_joint(cut, graph, resume=True)
    one, other = (checkpoint.read(Path(config.out), config, graph) for config in (whole, cut))
    assert one.position.step == other.position.step == 5
    assert same_bits(one.model, other.model)
    for name in one.optimizers:
        assert same_bits(one.optimizers[name], other.optimizers[name]), name


def test_lora_learns_beside_frozen_weights(folders, graph, tmp_path):
    pytest.importorskip("peft")
    config = configured(tmp_path / "run", folders["gpt2"], ("clm",), steps=12, lr=0.02, backbone=dict(lora=LORA))
    model = build.build_model(config, graph)
    plain = build.build_model(configured("unused", folders["gpt2"], ("clm",)), graph)
    names = learning(model)
    assert len(names) == 2 * 4 * 2 and all("lora_" in name for name in names), "A and B of 4 linear layers in 2 layers"
    before = evaluate_tasks(plain, "test")["clm"]["perplexity"]
    assert evaluate_tasks(model, "test")["clm"]["perplexity"] == pytest.approx(before, rel=1e-6), "nothing yet"
    metrics, _ = run_joint(config, graph)
    assert metrics["tasks"]["clm"]["test"]["perplexity"] < 0.9 * before
    stored = load_file(next((tmp_path / "run" / "checkpoint").glob("model-*.safetensors")))
    assert {name for name in stored if name.startswith("backbone.")} == {f"backbone.{name}" for name in names}
    chosen = dict(LORA, targets=["c_attn"])
    some = learning(
        build.build_model(configured("unused", folders["gpt2"], ("clm",), backbone=dict(lora=chosen)), graph)
    )
    assert len(some) == 4 and all("c_attn" in name for name in some)


def test_bfloat16_holds_frozen_layers(folders, graph):
    """Half the memory of layers that don't learn; states as in float32 but for rounding, in training and after."""

    def made(**backbone):
        return build.build_model(
            configured("unused", folders["bert"], entities="text", backbone=backbone), graph
        ).eval()

    whole, half, part = made(freeze=True), made(freeze=True, dtype="bfloat16"), made(freeze=1, dtype="bfloat16")
    types = {name: one.dtype for name, one in frozen_weights(half).items()}
    assert types["backbone.backbones.0.model.encoder.layer.0.output.dense.weight"] == torch.bfloat16
    assert types["backbone.backbones.0.model.embeddings.word_embeddings.weight"] == torch.float32
    lower, upper = part.backbone.backbones[0].model.encoder.layer
    assert lower.output.dense.weight.dtype == torch.bfloat16 and upper.output.dense.weight.dtype == torch.float32
    for model in (whole, half):
        model.refresh()
    found, wanted = half.entities.memory, whole.entities.memory
    assert found.dtype == torch.float32 and not torch.equal(found, wanted)
    assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_a_rate_of_its_own(folders, graph):
    config = configured("unused", folders["bert"], ("mlm", "link"), backbone=dict(lr=1e-4, freeze=1))
    model = build.build_model(config, graph)
    optimizer = build.build_optimizers(config, model, build.build_weights(config))["dense"]
    rates = {id(one): group.get("times", 1) for group in optimizer.param_groups for one in group["params"]}
    own = [rates[id(one)] for one in model.backbone.parameters() if one.requires_grad]
    assert own and set(own) == {1e-4 / config.lr}
    assert all(rate == 1 for key, rate in rates.items() if key not in {id(one) for one in model.backbone.parameters()})
    config = configured("unused", folders["bert"], backbone=dict(lr=1e-4, freeze=True), entities="text")
    model = build.build_model(config, graph)
    with pytest.raises(ConfigError, match="backbone.lr=0.0001 has no effect: no weight of a Transformer learns"):
        build.build_optimizers(config, model, build.build_weights(config))


def test_refusals(folders, graph, monkeypatch):
    def refused(words, folder="gpt2", sharing="hard", **backbone):
        with pytest.raises(KgfastError, match=words):
            build.build_model(
                configured("unused", folders[folder], ("link",), entities="text", sharing=sharing, backbone=backbone),
                graph,
            )

    for backbone in (dict(freeze=True), dict(lora=8)):
        with pytest.raises(ConfigError, match="needs backbone.path: one from scratch has learned nothing yet"):
            joint_config("unused", ("clm",), backbone=dict(kind="gpt", **backbone))
    refused("freeze and sharing.mode=routed don't go together", sharing="routed", freeze=1)
    refused("lora and sharing.mode=soft don't go together", sharing="soft", lora=8)
    refused("freeze=1 has no effect with backbone.lora", lora=8, freeze=1)
    refused("backbone.freeze", freeze="everything")
    refused("backbone.freeze", freeze=0)
    refused("backbone.lora.rank=0", lora=0)
    refused("backbone.lora.width=3: there is no such setting", lora=dict(width=3))
    refused("backbone.dtype='float16'", dtype="float16")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "peft", None)
        refused(r'backbone.lora needs the package peft .* pip install "kgfast\[lora\]"', lora=8)
    pytest.importorskip("peft")
    refused("no linear layer is called 'q_proj'; there are c_attn, c_fc, c_proj", lora=dict(targets=["q_proj"]))


def test_words_of_the_command_line():
    from kgfast.joint.config import resolve

    pairs = ["data=world", "tasks=clm", "backbone=FOLDER"]
    config = resolve(pairs=[*pairs, "backbone.lora.rank=4", "backbone.lora.targets=q_proj,v_proj"])
    assert config.backbone.lora.rank == 4 and config.backbone.lora.targets == ["q_proj", "v_proj"]
    assert resolve(pairs=[*pairs, "backbone.lora=16"]).backbone.lora.rank == 16
    assert resolve(pairs=[*pairs, "backbone.lora=true"]).backbone.lora.rank == 8
    assert resolve(pairs=[*pairs, "backbone.freeze=true"]).backbone.freeze is True
    assert resolve(pairs=[*pairs, "backbone.freeze=2"]).backbone.freeze == 2
