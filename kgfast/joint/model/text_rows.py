"""TextRows: the part of rows that their texts are, kept pooled and read anew by turns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.model.sharing import Sharing
from kgfast.joint.text.store import TextStore
from kgfast.run.seeds import generator

GATE = 2.0  # a hybrid begins as the whole row and 0.12 of the text
WHOLE = 1 / (1 + math.exp(-GATE))  # the share of the row at the beginning, which counts as all of it


class TextRows(nn.Module):
    """Texts of rows: P x, x the text through the Transformer, pooled and normed: [H]. With a table, both:

    g / g0 * row + (1 - g) * P x, g = sigmoid(G x + b) in [0, 1]^D learned, g0 its beginning, so that rows learn as fast
    as those of a table; a row that train never saw, or one without text, has the other part alone.

    The pooled texts of all rows are kept in `memory` [N, H]. In training each step reads `refresh` texts anew, with
    gradient: those of the batch, then the others by turns; the rest comes from the memory as it was when last read
    (without gradient into the Transformer; P, G and b learn from all). So its work a step does not depend on N.

    A step: `choose` ids, encode `requests(ids)` as `reader`, `receive` the result; then rows until `release`.
    """

    reader: str  # the name under which these texts are encoded
    group: str  # of the texts
    draws: str = ""  # before the names of random numbers
    count: int
    refresh: int
    seed: int
    texts: TextStore
    memory: Tensor
    by_text: Tensor
    by_row: Tensor

    def read_texts(self, width: int, hidden: int, seen: Tensor, *, scale: float, hybrid: bool) -> None:
        """Make what reads texts: projections onto `width` numbers whose rows begin as large as `scale`; seen: bool [N],
        the rows that train has."""
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, width)
        draws = generator(self.seed, f"{self.draws}project")
        with torch.no_grad():
            self.project.weight.copy_(torch.randn(width, hidden, generator=draws) * scale * hidden**-0.5)
            self.project.bias.zero_()
        present = self.texts.present(self.group)
        self.register_buffer("memory", torch.zeros(self.count, hidden))
        self.register_buffer("by_text", ((~seen) | (not hybrid)) & present, persistent=False)
        self.register_buffer("by_row", (~present) & hybrid, persistent=False)
        self.complete = bool(present.all())
        if hybrid:
            self.gate = nn.Linear(hidden, width)
            nn.init.zeros_(self.gate.weight)
            nn.init.constant_(self.gate.bias, GATE)
        order = torch.randperm(self.count, generator=generator(self.seed, f"{self.draws}turns"))
        self.turns = order[present[order]]  # rows with a text, in the order in which they take turns
        self._fresh: tuple[Tensor, Tensor] | None = None
        self._rows: tuple[Tensor, Tensor] | None = None  # this step's rows: several tasks ask for them

    @property
    def reads(self) -> bool:
        """Whether texts are part of the rows."""
        return True

    def choose(self, wanted: Tensor | None, step: int) -> Tensor:
        """Ids of the rows whose texts step `step` reads anew: `wanted` first, then others by turns; each once.

        A function of (seed, step, wanted).
        """
        if self.refresh >= len(self.turns):
            return self.turns.sort().values
        half = self.refresh // 2 if wanted is not None and len(wanted) else 0
        chosen = torch.zeros(self.count, dtype=torch.bool)
        if half and wanted is not None:
            wanted = wanted.flatten().cpu().unique()
            wanted = wanted[self.texts.present(self.group)[wanted]]
            order = torch.randperm(len(wanted), generator=generator(self.seed, f"{self.draws}wanted/{step}"))
            chosen[wanted[order[: self.refresh - half // 2]]] = True
        left = self.refresh - int(chosen.sum())
        start = step * left % len(self.turns)
        chosen[self.turns[torch.arange(start, start + left) % len(self.turns)]] = True
        return chosen.nonzero()[:, 0]

    def requests(self, ids: Tensor) -> Packed:
        """The texts of these rows."""
        return self.texts.packed(self.group, ids)

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
            self.memory[ids.to(self.memory.device)] = sharing.encode(packed, self.reader).pooled.to(self.memory.dtype)
        sharing.train(training)

    def pooled(self, ids: Tensor | None = None) -> Tensor:
        """[E, H] or [n, H]: the memory, with this step's texts in place."""
        if self._fresh is None:
            return self.memory if ids is None else self.memory[ids]
        fresh_ids, fresh = self._fresh
        if ids is None:
            return Overlay.apply(fresh, self.memory, fresh_ids)
        place = torch.full((self.count,), -1, device=ids.device)
        place[fresh_ids] = torch.arange(len(fresh_ids), device=ids.device)
        place = place[ids]
        return torch.where((place >= 0)[:, None], fresh[place.clamp(min=0)], self.memory[ids])

    def both(self, table: Tensor | None, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(rows, rows by text alone) of `ids`, None: all. One without a text has its row of the table [N, D];
        without a table texts are all of a row."""
        if self._rows is not None:
            return self._rows if ids is None else (self._rows[0][ids], self._rows[1][ids])
        rows = self.mix(table, self.pooled(ids), ids)
        if ids is None and self._fresh is not None:
            self._rows = rows
        return rows

    def text_rows(self, encoded: Encoded) -> Tensor:
        """[n, D]: rows of texts that are not in the graph."""
        return self.project(self.normed(encoded.pooled))

    def normed(self, pooled: Tensor) -> Tensor:
        """What projection and gate see of pooled texts [n, H]."""
        return self.norm(pooled.to(self.memory.dtype))

    def mix(self, table: Tensor | None, pooled: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """`both` of rows with their pooled texts [n, H]."""
        normed = self.normed(pooled)
        text = self.project(normed)
        if table is None:
            return text, text
        unseen, silent = self.by_text, self.by_row
        if ids is not None:
            table, unseen, silent = table[ids], unseen[ids], silent[ids]
        gate = torch.where(unseen[:, None], 0.0, self.gate(normed).sigmoid())
        mixed = torch.addcmul((1 - gate) * text, table, gate, value=1 / WHOLE)
        if self.complete:
            return mixed, text
        silent = silent[:, None]
        return torch.where(silent, table, mixed), torch.where(silent, table.detach(), text)


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
