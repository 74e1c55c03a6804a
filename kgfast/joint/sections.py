"""The sections of a joint configuration, and the one word that may stand for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, ValidationError, create_model

from kgfast.errors import ConfigError
from kgfast.run import reading
from kgfast.run.settings import Section

Lower = Annotated[StrictInt, Field(gt=0)]


def as_list(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def as_plain(value: Any) -> Any:
    """What a word of a command line means: true, false, a number, or itself."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    return {"true": True, "false": False}.get(word, int(word) if word.isdecimal() else value)


def as_lora(value: Any) -> Any:
    """A number is the rank; true, every default."""
    value = as_plain(value)
    if isinstance(value, bool):
        return {} if value else None
    return {"rank": value} if isinstance(value, int) else value


# `from` is a word that no class statement takes for a name
FROM: dict[str, Any] = {
    "from": (str | None, Field(None, description="run of the graph alone whose rows these begin as"))
}
StartSection: Any = create_model("StartSection", __base__=Section, **FROM)


class RelationSection(StartSection):
    """Rows of relations; see `kgfast.joint.model.relations.RelationTexts`."""

    kind: Literal["table", "hybrid"] = Field("table", description="rows from a table, or from a table and texts")
    refresh: int = Field(256, gt=0, description="texts of relations that a step reads anew")


class EntitySection(StartSection):
    """Rows of entities; see `kgfast.joint.model.encoders.EntityEncoder`."""

    kind: Literal["table", "text", "hybrid"] = Field("table", description="rows from a table, from texts, or both")
    refresh: int = Field(256, gt=0, description="texts of entities that a step reads anew")


class LoraSection(Section):
    """Low-rank adapters beside the frozen linear layers of a pretrained Transformer (Hu et al. 2022)."""

    rank: int = Field(8, gt=0, description="width of an adapter")
    alpha: float = Field(16.0, gt=0, description="an adapter counts alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before an adapter")
    targets: Annotated[list[str] | None, BeforeValidator(as_list)] = Field(
        None, min_length=1, description="names of linear layers, such as q_proj,v_proj; by default all"
    )


class BackboneSection(Section):
    """The Transformer: a small one from scratch, or a local folder of transformers (`path`)."""

    path: str | None = Field(None, description="folder with config.json and safetensors; the sizes below are its own")
    kind: Literal["bert", "gpt"] = Field("bert", description="tokens see their whole text, or what comes before them")
    hidden: int = Field(128, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(4, gt=0)
    intermediate: int = Field(0, ge=0, description="width inside a feed-forward layer; 0 is four times hidden")
    dropout: float = Field(0.1, ge=0, lt=1)
    max_length: int = Field(64, ge=8, description="tokens of a text at most")
    packing: Literal["auto", "packed", "padded"] = Field("auto", description="how texts lie in a batch")
    pooling: str | None = Field(None, description="mean, first or last; by default mean (bert) or last (gpt)")
    checkpoint_activations: bool = Field(False, description="compute hidden states again instead of keeping them")
    freeze: Annotated[StrictBool | Lower | Literal["embeddings"], BeforeValidator(as_plain)] = Field(
        False, description="what of a pretrained Transformer stays: true, embeddings, or a number of lower layers"
    )
    lora: Annotated[LoraSection | None, BeforeValidator(as_lora)] = Field(
        None, description="adapters beside frozen weights; a number is their rank"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: frozen layers are held so, and the Transformer computes so"
    )
    lr: float | None = Field(None, gt=0, description="learning rate of the Transformer and its LM head; by default lr")


class TokenizerSection(Section):
    """Trained on the data set's texts, or read from a file (`path`); a backbone's path has its own."""

    path: str | None = Field(None, description="tokenizer.json, or a folder with one")
    kind: Literal["wordpiece", "bpe"] = "wordpiece"
    vocabulary: int = Field(8000, ge=300, le=2**24, description="tokens at most")
    lowercase: bool = True


class CorpusSection(Section):
    """What language tasks read."""

    files: list[str] = Field([], description="text files beside the texts of entities, a paragraph a line")
    triples: bool = Field(True, description="also triples of train, put into words")
    held_out: float = Field(0.05, ge=0, lt=0.5, description="part of the documents in each of valid and test")


class SharingSection(Section):
    """How tasks share the Transformer; see `kgfast.joint.model.sharing`."""

    mode: Literal["hard", "soft", "routed"] = "hard"
    pull: Literal["l2", "cosine"] | None = Field(None, description="soft: what pulls the backbones together")
    strength: float | list[float] | None = Field(None, description="soft: of the pull, one number or one a layer")
    experts: int | None = Field(None, gt=0, description="routed: experts of a feed-forward layer")
    top_k: int | None = Field(None, gt=0, description="routed: experts that a token takes")
    gate: Literal["token", "task", "both"] | None = Field(None, description="routed: what the route depends on")
    balance_weight: float | None = Field(None, ge=0, description="routed: weight of the load-balance loss")


class WeightingSection(Section):
    """Weights of the tasks' losses; see `kgfast.joint.balance.weights`."""

    method: Literal["fixed", "uncertainty", "dwa", "gradnorm"] = "fixed"
    surgery: Literal["none", "pcgrad"] = Field("none", description="what is done with gradients that conflict")
    temperature: float = Field(2.0, gt=0, description="dwa: how even the weights are")
    alpha: float = Field(1.5, ge=0, description="gradnorm: how strongly slow tasks are favoured")
    lr: float = Field(0.025, gt=0, description="gradnorm: learning rate of the weights")
    every: int = Field(20, gt=0, description="dwa, gradnorm: steps between changes of the weights")


class MixingSection(Section):
    """Which tasks take part in a step; see `kgfast.joint.balance.mixing`."""

    method: Literal["every", "proportional", "temperature", "round_robin"] = "every"
    temperature: float = Field(2.0, ge=1, description="temperature: 1 is proportional, infinity even")
    starving_steps: int = Field(500, gt=0, description="an alarm is raised for a task absent for so many steps")


# A section given as one word is that word for this key: `backbone: PATH`, `sharing: soft`.
SHORT = {"entities": "kind", "relations": "from", "backbone": "path", "tokenizer": "path", "corpus": "files",
         "sharing": "mode", "weighting": "method", "mixing": "method"}  # fmt: skip


def read_section(name: str, section: type[Section], value: Any) -> Section:
    """A section from a mapping, or from the one word that stands for it; ConfigError with dotted names."""
    if value is None:
        return section()
    if isinstance(value, Section):
        value = value.model_dump()
    if isinstance(value, (str, list)):
        value = {SHORT[name]: value}
    if not isinstance(value, Mapping):
        shown = reading.shortened(value)
        raise ConfigError(f"{name}={shown}: must be a section of settings, such as {{{SHORT[name]}: ..}}")
    if name == "corpus" and isinstance(value.get("files"), str):
        value = {**value, "files": [value["files"]]}
    reading.refuse_unknown(map(str, value), section.model_fields, name)
    try:
        return section(**value)
    except ValidationError as error:
        raise ConfigError(reading.explain(error, section, name)) from None
