"""EntityEncoder: rows of entities from a table, from their texts, or from both."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.model.sharing import ENTITIES, Sharing
from kgfast.joint.text.store import TextStore
from kgfast.nn import KGEModel
from kgfast.run.seeds import generator

ENCODERS = ("table", "text", "hybrid")
GATE = 2.0  # a hybrid begins as the whole row and 0.12 of the text
WHOLE = 1 / (1 + math.exp(-GATE))  # the share of the row at the beginning, which counts as all of it


class EntityEncoder(nn.Module):
    """Rows [E, D] that the scores rank.

    table:  a learned row an entity
    text:   P x, x the entity's text through the backbone, pooled and normed: [H]
    hybrid: g / g0 * row + (1 - g) * P x, g = sigmoid(G x + b) in [0, 1]^D learned, g0 its beginning, so that rows learn
            as fast as those of a table; an entity that train never saw, or one without text, has the other part alone

    A hybrid has rows by text alone too, P x of every entity: the link task learns both kinds, so that P x can stand
    where there is no row. The pooled texts of all entities are kept in `memory` [E, H]. In training each step reads
    `refresh` texts anew, with gradient: those of the batch, then the others by turns; the rest comes from the memory as
    it was when last read (without gradient into the backbone; P, G and b learn from all). So the backbone's work a step
    does not depend on E.

    A step: `choose` ids, encode `requests(ids)`, `receive` the result; then `all_rows` and `rows` until `release`.
    """

    memory: Tensor
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
        self.refresh = min(refresh, count)
        self.num_entities = count
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
        self.register_buffer("memory", torch.zeros(count, hidden))
        self.register_buffer("by_text", ((~seen) | (kind == "text")) & present, persistent=False)
        self.register_buffer("by_row", (~present) & (kind == "hybrid"), persistent=False)
        self.complete = bool(present.all())
        if kind == "hybrid":
            self.gate = nn.Linear(hidden, dim)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, GATE)
        order = torch.randperm(count, generator=generator(seed, "turns"))
        self.turns = order[present[order]]  # entities with a text, in the order in which they take turns
        self._fresh: tuple[Tensor, Tensor] | None = None
        self._rows: tuple[Tensor, Tensor] | None = None  # this step's rows: several tasks ask for them

    @property
    def reads(self) -> bool:
        """Whether texts are part of the rows."""
        return self.kind != "table"

    def choose(self, wanted: Tensor | None, step: int) -> Tensor:
        """Ids of the entities whose texts step `step` reads anew: `wanted` first, then others by turns; each once.

        A function of (seed, step, wanted).
        """
        if self.refresh >= len(self.turns):
            return self.turns.sort().values
        half = self.refresh // 2 if wanted is not None and len(wanted) else 0
        chosen = torch.zeros(self.num_entities, dtype=torch.bool)
        if half and wanted is not None:
            wanted = wanted.flatten().cpu().unique()
            wanted = wanted[self.texts.present("entity")[wanted]]
            order = torch.randperm(len(wanted), generator=generator(self.seed, f"wanted/{step}"))
            chosen[wanted[order[: self.refresh - half // 2]]] = True
        left = self.refresh - int(chosen.sum())
        start = step * left % len(self.turns)
        chosen[self.turns[torch.arange(start, start + left) % len(self.turns)]] = True
        return chosen.nonzero()[:, 0]

    def requests(self, ids: Tensor) -> Packed:
        """The texts of these entities."""
        return self.texts.packed("entity", ids)

    def receive(self, ids: Tensor, encoded: Encoded) -> None:
        """What the backbone made of `requests(ids)`: part of all rows until `release`."""
        self._fresh, self._rows = (ids.to(self.memory.device), encoded.pooled.to(self.memory.dtype)), None

    @torch.no_grad()
    def release(self) -> None:
        """The step is over: its texts go to the memory."""
        if self.reads and self._fresh is not None:
            self.memory[self._fresh[0]] = self._fresh[1].detach()
            self._fresh = self._rows = None

    @torch.no_grad()
    def read_all(self, sharing: Sharing, batch: int = 1024) -> None:
        """Read every text with the weights of now, into the memory: at the start, and before an evaluation."""
        if not self.reads:
            return
        self._fresh = self._rows = None
        training = sharing.training
        sharing.eval()
        for ids in self.turns.sort().values.split(batch):
            packed = self.requests(ids).to(self.memory.device)
            self.memory[ids.to(self.memory.device)] = sharing.encode(packed, ENTITIES).pooled.to(self.memory.dtype)
        sharing.train(training)

    def pooled(self, ids: Tensor | None = None) -> Tensor:
        """[E, H] or [n, H]: the memory, with this step's texts in place."""
        if self._fresh is None:
            return self.memory if ids is None else self.memory[ids]
        fresh_ids, fresh = self._fresh
        if ids is None:
            return Overlay.apply(fresh, self.memory, fresh_ids)
        place = torch.full((self.num_entities,), -1, device=ids.device)
        place[fresh_ids] = torch.arange(len(fresh_ids), device=ids.device)
        place = place[ids]
        return torch.where((place >= 0)[:, None], fresh[place.clamp(min=0)], self.memory[ids])

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
        return f"{self.kind}, entities={self.num_entities}, dim={self.dim}, refresh={self.refresh}"


class Overlay(torch.autograd.Function):
    """memory [E, H] with rows `ids` replaced by fresh [n, H]; the gradient of fresh is a gather."""

    @staticmethod
    def forward(ctx, fresh, memory, ids):
        ctx.save_for_backward(ids)
        return memory.index_copy(0, ids, fresh)

    @staticmethod
    def backward(ctx, gradient):
        (ids,) = ctx.saved_tensors
        return gradient.index_select(0, ids), None, None
