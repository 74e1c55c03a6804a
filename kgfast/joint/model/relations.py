"""RelationTexts: rows of relations from a table and from what relations of like texts have."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kgfast.data import KnowledgeGraph
from kgfast.errors import DataError
from kgfast.joint.model.encoders import GATE, WHOLE
from kgfast.joint.model.kept_texts import KeptTexts
from kgfast.joint.model.sharing import RELATIONS
from kgfast.joint.text.store import TextStore

SHARP = 50.0  # what cosines of texts count at the beginning


class RelationTexts(KeptTexts):
    """Rows [R, W] of relations, [2R, W] where heads have rows of their own, from a table of learned ones:

        g / g0 * row + (1 - g) * s,   s_r = sum_j softmax_j(a cos(x_r, x_j)) row_j

    x: the relation's text through the Transformer, pooled: [H]; a is learned; j: the relations of train, r itself left
    out, so that what is learned of a known relation holds for a new one; g = sigmoid(G x + b) in [0, 1]^W, g0 its
    beginning. A relation that train never saw is s alone. The gradient of s reaches a and the texts, not the rows that
    it is made of.

    A module that makes rows of a table: `JointModel.relations` are what it makes (torch's parametrization).
    """

    reader, group, draws = RELATIONS, "relation", "relations/"
    seen: Tensor

    def __init__(
        self, graph: KnowledgeGraph, texts: TextStore, table: Tensor, *, hidden: int, refresh: int = 256, seed: int = 0
    ):
        super().__init__()
        self.count, self.sets = graph.num_relations, len(table) // graph.num_relations
        self.refresh, self.seed, self.texts = min(refresh, self.count), seed, texts
        seen = torch.zeros(self.count, dtype=torch.bool)
        seen[graph.train[:, 1]] = True
        if int(seen.sum()) < 2:
            raise DataError(f"{graph.name}: relations.kind=hybrid needs two relations in train at least")
        self.register_buffer("seen", seen, persistent=False)
        self.keep(hidden)
        self.norm = nn.LayerNorm(hidden)
        self.gate = nn.Linear(hidden, self.sets * table.shape[1])
        self.log_scale = nn.Parameter(torch.tensor(math.log(SHARP)))
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, GATE)

    def forward(self, table: Tensor) -> Tensor:
        return self.both(table)[0]

    def both(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, rows by text alone) of all relations."""
        pooled = self.pooled()
        text = self.like(table, pooled, torch.eye(self.count, dtype=torch.bool, device=table.device))
        gate = self.gate(self.norm(pooled)).sigmoid().unflatten(1, (self.sets, -1)).transpose(0, 1).flatten(0, 1)
        gate = torch.where(self.seen.repeat(self.sets)[:, None], gate, 0.0)
        return torch.addcmul((1 - gate) * text, table, gate, value=1 / WHOLE), text

    def like(self, table: Tensor, pooled: Tensor, left_out: Tensor | None = None) -> Tensor:
        """s of pooled texts [n, H]: [n, W] or [2n, W]; left_out: bool [n, R], relations that have no part in a row."""
        scores = F.normalize(pooled, dim=1) @ F.normalize(self.pooled(), dim=1).T * self.log_scale.exp()
        away = ~self.seen if left_out is None else left_out | ~self.seen
        weights = scores.masked_fill(away, -torch.inf).softmax(1)
        return (weights @ table.detach().unflatten(0, (self.sets, -1))).flatten(0, 1)

    def extra_repr(self) -> str:
        return f"relations={self.count}, refresh={self.refresh}"
