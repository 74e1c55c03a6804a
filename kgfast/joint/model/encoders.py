"""EntityEncoder: rows of entities from a table, from their texts, or from both."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint.model.kept_texts import KeptTexts
from kgfast.joint.model.packed import Encoded
from kgfast.joint.model.sharing import ENTITIES, Sharing
from kgfast.joint.text.store import TextStore
from kgfast.nn import KGEModel
from kgfast.run.seeds import generator

ENCODERS = ("table", "text", "hybrid")
GATE = 2.0  # a hybrid begins as the whole row and 0.12 of the text
WHOLE = 1 / (1 + math.exp(-GATE))  # the share of the row at the beginning, which counts as all of it


class EntityEncoder(KeptTexts):
    """Rows [E, D] that the scores rank.

    table:  a learned row an entity
    text:   P x, x the entity's text through the backbone, pooled and normed: [H]
    hybrid: g / g0 * row + (1 - g) * P x, g = sigmoid(G x + b) in [0, 1]^D learned, g0 its beginning, so that rows learn
            as fast as those of a table; an entity that train never saw, or one without text, has the other part alone

    A hybrid has rows by text alone too, P x of every entity: the link task learns both kinds, so that P x can stand
    where there is no row. P, G and b learn from the texts of all entities, the Transformer from those read in a step.
    """

    reader, group = ENTITIES, "entity"
    by_text: Tensor
    by_row: Tensor

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
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, dim)
        scale = (2 / (count + dim)) ** 0.5  # rows begin as large as Xavier's
        draws = generator(seed, "project")
        with torch.no_grad():
            self.project.weight.copy_(torch.randn(dim, hidden, generator=draws) * scale * hidden**-0.5)
            self.project.bias.zero_()
        seen = torch.zeros(count, dtype=torch.bool)
        seen[graph.train[:, 0]] = True
        seen[graph.train[:, 2]] = True
        present = texts.present("entity")
        self.keep(hidden)
        self.register_buffer("by_text", ((~seen) | (kind == "text")) & present, persistent=False)
        self.register_buffer("by_row", (~present) & (kind == "hybrid"), persistent=False)
        self.complete = bool(present.all())
        if kind == "hybrid":
            self.gate = nn.Linear(hidden, dim)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, GATE)
        self._rows: tuple[Tensor, Tensor] | None = None  # this step's rows: several tasks ask for them

    @property
    def reads(self) -> bool:
        """Whether texts are part of the rows."""
        return self.kind != "table"

    def receive(self, ids: Tensor, encoded: Encoded) -> None:
        super().receive(ids, encoded)
        self._rows = None

    def release(self) -> None:
        if self.reads:
            super().release()
            self._rows = None

    def read_all(self, sharing: Sharing, batch: int = 1024) -> None:
        if self.reads:
            self._rows = None
            super().read_all(sharing, batch)

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
        if self._rows is not None:
            return self._rows if ids is None else (self._rows[0][ids], self._rows[1][ids])
        rows = self.mix(self.pooled(ids), ids)
        if ids is None and self._fresh is not None:
            self._rows = rows
        return rows

    def text_rows(self, encoded: Encoded) -> Tensor:
        """[n, D]: rows of entities that are not in the graph, by text alone."""
        if not self.reads:
            raise ConfigError("entities=table: an entity that is not in the graph has no row; use text or hybrid")
        return self.project(self.normed(encoded.pooled))

    def normed(self, pooled: Tensor) -> Tensor:
        """What projection and gate see of pooled texts [n, H]."""
        return self.norm(pooled.to(self.memory.dtype))

    def mix(self, pooled: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """`both_rows` of entities with their pooled texts [n, H]."""
        normed = self.normed(pooled)
        text = self.project(normed)
        if self.kind == "text":
            return text, text
        table: Tensor = self.table
        unseen, silent = self.by_text, self.by_row
        if ids is not None:
            table, unseen, silent = table[ids], unseen[ids], silent[ids]
        gate = torch.where(unseen[:, None], 0.0, self.gate(normed).sigmoid())
        mixed = torch.addcmul((1 - gate) * text, table, gate, value=1 / WHOLE)
        if self.complete:
            return mixed, text
        silent = silent[:, None]
        return torch.where(silent, table, mixed), torch.where(silent, table.detach(), text)

    def extra_repr(self) -> str:
        return f"{self.kind}, entities={self.count}, dim={self.dim}, refresh={self.refresh}"
