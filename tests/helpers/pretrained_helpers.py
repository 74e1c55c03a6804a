"""Folders of transformers as people download them: tiny models with random weights, and their tokenizers."""

import torch
from joint_text_helpers import tokenizer

LENGTH = 40
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, initializer_range=0.2,
             max_position_embeddings=LENGTH, pad_token_id=0, bos_token_id=2, eos_token_id=3)  # fmt: skip


def pretrained(family, **changes):
    """A model with random weights, of a class of transformers by name."""
    import transformers

    made = getattr(transformers, family)
    torch.manual_seed(0)
    return made(made.config_class(vocab_size=len(tokenizer(kind_of(made))), **{**SIZES, **changes})).eval()


def bert(**changes):
    return pretrained("BertForMaskedLM", **changes)


def gpt2(**changes):
    return pretrained("GPT2LMHeadModel", **changes)


def kind_of(made):
    return "wordpiece" if made.config_class.model_type in ("bert", "ernie", "electra") else "bpe"


def save(model, folder):
    model.save_pretrained(folder)
    tokenizer(kind_of(type(model))).save(folder)
    return folder
