"""KeptTexts: pooled texts of rows, kept in a memory and read anew by turns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.model.sharing import Sharing
from kgfast.joint.text.store import TextStore
from kgfast.run.seeds import generator


class KeptTexts(nn.Module):
    """The pooled texts of N entities or relations, in `memory` [N, H].

    In training each step reads `refresh` of them anew, with gradient: those that the batch wants, then the others by
    turns; the rest comes from the memory as it was when last read, without gradient into the Transformer. So its work a
    step does not depend on N.

    A step: `choose` ids, encode `requests(ids)` as `reader`, `receive` the result; then `pooled` until `release`.
    """

    reader: str  # the name under which these texts are encoded
    group: str  # of the texts
    draws: str = ""  # before the names of random numbers
    count: int  # N
    refresh: int
    seed: int
    texts: TextStore
    memory: Tensor

    def keep(self, hidden: int) -> None:
        """Make the memory; which texts there are says `texts`."""
        self.register_buffer("memory", torch.zeros(self.count, hidden))
        present = self.texts.present(self.group)
        order = torch.randperm(self.count, generator=generator(self.seed, f"{self.draws}turns"))
        self.turns = order[present[order]]  # those with a text, in the order in which they take turns
        self._fresh: tuple[Tensor, Tensor] | None = None

    @property
    def reads(self) -> bool:
        """Whether there are texts."""
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
        """What the backbone made of `requests(ids)`: part of `pooled` until `release`."""
        self._fresh = ids.to(self.memory.device), encoded.pooled.to(self.memory.dtype)

    @torch.no_grad()
    def release(self) -> None:
        """The step is over: its texts go to the memory."""
        if self._fresh is not None:
            self.memory[self._fresh[0]] = self._fresh[1].detach()
            self._fresh = None

    @torch.no_grad()
    def read_all(self, sharing: Sharing, batch: int = 1024) -> None:
        """Read every text with the weights of now, into the memory: at the start, and before an evaluation."""
        self._fresh = None
        training = sharing.training
        sharing.eval()
        for ids in self.turns.sort().values.split(batch):
            packed = self.requests(ids).to(self.memory.device)
            self.memory[ids.to(self.memory.device)] = sharing.encode(packed, self.reader).pooled.to(self.memory.dtype)
        sharing.train(training)

    def pooled(self, ids: Tensor | None = None) -> Tensor:
        """[N, H] or [n, H]: the memory, with this step's texts in place."""
        if self._fresh is None:
            return self.memory if ids is None else self.memory[ids]
        fresh_ids, fresh = self._fresh
        if ids is None:
            return Overlay.apply(fresh, self.memory, fresh_ids)
        place = torch.full((self.count,), -1, device=ids.device)
        place[fresh_ids] = torch.arange(len(fresh_ids), device=ids.device)
        place = place[ids]
        return torch.where((place >= 0)[:, None], fresh[place.clamp(min=0)], self.memory[ids])


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
