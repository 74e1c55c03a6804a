"""Question answering over the graph: two heads and their gated sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from kgfast import reference
from kgfast.data import KnowledgeGraph
from kgfast.functional.regularizers import cubed
from kgfast.joint.model.packed import Encoded, Packed, gather_places
from kgfast.joint.task import Shown
from kgfast.joint.tasks import LossTerm, ModelDims, Task, TaskOptions, Term, generator, register
from kgfast.joint.tasks.qa import answering, examples
from kgfast.joint.tasks.qa.answering import Gate, Reader, Reading
from kgfast.joint.tasks.qa.edges import Edges
from kgfast.joint.tasks.qa.fill import Fill
from kgfast.joint.tasks.qa.linking import Linker
from kgfast.joint.tasks.qa.paths import Facts
from kgfast.joint.tasks.qa.questions import Questions, small_words
from kgfast.joint.tasks.qa.replies import Sense
from kgfast.joint.text.store import TextStore

ASKED = "asked"  # of results: questions as `ask` answers them
LEAST_MASS = 1e-5  # added to the mass at an answer, so that one out of reach has a finite loss


class QAOptions(TaskOptions):
    """Options of the task "qa"."""

    heads: tuple[Literal["following", "embedding"], ...] = Field(
        ("following", "embedding"), min_length=1, description="following, embedding, or both and their gated sum"
    )
    max_hops: int = Field(3, ge=1, le=8, description="steps along edges at most; the question says how many")
    predicted: int = Field(8, ge=0, description="missing edges that a hop asks of the link predictor; 0: mass is lost")
    evidence: float = Field(
        0.0, ge=0, description="weight of what answers tell the link predictor about missing edges; 0: nothing"
    )
    held_out: float = Field(
        0.15, gt=0, lt=1, description="share of the topics whose questions teach the gate, not the embedding head"
    )
    n3: float = Field(0.3, ge=0, description="weight of the N3 regulariser of the embedding head")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of what is read from a question")

    @field_validator("heads", mode="before")
    @classmethod
    def _heads(cls, value: Any) -> Any:
        """Names between commas, as a command line has them."""
        return value.split(",") if isinstance(value, str) else value


@dataclass(frozen=True)
class QABatch:
    """Questions `rows` [B] of a split with topics [B] and CSR answers, and their texts."""

    rows: Tensor
    topics: Tensor
    offsets: Tensor
    answers: Tensor
    texts: Packed


@register
class QATask(Task):
    """Terms, each a mean over questions of the mean -log likelihood of their answers:

    following  the mass that walked to the answers, along edges and, where there is none, to where the relation leads
    embedding  the topic transformed by the question, against all entities, and its N3 regulariser
    evidence   the walk again, where the link predictor fills in for missing edges: who answers where it leads learns
               these edges. Its gradient is that of expectation maximisation over them, and reaches the tables alone: a
               reader that could lay the blame on edges would not learn to read
    gate       the gated sum of both, the link predictor filling in. Learned on topics held out from the embedding head
               and the evidence (stacking: Wolpert 1992): of the others the entities' rows know the answers by heart.
               Gradients reach the gate, and how far the link predictor is trusted
    answerable whether anything answers, over all questions, where train has some that nothing does; the other terms are
               of those that have answers
    """

    name = "qa"
    backbone = True
    Options = QAOptions
    headline = "hits@1"
    columns = {"questions": "questions", "hits@1": "Hits@1", "f1": "F1"}

    def __init__(self, options: QAOptions, graph: KnowledgeGraph, texts: TextStore, dims: ModelDims, seed: int):
        super().__init__(options, graph, texts, dims, seed)
        self.score = dims.score
        self.questions: dict[str, Questions] = {}
        self.schedule_over(len(self.load("train")))
        self.edges = Edges.of(graph.train, graph.num_entities, graph.num_relations)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reader = Reader(
                dims.hidden, options.max_hops, graph.num_relations, dims.dim, dims.relation_width, options.dropout,
                refuses=bool((self.questions["train"].offsets.diff() == 0).any()),
            )  # fmt: skip
        self.gate = Gate()
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.trust = nn.Parameter(torch.zeros(()))
        self.both = len(set(options.heads)) == 2
        draws = torch.rand(graph.num_entities, generator=generator(seed, "qa/held out"))
        self.held_out = draws < options.held_out if self.both else torch.zeros_like(draws, dtype=torch.bool)

    def load(self, split: str) -> Questions:
        """The questions of a split, tokenized as the group "qa/SPLIT" of the texts."""
        if split not in self.questions:
            self.questions[split] = Questions.of(self.graph, split, self.options.max_hops, self.linker)
            self.texts.add(f"qa/{split}", self.questions[split].texts)
        return self.questions[split]

    @cached_property
    def linker(self) -> Linker:
        """Finds what questions name that were written with the data."""
        return Linker(self.graph, small_words(self.graph))

    @classmethod
    def lacks(cls, graph: KnowledgeGraph, config) -> str | None:
        return None if graph.questions.get("train") else "questions"

    def can_evaluate(self, split: str) -> bool:
        return bool(self.graph.questions.get(split))

    @property
    def fill(self) -> Fill | None:
        """Missing edges as the marginals see them; None: mass that finds no edge is lost."""
        return Fill() if self.options.predicted else None

    def batch(self, step: int) -> QABatch:
        return self.of("train", self.schedule.rows(step))

    def of(self, split: str, rows: Tensor) -> QABatch:
        """The questions `rows` of a split."""
        questions = self.load(split)
        texts = self.texts.packed(f"qa/{split}", rows)
        return QABatch(rows, questions.topics[rows], *questions.answers_of(rows), texts)

    def requests(self, batch: QABatch) -> Packed:
        return batch.texts

    def entities(self, batch: QABatch) -> Tensor:
        return torch.cat([batch.topics, batch.answers])

    def terms(self, model, batch: QABatch, encoded: Encoded) -> list[Term | LossTerm]:
        device = encoded.pooled.device
        with torch.autocast(device.type, enabled=False):
            reading, table = self.reader(encoded), model.entities.all_rows()
            terms: list[Term | LossTerm] = []
            if reading.answerable is not None:
                answered = batch.offsets.diff() > 0
                losses = nn.functional.binary_cross_entropy_with_logits(
                    reading.answerable, answered.to(reading.answerable), reduction="none"
                )
                terms.append(LossTerm(losses, name="qa/answerable"))
                those = answered.nonzero()[:, 0]
                reading, batch = reading.select(those.to(device)), select(batch, those)
            topics, held = batch.topics.to(device), self.held_out[batch.topics]
            if "following" in self.options.heads:
                following = answering.follow(topics, reading, self.edges_on(device), self.fill)
                losses = answer_losses((following.t() + LEAST_MASS).log(), batch)
                terms.append(LossTerm(losses, name="qa/following"))
            taught, chosen = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
            if "embedding" in self.options.heads:
                terms += self.embedding_terms(table, topics, reading, batch, taught)
            if self.both and self.options.predicted and self.options.evidence:
                terms.append(
                    self.evidence_term(model, table, reading.select(taught.to(device)).fixed(), select(batch, taught))
                )
            if self.both:
                log_sum = self.together(
                    model, batch.topics[chosen].to(device), reading.select(chosen.to(device)).fixed(), table
                )
                terms.append(LossTerm(answer_losses(log_sum, select(batch, chosen)), name="qa/gate"))
            return terms

    def embedding_terms(self, table, topics, reading: Reading, batch: QABatch, chosen: Tensor) -> list[Term | LossTerm]:
        """The embedding head's loss over the questions `chosen` of a batch, and its regulariser."""
        device = table.device
        offsets, answers = (part.to(device) for part in slices(batch, chosen))
        rows, relations = table[topics], reading.row
        query = answering.embedding_query(rows, reading, self.score)[chosen.to(device)]
        spec = reference.find_score(self.score)
        terms: list[Term | LossTerm] = []
        terms.append(Term(query, table, (offsets, answers), similarity=spec.similarity, name="qa/embedding"))
        if self.options.n3:
            owner = torch.repeat_interleave(torch.arange(len(chosen), device=device), offsets.diff())
            sizes = cubed(rows[chosen.to(device)], spec.complex_rows)
            sizes = sizes.index_add(0, owner, cubed(table[answers], spec.complex_rows) / offsets.diff()[owner])
            if not spec.phases:
                sizes = sizes + cubed(relations[chosen.to(device)], spec.complex_relations)
            terms.append(LossTerm(sizes, weight=self.options.n3, name="qa/n3"))
        return terms

    def evidence_term(self, model, table: Tensor, reading: Reading, batch: QABatch) -> LossTerm:
        """The loss of a walk that the link predictor fills in, over a batch."""
        factors = self.log_temperature.detach().exp(), self.trust.detach().sigmoid()
        fill = Fill(table, model.relations, self.score, *factors, self.options.predicted)
        mass = answering.follow(batch.topics.to(table.device), reading, self.edges_on(table.device), fill)
        losses = answer_losses((mass.t() + LEAST_MASS).log(), batch)
        return LossTerm(losses, weight=self.options.evidence, name="qa/evidence")

    def edges_on(self, device) -> Edges:
        if self.edges.heads.device != device:
            self.edges = self.edges.to(device)
        return self.edges

    def link_fill(self, model, table: Tensor) -> Fill:
        """Missing edges as the link predictor and the marginals see them."""
        factors = self.log_temperature.exp(), self.trust.sigmoid()
        return Fill(table.detach(), model.relations.detach(), self.score, *factors, self.options.predicted)

    def together(self, model, topics: Tensor, reading: Reading, table: Tensor) -> Tensor:
        """log p of the gated sum: [B, E]. Gradients reach the gate, trust and temperature alone."""
        edges, fill = self.edges_on(topics.device), self.link_fill(model, table) if self.options.predicted else None
        with torch.no_grad():
            query = answering.embedding_query(table[topics], reading, self.score)
            embedding = answering.embed(query, table, self.score)
            known = answering.follow(topics, reading, edges).sum(0) - reading.hops[0]  # what stays at the topic aside
        return self.gate(answering.follow(topics, reading, edges, fill), embedding, known)

    @torch.no_grad()
    def probabilities(self, model, topics: Tensor, encoded: Encoded) -> dict[str, Tensor]:
        """{head: [B, E]}, as there are: "known" (along known edges alone), "following", "embedding", "together"; each
        times the probability that anything answers the question."""
        found, edges = {}, self.edges_on(topics.device)
        with torch.autocast(topics.device.type, enabled=False):
            reading, table = self.reader(encoded), model.entities.all_rows()
            if "following" in self.options.heads:
                found["known"] = answering.follow(topics, reading, edges).t()
                found["following"] = answering.follow(topics, reading, edges, self.fill).t()
            if "embedding" in self.options.heads:
                query = answering.embedding_query(table[topics], reading, self.score)
                found["embedding"] = answering.embed(query, table, self.score).exp()
            if self.both:
                found["together"] = self.together(model, topics, reading, table).exp()
            if reading.answerable is not None:
                odds = reading.answerable.sigmoid()[:, None]
                found = {head: values * odds for head, values in found.items()}
        return found

    def understood(self, batch: QABatch, encoded: Encoded) -> Tensor:
        """[B, E]: the chance of each answer as `ask` reads questions, along all that the graph holds."""
        reading, chances = self.reader(encoded), torch.zeros(len(batch.topics), self.graph.num_entities)
        for place, topic in enumerate(batch.topics.tolist()):
            found = Sense.of(self.facts, topic, reading, place).answers()
            chances[place, list(found)] = torch.tensor(list(found.values()), dtype=torch.float32)
        return chances

    def shown(self, model, split: str) -> Shown | None:
        return examples.shown(self, model, split)

    @property
    def main(self) -> str:
        """The head whose answers count."""
        return "together" if self.both else self.options.heads[0]

    @cached_property
    def facts(self) -> Facts:
        """All that the graph holds, for those who ask."""
        return Facts.of(self.graph)

    def evaluate(self, model, split: str) -> dict:
        """hits@1 and F1 of the gated sum (of the only head, where there is one); each head's under its name; and by
        the fewest hops from topic to answer. Of questions that nothing answers: the share below the threshold, which
        weighs them too."""
        questions, device = self.load(split), model.relations.device
        parts: dict[str, list[Tensor]] = {}
        for rows in torch.arange(len(questions)).split(256):
            batch = self.of(split, rows)
            encoded = model.backbone.encode(batch.texts.to(device), self.name)
            for head, probabilities in self.probabilities(model, batch.topics.to(device), encoded).items():
                parts.setdefault(head, []).append(measured_of(probabilities.cpu(), batch))
            if "following" in self.options.heads:
                parts.setdefault(ASKED, []).append(measured_of(self.understood(batch, encoded), batch))
        measured = {head: torch.cat(of_head, 1) for head, of_head in parts.items()}
        main = measured[self.main]
        asked = measured.pop(ASKED, main)
        threshold = answering.threshold(*likelier(main, asked))
        answered = questions.offsets.diff() > 0
        sure = likelier(main, asked)[0][~answered]
        main, hops = main[:, answered], questions.hops[answered]
        result: dict[str, Any] = summary(main) | {"questions": len(hops)}
        result["heads"] = {head: summary(of_head[:, answered]) for head, of_head in measured.items()}
        result[ASKED], result["threshold"] = summary(asked[:, answered]), threshold
        if len(sure):
            result["unanswerable"] = {"questions": len(sure), "refused": float((sure < threshold).double().mean())}
        result["hops"] = {
            ("beyond" if count == 0 else str(count)): summary(main[:, chosen]) | {"questions": int(chosen.sum())}
            for count in hops.unique().tolist()
            if (chosen := hops == count).any()
        }
        return result

    @classmethod
    def beside_of(cls, metrics: Mapping[str, Any]) -> Mapping[str, float]:
        return {"as asked": metrics[ASKED]["hits@1"]}

    @classmethod
    def groups_of(cls, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """By the fewest hops to an answer, and by head."""
        for hops, part in metrics["hops"].items():
            yield f"{hops} hop{'s' * (hops != '1')}" if hops != "beyond" else "further", part
        yield from metrics["heads"].items()


def measured_of(chances: Tensor, batch: QABatch) -> Tensor:
    """[3, B]: hits, F1 and probability of the likeliest answer, by chances [B, E]."""
    found = answering.answer_metrics(chances, batch.offsets, batch.answers)
    return torch.stack([*found, chances.max(1).values.double()])


def likelier(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(probability, right) of each question's answer by the surer of two heads, each measured as [hits, f1,
    probability]."""
    best = torch.where(second[2] >= first[2], second, first)
    return best[2], best[0]


def answer_losses(log_likelihood: Tensor, batch: QABatch) -> Tensor:
    """- the mean over each question's answers of log_likelihood [B, E]: [B]."""
    offsets, answers = batch.offsets.to(log_likelihood.device), batch.answers.to(log_likelihood.device)
    counts = offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return log_likelihood.new_zeros(len(counts)).index_add(0, owner, -log_likelihood[owner, answers] / counts[owner])


def slices(batch: QABatch, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """CSR of the answers of the questions `chosen` of a batch."""
    places, offsets = gather_places(batch.offsets, chosen)
    return offsets, batch.answers[places]


def select(batch: QABatch, chosen: Tensor) -> QABatch:
    """The questions `chosen` of a batch."""
    return QABatch(batch.rows[chosen], batch.topics[chosen], *slices(batch, chosen), batch.texts.select(chosen))


def summary(measured: Tensor) -> dict[str, float]:
    return {"hits@1": float(measured[0].mean()), "f1": float(measured[1].mean())}
