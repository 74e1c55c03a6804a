"""`kgfast export --format hf`: transformers reads a run's folder, with the run's perplexity."""

import json
import math

import pytest
import torch
from joint_helpers import joint_config, run_joint, write_towns
from pretrained_helpers import bert, gpt2, pretrained, save
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from kgfast.cli.main import main
from kgfast.data import KnowledgeGraph
from kgfast.errors import CheckpointError, KgfastError
from kgfast.joint import export
from kgfast.joint.checkpoint import load_run
from kgfast.joint.model.backbone import Backbone
from kgfast.joint.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_towns(tmp_path_factory.mktemp("data") / "towns", countries=4, towns=4)


@torch.no_grad()
def own_perplexity(folder, task):
    """By the library alone, text by text."""
    causal = task.name == "clm"
    model = (transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM).from_pretrained(folder)
    total, count = 0.0, 0
    for batch in task.all_tokens(task.spans_of("test")[: task.options.evaluate_texts], "test"):
        start = 0
        for length in batch.packed.lengths.tolist():
            asked = (batch.places >= start) & (batch.places < start + length)
            logits = model.eval()(input_ids=batch.packed.tokens[None, start : start + length]).logits[0]
            places, targets = batch.places[asked] - start, batch.targets[asked]
            total += float(cross_entropy(logits[places].double(), targets, reduction="sum"))
            count += len(targets)
            start += length
    assert count > 20
    return math.exp(total / count)


SCRATCH = dict(hidden=16, layers=1, heads=2, max_length=24)
CASES = {
    "scratch bert": ("mlm", None, SCRATCH),
    "scratch gpt": ("clm", None, SCRATCH | {"kind": "gpt"}),
    "bert": ("mlm", bert, dict(lr=1e-3)),
    "bert without a head": ("mlm", lambda: bert(hidden_act="relu", layer_norm_eps=1e-5).base_model, dict(freeze=True)),
    "bert untied": ("mlm", lambda: bert(tie_word_embeddings=False), {}),
    "electra": ("mlm", lambda: pretrained("ElectraForMaskedLM", embedding_size=16), {}),
    "gpt2 lora": ("clm", gpt2, dict(lora=dict(rank=4))),
    "llama untied": ("clm", lambda: pretrained("LlamaForCausalLM", tie_word_embeddings=False), {}),
    "phi": ("clm", lambda: pretrained("PhiForCausalLM"), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_runs_perplexity(case, data, tmp_path, capsys):
    task, made, backbone = CASES[case]
    if "lora" in backbone:
        pytest.importorskip("peft")
    if made is not None:
        folder = tmp_path / "pretrained"
        folder.mkdir()
        backbone = dict(path=str(save(made(), folder)), max_length=24, **backbone)
    config = joint_config(
        tmp_path / "run", (task, "link"), data=str(data), steps=6, lr=0.01, backbone=backbone,
        tokenizer={} if made else dict(vocabulary=400, kind="bpe" if task == "clm" else "wordpiece"),
    )  # fmt: skip
    metrics, _ = run_joint(config, KnowledgeGraph.load(data, cache=False))
    out = tmp_path / "exported"
    main_of("export", tmp_path / "run", "--format", "hf", "--out", out, "--json")
    written = json.loads(capsys.readouterr().out)["files"]
    assert all((out / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"))
    assert {str(path) for path in out.iterdir()} == set(written) and not list(tmp_path.glob(".exported*"))
    model, _ = load_run(tmp_path / "run")
    wanted = metrics["tasks"][task]["test"]["perplexity"]
    assert own_perplexity(out, model.tasks[task]) == pytest.approx(wanted, rel=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    text = "This place is a town of country1."
    ours = model.texts.pack([text]).tokens.tolist()
    found = tokenizer(text)["input_ids"]
    assert found == ours if made is None else [token for token in found if token in ours]
    card = (out / "README.md").read_text()
    assert f"| {task} | test | perplexity | {wanted:.4g} |" in card and str(tmp_path) not in card
    tables = load_file(out / "embeddings.safetensors")
    assert torch.equal(tables["entities"], model.entities.all_rows()) and tables["relations"].shape[1] == model.dim
    if task == "clm":
        causal = transformers.AutoModelForCausalLM.from_pretrained(out)
        prompt = tokenizer("This place", return_tensors="pt", add_special_tokens=False)
        made = causal.generate(input_ids=prompt["input_ids"], max_new_tokens=4, do_sample=False)
        assert 0 < made.shape[1] - prompt["input_ids"].shape[1] <= 4 and tokenizer.decode(made[0])
    again = Backbone.from_checkpoint(out, Tokenizer.load(out))
    assert again.lm_head_found, "it can be a backbone again"


def main_of(*words):
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        assert not end.code, end.code


@pytest.mark.parametrize("sharing", ["soft", "routed"])
def test_sharing(sharing, data, tmp_path):
    config = joint_config(tmp_path / "run", ("mlm", "nsp"), data=str(data), steps=2, sharing=sharing)
    metrics, _ = run_joint(config, KnowledgeGraph.load(data, cache=False))
    model, config = load_run(tmp_path / "run")
    if sharing == "routed":
        with pytest.raises(KgfastError, match="routed: transformers has no class for its layers of experts"):
            export.export_folder(model, config, tmp_path / "run", tmp_path / "out")
        return
    export.export_folder(model, config, tmp_path / "run", tmp_path / "out")
    wanted = metrics["tasks"]["mlm"]["test"]["perplexity"]
    assert own_perplexity(tmp_path / "out", load_run(tmp_path / "run")[0].tasks["mlm"]) == pytest.approx(
        wanted, rel=1e-4
    )


def test_refusals(data, tmp_path, monkeypatch):
    graph = KnowledgeGraph.load(data, cache=False)
    run_joint(joint_config(tmp_path / "table", ("link",), data=str(data), steps=1), graph)
    model, config = load_run(tmp_path / "table")
    with pytest.raises(KgfastError, match="table has no Transformer to export: no task reads texts"):
        export.export_folder(model, config, tmp_path / "table", tmp_path / "out")
    run_joint(joint_config(tmp_path / "run", ("mlm",), data=str(data), steps=1), graph)
    model, config = load_run(tmp_path / "run")
    real = export.enclosing

    def other(tokenizer):
        made = real(tokenizer)
        made.normalizer = None
        return made

    monkeypatch.setattr(export, "enclosing", other)
    with pytest.raises(CheckpointError, match="AutoTokenizer reads the text .* in other tokens than the run did"):
        export.export_folder(model, config, tmp_path / "run", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.undo()
    for content, said in (("[" * 100_000, "isn't JSON"), ("[1]", "must hold names and values")):
        (tmp_path / "run" / "metrics.json").write_text(content)
        with pytest.raises(KgfastError, match=rf"metrics\.json {said}"):
            export.export_folder(model, config, tmp_path / "run", tmp_path / "out")
    with pytest.raises(KgfastError, match="out="):
        export.export_folder(model, config, tmp_path / "run", "")
    assert not list((tmp_path / "out").iterdir())
