"""kgfast, and a good PyTorch programmer with and without torch.compile. A class for each, made from a Job's fields."""

from __future__ import annotations

import itertools

import torch

import kgfast
from benchmarks import eager
from benchmarks.cases.steps import INITIAL, expect_step
from benchmarks.peers.work import LEARNING_RATE, MARGIN, Job, reference_ranks, same_ranks
from kgfast import optim, reference, steps
from kgfast.testing import assert_no_worse

FEW = 3  # triples ranked by the eager specification, which stores [B, C, D]


class Contestant:
    """Batches, counts, and the check that a step moves the tables as autograd over the specification does."""

    def __init__(self, **fields):
        self.job = job = Job(**fields)
        self.unit = "triples"
        self.units = len(job.test_triples) if job.kind == "evaluate" else job.batch
        if job.kind == "evaluate":
            self.tables, self.known = job.tables(), job.known()
            self.call = self.evaluate
        else:
            step, batches, index = self.new_step(job.model(), 0.0), job.batches(), itertools.count()
            self.call = lambda: step(next(batches), next(index))

    def new_step(self, model, initial: float):
        """A function (triples, index) that trains the model's tables in place."""
        raise NotImplementedError

    def ranks(self, triples, side):
        raise NotImplementedError

    def ids(self, given):
        """The negatives that a step over `given.triples` uses."""
        raise NotImplementedError

    def evaluate(self):
        return torch.cat([self.ranks(self.job.test_triples, side) for side in ("tail", "head")])

    def check(self) -> None:
        job = self.job
        if job.kind == "evaluate":
            triples = job.test_triples[:FEW]
            mine = torch.cat([self.ranks(triples, side) for side in ("tail", "head")])
            return same_ranks(reference_ranks(job, triples), float(mine.reciprocal().mean()))
        given = job.case()
        model, triples, side = given.new_model(), given.triples, "tail"
        step = self.new_step(model, INITIAL)
        if job.kind == "train/all":
            loss = lambda e, r: reference.one_vs_all_loss(e, r, triples, score=job.score, side=side)  # noqa: E731
        else:
            ids, options = self.ids(given), dict(score=job.score, side=side, margin=MARGIN)
            loss = lambda e, r: reference.negative_sampling_loss(e, r, triples, ids, **options)  # noqa: E731
        self.one_step(step, triples)
        expected = [expect_step(given, loss, dtype, LEARNING_RATE) for dtype in (torch.float32, torch.float64)]
        for table, single, truth in zip(model.parameters(), *expected, strict=True):
            assert_no_worse(table.detach(), single, truth)

    def one_step(self, step, triples):
        step(triples, 0)


class Kgfast(Contestant):
    def new_step(self, model, initial):
        optimizer = optim.RowAdagrad(model.parameters(), lr=LEARNING_RATE, initial=initial)
        if self.job.kind == "train/all":
            return steps.OneVsAllStep(model, optimizer, side="tail")
        sharing = "batch" if self.job.kind == "train/shared" else "none"
        return steps.NegativeSamplingStep(
            model, optimizer, negatives=self.job.negatives, sharing=sharing, margin=MARGIN, side="alternate"
        )

    def ids(self, given):
        shared = len(given.triples) if self.job.kind == "train/shared" else 0
        entities = given.size.entities
        return kgfast.sample_negatives(given.triples, self.job.negatives, entities, side="tail", seed=0, shared=shared)

    def ranks(self, triples, side):
        return kgfast.rank(*self.tables, triples, score=self.job.score, side=side, known=self.known)


class Torch(Contestant):
    """Plain PyTorch as benchmarks/eager.py has it."""

    compiled = False

    def new_step(self, model, initial):
        tables = [table.detach() for table in model.parameters()]
        options = dict(score=self.job.score, lr=LEARNING_RATE, initial=initial, compiled=self.compiled)
        if self.job.kind == "train/all":
            return eager.AllStep(*tables, **options)
        shared = self.job.kind == "train/shared"
        return eager.SampledStep(*tables, negatives=self.job.negatives, shared=shared, margin=MARGIN, **options)

    def ids(self, given):
        lists = 1 if self.job.kind == "train/shared" else len(given.triples)
        generator = torch.Generator().manual_seed(self.job.seed)
        self.drawn = torch.randint(given.size.entities, (lists, self.job.negatives), generator=generator)
        return self.drawn

    def one_step(self, step, triples):
        if self.job.kind == "train/all":
            step(triples, 0)
        else:
            step(triples, 0, ids=self.drawn)

    def ranks(self, triples, side):
        return eager.ranks(*self.tables, triples, score=self.job.score, side=side, known=self.known)


class Compiled(Torch):
    """The same loss through torch.compile."""

    compiled = True
