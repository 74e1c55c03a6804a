"""The built-in world graph with tokenizer, texts and a small Transformer; a model of tasks as they see it."""

from __future__ import annotations

import functools

import torch
from torch import nn

from kgfast import multitask_loss
from kgfast.data import KnowledgeGraph
from kgfast.joint.model.backbone import Backbone, Shape
from kgfast.joint.model.packed import Packed
from kgfast.joint.model.sharing import make_sharing
from kgfast.joint.tasks import ModelDims, task_class
from kgfast.joint.text.corpus import Corpus
from kgfast.joint.text.store import TextStore, all_texts, graph_texts
from kgfast.joint.text.tokenizer import Tokenizer

HIDDEN, LENGTH, VOCABULARY = 64, 48, 1500


@functools.cache
def world():
    return KnowledgeGraph.load("world")


@functools.cache
def tokenizer(kind="wordpiece"):
    return Tokenizer.train(all_texts(graph_texts(world())), kind=kind, vocabulary=VOCABULARY)


@functools.cache
def texts(kind="wordpiece", held_out=0.1, triples=True):
    store = TextStore.of_graph(world(), tokenizer(kind), LENGTH)
    store.corpus = Corpus.of_graph(world(), store.tokenizer, held_out=held_out, triples=triples)
    return store


def backbone(kind="bert", hidden=HIDDEN, layers=2, seed=0, **options):
    tokens = tokenizer("wordpiece" if kind == "bert" else "bpe")
    shape = Shape(kind=kind, hidden=hidden, layers=layers, heads=4, max_length=LENGTH, dropout=0.0)
    return Backbone.from_shape(shape, tokens, seed=seed, **options)


def dims(kind="bert", hidden=HIDDEN, dim=16):
    graph = world()
    tokens = tokenizer("wordpiece" if kind == "bert" else "bpe")
    return ModelDims(
        hidden, dim, "complex", dim, graph.num_entities, graph.num_relations, len(tokens), causal=kind == "gpt"
    )


class Tasks(nn.Module):
    """Tasks over one Transformer: the part of a joint model that language tasks see."""

    def __init__(self, names, store, kind="bert", sharing="hard", seed=0, options=None, hidden=HIDDEN, **shared):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = make_sharing(sharing, backbone(kind, hidden, seed=seed), names, **shared)
        self.tasks = nn.ModuleDict()
        for name in names:
            made = task_class(name)
            settings = made.Options(**(options or {}).get(name, {}))
            self.tasks[name] = made(settings, world(), store, dims(kind, hidden), seed)

    def step(self, number):
        """(total loss, loss of each term) of one step."""
        batches = {name: task.batch(number) for name, task in self.tasks.items()}
        encoded = self.backbone.encode_all({name: self.tasks[name].requests(batch) for name, batch in batches.items()})
        terms = [term for name, batch in batches.items() for term in self.tasks[name].terms(self, batch, encoded[name])]
        total, each = multitask_loss(terms)
        balance = self.backbone.balance_loss()
        return (total if balance is None else total + balance), each.detach()

    def fit(self, steps, lr):
        """AdamW with a warm-up and a linear end; the terms' losses of the last step."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=lr, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1, (n + 1) / 20) * (1 - n / steps))
        self.train()
        for number in range(steps):
            loss, each = self.step(number)
            loss.backward()
            self.backbone.add_pull()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return each

    @torch.no_grad()
    def metrics(self, name, split="test"):
        self.eval()
        return self.tasks[name].evaluate(self, split)


def packed_of(*lengths, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return Packed.from_texts([torch.randint(5, 300, (length,), generator=draws) for length in lengths])
