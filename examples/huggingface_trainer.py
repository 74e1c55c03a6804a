"""Language and graph with Hugging Face's Trainer: one `kgfast.multitask_loss` in the model's forward pass.

    python examples/huggingface_trainer.py [--data world] [--steps 200]

A BERT learns masked words from the descriptions of entities, and two tables learn the graph (ComplEx with N3, all
entities as candidates). Neither the logits over the vocabulary nor those over the entities are stored. The Trainer
brings the loop: schedules, mixed precision, several GPUs, checkpoints. On the built-in graph 200 steps reach a test MRR
of 0.51 for tails. Needs `pip install "kgfast[joint]" accelerate`.
"""

import argparse

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments, set_seed

import kgfast
from kgfast import reference
from kgfast.functional.regularizers import cubed
from kgfast.joint.text.store import TextStore, all_texts, graph_texts
from kgfast.joint.text.tokenizer import Tokenizer


class Joint(nn.Module):
    """BERT and the tables of a knowledge graph; forward returns what the Trainer wants: {"loss": ..}."""

    def __init__(self, graph, vocabulary, dim=64, hidden=64):
        super().__init__()
        config = BertConfig(
            vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=4 * hidden, max_position_embeddings=64,
        )  # fmt: skip
        self.bert = BertForMaskedLM(config)
        self.entities = nn.Parameter(0.01 * torch.randn(graph.num_entities, dim))
        self.relations = nn.Parameter(0.01 * torch.randn(graph.num_relations, dim))
        self.score = reference.find_score("complex")

    def forward(self, input_ids, attention_mask, labels, triples):
        states = self.bert.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        hidden = labels != -100  # only hidden tokens become queries
        predictions = self.bert.cls.predictions
        words = kgfast.Term(
            predictions.transform(states[hidden]).float(),
            predictions.decoder.weight,
            labels[hidden],
            bias=predictions.decoder.bias,
            name="mlm",
        )
        head, relation, tail = triples.flatten(0, 1).unbind(1)
        rows = self.entities[head], self.relations[relation], self.entities[tail]
        query = self.score.tail_query(rows[0], rows[1])
        links = kgfast.Term(query, self.entities, tail, similarity=self.score.similarity, name="link")
        n3 = kgfast.LossTerm(sum(cubed(part, True) for part in rows), weight=0.02, name="n3")
        loss, per_task = kgfast.multitask_loss([words, links, n3])
        return {"loss": loss, "per_task": per_task.detach()[None]}


class Examples(Dataset):
    """Item i: a description with hidden tokens, and some triples."""

    def __init__(self, graph, texts, length=48, mask=0.15, triples=8):
        self.graph, self.length, self.mask, self.triples = graph, length, mask, triples
        self.tokenizer = texts.tokenizer
        described = texts.present("entity").nonzero()[:, 0]
        packed = texts.packed("entity", described)
        self.texts = [
            packed.tokens[start:stop][:length]
            for start, stop in zip(packed.offsets[:-1], packed.offsets[1:], strict=True)
        ]

    def __len__(self):
        return len(self.graph.train)

    def __getitem__(self, index):
        tokens = self.texts[index % len(self.texts)]
        hidden = torch.rand(len(tokens)) < self.mask
        hidden[torch.randint(len(tokens), (1,))] = True
        ids = torch.full((self.length,), self.tokenizer.pad)
        labels = torch.full((self.length,), -100)
        ids[: len(tokens)] = torch.where(hidden, torch.tensor(self.tokenizer.mask), tokens)
        labels[: len(tokens)] = torch.where(hidden, tokens, torch.tensor(-100))
        present = torch.arange(self.length) < len(tokens)
        triples = self.graph.train[torch.randint(len(self.graph.train), (self.triples,))]
        return dict(input_ids=ids, attention_mask=present.long(), labels=labels, triples=triples)


def main(data="world", steps=200, out="runs/huggingface", batch_size=64, **arguments):
    set_seed(0)
    graph = kgfast.KnowledgeGraph.load(data)
    tokenizer = Tokenizer.train(all_texts(graph_texts(graph)), vocabulary=4000)
    texts = TextStore.of_graph(graph, tokenizer, max_length=48)
    model = Joint(graph, len(tokenizer))
    settings = TrainingArguments(
        output_dir=out, max_steps=steps, per_device_train_batch_size=batch_size, logging_steps=20,
        report_to=[], save_strategy="no", remove_unused_columns=False, seed=0, **arguments,
    )  # fmt: skip
    tables = [model.entities, model.relations]
    optimizer = torch.optim.AdamW([{"params": model.bert.parameters()}, {"params": tables, "lr": 2e-2}], 5e-3)
    trainer = Trainer(model=model, args=settings, train_dataset=Examples(graph, texts), optimizers=(optimizer, None))
    trainer.train()
    model.eval().cpu()
    ranks = kgfast.rank(
        model.entities.detach(), model.relations.detach(), graph.test, score="complex", side="tail", known=graph.known()
    )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"mrr": float((1 / ranks).mean()), "losses": losses}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="world")
    parser.add_argument("--steps", type=int, default=200)
    found = main(**vars(parser.parse_args()))
    print(f"test MRR of tails {found['mrr']:.3f}; loss {found['losses'][0]:.2f} -> {found['losses'][-1]:.2f}")
