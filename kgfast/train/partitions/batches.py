"""Batches of a group of buckets at a time, while their partitions are in memory."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import torch
from torch import Tensor

from kgfast.run.seeds import generator
from kgfast.steps.draws import Draws
from kgfast.train.partitions.buffer import Buffer
from kgfast.train.partitions.order import Group, Order
from kgfast.train.partitions.triples import BucketedTriples


class GroupedBatches:
    """The batches of each epoch, ids of entities as rows of the buffer's memory. `draws` are those of the step that
    gets the batches: they are kept to the partitions in memory.

    The triples of a group are permuted by (seed, epoch, group) and cut into batches whose sizes differ by at most one.
    Memory: 60 bytes for each triple of the largest group.
    """

    def __init__(
        self, triples: BucketedTriples, order: Order, buffer: Buffer, draws: Draws, batch_size: int, seed: int
    ):  # fmt: skip
        self.triples, self.order, self.buffer, self.draws = triples, order, buffer, draws
        self.batch_size, self.seed = batch_size, seed
        self.counts: list[int] = []  # batches of each epoch so far
        self.epoch = -1
        self.at: tuple[int, int] | None = None  # (epoch, turn) of the group whose partitions and triples are here
        self.rows = torch.empty(0, 3, dtype=torch.int64)

    def sizes(self, epoch: int) -> list[int]:
        """The batches of each group."""
        return [-(-self.triples.count(group.buckets) // self.batch_size) for group in self.order.groups(epoch)]

    def steps(self, epochs: int) -> int:
        """The batches of all of these epochs."""
        for epoch in range(len(self.counts), epochs):
            self.counts.append(sum(self.sizes(epoch)))
        return sum(self.counts[:epochs])

    def epochs(self, step: int) -> float:
        """The epochs that so many steps make."""
        epoch = 0
        while self.steps(epoch + 1) <= step:
            epoch += 1
        return epoch + (step - self.steps(epoch)) / self.counts[epoch]

    def begin(self, epoch: int) -> None:
        """Epochs differ a little in their number of batches."""
        if epoch != self.epoch:
            self.ends, self.epoch = [*accumulate(self.sizes(epoch))], epoch
            self.per_epoch = self.ends[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, None]:
        """Batch `index` of the epoch: a view, triples [B, 3]. Its partitions count as changed."""
        turn = bisect_right(self.ends, index)
        if self.at != (self.epoch, turn):
            self.go_to(self.epoch, turn)
        self.buffer.changed.update(self.buffer.slots)
        first, count = self.ends[turn - 1] if turn else 0, len(self.rows)
        size, within = self.ends[turn] - first, index - first
        return self.rows[within * count // size : (within + 1) * count // size], None

    def go_to(self, epoch: int, turn: int) -> None:
        """Have partitions and triples of a group here, and the partition of the next one on its way."""
        self.at = self.at or (epoch, turn)
        while True:  # groups without triples are passed through
            group = self.order.groups(self.at[0])[self.at[1]]
            self.buffer.hold(group.resident)
            if self.at == (epoch, turn):
                break
            self.at = self.after(*self.at)
        following = self.after(*self.at)
        if following[1] == 0:  # with the partitions that are here
            following = self.after(*following)
        self.buffer.fetch(self.order.groups(following[0])[following[1]].resident)
        self.place(group)

    def after(self, epoch: int, turn: int) -> tuple[int, int]:
        return (epoch, turn + 1) if turn + 1 < len(self.order.sets) else (epoch + 1, 0)

    def place(self, group: Group) -> None:
        """The group's triples and draws by where its partitions are in memory."""
        cut, shifts, resident = self.triples.cut, self.buffer.shifts(), list(group.resident)
        # the i-th of these entities has the id i + positions, and its row is where its partition is
        positions = torch.tensor([cut.start(partition) - place * cut.rows for place, partition in enumerate(resident)])
        self.draws.among(sum(map(cut.size, resident)), cut.rows, positions + shifts[resident])
        assert self.at is not None
        key = self.at[0] * len(self.order.sets) + self.at[1]
        triples = self.triples.read(group.buckets)
        self.rows = triples[torch.randperm(len(triples), generator=generator(self.seed, key))].long()
        for column in (0, 2):
            self.rows[:, column] += shifts[self.rows[:, column] // cut.rows]
