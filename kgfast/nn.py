"""Models: two tables and the name of a score."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kgfast import functional
from kgfast.core import checks
from kgfast.core.checks import Table
from kgfast.core.known import KnownTriples
from kgfast.errors import KgfastError
from kgfast.registry import Side, find_score


class KGEModel(nn.Module):
    """Entities [E, dim] and relations [R, width] of a score, as parameters `entities` and `relations`.

    Args:
        num_entities: E.
        num_relations: R.
        dim: reals in a row of an entity; even where rows are of two halves.
        score: the name of a score, one of `kgfast.SCORES`.
        reciprocal: whether there is a second row a relation, r + R, which ranks heads as tails of the inverse relation
            (Lacroix et al. 2018).
        init_scale: standard deviation of the entries; None: uniform Xavier. Phases (rotate) are uniform on [-pi, pi].
        seed: the same seed gives the same tables.
        dtype: of the tables; training steps on a CPU need float32 or float64.
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
        generator = self.generator(seed)
        rows = num_relations * (2 if reciprocal else 1)
        self.entities = nn.Parameter(self.initial(num_entities, dim, init_scale, generator, dtype))
        self.relations = nn.Parameter(self.initial_relations(score, rows, dim, init_scale, generator, dtype))

    @staticmethod
    def from_tables(
        entities: Table, relations: Table, *, score: str, reciprocal: bool = False, copy: bool = True
    ) -> KGEModel:
        """A model of tables that are there.

        Args:
            entities: table [E, dim], a tensor or an nn.Embedding.
            relations: table [R, width], or [2 R, width] with `reciprocal`, the inverse of relation r in row r + R.
            score: the name of a score, one of `kgfast.SCORES`.
            reciprocal: whether heads are ranked as tails of inverse relations.
            copy: whether the model has tables of its own; False: those given, which must be contiguous.
        """
        entities, relations, _ = checks.tables(entities, relations, score)
        reciprocal, rows = checks.flag("reciprocal", reciprocal), len(relations)
        if reciprocal and rows % 2:
            raise KgfastError(f"relations have {rows} rows; a reciprocal model has two for each relation")
        count = rows // 2 if reciprocal else rows
        with torch.device("meta"):
            model = KGEModel(
                len(entities), count, entities.shape[1], score=score, reciprocal=reciprocal, dtype=entities.dtype
            )
        for name, table in (("entities", entities), ("relations", relations)):
            whole = table.detach().clone() if checks.flag("copy", copy) else table
            setattr(model, name, whole if isinstance(whole, nn.Parameter) else nn.Parameter(whole.detach()))
        return model

    @staticmethod
    def generator(seed: int) -> torch.Generator:
        """What the tables of this seed are drawn with, entities first."""
        signed = checks.seed(seed)
        return torch.Generator().manual_seed(signed if seed < 0 else signed % 2**64)

    @staticmethod
    def initial(
        rows: int, width: int, scale: float | None, generator: torch.Generator, dtype: torch.dtype,
        whole: int | None = None,
    ) -> Tensor:  # fmt: skip
        """The next rows of a table that has `whole` rows, or these alone."""
        table = torch.empty(rows, width)  # filled in place: the largest tables have no room for a copy
        if scale is None:
            bound = math.sqrt(6.0 / ((whole or rows) + width))
            return table.uniform_(-bound, bound, generator=generator).to(dtype)
        return table.normal_(0.0, scale, generator=generator).to(dtype)

    @staticmethod
    def initial_relations(
        score: str, rows: int, dim: int, scale: float | None, generator: torch.Generator, dtype: torch.dtype
    ) -> Tensor:
        spec = find_score(score)
        width = spec.relation_width(dim)
        if spec.phases:
            return torch.empty(rows, width).uniform_(-math.pi, math.pi, generator=generator).to(dtype)
        return KGEModel.initial(rows, width, scale, generator, dtype)

    def with_inverses(self, triples: Tensor, side: Side) -> tuple[Tensor, Side]:
        """The triples and side that ask for `side` in this model: heads are the tails of inverse relations."""
        if not self.reciprocal or side is Side.TAIL:
            return triples, side
        head, relation, tail = triples.unbind(1)
        return torch.stack([tail, relation + self.num_relations, head], 1), Side.TAIL

    def check(self, triples: Tensor) -> Tensor:
        """The triples as int64. Relations must be those of the graph: the reciprocal rows are the model's own."""
        triples = checks.triples(triples, self.entities)
        checks.id_range("triples (column of relations)", triples[:, 1], self.num_relations)
        return triples

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
        """As `score_triples`."""
        return self.score_triples(triples)

    def score_triples(self, triples: Tensor) -> Tensor:
        """Scores [B], as tail queries.

        Args:
            triples: ids [B, 3] of (head, relation, tail), int64 or int32.
        """
        triples = self.check(triples)
        return functional.score_triples(self.entities, self.relations, triples, score=self.score)

    def score_candidates(self, triples: Tensor, side: str = "tail") -> Tensor:
        """Scores [B, E] of every entity in place of the tail or head.

        Args:
            triples: ids [B, 3]; the column that is replaced must be ids too.
            side: which column the entities replace, "tail" or "head".
        """
        triples = self.check(triples)
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
        """Filtered ranks, float64 [B].

        Args:
            triples: ids [B, 3] of (head, relation, tail), int64 or int32.
            side: which column is asked for, "tail" or "head".
            known: the graph's triples, whose other answers are left out; None: none are.
            ties: "optimistic", "pessimistic" or "realistic", as in `kgfast.rank`.
        """
        triples = self.check(triples)
        asked, asked_side = self.with_inverses(triples, Side.of(side, "side"))
        return functional.rank(
            self.entities, self.relations, asked, score=self.score, side=asked_side.word,
            known=self.known_for(known, side), ties=ties,
        )  # fmt: skip

    def topk(self, triples: Tensor, k: int, side: str, exclude: KnownTriples | None = None) -> tuple[Tensor, Tensor]:
        """(scores, ids) [B, k] of the best candidates.

        Args:
            triples: ids [B, 3]; the column that is asked for must be ids too.
            k: how many; where fewer remain, score -inf and id -1.
            side: which column is asked for, "tail" or "head".
            exclude: triples whose answers are left out; None: none are.
        """
        triples = self.check(triples)
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
    """-|h + r - t|_p, p = 1 or 2 (Bordes et al. 2013).

    Args:
        num_entities: E.
        num_relations: R.
        dim: reals in a row of an entity.
        p: the norm, 1 or 2.
        options: reciprocal, init_scale, seed and dtype, as of `KGEModel`.
    """

    def __init__(self, num_entities: int, num_relations: int, dim: int, *, p: int = 1, **options: Any):
        p = checks.integer("p", p, 1, 3)
        super().__init__(num_entities, num_relations, dim, score=f"transe_l{p}", **options)


