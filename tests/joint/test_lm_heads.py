"""LM heads of pretrained folders: perplexity before the first step is the library's own, whatever is tied."""

import math

import pytest
import torch
from joint_text_helpers import packed_of, texts, tokenizer, world
from torch.nn.functional import cross_entropy

from kgfast.errors import CheckpointError
from kgfast.joint.build import build_model, warnings
from kgfast.joint.checkpoint import load_run
from kgfast.joint.config import JointConfig
from kgfast.joint.evaluate import evaluate_tasks
from kgfast.joint.loop import train_joint
from kgfast.joint.model.backbone import Backbone
from kgfast.joint.text.language import read

LENGTH = 32
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, initializer_range=0.2,
             max_position_embeddings=LENGTH + 8, pad_token_id=0, bos_token_id=2, eos_token_id=3)  # fmt: skip
# Folder: (class, what its configuration adds). Phi's head has a bias; ELECTRA's is narrower than its states.
FOLDERS = {
    "llama": ("LlamaForCausalLM", dict(tie_word_embeddings=False)),
    "llama tied": ("LlamaForCausalLM", dict(tie_word_embeddings=True)),
    "gemma": ("GemmaForCausalLM", dict(head_dim=8, num_key_value_heads=2)),
    "neox": ("GPTNeoXForCausalLM", dict(tie_word_embeddings=False)),
    "phi": ("PhiForCausalLM", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "gpt2 untied": ("GPT2LMHeadModel", dict(tie_word_embeddings=False)),
    "bert": ("BertForMaskedLM", {}),
    "bert untied": ("BertForMaskedLM", dict(tie_word_embeddings=False)),
    "bert relu": ("BertForMaskedLM", dict(hidden_act="relu", layer_norm_eps=1e-3)),
    "roberta": ("RobertaForMaskedLM", dict(layer_norm_eps=1e-5)),
    "prenorm": ("RobertaPreLayerNormForMaskedLM", {}),
    "electra": ("ElectraForMaskedLM", dict(embedding_size=16)),
    "ernie": ("ErnieForMaskedLM", {}),
}


def family_of(name, **changes):
    """(a transformers model with random weights, the kind of tokenizer that it reads, the task it is made for)."""
    import transformers

    family, options = FOLDERS[name]
    causal = "CausalLM" in family or "LMHead" in family
    kind = "bpe" if causal else "wordpiece"
    config_class = getattr(transformers, family).config_class
    torch.manual_seed(0)
    model = getattr(transformers, family)(
        config_class(vocab_size=len(tokenizer(kind)), **{**SIZES, **options, **changes})
    )
    return model, kind, "clm" if causal else "mlm"


def masked_batches(task):
    yield from task.all_tokens(task.spans_of("test")[: task.options.evaluate_texts], "test")


def teach(model, kind, task):
    """A few steps of the library's own loss, so that the table, its transform and its bias each tell something."""
    store = texts(kind)
    packed = read(store, store.corpus.spans("train", LENGTH - 2)[:384])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for step in range(24):
        rows = packed.select(torch.arange(step * 16, step * 16 + 16))
        ids = torch.nn.utils.rnn.pad_sequence(rows.tokens.split(rows.lengths.tolist()), batch_first=True)
        labels, mask = ids.masked_fill(ids == 0, -100), tokenizer(kind).mask
        if task == "mlm":
            hidden = (torch.rand(ids.shape) < 0.4) & (ids > 0)
            labels, ids = labels.masked_fill(~hidden, -100), ids.masked_fill(hidden, mask)
        model(input_ids=ids, attention_mask=(ids > 0).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def own_perplexity(folder, task):
    """By the library alone, text by text: logits of its own head and its own cross-entropy."""
    import transformers

    auto = transformers.AutoModelForCausalLM if task.name == "clm" else transformers.AutoModelForMaskedLM
    model = auto.from_pretrained(folder).eval()
    total, count = 0.0, 0
    for batch in masked_batches(task):
        start = 0
        for length in batch.packed.lengths.tolist():
            asked = (batch.places >= start) & (batch.places < start + length)
            logits = model(input_ids=batch.packed.tokens[None, start : start + length]).logits[0]
            places, targets = batch.places[asked] - start, batch.targets[asked]
            total += float(cross_entropy(logits[places].double(), targets, reduction="sum"))
            count += len(targets)
            start += length
    return math.exp(total / count), count


def configured(folder, task, **changes):
    return JointConfig(
        data="world", tasks={task: {"batch_size": 8, "evaluate_texts": 24}}, entities="table", dim=8,
        backbone={"path": str(folder), "max_length": LENGTH}, steps=2, device="cpu", **changes,
    )  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_perplexity_is_the_librarys_own(name, tmp_path):
    model, kind, task = family_of(name)
    teach(model, kind, task).save_pretrained(tmp_path)
    tokenizer(kind).save(tmp_path)
    ours = build_model(configured(tmp_path, task), world())
    found = evaluate_tasks(ours, "test")[task]
    wanted, count = own_perplexity(tmp_path, ours.tasks[task])
    assert found["perplexity"] == pytest.approx(wanted, rel=1e-2) and found["tokens"] == count > 300
    assert wanted < len(tokenizer(kind)) / 2, "a head that knows something"
    assert not warnings(configured(tmp_path, task), ours)
    backbone = ours.backbone.backbones[0]
    untied = "untied" in name or name in ("llama", "neox", "phi")
    assert (backbone.lm_table is not backbone.token_embeddings) == untied
    if untied:  # the head that was lost before
        backbone.untied_table = torch.nn.Parameter(backbone.token_embeddings.detach().clone())
        assert evaluate_tasks(ours, "test")[task]["perplexity"] > 1.1 * wanted


@pytest.mark.slow
def test_a_run_keeps_an_untied_head(tmp_path):
    """It learns, it is in the checkpoint, and the model that is read again has it."""
    model, kind, task = family_of("llama")
    model.save_pretrained(tmp_path / "llama")
    tokenizer(kind).save(tmp_path / "llama")
    config = configured(tmp_path / "llama", task, out=str(tmp_path / "run"))
    metrics = train_joint(config)
    again, _ = load_run(tmp_path / "run")
    table = again.backbone.backbones[0].lm_table
    assert table.shape == model.lm_head.weight.shape and not torch.equal(table, model.lm_head.weight)
    found = evaluate_tasks(again, "test")[task]["perplexity"]
    assert found == pytest.approx(metrics["tasks"][task]["test"]["perplexity"], rel=1e-6)


@pytest.mark.parametrize(("name", "body"), [("llama", "model"), ("bert", "bert"), ("gpt2", "transformer")])
def test_a_folder_without_a_head_is_told(name, body, tmp_path):
    """A model without its head: the table is the token embeddings, as is said; GPT-2's tied head is these anyway."""
    model, kind, task = family_of(name)
    getattr(model, body).save_pretrained(tmp_path)
    tokenizer(kind).save(tmp_path)
    config = configured(tmp_path, task)
    ours = build_model(config, world())
    backbone = ours.backbone.backbones[0]
    assert backbone.lm_table is backbone.token_embeddings
    told = warnings(config, ours)
    assert [f"{tmp_path} holds no LM head: that of {task} begins anew" in line for line in told] == (
        [] if name == "gpt2" else [True]
    )


def test_what_is_no_transform_table_and_bias_is_refused(tmp_path, monkeypatch):
    import transformers

    model, kind, _ = family_of("llama")
    model.save_pretrained(tmp_path)
    plain = transformers.LlamaForCausalLM.forward

    def capped(self, *args, **kwargs):
        made = plain(self, *args, **kwargs)
        made.logits = 5 * torch.tanh(made.logits / 5)
        return made

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", capped)
    with pytest.raises(CheckpointError, match="the head of LlamaForCausalLM does more than a transform, a table and"):
        Backbone.from_checkpoint(tmp_path, tokenizer(kind))
    monkeypatch.undo()
    Backbone.from_checkpoint(tmp_path, tokenizer(kind))
    monkeypatch.setattr(transformers.LlamaForCausalLM, "get_output_embeddings", lambda self: None)
    with pytest.raises(CheckpointError, match="the head of LlamaForCausalLM is a NoneType, no linear layer"):
        Backbone.from_checkpoint(tmp_path, tokenizer(kind))


def test_weights_that_are_in_no_file_are_refused(tmp_path):
    """Not begun anew without a word: a layer that the configuration has and the files have not."""
    from safetensors.torch import load_file, save_file

    model, kind, _ = family_of("llama")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: one for name, one in load_file(file).items() if ".layers.1." not in name}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"hold no model.layers.1.input_layernorm.weight \(9 parameters"):
        Backbone.from_checkpoint(tmp_path, tokenizer(kind))


def test_the_loss_reaches_an_untied_head(tmp_path):
    model, kind, _ = family_of("llama")
    model.save_pretrained(tmp_path)
    ours = Backbone.from_checkpoint(tmp_path, tokenizer(kind))
    states = ours(packed_of(9, 4)).hidden
    assert ours.lm_bias is None, "as Llama has none"
    torch.testing.assert_close(ours.lm_transform(states) @ ours.lm_table.T, model.lm_head(states), rtol=1e-5, atol=1e-5)
    (ours.lm_transform(states) @ ours.lm_table.T).square().sum().backward()
    assert ours.lm_table.grad.abs().sum() > 0 and ours.token_embeddings.grad.abs().sum() > 0
