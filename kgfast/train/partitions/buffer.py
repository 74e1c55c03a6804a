"""Partitions in memory: those that are trained on, and a place for the next one, which is fetched meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from kgfast.train.partitions.files import PartitionFiles


class Buffer:
    """The memory of each column, a slot for each of the resident partitions and one more, and which is where in it.

    A thread writes the partition that has left and reads the one that comes into its slot, while the others are trained
    on: a slot belongs either to training or to that thread.
    """

    def __init__(self, files: PartitionFiles, tensors: Mapping[str, Tensor], resident: int):
        self.files, self.tensors = files, dict(tensors)
        self.slots: dict[int, int] = {}  # of the partitions that are trained on
        self.changed: set[int] = set()  # of these, since they were read or written
        self.spare = resident  # the slot that isn't trained on
        self.coming: int | None = None  # the partition that is read into it
        self.thread = ThreadPoolExecutor(1, "partitions")
        self.jobs: list[Future] = []

    def rows(self, partition: int, slot: int) -> dict[str, Tensor]:
        """The rows of a partition in the memory of each column."""
        start, size = slot * self.files.cut.rows, self.files.cut.size(partition)
        return {name: tensor[start : start + size] for name, tensor in self.tensors.items()}

    def hold(self, resident: Collection[int]) -> None:
        """Have these partitions in memory; only the first time more than one of them may be another than before."""
        if not self.slots:
            for slot, partition in enumerate(resident):
                self.slots[partition] = slot
                self.files.read(partition, self.rows(partition, slot))
        for leaving in set(self.slots) - set(resident):
            self.fetch(resident)
            self.wait()
            assert self.coming is not None
            self.slots[self.coming], self.spare = self.spare, self.slots.pop(leaving)
            self.coming = None
            if leaving in self.changed:
                self.changed.remove(leaving)
                self.work(self.files.write, leaving)

    def fetch(self, resident: Collection[int]) -> None:
        """Begin to read what is among these partitions and not here."""
        for partition in set(resident) - set(self.slots):
            if partition != self.coming:
                self.coming = partition
                self.work(self.files.read, partition)

    def work(self, job: Callable[[int, dict[str, Tensor]], None], partition: int) -> None:
        self.jobs.append(self.thread.submit(job, partition, self.rows(partition, self.spare)))

    def wait(self) -> None:
        """Until the thread has nothing to do; raises what went wrong there."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job.result()

    def write_changed(self) -> None:
        """Everything that was learned is on the disk afterwards."""
        self.wait()
        for partition in sorted(self.changed):
            self.files.write(partition, self.rows(partition, self.slots[partition]))
        self.changed.clear()
        self.files.sync()

    def shifts(self) -> Tensor:
        """int64 [partitions]: from an entity's id to its row in memory, where its partition is there."""
        found = torch.zeros(self.files.cut.partitions, dtype=torch.int64)
        for partition, slot in self.slots.items():
            found[partition] = slot * self.files.cut.rows - self.files.cut.start(partition)
        return found

    def close(self) -> None:
        self.thread.shutdown(cancel_futures=True)
        self.files.close()