class DistMult(KGEModel):
    """sum_d h_d r_d t_d (Yang et al. 2015).

    Args:
        num_entities: E.
        num_relations: R.
        dim: reals in a row of an entity.
        options: reciprocal, init_scale, seed and dtype, as of `KGEModel`.
    """

    def __init__(self, num_entities: int, num_relations: int, dim: int, **options: Any):
        super().__init__(num_entities, num_relations, dim, score="distmult", **options)


class ComplEx(KGEModel):
    """Re sum_k h_k r_k conj(t_k) over dim / 2 complex numbers (Trouillon et al. 2016).

    Args:
        num_entities: E.
        num_relations: R.
        dim: reals in a row of an entity, an even number.
        options: reciprocal, init_scale, seed and dtype, as of `KGEModel`.
    """

    def __init__(self, num_entities: int, num_relations: int, dim: int, **options: Any):
        super().__init__(num_entities, num_relations, dim, score="complex", **options)


class RotatE(KGEModel):
    """-sum_k |h_k e^{i theta_k} - t_k| over dim / 2 complex numbers (Sun et al. 2019).

    Args:
        num_entities: E.
        num_relations: R.
        dim: reals in a row of an entity, an even number.
        options: reciprocal, init_scale, seed and dtype, as of `KGEModel`.
    """

    def __init__(self, num_entities: int, num_relations: int, dim: int, **options: Any):
        super().__init__(num_entities, num_relations, dim, score="rotate", **options)
