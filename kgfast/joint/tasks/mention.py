"""Mentions: which entity does a text name here? The bridge between texts and the table of entities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from kgfast.errors import DataError
from kgfast.evaluate.measures import HEADINGS, summarize
from kgfast.joint.model.bridge import EntityInputs, MentionQuery
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.model.pooling import pool
from kgfast.joint.task import device_of
from kgfast.joint.tasks import ModelDims, TaskOptions, Term, generator, register
from kgfast.joint.tasks.mlm import show
from kgfast.joint.tasks.qa.fill import all_scores
from kgfast.joint.text.language import PieceTask, read
from kgfast.joint.text.mentioned import anchors_of, mentioned, with_entities_at, with_entities_behind
from kgfast.run.seeds import global_seed

HIDDEN = 0.3  # of the mentions that a masked model reads


@dataclass(frozen=True)
class MentionBatch:
    """Texts; the mean state of the tokens places[offsets[i]:offsets[i + 1]] asks for the entity targets[i]; anchors
    int64 [M, 2]: the first and the last entity that the text names besides, -1 for none."""

    packed: Packed
    places: Tensor
    offsets: Tensor
    targets: Tensor
    anchors: Tensor


@register
class MentionTask(PieceTask):
    """Query: of the state before a mention (causal model), or of a mention that is hidden whole (masked model: 30 % of
    them). Table: the entities' rows. And entities enter the Transformer where texts name them: at the mention, or for
    a causal model behind it, through a gate that begins at nothing, in the texts of the language task too.
    """

    name = "mention"
    reads_mentions = True
    headline = "mrr"
    columns = {**HEADINGS, "mentions": "mentions"}

    class Options(TaskOptions):
        batch_size: int = Field(32, gt=0, description="pieces of text in a step")
        triples: int = Field(0, ge=0, description="triples of train, put into words, that a step reads besides")
        inputs: bool = Field(True, description="rows of entities enter the Transformer where texts name them")
        teach: bool = Field(False, description="the gradient of texts reaches rows of entities and relations")
        evaluate_texts: int = Field(2000, gt=0, description="held-out pieces of text that an evaluation reads at most")

    def __init__(self, options, graph, texts, dims: ModelDims, seed: int):
        self.causal = dims.causal
        super().__init__(options, graph, texts, dims, seed)
        if self.corpus.mentions is None or not len(self.corpus.mentions):
            raise DataError(f"task mention: no text names an entity of {graph.name}")
        self.seen = graph.train[:, [0, 2]].unique()
        self.score = dims.score
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed(seed, "mention"))
            self.query = MentionQuery(dims)
            self.inputs = EntityInputs(dims.dim, dims.embedding) if options.inputs else None

    @property
    def read_as(self) -> str:
        return "clm" if self.causal else "mlm"

    def batch(self, step: int) -> MentionBatch:
        draws = None if self.causal else generator(self.seed, f"mention/hidden/{step}")
        return self.ask(self.spans_of_step(step), draws)

    def ask(self, spans: Tensor, draws: torch.Generator | None) -> MentionBatch:
        """All mentions in these pieces for a causal model; for a masked one those drawn, one a piece at least."""
        packed = read(self.texts, spans)
        there = mentioned(self.texts, packed, spans)
        if self.causal:
            asked = (packed.positions[there.first] > 0).nonzero()[:, 0]  # a state stands before
            packed, which = with_entities_behind(self.texts, packed, spans), there.select(asked)
            anchors = anchors_of(there, asked, None)
            return MentionBatch(packed, which.first - 1, torch.arange(len(asked) + 1), which.entity, anchors)
        chance = torch.rand(len(there), generator=draws)
        least = torch.full((len(spans),), 2.0).scatter_reduce(0, there.text, chance, "amin")
        hidden = (chance < HIDDEN) | (chance == least[there.text])
        asked = hidden.nonzero()[:, 0]
        which = there.select(asked)
        places, offsets = which.tokens()
        shown = show(packed, places, self.texts.tokenizer.mask).packed
        packed = with_entities_at(self.texts, shown, there.select((~hidden).nonzero()[:, 0]))
        return MentionBatch(packed, places, offsets, which.entity, anchors_of(there, asked, ~hidden))

    def requests(self, batch: MentionBatch) -> Packed:
        return batch.packed

    def entities(self, batch: MentionBatch) -> Tensor:
        return batch.targets

    def entity_inputs(self, model: Any) -> Callable[[Tensor], Tensor] | None:
        if self.inputs is None:
            return None
        inputs = self.inputs

        def vectors(ids: Tensor) -> Tensor:
            rows = model.entities.rows(ids)
            return inputs(rows if self.options.teach else rows.detach())

        return vectors

    def queries(self, model: Any, hidden: Tensor, anchors: Tensor) -> Tensor:
        """[M, D] of states [M, H] and the entities that the texts name besides."""
        rows, relations = model.entities.rows(anchors.clamp(min=0).flatten()), model.relations
        if not self.options.teach:
            rows, relations = rows.detach(), relations.detach()
        return self.query(hidden, anchors, rows.unflatten(0, (-1, 2)), relations)

    def states(self, batch: MentionBatch, encoded: Encoded) -> Tensor:
        device = encoded.hidden.device
        return pool(encoded.hidden[batch.places.to(device)], batch.offsets.to(device), "mean")

    def terms(self, model: Any, batch: MentionBatch, encoded: Encoded) -> list[Term]:
        device = encoded.hidden.device
        query = self.queries(model, self.states(batch, encoded), batch.anchors.to(device))
        table = model.entities.all_rows()
        candidates = None if len(self.seen) == len(table) else self.seen.to(device)
        return [
            Term(
                query, table if self.options.teach else table.detach(), batch.targets.to(device),
                candidates=candidates, similarity=self.query.score.similarity, name=self.name,
            )
        ]  # fmt: skip

    def log_chances(self, model: Any, hidden: Tensor, anchors: Tensor, entities: Tensor) -> Tensor:
        """float64 [M] on the CPU: log of the chance, among all entities, of `entities` [M]."""
        scores = all_scores(self.queries(model, hidden, anchors), model.entities.all_rows(), self.score).double()
        return scores.log_softmax(-1).gather(1, entities.to(scores.device)[:, None])[:, 0].cpu()

    def evaluate(self, model: Any, split: str) -> dict[str, Any]:
        """Rank of the entity that a held-out text names, among all; ties count half."""
        device, ranks = device_of(model), []
        draws = None if self.causal else generator(self.seed, f"mention/{split}")
        for spans in self.spans_of(split)[: self.options.evaluate_texts].split(64):
            batch = self.ask(spans, draws)
            if not len(batch.targets):
                continue
            encoded = model.backbone.encode(batch.packed.to(device), self.name)
            query = self.queries(model, self.states(batch, encoded), batch.anchors.to(device))
            scores = all_scores(query, model.entities.all_rows(), self.score)
            own = scores.gather(1, batch.targets.to(device)[:, None])
            ranks.append((0.5 + (scores > own).sum(1) + (scores == own).sum(1) / 2).double().cpu())
        found = torch.cat(ranks)
        return {**summarize(found), "mentions": len(found)}

    def can_evaluate(self, split: str) -> bool:
        """Whether a held-out text names an entity."""
        spans = self.spans_of(split)[: self.options.evaluate_texts]
        return len(spans) > 0 and len(mentioned(self.texts, read(self.texts, spans), spans)) > 0
