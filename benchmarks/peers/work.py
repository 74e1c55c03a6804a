"""The work that all contestants do, and what they agree on.

train/independent  a step of negative sampling, N negatives of their own for every triple, with sampling and optimizer
train/shared       the same with one list of N for the batch
train/all          a step of the softmax over all entities, one query a triple
evaluate           filtered ranks of test triples, heads and tails

A contestant offers `check()`, `call()`, `units` (triples a call) and `unit`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch

import kgfast
from benchmarks.inputs import SIZES, Inputs
from kgfast.nn import KGEModel

KINDS = ("train/independent", "train/shared", "train/all", "evaluate")
SCORES = ("transe_l1", "transe_l2", "distmult", "complex", "rotate")
LEARNING_RATE, MARGIN = 0.1, 1.0


@dataclass
class Job:
    """data: a dataset folder, or "synthetic". All contestants read the same triples in the same order."""

    kind: str
    score: str
    data: str = "synthetic"
    size: str = "fb15k-237"
    dim: int = 400
    batch: int = 1024
    negatives: int = 256
    test: int = 1024  # triples that `evaluate` ranks
    threads: int = 2
    seed: int = 0

    def __post_init__(self):
        torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed)
        if self.data == "synthetic":
            size = SIZES[self.size]
            graph = Inputs(size.with_(dim=8), "distmult").graph
            counts, self.known_triples = (size.entities, size.relations), graph
            self.train, self.test_triples = graph, graph[-self.test :]
        else:
            graph = kgfast.KnowledgeGraph.load(self.data)
            counts = graph.num_entities, graph.num_relations
            self.train, self.test_triples = graph.train, graph.test[: self.test]
            self.known_triples = torch.cat([graph.train, graph.valid, graph.test])
        self.entities, self.relations = counts
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(self.seed))
        self.train = self.train[order].contiguous()
        if len(self.train) < self.batch:
            raise ValueError(f"{self.data} has {len(self.train)} training triples, a batch is {self.batch}")

    def batches(self):
        """Batches of the shuffled triples, over and over."""
        last = len(self.train) - self.batch
        while True:
            for start in range(0, last + 1, self.batch):
                yield self.train[start : start + self.batch]

    def model(self) -> KGEModel:
        """The same tables for everybody."""
        return KGEModel(
            self.entities, self.relations, self.dim, score=self.score, seed=self.seed, init_scale=self.dim**-0.25
        )

    def tables(self) -> list[torch.Tensor]:
        return [table.detach().clone() for table in self.model().parameters()]

    def known(self) -> kgfast.KnownTriples:
        return kgfast.KnownTriples.from_triples(self.known_triples, self.entities, self.relations)

    def case(self) -> Inputs:
        """Small inputs for checks: the tables of this job's width, few entities."""
        size = SIZES["tiny"].with_(dim=self.dim, batch=16)
        return Inputs(size, self.score, zlib.crc32(self.score.encode()))


def same_scores(job: Job, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Within float32's rounding of sums of `dim` terms."""
    bound = 1e-4 * max(1.0, float(ours.abs().max()))
    error = float((ours.double() - theirs.double()).abs().max())
    if not error <= bound:
        raise AssertionError(f"scores of {job.score} differ from the reference by {error:.3g}, allowed are {bound:.3g}")


def same_ranks(mine: torch.Tensor, theirs_mean_reciprocal: float) -> None:
    ours = float(mine.reciprocal().mean())
    if abs(ours - theirs_mean_reciprocal) > 2e-3:
        raise AssertionError(f"mean reciprocal rank is {theirs_mean_reciprocal:.5f}, the reference's is {ours:.5f}")


def reference_ranks(job: Job, triples: torch.Tensor) -> torch.Tensor:
    """Both sides' ranks of a few triples by the eager specification; tables are those of the job."""
    tables, known = job.tables(), job.known()
    options = dict(score=job.score, known=known, impl="reference")
    return torch.cat([kgfast.rank(*tables, triples, side=side, **options) for side in ("tail", "head")])
