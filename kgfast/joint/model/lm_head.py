"""The LM head, in the parts that a fused loss takes: states -> queries, then a table and a bias over the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kgfast.errors import CheckpointError
from kgfast.joint.needs import needs

OWN_ACTIVATION = ("bert", "ernie")  # their head has the activation of the layers, others GELU
BIASED_DECODERS = ("phi",)  # causal models whose head has a bias
TOLERANCE = 1e-4  # of logits from the parts, relative to the largest logit
# Where masked-LM heads keep (their transform, its activation: None is GELU, its norm); all begin with `dense`.
TRANSFORMS = (
    ("cls.predictions.transform", "transform_act_fn", "LayerNorm"),  # BERT, ERNIE
    ("lm_head", None, "layer_norm"),  # RoBERTa and its kin
    ("generator_predictions", "activation", "LayerNorm"),  # ELECTRA
)


@dataclass(frozen=True)
class Head:
    """transform: states [n, H] -> queries [n, E]; table [V, E], None: the token embeddings; bias [V], None: none."""

    transform: nn.Module
    table: nn.Parameter | None = None
    bias: Tensor | None = None


def new_head(kind: str, config: Any, vocabulary: int, embedding: int) -> Head:
    """A head that has learned nothing, on the token embeddings, as the library would make it: BERT's transform and a
    bias; a causal model ends in a norm of its own and needs neither."""
    if kind != "bert":
        return Head(nn.Identity())
    dense = nn.Linear(config.hidden_size, embedding)
    nn.init.normal_(dense.weight, std=getattr(config, "initializer_range", 0.02))
    nn.init.zeros_(dense.bias)
    between = activation_of(config.hidden_act) if config.model_type in OWN_ACTIVATION else nn.GELU()
    norm = nn.LayerNorm(embedding, eps=config.layer_norm_eps)
    return Head(nn.Sequential(dense, between, norm), bias=torch.zeros(vocabulary))


def activation_of(name: str) -> nn.Module:
    needs("transformers")
    from transformers.activations import ACT2FN

    return nn.GELU() if name == "gelu" else ACT2FN[name]


def take_apart(whole: Any, missing: set[str]) -> Head | None:
    """The head of a transformers model for masked or causal LM; None where its file holds none.

    missing: names of parameters that the file lacks; biases begin at 0. CheckpointError where the parts don't make the
    model's logits.
    """
    lost = {name for name in missing if not name.startswith(f"{whole.base_model_prefix}.")}
    if any(not name.endswith("bias") for name in lost):
        return None
    output = whole.get_output_embeddings()
    if not isinstance(output, nn.Linear):
        raise CheckpointError(f"the head of {type(whole).__name__} is a {type(output).__name__}, no linear layer")
    own_table: Any = None if output.weight is whole.get_input_embeddings().weight else output.weight
    head = Head(transform_of(whole), own_table, output.bias)
    difference = logit_error(whole, head)
    if not difference < TOLERANCE:
        raise CheckpointError(
            f"the head of {type(whole).__name__} does more than a transform, a table and a bias: logits from these "
            f"differ from its own by {difference:.2g} of the largest"
        )
    return head


def transform_of(whole: Any) -> nn.Module:
    """What stands between the last states and the table of tokens."""
    modules = dict(whole.named_modules())
    for path, activation, norm in TRANSFORMS:
        part: Any = modules.get(path)
        if hasattr(part, "dense"):
            between = nn.GELU() if activation is None else getattr(part, activation)
            return nn.Sequential(part.dense, between, getattr(part, norm))
    return nn.Identity()


@torch.no_grad()
def logit_error(whole: Any, head: Head) -> float:
    """Largest difference between a model's logits of a short text and those of the parts, relative to the largest."""
    table = whole.get_input_embeddings().weight if head.table is None else head.table
    ids = (torch.arange(1, 12, device=table.device) % len(table))[None]
    expected = whole(input_ids=ids).logits
    queries = head.transform(whole.base_model(input_ids=ids).last_hidden_state)
    found = nn.functional.linear(queries, table, head.bias)
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def put_together(model: Any, head: Head) -> Any:
    """The reverse of `take_apart`: a transformers model for masked or causal LM, made of a model without its head and
    of the head's parts. CheckpointError where no such class makes the same logits."""
    transformers = needs("transformers")
    config = model.config
    config.tie_word_embeddings = head.table is None
    family = transformers.AutoModelForCausalLM if head.bias is None else transformers.AutoModelForMaskedLM
    if config.model_type in BIASED_DECODERS:
        family = transformers.AutoModelForCausalLM
    whole = family.from_config(config)
    setattr(whole, whole.base_model_prefix, model)
    modules = dict(whole.named_modules())
    for path, activation, norm in TRANSFORMS:
        part: Any = modules.get(path)
        if hasattr(part, "dense") and isinstance(head.transform, nn.Sequential):
            part.dense, between, own_norm = head.transform
            setattr(part, norm, own_norm)
            if activation is not None:
                setattr(part, activation, between)
    output = whole.get_output_embeddings()
    output.weight = model.get_input_embeddings().weight if head.table is None else head.table
    if output.bias is not None and head.bias is not None:
        with torch.no_grad():
            output.bias.copy_(head.bias)
    difference = logit_error(whole.eval(), head)
    if not difference < TOLERANCE:
        raise CheckpointError(
            f"{type(whole).__name__} does not make the logits of this head: they differ by {difference:.2g} of the "
            f"largest"
        )
    return whole
