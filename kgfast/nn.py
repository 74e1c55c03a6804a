"""Models: two tables and the name of a score."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kgfast import functional
from kgfast.core import checks
from kgfast.core.known import KnownTriples
from kgfast.errors import KgfastError
from kgfast.registry import Side, find_score


class KGEModel(nn.Module):
    """Entities [E, dim] and relations [R, width] of a score; with `reciprocal` a second row a relation, r + R, which
    ranks heads as tails of the inverse relation (Lacroix et al. 2018).

    init_scale: standard deviation of the entries; None: uniform Xavier. Phases (rotate) are uniform on [-pi, pi].
    The same seed gives the same tables.
    """

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        dim: int,
        *,
        score: str,
        reciprocal: bool = False,
        init_scale: float | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        spec = find_score(score)
        num_entities = checks.integer("num_entities", num_entities, 1, 2**31)
        num_relations = checks.integer("num_relations", num_relations, 1, 2**31)
        dim, reciprocal = checks.integer("dim", dim, 1, 2**31), checks.flag("reciprocal", reciprocal)
        init_scale = None if init_scale is None else checks.finite("init_scale", init_scale, 0.0)
        if not isinstance(dtype, torch.dtype) or dtype not in checks.FLOATS:
            raise KgfastError(f"dtype={dtype!r} must be one of {', '.join(map(str, checks.FLOATS))}")
        if spec.even_dim and dim % 2:
            raise KgfastError(f"dim={dim} must be even for score {score!r}")
        self.score, self.dim, self.reciprocal = score, dim, reciprocal
        self.num_entities, self.num_relations = num_entities, num_relations
        signed = checks.seed(seed)
        generator = torch.Generator().manual_seed(signed if seed < 0 else signed % 2**64)
        rows = num_relations * (2 if reciprocal else 1)
        self.entities = nn.Parameter(self.initial(num_entities, dim, init_scale, generator, dtype))
        width = spec.relation_width(dim)
        if spec.phases:
            phases = torch.empty(rows, width).uniform_(-math.pi, math.pi, generator=generator)
            self.relations = nn.Parameter(phases.to(dtype))
        else:
            self.relations = nn.Parameter(self.initial(rows, width, init_scale, generator, dtype))

    @staticmethod
    def initial(rows: int, width: int, scale: float | None, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        table = torch.empty(rows, width)  # filled in place: the largest tables have no room for a copy
        if scale is None:
            bound = math.sqrt(6.0 / (rows + width))
            return table.uniform_(-bound, bound, generator=generator).to(dtype)
        return table.normal_(0.0, scale, generator=generator).to(dtype)

    def with_inverses(self, triples: Tensor, side: Side) -> tuple[Tensor, Side]:
        """The triples and side that ask for `side` in this model: heads are the tails of inverse relations."""
        if not self.reciprocal or side is Side.TAIL:
            return triples, side
        head, relation, tail = triples.unbind(1)
        return torch.stack([tail, relation + self.num_relations, head], 1), Side.TAIL

    def check(self, triples: Tensor) -> None:
        """Relations must be those of the graph: the reciprocal rows are the model's own."""
        triples = checks.triples(triples, self.entities)
        checks.id_range("triples (column of relations)", triples[:, 1], self.num_relations)

    def check_known(self, known: object, name: str = "known") -> None:
        """Known triples must be of this model's graph."""
        if not isinstance(known, KnownTriples):
            raise KgfastError(f"{name} must be a kgfast.KnownTriples, not {type(known).__name__}")
        if (known.num_entities, known.num_relations) != (self.num_entities, self.num_relations):
            raise KgfastError(
                f"{name} was built for {known.num_entities} entities and {known.num_relations} relations, the model "
                f"has {self.num_entities} and {self.num_relations}"
            )

    def forward(self, triples: Tensor) -> Tensor:
        return self.score_triples(triples)

    def score_triples(self, triples: Tensor) -> Tensor:
        """[B] scores, as tail queries."""
        self.check(triples)
        return functional.score_triples(self.entities, self.relations, triples, score=self.score)

    def score_candidates(self, triples: Tensor, side: str = "tail") -> Tensor:
        """[B, E] scores of every entity in place of the tail or head."""
        self.check(triples)
        asked, asked_side = self.with_inverses(triples, Side.of(side, "side"))
        return functional.score_candidates(self.entities, self.relations, asked, score=self.score, side=asked_side.word)

    def known_for(self, known: KnownTriples | None, side: str, name: str = "known") -> KnownTriples | None:
        """The known answers as this model asks for them: a reciprocal model asks for heads as tails."""
        if known is None:
            return None
        self.check_known(known, name)
        if not self.reciprocal or side == "tail":
            return known
        if self._reciprocal_known is None or self._reciprocal_known[0] is not known:
            self._reciprocal_known = (known, known.reciprocal())
        return self._reciprocal_known[1]

    _reciprocal_known: tuple[KnownTriples, KnownTriples] | None = None

    def rank(self, triples: Tensor, side: str, known: KnownTriples | None = None, ties: str = "realistic") -> Tensor:
        """Filtered ranks, float64 [B]."""
        self.check(triples)
        asked, asked_side = self.with_inverses(triples, Side.of(side, "side"))
        return functional.rank(
            self.entities, self.relations, asked, score=self.score, side=asked_side.word,
            known=self.known_for(known, side), ties=ties,
        )  # fmt: skip

    def topk(self, triples: Tensor, k: int, side: str, exclude: KnownTriples | None = None) -> tuple[Tensor, Tensor]:
        """(scores, ids) [B, k] of the best candidates."""
        self.check(triples)
        asked, asked_side = self.with_inverses(triples, Side.of(side, "side"))
        return functional.topk(
            self.entities, self.relations, asked, k, score=self.score, side=asked_side.word,
            exclude=self.known_for(exclude, side, "exclude"),
        )  # fmt: skip

    def extra_repr(self) -> str:
        return (
            f"score={self.score!r}, entities={self.num_entities}, relations={self.num_relations}, dim={self.dim}, "
            f"reciprocal={self.reciprocal}"
        )


class TransE(KGEModel):
    """-|h + r - t|_p, p = 1 or 2 (Bordes et al. 2013)."""

    def __init__(self, num_entities: int, num_relations: int, dim: int, *, p: int = 1, **options: Any):
        p = checks.integer("p", p, 1, 3)
        super().__init__(num_entities, num_relations, dim, score=f"transe_l{p}", **options)


class DistMult(KGEModel):
    """sum_d h_d r_d t_d (Yang et al. 2015)."""

    def __init__(self, num_entities: int, num_relations: int, dim: int, **options: Any):
        super().__init__(num_entities, num_relations, dim, score="distmult", **options)


class ComplEx(KGEModel):
    """Re sum_k h_k r_k conj(t_k) over dim / 2 complex numbers (Trouillon et al. 2016)."""

    def __init__(self, num_entities: int, num_relations: int, dim: int, **options: Any):
        super().__init__(num_entities, num_relations, dim, score="complex", **options)


class RotatE(KGEModel):
    """-sum_k |h_k e^{i theta_k} - t_k| over dim / 2 complex numbers (Sun et al. 2019)."""

    def __init__(self, num_entities: int, num_relations: int, dim: int, **options: Any):
        super().__init__(num_entities, num_relations, dim, score="rotate", **options)
