"""What of a pretrained Transformer learns: frozen weights, adapters beside them, and how frozen ones are held."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kgfast.errors import ConfigError
from kgfast.joint.model.backbone import Backbone
from kgfast.joint.model.experts import layers_of
from kgfast.joint.needs import needs

EMBEDDINGS = "embeddings"


def freeze(backbone: Backbone, what: bool | int | str) -> None:
    """Weights that stay as they are, without gradient or optimizer state.

    True: all of the Transformer and its LM head, but not a head that begins anew; "embeddings": those of tokens,
    positions and segments; n: the embeddings and the n lower layers. An LM head that is tied stays with its embeddings.
    """
    if what is False:
        return
    if what is True:
        frozen: list[nn.Module] = [backbone.model]
        if backbone.lm_head_found:
            frozen.append(backbone)
    else:
        layers = layers_of(backbone.model)
        count = 0 if isinstance(what, str) else what
        if count > len(layers):
            raise ConfigError(f"backbone.freeze={count}: this Transformer has {len(layers)} layers")
        inside = {id(module) for layer in layers for module in layer.modules()}
        frozen = [one for one in backbone.model.modules() if isinstance(one, nn.Embedding) and id(one) not in inside]
        if count:
            frozen += [*layers[:count], *embedding_norms(backbone.model)]
    for module in frozen:
        module.requires_grad_(False)
    backbone.settle()


def embedding_norms(model: nn.Module) -> list[nn.Module]:
    """What stands between embeddings and the lowest layer, as BERT's norm."""
    found = getattr(model, "embeddings", None)
    return [found] if isinstance(found, nn.Module) else []


def add_lora(backbone: Backbone, *, rank: int, alpha: float, dropout: float, targets: Sequence[str] | None) -> None:
    """Freeze everything, and give linear layers W a product of two narrow matrices beside: W + alpha / rank B A (Hu et
    al. 2022). B begins at 0, so nothing has changed yet.

    targets: names of linear layers as the model has them ("q_proj", or "attention.self.query"); None: all of them.
    ConfigError for one that fits none, with the names there are.
    """
    peft = needs("peft", "lora", "backbone.lora")
    linear = linear_layers(backbone.model)
    chosen = list(linear)
    if targets is not None:
        for target in targets:
            if not any(fits(name, target) for name in linear):
                there = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
                raise ConfigError(f"backbone.lora.targets: no linear layer is called {target!r}; there are {there}")
        chosen = [name for name in linear if any(fits(name, target) for target in targets)]
    freeze(backbone, True)
    turned = isinstance(linear[chosen[0]], conv1d())  # GPT-2's weights lie the other way round
    settings = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen, fan_in_fan_out=turned
    )
    peft.inject_adapter_in_model(settings, backbone.model)
    backbone.settle()


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """{name: module} of the linear layers of a transformers model, in its own order."""
    return {name: one for name, one in model.named_modules() if isinstance(one, (nn.Linear, conv1d()))}


def conv1d() -> type[nn.Module]:
    needs("transformers")
    from transformers.pytorch_utils import Conv1D

    return Conv1D


def fits(name: str, target: str) -> bool:
    """Whether a dotted name is the target, or ends in it."""
    return name == target or name.endswith(f".{target}")


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Adapters become part of the weights they stand beside, in float32, and are gone."""
    adapted = [(name, one) for name, one in model.named_modules() if hasattr(one, "lora_A")]
    for name, adapter in adapted:
        found: Any = adapter
        base = found.get_base_layer()
        base.weight.data = base.weight.data.float()
        found.merge()
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, base)


def hold_in_bfloat16(backbone: Backbone) -> None:
    """Frozen matrices of layers take half their memory, and the Transformer computes in bfloat16, in training and
    after it. Weights that learn stay float32, as do embeddings and the LM head, which fused losses read."""
    for module in backbone.model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Linear, conv1d())) and isinstance(weight, Tensor) and not weight.requires_grad:
            weight.data = weight.data.bfloat16()
    backbone.bf16 = True


def frozen_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that stay as they are, by their names in the state of the model."""
    named = model.named_parameters(remove_duplicate=False)
    return {name: parameter.detach() for name, parameter in named if not parameter.requires_grad}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 of tensors: names, types, shapes and bits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
