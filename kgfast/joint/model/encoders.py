"""Rows of entities and of relations: from a table, from their texts, or from both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint.model.packed import Encoded
from kgfast.joint.model.sharing import ENTITIES, RELATIONS
from kgfast.joint.model.text_rows import TextRows
from kgfast.joint.text.store import TextStore, relation_rows_texts
from kgfast.nn import KGEModel

ENCODERS = ("table", "text", "hybrid")


class EntityEncoder(TextRows):
    """Rows [E, D] that the scores rank.

    table:  a learned row an entity
    text:   P x, x the entity's text through the backbone, pooled and normed: [H]
    hybrid: both, as `TextRows` says; an entity that train never saw, or one without text, has the other part alone

    A hybrid has rows by text alone too, P x of every entity: the link task learns both kinds, so that P x can stand
    where there is no row.
    """

    reader, group = ENTITIES, "entity"

    def __init__(
        self,
        kind: str,
        graph: KnowledgeGraph,
        texts: TextStore | None,
        *,
        score: str,
        dim: int,
        hidden: int = 0,
        refresh: int = 256,
        init_scale: float | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if kind not in ENCODERS:
            raise ConfigError(f"entities={kind!r}: must be one of {', '.join(ENCODERS)}")
        if refresh < 1:
            raise ConfigError(f"refresh={refresh}: must be at least 1")
        count = graph.num_entities
        self.kind, self.score, self.dim, self.seed = kind, score, dim, seed
        self.refresh, self.count = min(refresh, count), count
        if kind != "text":
            draws = torch.Generator().manual_seed(seed)
            self.table = nn.Parameter(KGEModel.initial(count, dim, init_scale, draws, torch.float32))
        if kind == "table":
            return
        if texts is None or "entity" not in texts or not bool(texts.present("entity").any()):
            raise DataError(
                f"{graph.name} has no texts of entities, which entities={kind} needs: entity2text.txt or "
                f"entity2desc*.txt beside train.txt"
            )
        if hidden < 1:
            raise ConfigError(f"entities={kind} needs a backbone")
        self.texts = texts
        seen = torch.zeros(count, dtype=torch.bool)
        seen[graph.train[:, 0]] = True
        seen[graph.train[:, 2]] = True
        scale = (2 / (count + dim)) ** 0.5  # rows begin as large as Xavier's
        self.read_texts(dim, hidden, seen, scale=scale, hybrid=kind == "hybrid")

    @property
    def reads(self) -> bool:
        """Whether texts are part of the rows."""
        return self.kind != "table"

    def all_rows(self) -> Tensor:
        """[E, D], row e of entity e. Gradients reach the table, the projection, and the texts read in this step."""
        return self.both_rows()[0]

    def rows(self, ids: Tensor) -> Tensor:
        """[n, D], the rows of `ids`, computed for these alone unless all were asked before in this step."""
        return self.both_rows(ids)[0]

    def both_rows(self, ids: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(rows, rows by text alone) of `ids`, None: all. An entity without text has its row; a table has no texts."""
        if self.kind == "table":
            return self.table if ids is None else self.table[ids], None
        return self.both(self.table if self.kind == "hybrid" else None, ids)

    def text_rows(self, encoded: Encoded) -> Tensor:
        """[n, D]: rows of entities that are not in the graph, by text alone."""
        if not self.reads:
            raise ConfigError("entities=table: an entity that is not in the graph has no row; use text or hybrid")
        return super().text_rows(encoded)

    def extra_repr(self) -> str:
        return f"{self.kind}, entities={self.count}, dim={self.dim}, refresh={self.refresh}"


class RelationTexts(TextRows):
    """Rows [R or 2R, W] of relations from a table and their texts; with 2R, row r + R has the text of the inverse.

    A module that makes rows of a table: `JointModel.relations` are what it makes (torch's parametrization).
    """

    reader, group, draws = RELATIONS, "relation rows", "relations/"

    def __init__(
        self, graph: KnowledgeGraph, texts: TextStore, table: Tensor, *, hidden: int, refresh: int = 256, seed: int = 0
    ):
        super().__init__()
        self.count, width = table.shape
        self.refresh, self.seed, self.texts = min(refresh, self.count), seed, texts
        turned = self.count == 2 * graph.num_relations
        texts.add(self.group, relation_rows_texts(graph, turned))
        seen = torch.zeros(graph.num_relations, dtype=torch.bool)
        seen[graph.train[:, 1]] = True
        scale = float(table.detach().std())
        self.read_texts(width, hidden, seen.repeat(2) if turned else seen, scale=scale, hybrid=True)

    def forward(self, table: Tensor) -> Tensor:
        return self.both(table)[0]

    def extra_repr(self) -> str:
        return f"rows={self.count}, refresh={self.refresh}"
