"""The training triples by bucket, in a file without a name that goes with the process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kgfast.train.partitions.files import read_range, write_range
from kgfast.train.partitions.order import Bucket, Cut

AT_ONCE = 1 << 20  # triples that are sorted at a time
ROW_BYTES = 12  # three int32


class BucketedTriples:
    """Triples [M, 3] of a graph, maybe mapped, sorted by the partitions of head and tail; those of a bucket keep their
    order. Read twice, block by block, and written once into `folder`.
    """

    def __init__(self, triples: Tensor, cut: Cut, folder: Path):
        self.cut = cut
        counts = np.zeros(cut.partitions**2, np.int64)
        for _, keys in self.parts(triples):
            counts += np.bincount(keys, minlength=len(counts))
        self.starts = np.concatenate([[0], counts.cumsum()])
        self.file = tempfile.TemporaryFile(dir=folder)
        ends = self.starts[:-1].copy()  # of what is written so far
        for rows, keys in self.parts(triples):
            order = np.argsort(keys, kind="stable")
            rows = np.ascontiguousarray(rows[order], np.int32)
            found, firsts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
            for key, first, size in zip(found.tolist(), firsts.tolist(), sizes.tolist(), strict=True):
                write_range(self.file, int(ends[key]) * ROW_BYTES, torch.from_numpy(rows[first : first + size]))
            ends[found] += sizes

    def parts(self, triples: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, buckets) of the triples, block by block."""
        for start in range(0, len(triples), AT_ONCE):
            rows = triples[start : start + AT_ONCE].numpy()
            yield rows, rows[:, 0] // self.cut.rows * self.cut.partitions + rows[:, 2] // self.cut.rows

    def key(self, bucket: Bucket) -> int:
        return bucket[0] * self.cut.partitions + bucket[1]

    def count(self, buckets: Sequence[Bucket]) -> int:
        return sum(int(self.starts[key + 1] - self.starts[key]) for key in map(self.key, buckets))

    def read(self, buckets: Sequence[Bucket]) -> Tensor:
        """int32 [n, 3] of these buckets, in their order."""
        found, done = torch.empty((self.count(buckets), 3), dtype=torch.int32), 0
        for bucket in buckets:
            size = self.count([bucket])
            read_range(self.file, int(self.starts[self.key(bucket)]) * ROW_BYTES, found[done : done + size])
            done += size
        return found

    def close(self) -> None:
        self.file.close()
