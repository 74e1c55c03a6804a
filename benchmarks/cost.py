"""Counted work of the ops: the bytes that must move and the operations that must be done, whoever does them.

Bytes: each distinct row that is used counts once read and, where it changes, once written; so does what goes in
and out.
Operations: two for each number and vector instruction, as a multiply-add does two; so an instruction that is no
multiply-add costs what one does.
"""

from __future__ import annotations

from dataclasses import dataclass

# vector instructions a number of a row: subtract, clear the sign, add, ..; for modulus over pairs of numbers
FORWARD = {"dot": 1, "l1": 3, "l2": 2, "modulus": 3}
# gradients of query and row: difference, its direction, and one multiply-add (or add) each
BACKWARD = {"dot": 2, "l1": 4, "l2": 3, "modulus": 5}
REAL, ID = 4, 8  # bytes of a float32 and of an id


@dataclass(frozen=True)
class Cost:
    """access: "stream" where whole arrays are read in order, "random" where rows are picked by id."""

    bytes: int
    operations: int
    access: str = "stream"

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.operations + other.operations, self.access)


def pairs(count: int, dim: int, similarity: str, gradient: bool = False) -> int:
    """Operations of `count` similarities, with their gradients where asked."""
    return 2 * count * dim * (FORWARD[similarity] + (BACKWARD[similarity] if gradient else 0))


def rows(count: int, dim: int, passes: int = 1) -> int:
    """Bytes of rows moved `passes` times: 1 read, 2 read and written."""
    return REAL * count * dim * passes
