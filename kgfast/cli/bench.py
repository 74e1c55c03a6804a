"""A quick measurement of the ops on this machine; each is first held to impl="reference" on a small case."""

import statistics
import time
from dataclasses import dataclass

import torch

import kgfast
from kgfast.errors import KgfastError
from kgfast.nn import KGEModel
from kgfast.optim import RowAdagrad
from kgfast.run.memory import Need, check_memory, use_threads
from kgfast.steps import NegativeSamplingStep

SIZE = {"entities": 15_000, "relations": 200, "batch": 1024, "negatives": 256}
SMALL = {"entities": 300, "relations": 7, "batch": 33, "negatives": 17}
SECONDS = 1.2  # spent on each measurement, at least three calls
SCORES = ("transe_l1", "distmult", "complex", "rotate")


@dataclass
class Case:
    """Tables, triples and negatives of one score."""

    score: str
    entities: torch.Tensor
    relations: torch.Tensor
    triples: torch.Tensor
    negatives: torch.Tensor

    @classmethod
    def make(cls, score, size, dim, seed=0):
        random = torch.Generator().manual_seed(seed)
        model = KGEModel(size["entities"], size["relations"], dim, score=score, seed=seed)

        def ids(limit, *shape):
            return torch.randint(limit, shape, generator=random)

        head, tail = ids(size["entities"], 2, size["batch"])
        triples = torch.stack([head, ids(size["relations"], size["batch"]), tail], dim=1)
        negatives = ids(size["entities"], size["batch"], size["negatives"])
        return cls(score, model.entities.detach(), model.relations.detach(), triples, negatives)


def sampled_loss(case, impl=None):
    """Loss over given negatives, and the gradients of both tables."""
    tables = entities, relations = [table.detach().requires_grad_() for table in (case.entities, case.relations)]
    loss = kgfast.negative_sampling_loss(
        entities,
        relations,
        case.triples,
        case.negatives,
        score=case.score,
        side="tail",
        adversarial_temperature=1.0,
        impl=impl,
    )
    return [loss.detach(), *torch.autograd.grad(loss, tables)]


def all_loss(case, impl=None):
    """Softmax over all entities, and the gradients of both tables."""
    tables = entities, relations = [table.detach().requires_grad_() for table in (case.entities, case.relations)]
    loss = kgfast.one_vs_all_loss(entities, relations, case.triples, score=case.score, side="tail", impl=impl)
    return [loss.detach(), *torch.autograd.grad(loss, tables)]


def ranks(case, impl=None):
    """Ranks of the tails among all entities."""
    return [kgfast.rank(case.entities, case.relations, case.triples, score=case.score, side="tail", impl=impl)]


def best(case, impl=None):
    """Scores of the ten best tails."""
    found = kgfast.topk(case.entities, case.relations, case.triples, 10, score=case.score, side="tail", impl=impl)
    return [found[0]]


OPS = (
    ("negative sampling loss + gradient", sampled_loss, SCORES),
    ("one-vs-all loss + gradient", all_loss, ("complex",)),
    ("rank", ranks, ("transe_l1", "complex")),
    ("top 10", best, ("complex",)),
)


def bench(*, threads=None, dim=256, progress=None):
    """Check, then time: {"shape", "threads", "results": [{op, score, milliseconds, triples_per_second,
    calls}]}, medians.

    Takes some 15 seconds. KgfastError where a fast op differs from the reference. `progress(done, total)`.
    """
    use_threads(threads)
    check_memory([Need(f"dim={dim}", "two copies of the tables", 8 * (SIZE["entities"] + SIZE["relations"]) * dim)])
    dim += dim % 2
    work = [(name, op, score) for name, op, scores in OPS for score in scores]
    total, results = len(work) + len(SCORES), []
    for name, op, score in work:
        check(name, op, Case.make(score, SMALL, dim))
        case = Case.make(score, SIZE, dim)
        results.append(row(name, score, *timed(lambda op=op, case=case: op(case))))
        if progress is not None:
            progress(len(results), total)
    for score in SCORES:
        results.append(row("training step, 256 negatives", score, *timed(training_step(score, dim))))
        if progress is not None:
            progress(len(results), total)
    return {"shape": SIZE | {"dim": dim}, "threads": torch.get_num_threads(), "results": results}


def check(name, op, case):
    """Values of the default backend against the reference, within float32's rounding of sums this long."""
    for ours, theirs in zip(op(case), op(case, impl="reference"), strict=True):
        error = float((ours.double() - theirs.double()).abs().max())
        bound = 1e-4 * max(float(theirs.abs().max()), 1e-3)
        # a rank may change by one where two scores round to each other
        if not error <= (1.0 if op is ranks else bound):
            raise KgfastError(
                f"{name}, {case.score}: differs from the reference by {error:.3g}, allowed are {bound:.3g}"
            )


def training_step(score, dim):
    """One fused step of the row-wise Adagrad with independent negatives, as a function without arguments."""
    case = Case.make(score, SIZE, dim)
    model = KGEModel(SIZE["entities"], SIZE["relations"], dim, score=score)
    optimizer = RowAdagrad([model.entities, model.relations], lr=0.01)
    step = NegativeSamplingStep(model, optimizer, negatives=SIZE["negatives"], side="tail", margin=9.0)
    indices = iter(range(10**9))
    return lambda: step(case.triples, next(indices))


def timed(call):
    """(median seconds, number of calls) after one call to warm up."""
    call()
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(seconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), len(seconds)


def row(name, score, seconds, calls):
    return {
        "op": name,
        "score": score,
        "milliseconds": 1e3 * seconds,
        "triples_per_second": SIZE["batch"] / seconds,
        "calls": calls,
    }
