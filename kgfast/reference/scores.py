"""Scores: a query made from the two known parts of a triple, and its similarity to the rows of a table.

This file is the specification of every score; the compiled kernels are held to it by
tests/backends/test_conformance.py. Nothing here is fast: similarities broadcast, so [B, C, D] is stored. Gradients
come by autograd.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.core.codes import Query, Score, Similarity, add_score, find_score
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


def transe(name: str, similarity: str) -> Score:
    """-||h + r - t||: translation."""
    return Score(name, similarity, lambda h, r: h + r, lambda t, r: t - r, lambda h, t: t - h, operator="TransE")


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


BUILT_IN = tuple(
    add_score(score)
    for score in (
        transe("transe_l1", "l1"),
        transe("transe_l2", "l2"),
        # sum_d h_d r_d t_d
        Score("distmult", "dot", lambda h, r: h * r, lambda t, r: t * r, lambda h, t: h * t, operator="DistMult"),
        # Re sum_k h_k r_k conj(t_k)
        Score(
            "complex",
            "dot",
            complex_product,
            lambda t, r: complex_product(t, conjugate(r)),
            lambda h, t: complex_product(conjugate(h), t),
            even_dim=True,
            complex_rows=True,
            operator="ComplEx",
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
            operator="RotatE",
        ),
        # (<h_a, r, t_b> + <t_a, r', h_b>) / 2
        Score(
            "simple",
            "dot",
            simple_tail_query,
            simple_head_query,
            simple_relation_query,
            even_dim=True,
            operator="SimplE",
        ),
        # <h_a, r, t_b>
        Score(
            "cp",
            "dot",
            cp_tail_query,
            cp_head_query,
            lambda h, t: halves(h)[0] * halves(t)[1],
            relation_width=lambda dim: dim // 2,
            even_dim=True,
            operator="CP",
        ),
        # h^T R t
        Score(
            "rescal",
            "dot",
            rescal_tail_query,
            rescal_head_query,
            lambda h, t: (h.unsqueeze(-1) * t.unsqueeze(-2)).flatten(-2),
            relation_width=lambda dim: dim * dim,
            operator="Rescal",
        ),
    )
)


def make_queries(entities: Tensor, relations: Tensor, triples: Tensor, score: str, side: str) -> Tensor:
    """q = tail_query(h, r) | head_query(t, r) | relation_query(h, t): [B, row width of that side's table]."""
    checks.choose("side", side, COLUMN)
    found = find_score(score)
    for column, (part, table) in enumerate((("heads", entities), ("relations", relations), ("tails", entities))):
        checks.id_range(f"triples (column of {part})", triples[:, column], len(table))
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
        checks.id_range("candidates", candidates, len(table))
    queries = make_queries(entities, relations, triples, score, side).unsqueeze(1)  # [B, 1, D]
    rows = table if candidates is None else table[candidates]  # [C, D], [K, D] or [B, K, D]
    return SIMILARITIES[find_score(score).similarity](queries, rows)


def adjoint(d_query: Tensor, known: Tensor, relation: Tensor, query: Query) -> tuple[Tensor, Tensor]:
    """Gradients of (rows of the known entities [B, D], of the relations [B, W]) from that of their queries [B, D]."""
    with torch.enable_grad():
        rows = [part.detach().to(d_query.dtype).requires_grad_() for part in (known, relation)]
        found = torch.autograd.grad(query(*rows), rows, d_query, allow_unused=True, materialize_grads=True)
    return found[0], found[1]


def register_score(
    name: str,
    *,
    similarity: str,
    tail_query: Query,
    head_query: Query,
    relation_query: Query | None = None,
    relation_width: Callable[[int], int] = lambda dim: dim,
    even_dim: bool = False,
    complex_rows: bool = False,
    phases: bool = False,
) -> Score:
    """A score of one's own, in Python alone: PyTorch makes its queries, the fused kernels of every backend do the rest.

        score(h, r, t) = similarity(tail_query(h, r), t) = similarity(head_query(t, r), h)

    Args:
        name: as `score=` and `model=` take it from now on. A name of kgfast's own is refused, one registered before is
            replaced.
        similarity: "dot", "l1", "l2" or "modulus".
        tail_query: (h, r) -> queries [B, D], from rows [B, D] of the known entities and rows [B, relation_width(D)] of
            the relations, by differentiable PyTorch operations that keep the dtype and treat every row alone.
        head_query: (t, r) -> queries [B, D], alike.
        relation_query: (h, t) -> queries [B, relation_width(D)] of the relation; None: relations can't be asked for.
        relation_width: D -> the number of reals in a relation's row.
        even_dim: whether D must be even.
        complex_rows: whether rows of entities are complex numbers, real parts first.
        phases: whether relation rows are angles in radians.

    Both queries must give the same number for the same triple: that is tried on random rows. Raises KgfastError where
    they don't, or where shapes or gradients are wrong. A process that loads a model needs the score registered too.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise KgfastError(f"name={name!r} must be a word of letters, digits and underscores")
    Similarity.of(similarity, "similarity")
    if not callable(relation_width):
        raise KgfastError(f"relation_width={relation_width!r} must be a function of the dim")
    flags = (("even_dim", even_dim), ("complex_rows", complex_rows), ("phases", phases))
    even_dim, complex_rows, phases = (checks.flag(argument, value) for argument, value in flags)
    score = Score(
        name, similarity, tail_query, head_query, relation_query, relation_width, even_dim, complex_rows, phases
    )
    try_out(score)
    return add_score(score)


def try_out(score: Score) -> None:
    """KgfastError unless the queries of all sides agree on random rows, and have gradients."""
    for dim in (8,) if score.even_dim else (8, 7):
        generator, batch = torch.Generator().manual_seed(0), 5
        try:
            width = checks.integer(f"relation_width({dim})", score.relation_width(dim), 1)
        except Exception as error:  # of whatever kind: it is the caller's function
            raise KgfastError(f"relation_width fails on {dim}: {error}") from error
        h, t = (torch.randn(batch, dim, generator=generator, dtype=torch.float64) for _ in range(2))
        r = torch.randn(batch, width, generator=generator, dtype=torch.float64)
        asked = {"tail_query": (score.tail_query, h, r, t), "head_query": (score.head_query, t, r, h)}
        if score.relation_query is not None:
            asked["relation_query"] = (score.relation_query, h, t, r)
        found = {what: try_query(score, what, *given) for what, given in asked.items()}
        tails = found.pop("tail_query")
        for what, values in found.items():
            if not torch.allclose(values, tails, rtol=1e-6, atol=1e-8):
                raise KgfastError(
                    f"score {score.name!r} doesn't fit: tail_query and {what} give different numbers for one triple "
                    f"({float(tails[0]):.6g} and {float(values[0]):.6g})"
                )


def try_query(score: Score, what: str, query: Query, first: Tensor, second: Tensor, answer: Tensor) -> Tensor:
    """The scores [B] of a query's answers; KgfastError where what it makes is no query of these rows."""
    shapes = f"rows {list(first.shape)} and {list(second.shape)}"
    try:
        with torch.enable_grad():
            made = query(first.requires_grad_(), second.requires_grad_())
            one = query(first[:1], second[:1])
    except Exception as error:  # of whatever kind: it is the caller's function
        raise KgfastError(f"{what} fails on {shapes}: {error}") from error
    if not isinstance(made, Tensor) or made.shape != answer.shape or made.dtype != answer.dtype:
        said = f"{list(made.shape)} {made.dtype}" if isinstance(made, Tensor) else type(made).__name__
        raise KgfastError(f"{what} makes {said} of rows whose answers are {list(answer.shape)} {answer.dtype}")
    if not torch.allclose(one, made[:1]):
        raise KgfastError(f"{what}: a query depends on the other rows of its batch")
    if not made.requires_grad:
        raise KgfastError(f"{what} makes queries through which no gradient flows to its rows")
    adjoint(torch.ones_like(made), first, second, query)
    return SIMILARITIES[score.similarity](made, answer).detach()
