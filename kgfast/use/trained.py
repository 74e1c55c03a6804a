"""What a trained run answers, whatever its kind: one object for programs, the command line and the server."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from kgfast.core import checks, optional
from kgfast.core.files import read_plain
from kgfast.core.known import KnownTriples, as_ids
from kgfast.data import KnowledgeGraph
from kgfast.data.names import Names
from kgfast.errors import CheckpointError, ConfigError, KgfastError
from kgfast.evaluate.export import export
from kgfast.evaluate.held import Held
from kgfast.evaluate.predict import SLOTS, Query, described, find_id, predict_all, relation_label
from kgfast.nn import KGEModel
from kgfast.train.id_maps import IdMaps

if TYPE_CHECKING:
    import pandas

    from kgfast.joint.ask import Asker
    from kgfast.joint.model.joint_model import JointModel
    from kgfast.use.index import EntityIndex

Triples = Tensor | Sequence[Sequence[str]]  # ids [M, 3], or names
Several = list[str] | tuple[str, ...]  # a str is a sequence of str too
KINDS = ("entity", "relation")
MOST_BYTES = 2**26  # of metrics.json


class TrainedRun:
    """A finished run, made by `kgfast.load`. Names are names, or texts that one name has alone.

    model      KGEModel, its tables; entities of a joint run are encoded once, when it is loaded
    graph      KnowledgeGraph, or the names alone where it was loaded with names_only
    joint      JointModel of a joint run, else None
    entities, relations    names by id
    threshold  the probability below which `ask` does not know, as valid questions told; None: it always answers
    """

    def __init__(self, folder: Path, model: KGEModel, graph: KnowledgeGraph | IdMaps, joint: JointModel | None = None):
        self.folder, self.model, self.graph, self.joint = folder, model, graph, joint
        self.entities: Names = graph.entity_names
        self.relations: Names = graph.relation_names

    def __repr__(self) -> str:
        kind = "graph" if self.joint is None else f"joint run of {', '.join(self.joint.tasks)}"
        return (
            f"TrainedRun({self.folder}: {kind}, {self.model.score}, {len(self.entities):,} entities, "
            f"{len(self.relations):,} relations)"
        )

    # Links

    def predict(
        self,
        head: str | None = None,
        relation: str | None = None,
        tail: str | None = None,
        k: int = 10,
        known: str = "exclude",
        loops: bool | None = None,
        index: bool = False,
    ) -> list[dict[str, Any]]:
        """The k best answers for the part of a triple that isn't given: dicts of rank, id, name, label, score, known.

        known  answers that the graph holds: "exclude" leaves them out, "mark" tells them, "ignore" doesn't look
        loops  whether the entity of the query may answer for itself; None: where a training triple of the relation does
        index  look entities up in the index that `kgfast index` made, which finds most of them, not all; False: exact
        """
        return self.predict_all([self.query(head, relation, tail)], k, known, loops, index)[0]

    def query(self, head: str | None = None, relation: str | None = None, tail: str | None = None) -> Query:
        """The ids of two names, for `predict_all`; DataError with the nearest names for one that is unknown."""
        return Query.of(self.graph, head, relation, tail)

    def predict_all(
        self,
        queries: Sequence[Query],
        k: int = 10,
        known: str = "exclude",
        loops: bool | None = None,
        index: bool = False,
    ) -> list[list[dict[str, Any]]]:
        """`predict` of many queries, in one fused call for each part that is asked for."""
        searcher = self.index if checks.flag("index", index) else None
        held = None if known == "ignore" else self.held
        return predict_all(self.model, self.graph, queries, k, known, loops, held, searcher)

    def predict_for_text(
        self,
        text: str | None = None,
        relation: str | None = None,
        k: int = 10,
        side: str = "tail",
        *,
        entity: str | None = None,
        relation_text: str | None = None,
        edges: Sequence[Sequence[str]] = (),
    ) -> list[dict[str, Any]]:
        """The k best answers to (entity, relation, ?) where the graph lacks one of the two; side="head": (?, r, e).

        text      of an entity that isn't in the graph; or `entity`, the name of one that is
        relation  its name; or `relation_text`, the text of one that isn't in the graph (relations.kind=hybrid)
        edges     triples of the new entity, "?" in its place, which its row is fitted to
        """
        from kgfast.joint.predict import predict_for_text  # with the Transformer's package

        others = dict(entity=entity, relation_text=relation_text)
        return predict_for_text(self.with_texts("predict_for_text"), text, relation, k, side, **others, edges=edges)

    @torch.no_grad()
    def score(self, triples: Triples) -> Tensor:
        """The scores of triples, names or ids [M, 3]: [M] on the CPU, the higher the likelier."""
        return self.model.score_triples(self.ids(triples).to(self.device)).cpu()

    @torch.no_grad()
    def rank(self, triples: Triples, side: str = "tail", known: bool = True) -> Tensor:
        """The rank of each triple's tail (or head) among all entities, other known answers left out: float64 [M]."""
        left_out = self.known if checks.flag("known", known) else None
        return self.model.rank(self.ids(triples).to(self.device), side, known=left_out).cpu()

    def ids(self, triples: Triples) -> Tensor:
        """int64 [M, 3] of names or ids."""
        if isinstance(triples, Tensor) and triples.numel():
            return as_ids(triples)
        if not any(named(row) for row in checks.rows("triples", triples)):
            return as_ids(triples if len(triples) else torch.empty((0, 3), dtype=torch.int64))
        rows = []
        for place, names in enumerate(triples):
            if not named(names) or len(names) != 3:
                raise ConfigError(f"triples[{place}] must be (head, relation, tail), not {names!r}")
            rows.append([find_id(self.graph, slot, name) for slot, name in zip(SLOTS, names, strict=True)])
        return torch.tensor(rows, dtype=torch.int64)

    # The graph around an entity, and the space

    def neighbours(self, entity: str, k: int | None = None) -> list[dict[str, Any]]:
        """Up to k triples of the graph with this entity at either end: dicts of head, relation, tail (names), labels
        (the same as texts) and split; train first."""
        number, graph = find_id(self.graph, "entity", entity), self.with_graph("neighbours")
        if k is not None:
            checks.integer("k", k, 1)
        found: list[dict[str, Any]] = []
        for split, rows in self.held.of(number).items():
            for head, relation, tail in rows[: None if k is None else k - len(found)].tolist():
                names = (self.entities[head], self.relations[relation], self.entities[tail])
                labels = [graph.label(head), relation_label(graph, relation), graph.label(tail)]
                found.append({**dict(zip(SLOTS, names, strict=True)), "labels": labels, "split": split})
        return found

    @torch.no_grad()
    def nearest(self, entity: str, k: int = 10) -> list[dict[str, Any]]:
        """The k entities whose rows have the largest cosine with this one's: dicts of rank, id, name, label, score."""
        number, rows = find_id(self.graph, "entity", entity), self.model.entities
        checks.integer("k", k, 1)
        row = rows[number] / rows[number].norm().clamp(min=1e-12)
        cosines = (rows @ row / rows.norm(dim=1).clamp(min=1e-12)).cpu()
        cosines[number] = -torch.inf
        scores, ids = cosines.sort(descending=True, stable=True)
        count = min(k, len(rows) - 1)
        return described(self.graph, False, scores[:count].tolist(), ids[:count].tolist(), None)

    def embedding(self, name: str, kind: str = "entity") -> Tensor:
        """The row of an entity (kind="relation": of a relation), a copy on the CPU."""
        checks.choose("kind", kind, KINDS)
        table = self.model.entities if kind == "entity" else self.model.relations
        return table[find_id(self.graph, kind, name)].detach().cpu().clone()

    def to_dataframe(self, kind: str = "entity") -> pandas.DataFrame:
        """All rows of entities (kind="relation": of relations) as a pandas.DataFrame, names as its index."""
        checks.choose("kind", kind, KINDS)
        pandas = optional.needs("pandas", "to_dataframe", "dataframe")
        names = self.entities if kind == "entity" else self.relations
        table = self.model.entities if kind == "entity" else self.model.relations[: len(names)]
        return pandas.DataFrame(table.detach().cpu().numpy(), index=pandas.Index(list(names), name=kind))

    def export(self, folder: str | os.PathLike, format: str = "npy") -> list[Path]:
        """The tables and names as files for other programs: npy, safetensors or word2vec."""
        return export(self.model, self.graph, folder, format)

    # Questions

    @overload
    def ask(self, questions: str, topics: str | None = None, k: int = 5, always: bool = False) -> dict[str, Any]: ...
    @overload
    def ask(
        self, questions: Several, topics: Sequence[str | None] | None = None, k: int = 5, always: bool = False
    ) -> list[dict[str, Any]]: ...
    def ask(self, questions: Any, topics: Any = None, k: int = 5, always: bool = False) -> Any:
        """Answers to a question, or to many, which are read together.

        topics  the entities asked about; None: those that a question names
        always  answer below `threshold` too

        A dict a question: question, by (the part of the model that answers), topic, topics, knows, value ("yes", "no",
        a number, or None for a list), probability, and answers: dicts of rank, id, name, label, probability, known,
        heads and support, the triples that lead there. Where knows is False, there is no value and no answer unless
        `always`.
        """
        alone, always = isinstance(questions, str), checks.flag("always", always)
        asked, given = ([questions], [topics]) if alone else (list(checks.rows("questions", questions)), topics)
        found = self.asker.ask(asked, given, k, self.threshold)
        if not always:
            found = [unknown(one) if one["knows"] is False else one for one in found]
        return found[0] if alone else found

    @cached_property
    def threshold(self) -> float | None:
        path = self.folder / "metrics.json"
        if self.joint is None or not path.exists():
            return None
        try:
            found = json.loads(read_plain(path, MOST_BYTES))["tasks"].get("qa", {}).get("valid", {}).get("threshold")
            return None if found is None else float(found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    @cached_property
    def asker(self) -> Asker:
        """Reads questions; the names of all entities are read once."""
        from kgfast.joint.ask import Asker

        return Asker(self.with_questions(), self.held)

    # What there is

    @property
    def device(self) -> torch.device:
        return self.model.entities.device

    @cached_property
    def index(self) -> EntityIndex:
        """The index of the entities that `kgfast index` made; CheckpointError where there is none, or it is stale."""
        from kgfast.use.index import read  # with faiss

        return read(self.folder, self.model)

    @cached_property
    def held(self) -> Held:
        """The triples of the graph by entity."""
        return Held(self.with_graph("known answers"))

    @cached_property
    def known(self) -> KnownTriples:
        """All triples of the graph, as ranks leave them out."""
        return self.with_graph("known=True").known().to(self.device)

    def with_graph(self, what: str) -> KnowledgeGraph:
        if isinstance(self.graph, IdMaps):
            raise KgfastError(f"{self.folder} was loaded with names_only=True: {what} needs the triples of its data")
        return self.graph

    def with_texts(self, what: str) -> JointModel:
        if self.joint is None:
            raise KgfastError(f"{self.folder} was trained on the graph alone and reads no texts: {what} has no meaning")
        return self.joint

    def with_questions(self) -> JointModel:
        if self.joint is None or "qa" not in self.joint.tasks:
            raise KgfastError(f"{self.folder} was not trained with questions, so it can't answer any; try predict")
        return self.joint


def named(row: Any) -> bool:
    """Whether a row of triples holds names."""
    return isinstance(row, (list, tuple)) and any(isinstance(part, str) for part in row)


def unknown(found: dict[str, Any]) -> dict[str, Any]:
    """What is left of answers that are not known well enough."""
    return {**found, "value": None, "answers": []}
