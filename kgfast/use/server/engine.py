"""What the addresses call: names checked at once, the run asked in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import torch

from kgfast.evaluate.predict import Query, find_id, relation_label
from kgfast.use.server.batching import Batcher
from kgfast.use.trained import TrainedRun, unknown


class Prediction(NamedTuple):
    query: Query
    k: int
    known: str


class Question(NamedTuple):
    text: str
    topic: str | None
    k: int
    always: bool


class Engine:
    """A run and its queues; one thread calls the model, whose kernels have threads of their own."""

    def __init__(self, run: TrainedRun, index: bool = False):
        self.run, self.graph, self.index = run, run.with_graph("serving"), index
        if index:
            self.run.index  # noqa: B018  (read before the first request)
        self.run.held.sort()
        self.answers_questions = run.joint is not None and "qa" in run.joint.tasks
        if self.answers_questions:
            self.run.asker  # noqa: B018  (names are read once, before the first question)
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="kgfast-model")
        self.predictions = Batcher(self.predict, self.executor)
        self.scores = Batcher(self.score, self.executor)
        self.questions = Batcher(self.ask, self.executor)
        labels = pa.array([self.graph.label(entity) for entity in range(self.graph.num_entities)], pa.large_string())
        self.labels = pc.utf8_lower(labels)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        queues = (self.predictions, self.scores, self.questions)
        tasks = [asyncio.create_task(queue.work()) for queue in queues]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.executor.shutdown()

    def predict(self, items: list[Prediction]) -> list[list[dict[str, Any]]]:
        """One fused call for each way to treat known answers: the best of the largest k begin with those of a lower."""
        answers: dict[int, list[dict[str, Any]]] = {}
        for known in {item.known for item in items}:
            places = [place for place, item in enumerate(items) if item.known == known]
            most = max(items[place].k for place in places)
            found = self.run.predict_all([items[place].query for place in places], most, known, index=self.index)
            answers.update({place: rows[: items[place].k] for place, rows in zip(places, found, strict=True)})
        return [answers[place] for place in range(len(items))]

    def score(self, items: list[torch.Tensor]) -> list[list[float]]:
        return [part.tolist() for part in self.run.score(torch.cat(items)).split([len(item) for item in items])]

    def ask(self, items: list[Question]) -> list[dict[str, Any]]:
        texts, topics = [item.text for item in items], [item.topic for item in items]
        found = self.run.ask(texts, topics, max(item.k for item in items), always=True)
        return [
            unknown(one) if one["knows"] is False and not item.always else {**one, "answers": one["answers"][: item.k]}
            for one, item in zip(found, items, strict=True)
        ]

    def check(self, question: str, topic: str | None) -> None:
        """An error tells what is wrong with a question, before it meets others."""
        from kgfast.joint.unseen import check_texts  # with the Transformer's package

        check_texts(self.run.with_questions(), [question])
        if topic is not None:
            find_id(self.graph, "topic", topic)

    def search(self, text: str, count: int) -> list[dict[str, str]]:
        """Entities whose label begins with the text, then those that hold it: a typeahead."""
        asked = text.strip().lower()
        ids: list[int] = []
        for match in (pc.starts_with, pc.match_substring):
            chosen = pc.indices_nonzero(match(self.labels, asked)).to_pylist() if len(ids) < count else []
            ids += [entity for entity in chosen[: 2 * count] if entity not in ids]
        return [{"name": self.run.entities[entity], "label": self.graph.label(entity)} for entity in ids[:count]]

    def relation_names(self) -> list[dict[str, str]]:
        return [
            {"name": name, "label": relation_label(self.graph, relation)}
            for relation, name in enumerate(self.run.relations)
        ]
