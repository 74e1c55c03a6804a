"""Folders of pretrained models from somebody else: no file in them is unpickled, whatever names it."""

import json
import pickle

import pytest
import torch
from joint_text_helpers import tokenizer

from kgfast.errors import CheckpointError
from kgfast.joint.model.backbone import Backbone

transformers = pytest.importorskip("transformers")


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def tokens():
    return tokenizer()


@pytest.fixture
def folder(tmp_path, tokens):
    """A BERT as transformers saves it."""
    config = transformers.BertConfig(
        vocab_size=len(tokens), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "model")
    tokens.save(tmp_path / "model")
    return tmp_path / "model"


def shards(folder, **names):
    """An index of the folder's weights, a file a parameter where `names` don't say otherwise."""
    from safetensors.torch import load_file

    whole = load_file(folder / "model.safetensors")
    path = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    found = dict.fromkeys(whole, "one.safetensors") | names
    path.write_text(json.dumps({"metadata": {}, "weight_map": found}))


def test_an_index_of_safetensors_is_read(folder, tokens):
    before = Backbone.from_checkpoint(folder, tokens).token_embeddings
    shards(folder)
    assert torch.equal(Backbone.from_checkpoint(folder, tokens).token_embeddings, before)


@pytest.mark.parametrize("name", ["trap.bin", "../trap.bin", "../model/one.safetensors", "none.safetensors", "", 3])
def test_an_index_names_safetensors_of_the_folder_alone(folder, tokens, tmp_path, name):
    for path in (folder / "trap.bin", tmp_path / "trap.bin"):
        path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    shards(folder, **{"cls.predictions.bias": name})
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        Backbone.from_checkpoint(folder, tokens)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', "[" * 99_999, "", '{"weight_map": "a"}'])
def test_an_index_that_is_none(folder, tokens, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="is no index of safetensors files"):
        Backbone.from_checkpoint(folder, tokens)


def test_pickles_are_not_read(folder, tokens, tmp_path):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError, match="there are no safetensors"):
        Backbone.from_checkpoint(folder, tokens)
    assert not (tmp_path / "sprung").exists()


def test_settings_do_not_name_the_weights(folder, tokens, tmp_path):
    """config.json of newer versions may name a file of weights, a pickle among them."""
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    config = json.loads((folder / "config.json").read_text()) | {"transformers_weights": "adapter_model.bin"}
    (folder / "config.json").write_text(json.dumps(config))
    Backbone.from_checkpoint(folder, tokens)
    assert not (tmp_path / "sprung").exists()


def test_adapters_are_refused(folder, tokens):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="it is an adapter"):
        Backbone.from_checkpoint(folder, tokens)
