"""Backbone: a BERT-like or GPT-like Transformer of the transformers library that reads packed texts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kgfast.errors import CheckpointError, ConfigError
from kgfast.joint.model import attention
from kgfast.joint.model.lm_head import Head, new_head, take_apart
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.model.pooling import POOLINGS, pool
from kgfast.joint.model.pretrained import check_weights
from kgfast.joint.needs import needs
from kgfast.joint.text.tokenizer import Tokenizer

KINDS = ("bert", "gpt")
PACKINGS = ("auto", "packed", "padded")
# Positions of these models begin behind the id of the pad token.
SHIFTED = ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm")
ENCODERS = ("bert", "electra", "ernie", *SHIFTED)
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gpt_neox", "phi")


@dataclass(frozen=True)
class Shape:
    """A small Transformer to train from scratch."""

    kind: str = "bert"
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    intermediate: int = 0  # 0: four times hidden
    max_length: int = 64
    dropout: float = 0.1

    def check(self) -> None:
        """ConfigError for sizes that no Transformer has."""
        if self.kind not in KINDS:
            raise ConfigError(f"backbone kind {self.kind!r}: must be one of {', '.join(KINDS)}")
        for name in ("hidden", "layers", "heads", "max_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.hidden % self.heads:
            raise ConfigError(f"hidden={self.hidden}: must be a multiple of heads={self.heads}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout}: must be at least 0 and below 1")


class Backbone(nn.Module):
    """Hidden states of packed texts.

    model: the transformers model, without heads; kind: "bert" (a token sees its whole text) or "gpt" (those before it);
    hidden, vocabulary, max_length: its sizes; packing: "packed" or "padded", how texts go through it.
    The LM head is `lm_transform`, then `lm_table` [V, E], the token embeddings where they are tied, and `lm_bias` [V]
    where the model's head has one. lm_head_found: whether a checkpoint's head was taken; else it begins anew.
    frozen: no weight of the model learns (see `kgfast.joint.model.adapt`): it computes as in evaluation and keeps no
    graph. bf16: it computes in bfloat16; its states leave it as float32.
    """

    def __init__(
        self, model: Any, kind: str, *, packing: str = "packed", pooling: str | None = None, head: Head | None = None
    ):
        super().__init__()
        config = model.config
        self.model: Any = model  # classes of transformers differ in what they have
        self.kind, self.packing = kind, packing
        self.pooling = pooling or ("mean" if kind == "bert" else "last")
        if self.pooling not in POOLINGS:
            raise ConfigError(f"pooling={self.pooling!r}: must be one of {', '.join(POOLINGS)}")
        self.hidden = config.hidden_size
        self.vocabulary, self.embedding = model.get_input_embeddings().weight.shape
        self.first_position = config.pad_token_id + 1 if config.model_type in SHIFTED else 0
        self.max_length = config.max_position_embeddings - self.first_position
        self.pairs = getattr(config, "type_vocab_size", 1) > 1
        self.lm_head_found = head is not None
        self.frozen = self.bf16 = False
        if head is None:
            head = new_head(kind, config, self.vocabulary, self.embedding)
        self.untied_table = head.table
        width = self.lm_table.shape[1]
        self.lm_bias = None if head.bias is None else nn.Parameter(head.bias.detach().clone())
        self.lm_head: Any = head.transform
        self.entity_inputs: Callable[[Tensor], Tensor] | None = None  # ids [n] -> vectors [n, E] of entities
        if isinstance(self.lm_head, nn.Identity) and width != self.hidden:
            raise ConfigError(f"{config.model_type}: embeddings of {width} don't fit states of {self.hidden}")

    @classmethod
    def from_shape(
        cls, shape: Shape, tokenizer: Tokenizer, *, seed: int = 0, packing: str = "auto", pooling: str | None = None
    ) -> Backbone:
        """A Transformer with random weights: the same for the same seed."""
        shape.check()
        check_packing(packing)
        transformers = needs("transformers")
        inner = shape.intermediate or 4 * shape.hidden
        # BERT's 0.02 is for 768 wide: narrower ones start as large in proportion, or they are slow to learn.
        spread = 0.02 * (768 / shape.hidden) ** 0.5
        options = dict(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad, initializer_range=spread)
        if shape.kind == "bert":
            config = transformers.BertConfig(
                hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
                intermediate_size=inner, max_position_embeddings=shape.max_length, type_vocab_size=2,
                hidden_dropout_prob=shape.dropout, attention_probs_dropout_prob=0.0, **options,
            )  # fmt: skip
        else:
            config = transformers.GPT2Config(
                n_embd=shape.hidden, n_layer=shape.layers, n_head=shape.heads, n_inner=inner,
                n_positions=shape.max_length, resid_pdrop=shape.dropout, embd_pdrop=shape.dropout,
                attn_pdrop=0.0, bos_token_id=tokenizer.begin, eos_token_id=tokenizer.end, use_cache=False,
                **options,
            )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bare = {"add_pooling_layer": False} if shape.kind == "bert" else {}
            model = (transformers.BertModel if shape.kind == "bert" else transformers.GPT2Model)(config, **bare)
            backbone = cls(model, shape.kind, pooling=pooling)
        return backbone.choose_packing(packing)

    @classmethod
    def from_checkpoint(
        cls, folder: str | os.PathLike, tokenizer: Tokenizer, *, packing: str = "auto", pooling: str | None = None
    ) -> Backbone:
        """A pretrained model from a local folder: config.json and safetensors; no network, no remote code, no pickle.

        Its LM head is taken too, tied or not; it begins anew where the files hold none.
        """
        folder = Path(folder)
        check_packing(packing)
        check_weights(folder)
        transformers = needs("transformers")
        local = dict(local_files_only=True, trust_remote_code=False)
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **local)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"backbone {folder}: config.json can't be read: {error}") from error
        if config.model_type not in ENCODERS + DECODERS:
            names = ", ".join(ENCODERS + DECODERS)
            raise CheckpointError(f"backbone {folder}: model type {config.model_type!r} is none of {names}")
        kind = "bert" if config.model_type in ENCODERS else "gpt"
        config.transformers_weights = None  # which may name other files than those that were checked
        try:
            with quiet(transformers):
                family = transformers.AutoModelForMaskedLM if kind == "bert" else transformers.AutoModelForCausalLM
                whole, loading = family.from_pretrained(
                    folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
                )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(f"backbone {folder}: can't be loaded: {error}") from error
        missing = set(loading["missing_keys"])
        body = sorted(name for name in missing if name.startswith(f"{whole.base_model_prefix}."))
        if body:
            raise CheckpointError(
                f"backbone {folder}: the files hold no {body[0]} ({len(body)} parameters are missing)"
            )
        try:
            head = take_apart(whole, missing)
        except CheckpointError as error:
            raise CheckpointError(f"backbone {folder}: {error}") from error
        backbone = cls(whole.base_model, kind, pooling=pooling, head=head)
        rows = min(backbone.vocabulary, len(backbone.lm_table))
        if len(tokenizer) > rows:
            raise CheckpointError(
                f"backbone {folder}: the tokenizer's {len(tokenizer)} tokens don't fit its {rows} token embeddings"
            )
        return backbone.choose_packing(packing)

    @property
    def causal(self) -> bool:
        return self.kind == "gpt"

    @property
    def token_embeddings(self) -> nn.Parameter:
        """[V, E]."""
        return self.model.get_input_embeddings().weight

    @property
    def lm_table(self) -> nn.Parameter:
        """[V, E], the table of the LM head: the token embeddings, or where a checkpoint does not tie them its own."""
        return self.token_embeddings if self.untied_table is None else self.untied_table

    def lm_transform(self, hidden: Tensor) -> Tensor:
        """[n, H] hidden states -> [n, E] queries on `lm_table`, in its dtype."""
        return self.lm_head(hidden).to(self.lm_table.dtype)

    def forward(self, packed: Packed) -> Encoded:
        return self.encode(packed)

    def encode(self, packed: Packed) -> Encoded:
        """Hidden states [T, H] and one vector a text [n, H]."""
        hidden = self.states(packed)
        return Encoded(hidden, packed.offsets, self.pool(hidden, packed.offsets))

    def states(self, packed: Packed) -> Tensor:
        """Hidden states [T, H] of packed texts."""
        if not len(packed):
            return self.token_embeddings.new_empty(0, self.hidden)
        learning = torch.is_grad_enabled() and not self.frozen
        kind = self.token_embeddings.device.type
        with (
            torch.set_grad_enabled(learning),
            torch.autocast(kind, torch.bfloat16) if self.bf16 else contextlib.nullcontext(),
        ):
            hidden = self._packed(packed) if self.packing == "packed" else self._padded(packed)
        return hidden.float() if self.bf16 else hidden

    def train(self, mode: bool = True) -> Backbone:
        """Without dropout, where the model is frozen."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def settle(self) -> None:
        """Which weights learn was decided: see whether any of the model's do."""
        self.frozen = not any(parameter.requires_grad for parameter in self.model.parameters())
        self.train(self.training)

    def pool(self, hidden: Tensor, offsets: Tensor) -> Tensor:
        """[n, H]: the mean of a text's states, its first ([CLS]) or its last."""
        return pool(hidden, offsets, self.pooling)

    def _packed(self, packed: Packed) -> Tensor:
        inputs = dict(position_ids=packed.positions[None] + self.first_position)
        embedded = self.with_entities(packed)
        inputs |= dict(input_ids=packed.tokens[None]) if embedded is None else dict(inputs_embeds=embedded[None])
        if self.pairs:
            inputs["token_type_ids"] = packed.segments[None]
        return self.model(**inputs, packing=attention.Plan.of(packed, self.causal)).last_hidden_state[0]

    def _padded(self, packed: Packed) -> Tensor:
        lengths = packed.lengths
        real = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]

        def pad(flat: Tensor) -> Tensor:
            padded = torch.zeros(*real.shape, *flat.shape[1:], dtype=flat.dtype, device=flat.device)
            return padded.masked_scatter(real if flat.dim() == 1 else real[..., None], flat)

        inputs = dict(attention_mask=real.long())
        embedded = self.with_entities(packed)
        inputs |= dict(input_ids=pad(packed.tokens)) if embedded is None else dict(inputs_embeds=pad(embedded))
        inputs["position_ids"] = pad(packed.positions) + self.first_position
        if self.pairs:
            inputs["token_type_ids"] = pad(packed.segments)
        return self.model(**inputs).last_hidden_state[real]

    def with_entities(self, packed: Packed) -> Tensor | None:
        """[T, E], embeddings of the tokens and vectors of the entities that enter there; None where none do."""
        if packed.entities is None or self.entity_inputs is None:
            return None
        places = (packed.entities >= 0).nonzero()[:, 0]
        embedded = self.model.get_input_embeddings()(packed.tokens)
        if not len(places):
            return embedded
        return embedded.index_add(0, places, self.entity_inputs(packed.entities[places]).to(embedded.dtype))

    def choose_packing(self, packing: str) -> Backbone:
        """Settle on "packed" where the model gives each text the same states packed as alone, else on "padded".

        packing="packed" raises where it does not; "padded" never tries.
        """
        plain = "sdpa" if getattr(self.model, "_supports_sdpa", False) else "eager"
        self.packing = "padded"
        self.model.set_attn_implementation(plain)
        if packing != "padded":
            difference = self.packing_error()
            if difference < 1e-4:
                self.packing = "packed"
            elif packing == "packed":
                raise ConfigError(
                    f"packing='packed': {self.model.config.model_type} mixes texts that lie side by side "
                    f"(difference {difference:.2g}); use packing=auto or padded"
                )
        if self.packing == "padded":
            self.model.set_attn_implementation(plain)
        return self

    @torch.no_grad()
    def packing_error(self) -> float:
        """Largest difference of a state between two texts packed and padded, relative to the largest state."""
        training = self.training
        self.eval()
        ids = torch.arange(1, 12) % self.vocabulary  # 0 is often a pad
        probe = Packed.from_texts([ids[:4], ids[4:]]).to(self.token_embeddings.device)
        try:
            expected = self._padded(probe)
            self.model.set_attn_implementation(attention.install())
            found = self._packed(probe)
        except (TypeError, ValueError):  # a model that takes neither the plan nor another attention
            return float("inf")
        finally:
            self.train(training)
        return float((found - expected).abs().max() / expected.abs().max())

    def checkpoint_activations(self) -> None:
        """Compute states anew in the backward pass instead of keeping them."""
        options = {"use_reentrant": False}
        if hasattr(self.model, "activation_checkpointing_enable"):  # its name in newer versions
            self.model.activation_checkpointing_enable(options)
        else:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)

    def extra_repr(self) -> str:
        return (
            f"{self.kind}, hidden={self.hidden}, vocabulary={self.vocabulary}, {self.packing}, pooling={self.pooling}"
        )


@contextlib.contextmanager
def quiet(transformers):
    """Without progress bars and reports: heads that are left out of a checkpoint are no news here."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def check_packing(packing: str) -> None:
    if packing not in PACKINGS:
        raise ConfigError(f"packing={packing!r}: must be one of {', '.join(PACKINGS)}")
