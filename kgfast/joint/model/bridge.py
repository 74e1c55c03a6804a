"""Bridge: what carries knowledge between texts and the table of entities, in both directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kgfast import reference
from kgfast.joint.task import ModelDims


class EntityInputs(nn.Module):
    """Rows of entities as input vectors: gate * P row / |row|, the root of the mean square for a norm. The gate begins
    at 0, so that a model begins as if there were no entities."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.project = nn.Linear(dim, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, rows: Tensor) -> Tensor:
        return self.gate * self.project(rows * rows.square().mean(-1, keepdim=True).clamp(min=1e-12).rsqrt())


class MentionQuery(nn.Module):
    """The query of a hidden state h on the table of entities, a mean of parts with weights softmax(G h):

        P h                  what the text itself says
        q(a, r(h))           an entity a that the text mentioned before, the first or the last, with the relation that h
                             reads, r(h) = softmax(A h) over the relations' rows; q the score's query for tails, and for
                             heads where relations have no rows of their own for them

    So a fact that the graph's rows can tell is told as soon as the relation is read.
    """

    def __init__(self, dims: ModelDims):
        super().__init__()
        self.score = reference.find_score(dims.score)
        self.relations = dims.relation_rows or dims.num_relations
        turned = self.relations == 2 * dims.num_relations
        self.makers = [self.score.tail_query] if turned else [self.score.tail_query, self.score.head_query]
        parts = 2 * len(self.makers)  # of the first entity and the last
        self.free = nn.Linear(dims.hidden, dims.dim)
        self.reads = nn.Linear(dims.hidden, parts * self.relations)
        self.gate = nn.Linear(dims.hidden, 1 + parts)

    def forward(self, hidden: Tensor, anchors: Tensor, rows: Tensor, relations: Tensor) -> Tensor:
        """[M, D] of states [M, H]; anchors int64 [M, 2], -1 for none, and their rows [M, 2, D]."""
        read = self.reads(hidden).unflatten(-1, (-1, self.relations)).softmax(-1) @ relations
        parts, there = [self.free(hidden)], [torch.ones_like(anchors[:, 0], dtype=torch.bool)]
        for which in range(2):
            for maker in self.makers:
                parts.append(maker(rows[:, which], read[:, len(parts) - 1]))
                there.append(anchors[:, which] >= 0)
        weights = self.gate(hidden).masked_fill(~torch.stack(there, 1), -torch.inf).softmax(-1)
        return torch.einsum("mp,mpd->md", weights, torch.stack(parts, 1))
