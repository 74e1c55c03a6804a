"""Packed Transformers."""

import pytest
import torch
from joint_text_helpers import HIDDEN, backbone, packed_of, texts, tokenizer, world

from kgfast.errors import CheckpointError, ConfigError
from kgfast.joint.model.attention import Plan
from kgfast.joint.model.backbone import Backbone, Shape
from kgfast.joint.model.packed import Packed
from kgfast.joint.model.pooling import POOLINGS, pool
from kgfast.joint.text.store import all_texts, graph_texts
from kgfast.joint.text.tokenizer import Tokenizer


@pytest.mark.parametrize("kind", ["bert", "gpt"])
@pytest.mark.parametrize("lengths", [(7,), (1, 1), (5, 12, 1, 48, 30, 31, 12, 7, 2)], ids=str)
def test_packed_equals_padded(kind, lengths):
    """Values and all gradients, as if each text went alone."""
    model = backbone(kind, packing="packed").double()
    packed = packed_of(*lengths)
    weight = torch.randn(sum(lengths), HIDDEN, dtype=torch.float64)
    found = []
    for packing in ("packed", "padded"):
        model.choose_packing(packing)
        assert model.packing == packing
        model.zero_grad()
        encoded = model(packed)
        (encoded.hidden * weight).sum().backward(retain_graph=True)
        encoded.pooled.square().sum().backward()
        gradients = [one.grad for one in model.model.parameters() if one.grad is not None]
        found.append([encoded.hidden.detach(), encoded.pooled.detach(), *gradients])
    assert len(found[0]) == len(found[1]) > 20
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    alone = model(packed.select(torch.tensor([len(lengths) - 1]))).pooled[0]
    torch.testing.assert_close(alone, model(packed).pooled[-1], rtol=1e-9, atol=1e-9)


def test_a_causal_backbone_sees_nothing_ahead():
    model = backbone("gpt").eval()
    packed = packed_of(9, 6)
    changed = Packed(packed.tokens.clone(), packed.positions, packed.segments, packed.offsets)
    changed.tokens[5] += 1
    difference = (model(packed).hidden - model(changed).hidden).abs().amax(1)
    assert (difference[:5] == 0).all() and (difference[5:9] > 1e-6).all() and (difference[9:] == 0).all()


def test_the_plan_of_buckets_wastes_little():
    packed = texts().packed("entity", torch.arange(600))
    plan = Plan.of(packed, causal=False)
    assert torch.equal(plan.places[plan.rows], torch.arange(len(packed.tokens)))
    assert len(plan.places) < 1.25 * len(packed.tokens)
    assert len(packed) * int(packed.lengths.max()) > 1.4 * len(packed.tokens), "what padding to the longest would cost"


@pytest.mark.parametrize("how", POOLINGS)
def test_pooling(how):
    hidden = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 3, 4, 9])
    eager = {
        "mean": lambda part: part.mean(0),
        "first": lambda part: part[0],
        "last": lambda part: part[-1],
    }[how]
    expected = torch.stack([eager(hidden[i:j]) for i, j in ((0, 3), (3, 4), (4, 9))])
    torch.testing.assert_close(pool(hidden, offsets, how), expected)
    assert torch.autograd.gradcheck(lambda x: pool(x, offsets, how), hidden)


def test_activation_checkpointing_changes_nothing():
    results = []
    for checkpointed in (False, True):
        model = backbone()
        if checkpointed:
            model.checkpoint_activations()
        model.train()
        model(packed_of(9, 4, 12)).hidden.square().sum().backward()
        results.append([one.grad for one in model.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_the_same_seed_gives_the_same_backbone():
    before = torch.random.get_rng_state()
    first, second, third = backbone(seed=3), backbone(seed=3), backbone(seed=4)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator is left alone"
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert not torch.equal(first.token_embeddings, third.token_embeddings)


def test_a_local_checkpoint_is_a_backbone(tmp_path):
    """What transformers saved: hidden states and masked-LM logits are its own."""
    import transformers

    tokens = tokenizer()
    tokens.save(tmp_path)
    options = dict(vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=64, max_position_embeddings=40)  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**options)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path)
    ours = Backbone.from_checkpoint(tmp_path, Tokenizer.load(tmp_path)).eval()
    assert ours.packing == "packed" and ours.kind == "bert" and ours.max_length == 40
    packed = packed_of(9, 4)
    logits = torch.cat([theirs(input_ids=packed.tokens[None, i:j]).logits[0] for i, j in ((0, 9), (9, 13))])
    found = ours.lm_transform(ours(packed).hidden) @ ours.token_embeddings.T + ours.lm_bias
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
    larger = Tokenizer.train(all_texts(graph_texts(world())), vocabulary=2000)
    with pytest.raises(CheckpointError, match="tokens don't fit its"):
        Backbone.from_checkpoint(tmp_path, larger)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match="no safetensors"):
        Backbone.from_checkpoint(tmp_path, tokens)
    with pytest.raises(CheckpointError, match="no config.json"):
        Backbone.from_checkpoint(tmp_path / "nothing", tokens)


@pytest.mark.parametrize("family", ["RobertaModel", "GPT2Model", "LlamaModel", "ElectraModel"])
def test_families_of_checkpoints(family, tmp_path):
    import transformers

    tokens = tokenizer()
    torch.manual_seed(0)
    config = getattr(transformers, family.replace("Model", "Config"))(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=60, pad_token_id=0, bos_token_id=2, eos_token_id=3, embedding_size=16,
    )  # fmt: skip
    getattr(transformers, family)(config).save_pretrained(tmp_path)
    model = Backbone.from_checkpoint(tmp_path, tokens)
    assert model.packing == "packed" and model.causal == (family in ("GPT2Model", "LlamaModel"))
    encoded = model(packed_of(9, 40, 1))
    assert encoded.hidden.shape == (50, 32) and encoded.pooled.isfinite().all()
    assert model.lm_transform(encoded.hidden).shape[1] == model.token_embeddings.shape[1]


def test_shapes_are_checked():
    for change, words in (
        ({"kind": "rnn"}, "bert, gpt"), ({"hidden": 30}, "multiple of heads=4"), ({"layers": 0}, "layers=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            Backbone.from_shape(Shape(**change), tokenizer())
    with pytest.raises(ConfigError, match="packing='tight'"):
        backbone(packing="tight")
    with pytest.raises(ConfigError, match="pooling='max'"):
        backbone(pooling="max")
