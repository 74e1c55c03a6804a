"""Question answering: what is read from a question, two heads that answer it, and their gated sum.

    following   p_f(a) = sum_k h_k x_k[a]: mass that walks k = 0 .. K hops (see `walk`), h from the question
    embedding   p_e(a) = softmax(similarity(query(topic + u, v), entities)), v the relation row that the question makes,
                u a row that all topics share, so that what suits any topic need not be learned by each
    together    p(a) ~ p_f(a)^alpha p_e(a)^beta, a gated sum of log likelihoods; alpha and beta depend on how much mass
                found its way along known edges

The embedding head is EmbedKGQA's (Saxena et al. 2020), with every score; the following head is TransferNet's (Shi et
al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kgfast import reference
from kgfast.joint.model.packed import Encoded
from kgfast.joint.tasks.qa.edges import Edges
from kgfast.joint.tasks.qa.fill import Fill, all_scores
from kgfast.joint.tasks.qa.walk import walk

HEADS = ("following", "embedding")
FLOOR = 1e-2  # mass spread over all entities where following meets the gate, so that no answer is ruled out


@dataclass(frozen=True)
class Reading:
    """What B questions say.

    attention [K, 2R, B]: the relations of each hop, summing to 1; hops [K + 1, B]: how many hops, summing to 1;
    row [B, W]: the question as a relation row; shared [D]: what all topics have in common; answerable [B]: the log odds
    that the graph's relations answer the question at all, where training had questions that they don't.
    """

    attention: Tensor
    hops: Tensor
    row: Tensor
    shared: Tensor
    answerable: Tensor | None = None

    def select(self, chosen: Tensor) -> Reading:
        """What the questions `chosen` say."""
        answerable = None if self.answerable is None else self.answerable[chosen]
        return Reading(self.attention[:, :, chosen], self.hops[:, chosen], self.row[chosen], self.shared, answerable)

    def fixed(self) -> Reading:
        """The same without a gradient."""
        answerable = None if self.answerable is None else self.answerable.detach()
        return Reading(self.attention.detach(), self.hops.detach(), self.row.detach(), self.shared.detach(), answerable)


class Reader(nn.Module):
    """Encoded questions -> Reading. Hop k looks at the tokens, then at the relations.

    c_k = sum_i softmax_i(hidden_i . u_k / sqrt H) hidden_i        a_k = softmax(W_r c_k + b_r)
    h = softmax(W_h pooled)      v = W_v pooled      log odds = w pooled + b, where `refuses`
    """

    def __init__(
        self,
        hidden: int,
        hops: int,
        num_relations: int,
        dim: int,
        relation_width: int,
        dropout: float = 0.0,
        refuses: bool = False,
    ):
        super().__init__()
        self.looks = nn.Parameter(torch.randn(hops, hidden) * hidden**-0.5)
        self.relations = nn.Linear(hidden, 2 * num_relations)
        self.hops = nn.Linear(hidden, hops + 1)
        self.row = nn.Linear(hidden, relation_width)
        # from nothing: where rows begin small, what is larger fills the sums of the tables' Adagrad with its gradients
        self.shared = nn.Parameter(torch.zeros(dim))
        self.dropout = nn.Dropout(dropout)
        self.answerable = nn.Linear(hidden, 1) if refuses else None

    def forward(self, encoded: Encoded) -> Reading:
        hidden, pooled = (part.to(self.looks.dtype) for part in (encoded.hidden, encoded.pooled))  # maybe bfloat16
        pooled = self.dropout(pooled)
        seen = self.dropout(look(hidden, encoded.offsets, self.looks))
        attention = self.relations(seen).softmax(-1).permute(1, 2, 0)
        answerable = None if self.answerable is None else self.answerable(pooled)[:, 0]
        return Reading(attention, self.hops(pooled).softmax(-1).t(), self.row(pooled), self.shared, answerable)


class Gate(nn.Module):
    """Weights of both heads in the sum, from the part of the mass that walked along known edges alone.

    alpha, beta = softplus(w log(known + 0.01) / 4 + b)
    """

    def __init__(self):
        super().__init__()
        self.slopes = nn.Parameter(torch.zeros(2))
        self.levels = nn.Parameter(torch.tensor([0.5, -1.0]))

    def forward(self, following: Tensor, embedding: Tensor, known: Tensor) -> Tensor:
        """log p [B, E] from p_f [E, B], log p_e [B, E] and the mass known [B]."""
        level = (known.clamp(0, 1) + 0.01).log()[:, None] / 4
        alpha, beta = nn.functional.softplus(level * self.slopes + self.levels).t()[:, :, None]
        spread = following.t() + FLOOR / len(following)
        return (alpha * spread.log() + beta * embedding).log_softmax(1)


def look(hidden: Tensor, offsets: Tensor, looks: Tensor) -> Tensor:
    """sum_i softmax_i(hidden_i . u_k / sqrt H) hidden_i over the tokens of each text: [n, K, H]."""
    lengths = offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    scores = hidden @ looks.t() * hidden.shape[1] ** -0.5
    shape = (len(lengths), scores.shape[1])
    places = owner[:, None].expand_as(scores)
    highest = scores.new_full(shape, -torch.inf).scatter_reduce(0, places, scores.detach(), "amax")
    weights = (scores - highest[owner]).exp()
    shares = weights / weights.new_zeros(shape).index_add(0, owner, weights)[owner]
    return hidden.new_zeros(*shape, hidden.shape[1]).index_add(0, owner, shares[:, :, None] * hidden[:, None])


def follow(topics: Tensor, reading: Reading, edges: Edges, fill: Fill | None = None) -> Tensor:
    """p_f: [E, B]. Sums to 1 where no mass is lost."""
    masses = walk(topics, reading.attention, edges, fill)
    return sum(share * mass for share, mass in zip(reading.hops, masses, strict=True))


def embedding_query(rows: Tensor, reading: Reading, score: str) -> Tensor:
    """The topics' rows [B, D] transformed by the questions as relations: [B, D]."""
    return reference.find_score(score).tail_query(rows + reading.shared, reading.row)


