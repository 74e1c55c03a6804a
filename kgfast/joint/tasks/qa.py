"""Question answering over the graph: two heads and their gated sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kgfast import reference
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError
from kgfast.joint import answering
from kgfast.joint.answering import HEADS, TINY, Reader, Reading
from kgfast.joint.likelihood import likelihood_term
from kgfast.joint.packed import Encoded, Packed
from kgfast.joint.questions import Questions
from kgfast.joint.tasks import ModelDims, Schedule, TaskOptions, Term, generator, register
from kgfast.joint.walk import Edges, Links


class QAOptions(TaskOptions):
    """Options of the task "qa"."""

    heads: tuple[str, ...] = Field(HEADS, description="following, embedding, or both and their gated sum")
    max_hops: int = Field(3, ge=1, le=8, description="steps along edges at most; the question says how many")
    predicted: int = Field(
        8, ge=0, description="missing (entity, relation) pairs that a hop asks of the link predictor"
    )
    drop_edges: float = Field(0.0, ge=0, lt=1, description="share of the triples that a step does not walk along")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of what is read from a question")


@dataclass(frozen=True)
class QABatch:
    """Questions `rows` [B] of a split with topics [B] and CSR answers; kept: bool [M], the triples to walk along."""

    rows: Tensor
    topics: Tensor
    offsets: Tensor
    answers: Tensor
    kept: Tensor | None
    texts: Packed


@register
class QATask(nn.Module):
    """Terms, each a mean over questions of the mean -log likelihood of their answers:

    embedding  the topic transformed by the question, against all entities
    following  the mass that has walked to the answers
    together   the gated sum of both
    """

    name: ClassVar[str] = "qa"
    backbone: ClassVar[bool] = True
    Options: ClassVar[type[TaskOptions]] = QAOptions

    def __init__(self, options: QAOptions, graph: KnowledgeGraph, texts, dims: ModelDims, seed: int):
        super().__init__()
        unknown = [head for head in options.heads if head not in HEADS]
        if unknown or not options.heads:
            raise ConfigError(f"qa.heads: {unknown or 'none'}; at least one of {', '.join(HEADS)} is needed")
        self.options, self.graph, self.seed, self.texts = options, graph, seed, texts
        self.score = dims.score
        self.questions: dict[str, Questions] = {}
        self.train_questions = self.load("train")
        self.schedule = Schedule(len(self.train_questions), options.batch_size, seed, self.name)
        self.edges = Edges.of(graph.train, graph.num_entities, graph.num_relations)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reader = Reader(
                dims.hidden, options.max_hops, graph.num_relations, dims.relation_width, options.dropout
            )
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def load(self, split: str) -> Questions:
        """The questions of a split, tokenized as the group "qa/SPLIT" of the texts."""
        if split not in self.questions:
            self.questions[split] = Questions.of(self.graph, split, self.options.max_hops)
            self.texts.add(f"qa/{split}", self.questions[split].texts)
        return self.questions[split]

    def __len__(self) -> int:
        return len(self.schedule)

    def batch(self, step: int) -> QABatch:
        kept = None
        if self.options.drop_edges:
            draw = torch.rand(len(self.graph.train), generator=generator(self.seed, f"qa/edges/{step}"))
            kept = draw >= self.options.drop_edges
        return self.of("train", self.schedule.rows(step), kept)

    def of(self, split: str, rows: Tensor, kept: Tensor | None = None) -> QABatch:
        questions = self.load(split)
        return QABatch(
            rows, questions.topics[rows], *questions.answers_of(rows), kept, self.texts.packed(f"qa/{split}", rows)
        )

    def requests(self, batch: QABatch) -> Packed:
        return batch.texts

    def entities(self, batch: QABatch) -> Tensor:
        return torch.cat([batch.topics, batch.answers])

    def terms(self, model, batch: QABatch, encoded: Encoded) -> list[Term]:
        device = encoded.pooled.device
        topics, offsets, answers = batch.topics.to(device), batch.offsets.to(device), batch.answers.to(device)
        owner = torch.repeat_interleave(torch.arange(len(topics), device=device), offsets.diff())
        reading, table = self.reader(encoded), model.entities.all_rows()
        terms, found = [], {}
        if "following" in self.options.heads:
            edges = self.edges if batch.kept is None else self.edges.only(batch.kept)
            mass = answering.follow(topics, reading, edges.to(device), self.links(model, table))
            found["following"] = mass[answers, owner]
            terms.append(likelihood_term(mean_loss(found["following"], offsets, owner), name="qa/following"))
        if "embedding" in self.options.heads:
            query = answering.embedding_query(table[topics], reading, self.score)
            similarity = reference.find_score(self.score).similarity
            terms.append(Term(query, table, (offsets, answers), similarity=similarity, name="qa/embedding"))
            found["embedding"] = answering.embed(query, table, self.score)[owner, answers]
        if len(found) == 2:
            likelihood = answering.together(found["following"], found["embedding"], reading.gate[owner])
            terms.append(likelihood_term(mean_loss(likelihood, offsets, owner), name="qa/together"))
        return terms

    def links(self, model, table: Tensor) -> Links | None:
        """What fills in for missing edges; None: nothing does."""
        if not self.options.predicted:
            return None
        return Links(table, model.relations, self.score, self.log_temperature.exp(), self.options.predicted)

    def probabilities(self, model, topics: Tensor, reading: Reading, table: Tensor) -> dict[str, Tensor]:
        """{head: [B, E]}: "known" (following known edges alone), "following", "embedding", "together", as there are."""
        found, edges = {}, self.edges.to(topics.device)
        if "following" in self.options.heads:
            found["known"] = answering.follow(topics, reading, edges).t()
            links = self.links(model, table)
            found["following"] = (
                found["known"] if links is None else answering.follow(topics, reading, edges, links).t()
            )
        if "embedding" in self.options.heads:
            found["embedding"] = answering.embed(
                answering.embedding_query(table[topics], reading, self.score), table, self.score
            )
        if "following" in found and "embedding" in found:
            found["together"] = answering.together(found["following"].t(), found["embedding"].t(), reading.gate).t()
        return found

    def read(self, model, texts: Packed) -> Reading:
        """The questions' reading, encoded now."""
        return self.reader(encode(model, texts, self.name))

    def evaluate(self, model, split: str) -> dict:
        """hits@1 and F1 of the gated sum (of the only head, where there is one); each head's under its name; and by
        the fewest hops from topic to answer."""
        questions, device = self.load(split), model.relations.device
        table, parts = model.entities.all_rows(), {}
        for rows in torch.arange(len(questions)).split(256):
            batch = self.of(split, rows)
            reading = self.read(model, batch.texts.to(device))
            found = self.probabilities(model, batch.topics.to(device), reading, table)
            for head, probabilities in found.items():
                measured = answering.answer_metrics(probabilities.cpu(), batch.offsets, batch.answers)
                parts.setdefault(head, []).append(torch.stack(measured))
        heads = {head: torch.cat(measured, 1) for head, measured in parts.items()}
        main = heads.get("together", heads.get("following", heads.get("embedding")))
        result = summary(main) | {"questions": len(questions), "heads": {h: summary(m) for h, m in heads.items()}}
        result["hops"] = {
            ("beyond" if count == 0 else str(count)): summary(main[:, chosen]) | {"questions": int(chosen.sum())}
            for count in questions.hops.unique().tolist()
            if (chosen := questions.hops == count).any()
        }
        return result


def mean_loss(likelihood: Tensor, offsets: Tensor, owner: Tensor) -> Tensor:
    """Mean over the answers of each question of -log(likelihood), likelihood [A]: [B]."""
    counts = offsets.diff()
    losses = -(likelihood + TINY).log() / counts[owner]
    return losses.new_zeros(len(counts)).index_add(0, owner, losses)


def summary(measured: Tensor) -> dict[str, float]:
    return {"hits@1": float(measured[0].mean()), "f1": float(measured[1].mean())}


def encode(model, texts: Packed, task: str) -> Encoded:
    """The texts through the model's backbone, outside a training step."""
    return model.encode(texts, task=task)
