"""Training for a stated time: the setting that Marius published (FB15k's shape, ComplEx of 400 reals, batches of
10,000 with 1,000 shared negatives), the same with tables of 2 million entities in host memory, and the FB15k-237
recipe of rank 1000 (softmax over all entities, N3, relation prediction).

Without --data the graph is synthetic, of the same shape: then only rates are reported. With it (a dataset folder), the
recipe's filtered test MRR is too.
"""

from __future__ import annotations

import time
import traceback
from pathlib import Path

import torch

from benchmarks.gpu.stage import Stage
from benchmarks.inputs import zipf
from kgfast import backends
from kgfast.core.known import KnownTriples
from kgfast.nn import KGEModel
from kgfast.optim import RowAdagrad
from kgfast.steps import NegativeSamplingStep, OneVsAllStep, Step
from kgfast.steps.cuda_graph import CapturedStep
from kgfast.steps.host_tables import HostTablesStep

FB15K = dict(entities=14951, relations=1345, triples=483_142)
FB15K_237 = dict(entities=14541, relations=237, triples=272_115)
TINY = dict(entities=60, relations=5, triples=64)


def synthetic(entities: int, relations: int, triples: int):
    generator = torch.Generator().manual_seed(0)
    return torch.stack([zipf(count, triples, generator) for count in (entities, relations, entities)], 1)


def batches(triples, size: int, seed: int):
    """Shuffled batches without end, on the triples' device."""
    generator = torch.Generator(triples.device).manual_seed(seed)
    while True:
        order = torch.randperm(len(triples), device=triples.device, generator=generator)
        for begin in range(0, max(len(triples) - size, 0) + 1, size):
            yield triples[order[begin : begin + size]]


def train(stage: Stage, step, triples, size: int, seconds: float) -> dict:
    """Steps for so many seconds after a warm-up; the device is awaited every 20 steps. Captured where they can be."""
    source, index, last = batches(triples, size, 0), 0, None
    if stage.device.type == "cuda" and isinstance(step, Step):
        step = CapturedStep(step)
    for _ in range(2 if stage.tiny else 10):
        last, index = step(next(source), index), index + 1
    stage.synchronize()
    begin, first = time.perf_counter(), index
    while time.perf_counter() - begin < seconds:
        for _ in range(1 if stage.tiny else 20):
            last, index = step(next(source), index), index + 1
        stage.synchronize()
    elapsed = time.perf_counter() - begin
    done = (index - first) * size
    rates = {"triples_per_second": done / elapsed, "epochs": done / len(triples)}
    return {"steps": index - first, "seconds": elapsed, **rates, "loss": float(last)}


def marius(stage: Stage, impl: str, seconds: float) -> None:
    shape = TINY if stage.tiny else FB15K
    dim, batch, negatives = (16, 8, 8) if stage.tiny else (400, 10_000, 1_000)
    triples = synthetic(**shape).to(stage.device)
    model = KGEModel(shape["entities"], shape["relations"], dim, score="complex").to(stage.device)
    step = NegativeSamplingStep(model, RowAdagrad(model.parameters(), lr=0.1), negatives=negatives, sharing="batch",
                                objective="softmax", side="both", impl=impl)  # fmt: skip
    stage.keep(setting="marius", impl=impl, graph="synthetic, FB15k's shape", batch=batch, negatives=negatives, dim=dim,
               **train(stage, step, triples, batch, seconds))  # fmt: skip


def fetched(stage: Stage, impl: str, seconds: float) -> None:
    """Tables in host memory: rows and state of each step cross the bus twice."""
    shape = TINY if stage.tiny else dict(FB15K, entities=2_000_000)
    dim, batch, negatives = (16, 8, 8) if stage.tiny else (400, 10_000, 1_000)
    triples = synthetic(**shape)
    model = KGEModel(shape["entities"], shape["relations"], dim, score="complex")
    step = HostTablesStep(model, RowAdagrad(model.parameters(), lr=0.1), device=stage.device, negatives=negatives,
                       sharing="batch", objective="softmax", side="both", impl=impl)  # fmt: skip
    stage.keep(setting="tables in host memory", impl=impl, graph="synthetic, 2 million entities", batch=batch,
               negatives=negatives, dim=dim, **train(stage, step, triples, batch, seconds))  # fmt: skip


def recipe(stage: Stage, impl: str, seconds: float, data: Path | None) -> None:
    dim, batch = (16, 8) if stage.tiny else (2000, 1000)
    if data is None:
        shape, known = TINY if stage.tiny else FB15K_237, None
        train_triples = synthetic(**shape)
        entities, relations = shape["entities"], shape["relations"]
    else:
        from kgfast.data import KnowledgeGraph

        graph = KnowledgeGraph.load(data, cache=False)
        train_triples, entities, relations, known = graph.train, graph.num_entities, graph.num_relations, graph.known()
    model = KGEModel(entities, relations, dim, score="complex", reciprocal=True, init_scale=1e-3).to(stage.device)
    optimizer = RowAdagrad(model.parameters(), lr=0.1, full=True)
    step = OneVsAllStep(
        model, optimizer, side="both", regularizer="n3", regularizer_weight=5e-2, relation_weight=4.0, impl=impl
    )
    torch.set_float32_matmul_precision("high")  # one TF32 product instead of three, as users would train
    try:
        row = train(stage, step, train_triples.to(stage.device), batch, seconds)
    finally:
        torch.set_float32_matmul_precision("highest")
    row |= evaluate(stage, model, train_triples if data is None else graph.test, known, data is not None, impl)
    stage.keep(setting="fb15k-237, complex-n3, rank 1000, relation prediction, TF32", impl=impl, batch=batch, dim=dim,
               graph="synthetic, FB15k-237's shape" if data is None else data.name, **row)  # fmt: skip


def evaluate(stage: Stage, model, test, known, real: bool, impl: str) -> dict:
    """Filtered ranks of both sides: seconds, and the MRR where the graph is real."""
    test = test[: 8 if stage.tiny else 20466].to(stage.device)
    known = known or KnownTriples.from_triples(test.cpu(), model.num_entities, model.num_relations)
    known = known.to(stage.device)

    def ranks():
        return torch.cat([model.rank(test, side, known=known) for side in ("tail", "head")])

    found = ranks()
    seconds = stage.once(ranks)
    return {"evaluation_seconds": seconds, "evaluated": len(test)} | (
        {"mrr": float((1 / found).mean())} if real else {}
    )


if __name__ == "__main__":
    stage = Stage(
        __doc__,
        data={"type": Path, "help": "dataset folder of FB15k-237"},
        seconds={"type": float, "default": 45, "help": "of the recipe; other settings take a tenth"},
    )
    impls = [name for name in ("triton", "cuda") if backends.why_not(name, stage.device.type) is None]
    long = 0.05 if stage.tiny else stage.options.seconds
    settings = [(marius, impl, long / 10) for impl in impls]
    if "triton" in impls:
        settings += [(recipe, "triton", long, stage.options.data), (fetched, "triton", long / 10)]
    failed = []
    for setting, *arguments in settings:
        try:
            setting(stage, *arguments)
        except Exception as error:  # one that fails must not lose the others
            traceback.print_exc()
            failed.append(setting.__name__)
            stage.keep(setting=setting.__name__, impl=arguments[0], failed=f"{type(error).__name__}: {error}"[:300])
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
