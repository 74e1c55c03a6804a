"""Values and gradients of every op on the device, by every backend that serves there, held to the float64 truth."""

from __future__ import annotations

from multiprocessing import get_context

import torch

import kgfast
from benchmarks.gpu.stage import Stage
from benchmarks.machine import cores
from kgfast import backends, reference, testing
from kgfast.registry import Objective

SCORES = list(reference.SCORES)


def evaluate(function, leaves):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value = function(*leaves)
    probe = torch.rand(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value.backward(probe.to(value) if value.dim() else None)
    return [value.detach(), *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)]


def compare(op: str, leaves, call, impl: str) -> None:
    """No worse than torch in the same dtype on the same device. 16 bits: the truth is made of the rounded tables."""
    specified = getattr(reference, op)
    truth = evaluate(lambda *wide: call(specified, *wide), [leaf.double() for leaf in leaves])
    eager = evaluate(lambda *same: call(specified, *same), leaves)
    ours = evaluate(lambda *same: call(getattr(kgfast, op), *same, impl=impl), leaves)
    for mine, same, wide in zip(ours, eager, truth, strict=True):
        testing.assert_no_worse(mine.to(same.dtype), same, wide)


def on(device, case):
    names = ("entities", "relations", "triples", "negatives", "weights")
    return testing.Case(*(getattr(case, name).to(device) for name in names))


def sampled(device, impl, score, setting):
    dim, batch, side = setting["dim"], setting["batch"], setting["side"]
    case = testing.make_case(score, dim, batch, setting["negatives"], side=side, dtype=setting["dtype"])
    case = on(device, case)
    negatives = case.negatives[: max(batch // 3, 1)] if setting["shared"] else case.negatives
    known = testing.make_known(case.triples.cpu()).to(device) if setting["known"] else None

    def call(op, entities, relations, **backend):
        return op(entities, relations, case.triples, negatives, score=score, side=side, objective=setting["objective"],
                  margin=1.5, adversarial_temperature=setting["temperature"], known=known, **backend)  # fmt: skip

    compare("negative_sampling_loss", [case.entities, case.relations], call, impl)


def all_candidates(device, impl, score, setting):
    dim, side = setting["dim"], setting["side"]
    case = on(device, testing.make_case(score, dim, setting["batch"], 5, dtype=setting["dtype"]))
    known = testing.make_known(case.triples.cpu()).to(device) if setting["known"] else None

    def loss(op, entities, relations, **backend):
        objective = "softmax" if setting["objective"] in ("logistic", "softmax") else "bce"
        options = dict(score=score, side=side, objective=objective, known=known)
        return op(entities, relations, case.triples, **options, **backend)

    compare("one_vs_all_loss", [case.entities, case.relations], loss, impl)
    ids = case.negatives.clamp(min=0)

    def scores(op, entities, relations, **backend):
        return op(entities, relations, case.triples, ids, score=score, side=side, **backend)

    compare("score_candidates", [case.entities, case.relations], scores, impl)


def ranks(device, impl, score, setting):
    case = on(device, testing.make_case(score, setting["dim"], setting["batch"], 5, dtype=setting["dtype"]))
    known = testing.make_known(case.triples.cpu())
    tables = case.entities, case.relations
    options = dict(score=score, side=setting["side"], known=known.to(device))
    ours = kgfast.rank(*tables, case.triples, impl=impl, **options)
    wide = kgfast.rank(*(table.double() for table in tables), case.triples, impl="reference", **options)
    wrong = (ours - wide).abs() > 1  # neighbours may change places in rounding
    assert wrong.float().mean() <= 0.2, f"{int(wrong.sum())} of {len(wrong)} ranks differ by more than 1"


def draws(device, impl, score, setting):
    triples = testing.make_triples(11)
    options = dict(side=setting["side"], seed=2**40 + 5, step=2**33 + 7)
    ours = kgfast.sample_negatives(triples.to(device), 9, 37, impl=impl, **options)
    theirs = kgfast.sample_negatives(triples, 9, 37, impl="cpu", **options)
    assert torch.equal(ours.cpu(), theirs), "draws differ from the CPU's"


AXES = dict(dim=(1, 16, 33, 257), negatives=(1, 5, 64), batch=(7, 1, 150), objective=Objective.words(),
            side=("tail", "head"), temperature=(0.0, 0.7), known=(False, True), shared=(False, True))  # fmt: skip
CHECKS = (sampled, all_candidates, ranks, draws)
PARTS = 2  # of a score's settings, for more processes: compiling takes most of the time


def dtypes(device, impl):
    return (torch.float32,) if impl == "cuda" or device.type == "cpu" else (torch.float32, torch.float64)


def check_score(task) -> tuple[str, str, int, list[dict]]:
    """A part of one score's settings by one backend: (impl, score, how many passed, what failed)."""
    impl, score, part, device, tiny = task
    device, failures, passed = torch.device(device), [], 0
    for setting in testing.pairwise(**AXES, dtype=dtypes(device, impl))[part :: 99 if tiny else PARTS]:
        for check in CHECKS:
            try:
                check(device, impl, score, setting)
                passed += 1
            except Exception as error:  # Triton's are of no common kind; none may lose the other checks
                failures.append({"check": check.__name__, "score": score,
                                 "error": f"{type(error).__name__}: {error}"[:300],
                                 "setting": {key: str(value) for key, value in setting.items()}})  # fmt: skip
    return impl, score, passed, failures


def main() -> None:
    """Scores are shared out to processes: Triton compiles on the CPU, and most of the time goes there."""
    stage = Stage(__doc__)
    tasks = []
    for impl in ("triton", "cuda"):
        reason = backends.why_not(impl, stage.device.type)
        if reason:
            stage.keep(impl=impl, skipped=reason)
        else:
            scores = SCORES[:: 5 if stage.tiny else 1]
            tasks += [(impl, score, part, stage.device.type, stage.tiny) for score in scores for part in range(PARTS)]
    if stage.tiny:
        found = map(check_score, tasks)
    else:
        # a process a task: an error that breaks the device's context does not reach the next task
        pool = get_context("spawn").Pool(min(len(tasks), max(cores() - 1, 1)), maxtasksperchild=1)
        found = pool.imap_unordered(check_score, tasks)
    for impl, score, passed, failures in found:
        stage.keep(impl=impl, score=score, passed=passed, failed=len(failures), failures=failures[:10])
        for failure in failures[:2]:
            print(failure, flush=True)
    if any(row.get("failed") for row in stage.rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
