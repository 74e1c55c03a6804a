"""Words and their codes, and the list of scores; registry.py has all of them together."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from kgfast.errors import KgfastError

if TYPE_CHECKING:
    from torch import Tensor

C = TypeVar("C", bound="Code")


def refuse(argument: str, value: object, allowed: Iterable) -> KgfastError:
    """The error for a `value` that is not one of the `allowed`; it names the nearest."""
    words = [str(one) for one in allowed]
    near = difflib.get_close_matches(str(value), words, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return KgfastError(f"{argument}={value!r} is unknown: it is one of {', '.join(words)}{hint}")


def is_one_of(value: object, allowed: Iterable) -> bool:
    """Whether a value is one of some words or numbers, and nothing else that says it equals one."""
    return isinstance(value, (str, int)) and not isinstance(value, bool) and value in allowed


class Code(IntEnum):
    """A choice: people write its word, kernels read its number. Each kind is marked `@listed`."""

    every: ClassVar[tuple[Any, ...]]  # torch.compile can't walk an enumeration before torch 2.13, but a tuple

    @property
    def word(self) -> str:
        return self.name.lower()

    @classmethod
    def words(cls) -> tuple[str, ...]:
        return tuple(one.word for one in cls.every)

    @classmethod
    def of(cls: type[C], word: str | None, argument: str) -> C:
        """The code of a word; KgfastError that names the argument and the nearest word."""
        for one in cls.every:
            if isinstance(word, str) and one.word == word:
                return one
        raise refuse(argument, word, cls.words())


def listed(kind: type[C]) -> type[C]:
    """Keeps the members of a kind of code, in order, as `every`."""
    kind.every = tuple(kind)
    return kind


@listed
class Side(Code):
    """Which end of a triple is asked for; the other one is known."""

    TAIL = 0
    HEAD = 1

    @property
    def answer(self) -> int:
        """The column of a triple (head, relation, tail) that is asked for."""
        return 2 if self is Side.TAIL else 0

    @property
    def anchor(self) -> int:
        """The column of the entity that is known."""
        return 0 if self is Side.TAIL else 2


@listed
class Similarity(Code):
    """How a query is compared with a row."""

    DOT = 0
    L1 = 1
    L2 = 2
    MODULUS = 3


@listed
class Memory(Code):
    """How losses over all candidates use a GPU's memory: scores kept in chunks, or made twice in bounded panels."""

    FAST = 0
    LOW = 1


@listed
class Regularizer(Code):
    """The penalty on the rows of a batch."""

    NONE = 0
    N3 = 1
    L2 = 2


Query = Callable[["Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class Score:
    """A score function: score(h, r, t) = similarity(tail_query(h, r), t) = similarity(head_query(t, r), h).

    `relation_query(h, t)`, where there is one, gives the same number as similarity(relation_query(h, t), r).
    `relation_width(dim)` is the number of reals in a relation row; `even_dim` says that `dim` must be even.
    `complex_rows`: entity rows are complex numbers, real parts first; N3 is over their moduli (Lacroix et al. 2018).
    `phases`: relation rows are angles, uniform on [-pi, pi] at first; they have no size to regularize.
    `operator`: what makes the queries in csrc/include/kgfast/scores.h and kernels/triton/scores.py; None: PyTorch does,
    by the functions here.
    """

    name: str
    similarity: str
    tail_query: Query
    head_query: Query
    relation_query: Query | None = None
    relation_width: Callable[[int], int] = lambda dim: dim
    even_dim: bool = False
    complex_rows: bool = False
    phases: bool = False
    operator: str | None = None

    @property
    def complex_relations(self) -> bool:
        """Whether relation rows are complex numbers too."""
        return self.complex_rows and not self.phases

    @property
    def code(self) -> int:
        """The number that ops know this score by."""
        return _CODES.index(self.name)

    @property
    def similarity_code(self) -> Similarity:
        return Similarity.of(self.similarity, "similarity")

    def query(self, side: Side) -> Query:
        """What makes the queries of a side from (rows of the known entities, rows of the relations)."""
        return self.tail_query if side is Side.TAIL else self.head_query


SCORES: dict[str, Score] = {}
_CODES: list[str] = []


def add_score(score: Score) -> Score:
    """Puts a score into the list; one of PyTorch alone may be replaced by another."""
    Similarity.of(score.similarity, "similarity")
    if score.name in SCORES and SCORES[score.name].operator is not None:
        raise KgfastError(f"score {score.name!r} is one of kgfast's own: choose another name")
    if score.name not in _CODES:
        _CODES.append(score.name)
    SCORES[score.name] = score
    return score


def find_score(name: str) -> Score:
    """A score by name; an unknown one raises a KgfastError with the nearest."""
    if not isinstance(name, str) or name not in SCORES:
        raise refuse("score", name, SCORES)
    return SCORES[name]


def score_at(code: int) -> Score:
    return SCORES[_CODES[code]]