def embed(query: Tensor, table: Tensor, score: str) -> Tensor:
    """log p_e: [B, E]."""
    return all_scores(query, table, score).log_softmax(1)


def answer_metrics(probabilities: Tensor, offsets: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """(hits@1, F1) of each question: float64 [B] each, from probabilities [B, E] and CSR answers.

    hits@1: the likeliest entity is an answer (ties: the lowest id). F1 is that of the entities at least half as likely
    as the likeliest. A question that no mass answers has no prediction, and misses.
    """
    owner = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=answers.device), offsets.diff())
    right = torch.zeros_like(probabilities, dtype=torch.bool)
    right[owner, answers] = True
    best = probabilities.max(1, keepdim=True)
    named = (probabilities >= best.values / 2) & (best.values > 0)
    hits = right.gather(1, best.indices)[:, 0] & (best.values[:, 0] > 0)
    both = (named & right).sum(1).double()
    return hits.double(), 2 * both / (named.sum(1) + right.sum(1)).clamp(min=1)


def threshold(probabilities: Tensor, right: Tensor) -> float:
    """The probability from which on answers are worth giving: it makes right answers given minus wrong ones given
    largest, of n likeliest answers with `probabilities` [n], some `right` [n]. Above all where none is worth it.
    """
    sure, order = torch.sort(probabilities, descending=True)
    gain = (2 * right[order].double() - 1).cumsum(0)
    last = torch.cat([sure[1:] != sure[:-1], torch.ones(1, dtype=torch.bool)])  # equal ones are given together
    gain[~last] = -torch.inf
    best = int(gain.argmax())
    return float(sure[best]) if gain[best] > 0 else math.nextafter(float(sure[0]), math.inf)
