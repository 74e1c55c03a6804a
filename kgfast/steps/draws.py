"""The negatives of a step: how many, shared by whom, in proportion to what, and which known answers they avoid."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kgfast.backends.base import Backend
from kgfast.core import checks
from kgfast.core.known import KnownTriples
from kgfast.errors import KgfastError
from kgfast.nn import KGEModel
from kgfast.reference import draw_table
from kgfast.registry import Side
from kgfast.steps.step import KnownAnswers, SideBatch

SHARINGS = ("none", "chunk", "batch")
FILTERS = ("none", "mask", "redraw")


class Draws:
    """Ids of negatives as functions of (seed, step, row, column), drawn on the device of the model.

    sharing: every triple has its own `negatives`, or `chunk` triples share a list, or the batch does. filter: known
    answers are masked, or redrawn (own lists only), or left. power p > 0: entities are drawn in proportion to count^p.
    """

    def __init__(
        self, model: KGEModel, *, negatives: int, sharing: str, chunk: int, power: float, entity_counts: Tensor | None,
        known: KnownTriples | None, filter: str, seed: int,
    ):  # fmt: skip
        checks.choose("sharing", sharing, SHARINGS)
        checks.choose("filter", filter, FILTERS)
        self.negatives = checks.integer("negatives", negatives, 1, 2**25)
        if known is not None:
            model.check_known(known)
        elif filter != "none":
            raise KgfastError(f"filter={filter!r} needs known triples")
        if filter == "redraw" and sharing != "none":
            raise KgfastError(f"filter='redraw' needs sharing='none'; with sharing={sharing!r} use filter='mask'")
        self.sharing, self.filter, self.seed = sharing, filter, checks.seed(seed)
        self.chunk = checks.integer("chunk", chunk, 1)
        self.entities = model.num_entities
        self.part = 0
        self.shifts: Tensor | None = None  # all of the table
        device = model.entities.device
        self.none = torch.empty(0, dtype=torch.int64, device=device)
        self.known = None if filter == "none" else KnownAnswers(known, model)
        self.weights = self.none
        counts = None if entity_counts is None else checked_counts(entity_counts, model.num_entities)
        if checks.finite("negative_power", power, 0.0):
            if counts is None:
                raise KgfastError("negative_power needs entity_counts, one for each entity")
            weights = counts ** float(power)
            if not bool(weights.isfinite().all()):
                raise KgfastError(f"negative_power={power}: count^power of the entities must be a finite number")
            self.weights = draw_table(weights).to(device)

    def among(self, entities: int, part: int, shifts: Tensor) -> None:
        """Draw among so many entities, which lie in the table part by part: the i-th is row i + shifts[i // part]."""
        self.entities, self.part = entities, part
        self.shifts = shifts if bool(shifts.any()) else None

    def lists(self, batch: int) -> int:
        """Lists of negatives for a batch of one side."""
        return {"none": batch, "chunk": math.ceil(batch / self.chunk), "batch": 1}[self.sharing]

    def known_ranges(self, batches: list[SideBatch]) -> tuple[Tensor, Tensor, Tensor]:
        """Known answers of the queries of all sides: starts, ends, and the ids they are ranges of."""
        return (*self.known.ranges(batches), self.known.ids) if self.known else (self.none,) * 3

    def masked(self, known: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The known answers that a loss masks."""
        return known if self.filter == "mask" else (self.none,) * 3

    def draw(
        self,
        backend: Backend,
        batches: list[SideBatch],
        known: tuple[Tensor, Tensor, Tensor],
        step: int | Tensor,
        workspace: Callable[..., Tensor],
    ) -> Tensor:
        """The negatives of all sides, [sides * lists, N]; step: its index as the backend takes it."""
        batch = len(batches[0].triples)
        lists, count = self.lists(batch), len(batches)
        for place, (_, side) in enumerate(batches):
            rows = slice(place * batch, (place + 1) * batch)
            redraw = (known[0][rows], known[1][rows], known[2]) if self.filter == "redraw" else (self.none,) * 3
            # a reciprocal model asks for tails only: its second side draws as the head side does
            as_side = Side.HEAD if side is Side.HEAD or place == 1 else Side.TAIL
            backend.sample_negatives(
                lists, self.negatives, self.entities, as_side, self.seed, step, self.weights, *redraw,
                allocate=lambda name, shape, dtype, place=place: workspace(name, (count, *shape), dtype)[place],
                check=False,
            )  # fmt: skip
        found = workspace("negatives", (count * lists, self.negatives), torch.int64)
        return found if self.shifts is None else found.add_(self.shifts[found // self.part])


def checked_counts(value: object, entities: int) -> Tensor:
    """entity_counts [entities] in float64."""
    counts = checks.real("entity_counts", value, (entities,)).double()
    wrong = (~(counts >= 0) | counts.isinf()).nonzero()
    if len(wrong) or not counts.any():
        found = f"entity_counts[{int(wrong[0])}]={float(counts[wrong[0]])}" if len(wrong) else "entity_counts"
        raise KgfastError(f"{found}: counts must be finite numbers of at least 0, and one of them above")
    return counts
