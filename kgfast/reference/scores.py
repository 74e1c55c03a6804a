"""Scores: a query made from the two known parts of a triple, and its similarity to the rows of a table.

This file is the specification of every score; the compiled kernels are held to it by
tests/backends/test_conformance.py. Nothing here is fast: similarities broadcast, so [B, C, D] is stored. Gradients
come by autograd.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kgfast.errors import KgfastError

COLUMN = {"head": 0, "relation": 1, "tail": 2}  # where the answer of a side stands in a triple


def halves(row: Tensor) -> tuple[Tensor, Tensor]:
    """row = [a, b]: the two halves of the last dimension."""
    first, second = row.chunk(2, dim=-1)
    return first, second


def complex_product(x: Tensor, y: Tensor) -> Tensor:
    """(a + ib)(c + id) = (ac - bd) + i(ad + bc), rows stored as [real half, imaginary half]."""
    (a, b), (c, d) = halves(x), halves(y)
    return torch.cat([a * c - b * d, a * d + b * c], dim=-1)


def conjugate(x: Tensor) -> Tensor:
    """conj(a + ib) = a - ib."""
    a, b = halves(x)
    return torch.cat([a, -b], dim=-1)


def rotation(phases: Tensor) -> Tensor:
    """e^{i theta} = cos theta + i sin theta: [.., D/2] phases in radians -> [.., D]."""
    return torch.cat([phases.cos(), phases.sin()], dim=-1)


def as_matrix(relation: Tensor, dim: int) -> Tensor:
    """[.., D*D] -> [.., D, D], row-major."""
    return relation.unflatten(-1, (dim, dim))


# Similarities: query [.., D] and rows [.., D] broadcast to [..]; higher is better.


def dot(query: Tensor, rows: Tensor) -> Tensor:
    """sum_d q_d e_d."""
    return (query * rows).sum(-1)


def l1(query: Tensor, rows: Tensor) -> Tensor:
    """-sum_d |q_d - e_d|; the gradient at q_d = e_d is 0."""
    return -(query - rows).abs().sum(-1)


def l2(query: Tensor, rows: Tensor) -> Tensor:
    """-sqrt(sum_d (q_d - e_d)^2), the distance, not its square; the gradient at q = e is 0."""
    return -torch.linalg.vector_norm(query - rows, dim=-1)


def modulus(query: Tensor, rows: Tensor) -> Tensor:
    """-sum_k |q_k - e_k| over the D/2 complex numbers; the gradient at q_k = e_k is 0."""
    pairs = torch.stack(halves(query - rows), dim=-1)
    return -torch.linalg.vector_norm(pairs, dim=-1).sum(-1)


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dot": dot,
    "l1": l1,
    "l2": l2,
    "modulus": modulus,
}


@dataclass(frozen=True)
class Score:
    """A score function: score(h, r, t) = similarity(tail_query(h, r), t) = similarity(head_query(t, r), h).

    `relation_query(h, t)`, where there is one, gives the same number as similarity(relation_query(h, t), r).
    `relation_width(dim)` is the number of reals in a relation row; `even_dim` says that `dim` must be even.
    `complex_rows`: entity rows are complex numbers, real parts first; N3 is over their moduli (Lacroix et al. 2018).
    `phases`: relation rows are angles, uniform on [-pi, pi] at first; they have no size to regularize.
    """

    name: str
    similarity: str
    tail_query: Callable[[Tensor, Tensor], Tensor]
    head_query: Callable[[Tensor, Tensor], Tensor]
    relation_query: Callable[[Tensor, Tensor], Tensor] | None = None
    relation_width: Callable[[int], int] = lambda dim: dim
    even_dim: bool = False
    complex_rows: bool = False
    phases: bool = False

    @property
    def complex_relations(self) -> bool:
        """Whether relation rows are complex numbers too."""
        return self.complex_rows and not self.phases


def transe(name: str, similarity: str) -> Score:
    """-||h + r - t||: translation."""
    return Score(name, similarity, lambda h, r: h + r, lambda t, r: t - r, lambda h, t: t - h)


def simple_tail_query(h: Tensor, r: Tensor) -> Tensor:
    """[r' h_b, r h_a] / 2 with h = [h_a, h_b] and r = [r, r']."""
    (head_role, tail_role), (forward, inverse) = halves(h), halves(r)
    return torch.cat([inverse * tail_role, forward * head_role], dim=-1) / 2


def simple_head_query(t: Tensor, r: Tensor) -> Tensor:
    """[r t_b, r' t_a] / 2."""
    (head_role, tail_role), (forward, inverse) = halves(t), halves(r)
    return torch.cat([forward * tail_role, inverse * head_role], dim=-1) / 2


def simple_relation_query(h: Tensor, t: Tensor) -> Tensor:
    """[h_a t_b, t_a h_b] / 2."""
    (h_a, h_b), (t_a, t_b) = halves(h), halves(t)
    return torch.cat([h_a * t_b, t_a * h_b], dim=-1) / 2


def cp_tail_query(h: Tensor, r: Tensor) -> Tensor:
    """[0, r h_a]: a head answers with its first half, a tail with its second."""
    return torch.cat([torch.zeros_like(r), r * halves(h)[0]], dim=-1)


def cp_head_query(t: Tensor, r: Tensor) -> Tensor:
    """[r t_b, 0]."""
    return torch.cat([r * halves(t)[1], torch.zeros_like(r)], dim=-1)


def rescal_tail_query(h: Tensor, r: Tensor) -> Tensor:
    """R^T h."""
    return torch.einsum("...ij,...i->...j", as_matrix(r, h.shape[-1]), h)


def rescal_head_query(t: Tensor, r: Tensor) -> Tensor:
    """R t."""
    return torch.einsum("...ij,...j->...i", as_matrix(r, t.shape[-1]), t)


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        transe("transe_l1", "l1"),
        transe("transe_l2", "l2"),
        # sum_d h_d r_d t_d
        Score("distmult", "dot", lambda h, r: h * r, lambda t, r: t * r, lambda h, t: h * t),
        # Re sum_k h_k r_k conj(t_k)
        Score(
            "complex",
            "dot",
            complex_product,
            lambda t, r: complex_product(t, conjugate(r)),
            lambda h, t: complex_product(conjugate(h), t),
            even_dim=True,
            complex_rows=True,
        ),
        # -sum_k |h_k e^{i theta_k} - t_k|
        Score(
            "rotate",
            "modulus",
            lambda h, r: complex_product(h, rotation(r)),
            lambda t, r: complex_product(t, rotation(-r)),
            relation_width=lambda dim: dim // 2,
            even_dim=True,
            complex_rows=True,
            phases=True,
        ),
        # (<h_a, r, t_b> + <t_a, r', h_b>) / 2
        Score("simple", "dot", simple_tail_query, simple_head_query, simple_relation_query, even_dim=True),
        # <h_a, r, t_b>
        Score(
            "cp",
            "dot",
            cp_tail_query,
            cp_head_query,
            lambda h, t: halves(h)[0] * halves(t)[1],
            relation_width=lambda dim: dim // 2,
            even_dim=True,
        ),
        # h^T R t
        Score(
            "rescal",
            "dot",
            rescal_tail_query,
            rescal_head_query,
            lambda h, t: (h.unsqueeze(-1) * t.unsqueeze(-2)).flatten(-2),
            relation_width=lambda dim: dim * dim,
        ),
    )
}


