"""Question answering: what is read from a question, two heads that answer it, and their gated sum.

    following   p_f(a) = sum_k h_k x_k[a]: mass that walks k hops (see `walk`), h = softmax over the number of hops
    embedding   p_e(a) = softmax(similarity(query(topic, v), all entities)), v the relation row that the question makes
    together    p(a) = g p_f(a) + (1 - g) p_e(a), g = sigmoid(gate of the question)

The embedding head is EmbedKGQA's (Saxena et al. 2020), with every score; the following head is TransferNet's (Shi et al.
2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kgfast import reference
from kgfast.autograd import AllScores
from kgfast.backends.cpu import SIMILARITIES
from kgfast.joint.packed import Encoded
from kgfast.joint.walk import Edges, Links, walk

HEADS = ("following", "embedding")
TINY = 1e-9  # below it a probability counts as this, so that an answer out of reach has a finite loss


@dataclass(frozen=True)
class Reading:
    """What B questions say.

    attention [K, 2R, B]: the relations of each hop, summing to 1; hops [K, B]: how many hops, summing to 1;
    row [B, W]: the question as a relation row; gate [B]: logit of trusting the walk.
    """

    attention: Tensor
    hops: Tensor
    row: Tensor
    gate: Tensor


class Reader(nn.Module):
    """Encoded questions -> Reading. Hop k looks at the tokens by its own attention, then at the relations.

    c_k = sum_i softmax_i(hidden_i . u_k / sqrt H) hidden_i        a_k = softmax(W_r c_k + b_r)
    h = softmax(W_h pooled)      v = W_v pooled      g = w_g . pooled
    """

    def __init__(self, hidden: int, hops: int, num_relations: int, relation_width: int, dropout: float = 0.0):
        super().__init__()
        self.looks = nn.Parameter(torch.randn(hops, hidden) * hidden**-0.5)
        self.relations = nn.Linear(hidden, 2 * num_relations)
        self.hops = nn.Linear(hidden, hops)
        self.row = nn.Linear(hidden, relation_width)
        self.gate = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, encoded: Encoded) -> Reading:
        pooled = self.dropout(encoded.pooled)
        seen = self.dropout(look(encoded.hidden, encoded.offsets, self.looks))
        attention = self.relations(seen).softmax(-1)
        return Reading(
            attention.permute(1, 2, 0), self.hops(pooled).softmax(-1).t(), self.row(pooled), self.gate(pooled)[:, 0]
        )


def look(hidden: Tensor, offsets: Tensor, looks: Tensor) -> Tensor:
    """sum_i softmax_i(hidden_i . u_k / sqrt H) hidden_i over the tokens of each text: [n, K, H]."""
    lengths = offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    scores = hidden @ looks.t() * hidden.shape[1] ** -0.5
    shape = (len(lengths), scores.shape[1])
    highest = scores.new_full(shape, -torch.inf).scatter_reduce(
        0, owner[:, None].expand_as(scores), scores.detach(), "amax"
    )
    weights = (scores - highest[owner]).exp()
    total = weights.new_zeros(shape).index_add(0, owner, weights)
    shares = weights / total[owner]
    seen = hidden.new_zeros(len(lengths), shape[1], hidden.shape[1])
    return seen.index_add(0, owner, shares[:, :, None] * hidden[:, None])


def follow(topics: Tensor, reading: Reading, edges: Edges, links: Links | None = None) -> Tensor:
    """p_f: [E, B]. Sums to 1 where no mass is lost, to less where it finds no edge."""
    masses = walk(topics, reading.attention, edges, links)[1:]
    return sum(share * mass for share, mass in zip(reading.hops, masses, strict=True))


def embedding_query(rows: Tensor, reading: Reading, score: str) -> Tensor:
    """The topic's rows [B, D] transformed by the question as a relation: [B, D]."""
    return reference.find_score(score).tail_query(rows, reading.row)


def embed(query: Tensor, table: Tensor, score: str) -> Tensor:
    """p_e: [B, E]."""
    similarity = SIMILARITIES.index(reference.find_score(score).similarity)
    return AllScores.apply(query.contiguous(), table, similarity).softmax(1)


def together(following: Tensor, embedding: Tensor, gate: Tensor) -> Tensor:
    """g p_f + (1 - g) p_e for probabilities [.., B] of B questions."""
    trust = gate.sigmoid()
    return trust * following + (1 - trust) * embedding


def answer_metrics(probabilities: Tensor, offsets: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """(hits@1, F1) of each question: float64 [B] each, from probabilities [B, E] and CSR answers.

    hits@1: the likeliest entity is an answer (ties: the lowest id). F1 is that of the entities at least half as likely
    as the likeliest.
    """
    batch = len(offsets) - 1
    owner = torch.repeat_interleave(torch.arange(batch, device=answers.device), offsets.diff())
    right = torch.zeros_like(probabilities, dtype=torch.bool)
    right[owner, answers] = True
    best = probabilities.max(1, keepdim=True)
    # a question that no mass answers has no prediction, and misses
    named = (probabilities >= best.values / 2) & (best.values > 0)
    hits = right.gather(1, best.indices)[:, 0] & (best.values[:, 0] > 0)
    both = (named & right).sum(1).double()
    return hits.double(), 2 * both / (named.sum(1) + right.sum(1)).clamp(min=1)