def pick(table: dict, name: str, argument: str):
    """table[name], or a KgfastError that names the argument, the value and the nearest known name."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table, n=1, cutoff=0.0)
    raise KgfastError(f"{argument}={name!r} is unknown; nearest is {near[0]!r}, known are {', '.join(table)}")


def find_score(name: str) -> Score:
    """SCORES[name]; an unknown name raises a KgfastError with the nearest one."""
    return pick(SCORES, name, "score")


def check_ids(name: str, ids: Tensor, count: int, lowest: int = 0) -> None:
    """Raises a KgfastError with the first id that is not in [lowest, count): -1 would read the last row."""
    wrong = ((ids < lowest) | (ids >= count)).nonzero()
    if len(wrong):
        place = wrong[0].tolist()
        raise KgfastError(f"{name}{place} is {int(ids[tuple(place)])}; ids must be in [{lowest}, {count})")


def make_queries(entities: Tensor, relations: Tensor, triples: Tensor, score: str, side: str) -> Tensor:
    """q = tail_query(h, r) | head_query(t, r) | relation_query(h, t): [B, row width of that side's table]."""
    pick(COLUMN, side, "side")
    found = find_score(score)
    for column, (part, table) in enumerate((("heads", entities), ("relations", relations), ("tails", entities))):
        check_ids(f"triples (column of {part})", triples[:, column], len(table))
    head, relation, tail = triples.unbind(1)
    if side == "tail":
        return found.tail_query(entities[head], relations[relation])
    if side == "head":
        return found.head_query(entities[tail], relations[relation])
    if found.relation_query is None:
        raise KgfastError(f"side='relation': score={score!r} has no relation query")
    return found.relation_query(entities[head], entities[tail])


def score_triples(entities: Tensor, relations: Tensor, triples: Tensor, *, score: str = "transe_l1") -> Tensor:
    """score(h, r, t) = similarity(tail_query(h, r), t).

    entities [C, D], relations [R, relation_width(D)], triples int64 [B, 3] -> [B]. Memory O(B D).
    """
    queries = make_queries(entities, relations, triples, score, "tail")
    return SIMILARITIES[find_score(score).similarity](queries, entities[triples[:, 2]])


def score_candidates(
    entities: Tensor,
    relations: Tensor,
    triples: Tensor,
    candidates: Tensor | None = None,
    *,
    score: str,
    side: str = "tail",
) -> Tensor:
    """s[b, c] = similarity(query_b, row_c), rows being all rows or those named by `candidates`.

    candidates int64 [B, K], or [K] for all queries alike; the answer's own column of `triples` is not read.
    Returns [B, C] or [B, K]. side="relation" scores the rows of `relations`. Memory O(B C D).
    """
    table = relations if side == "relation" else entities
    if candidates is not None:
        check_ids("candidates", candidates, len(table))
    queries = make_queries(entities, relations, triples, score, side).unsqueeze(1)  # [B, 1, D]
    rows = table if candidates is None else table[candidates]  # [C, D], [K, D] or [B, K, D]
    return SIMILARITIES[find_score(score).similarity](queries, rows)
