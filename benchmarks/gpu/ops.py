"""Times of the ops beside their rivals, in turns, and beside the floor: the time that the bytes that must move, or the
operations that must be done, take at this run's own ceilings.

Bytes count each distinct row that is used once read and, where it changes, once written; operations are those of the
matrix products. A distance's are not counted: its floor is that of its bytes.
"""

from __future__ import annotations

import json
import traceback

import torch

import kgfast
from benchmarks.gpu import rivals
from benchmarks.gpu.stage import Stage, summary
from kgfast import backends
from kgfast.nn import KGEModel
from kgfast.optim import RowAdagrad
from kgfast.registry import Update
from kgfast.steps import NegativeSamplingStep
from kgfast.steps.cuda_graph import CapturedStep

ENTITIES, RELATIONS, DIM, BATCH, NEGATIVES = 14541, 237, 400, 1024, 256  # FB15k-237
LARGE = 5_000_000  # entities: 8 GB of rows, far more than any cache
HEADS = ((4096, 32768, 1024), (8192, 128256, 4096))  # tokens, words, hidden size
TASKS, TASK_DIM = ((4096, 30522), (1024, 14541), (1024, 237), (128, 14541)), 768
QUERIES, RANK_DIM = 20466, 2000  # the test set of FB15k-237; ComplEx of rank 1000
TINY = dict(
    ENTITIES=60,
    RELATIONS=5,
    DIM=16,
    BATCH=6,
    NEGATIVES=8,
    LARGE=90,
    HEADS=((8, 64, 32),),
    QUERIES=6,
    RANK_DIM=16,
    TASKS=((4, 20), (3, 9)),
    TASK_DIM=16,
)


def ceilings(stage: Stage) -> dict:
    path = stage.options.part and stage.options.part.with_name("ceilings.json")
    rows = json.loads(path.read_text()) if path and path.exists() else []
    rates = {key: value for row in rows for key, value in row.items() if key != "kind"}
    if "tf32" in rates:  # three products are as exact as one of float32
        rates["float32 by TF32"] = max(rates["float32"], rates["tf32"] / 3)
    return rates


class Bench:
    def __init__(self, stage: Stage):
        self.stage, self.rates, self.generator = stage, ceilings(stage), torch.Generator().manual_seed(0)
        self.seconds = 0.01 if stage.tiny else stage.options.seconds
        self.impls = [name for name in ("triton", "cuda") if backends.why_not(name, stage.device.type) is None]

    def floor(self, count_bytes: int, operations: int, rate: str) -> dict:
        parts = {}
        if "read" in self.rates:
            parts["memory"] = count_bytes / max(self.rates["read"], self.rates["copy"])
        if operations and rate in self.rates:
            parts["arithmetic"] = operations / self.rates[rate]
        if not parts:
            return {}
        bound = max(parts, key=parts.get)
        return {"floor": parts[bound], "bound": bound}

    def case(
        self, name: str, calls: dict, *, count_bytes: int = 0, operations: int = 0, rate="bfloat16", cold=False, **sizes
    ):
        """One row a provider. A provider that fails (out of memory, say) is named with its error; others are timed."""
        ready = {}
        for provider, call in calls.items():
            try:
                call()
                self.stage.synchronize()
                # a graph holds its memory before it is replayed
                ready[provider] = (call, None if "captured" in provider else self.stage.peak_above(call))
            except Exception as error:  # compilers' errors are of no common kind
                self.stage.keep(case=name, provider=provider, failed=f"{type(error).__name__}: {error}"[:300])
        times = self.stage.in_turns({provider: call for provider, (call, _) in ready.items()}, self.seconds, cold)
        least = self.floor(count_bytes, operations, rate)
        for provider, seconds in times.items():
            found = summary(seconds)
            row = {"case": name, "provider": provider, **found, "peak_bytes": ready[provider][1], "cold": cold, **least}
            if least:
                row["fraction"] = least["floor"] / found["seconds"]
            self.stage.keep(**row, bytes=count_bytes, operations=operations, sizes=sizes)

    def triples(self, batch: int, entities: int):
        high = torch.tensor([entities, RELATIONS, entities])
        return (torch.rand(batch, 3, generator=self.generator) * high).long().to(self.stage.device)

    def model(self, entities: int, score: str, dim: int):
        """A model whose entities are made on the device: a large table would else take longer to make than to time."""
        model = KGEModel(1, RELATIONS, dim, score=score).to(self.stage.device)
        rows = torch.randn(entities, dim, device=self.stage.device).mul_(dim**-0.25)
        model.entities, model.num_entities = torch.nn.Parameter(rows), entities
        return model

    def sampled_steps(self, entities: int, score: str, shared: bool, compiled=False) -> None:
        triples = self.triples(BATCH, entities)
        calls, model = {}, self.model(entities, score, DIM)
        for impl in self.impls:
            step = NegativeSamplingStep(model, RowAdagrad(model.parameters(), lr=0.1), negatives=NEGATIVES, side="tail",
                                        sharing="batch" if shared else "none", impl=impl)  # fmt: skip
            calls[f"kgfast {impl}"] = lambda step=step: step(triples, 1)
            if self.stage.device.type == "cuda":
                captured = CapturedStep(step)
                calls[f"kgfast {impl}, captured"] = lambda captured=captured: captured(triples, 1)
        tables = model.entities.detach(), model.relations.detach()
        options = dict(score=score, negatives=NEGATIVES, shared=shared)
        eager = rivals.SampledStep(*tables, **options)
        calls["torch eager"] = lambda: eager(triples, 1)
        if compiled and not self.stage.tiny:
            fast = rivals.SampledStep(*tables, **options, compiled=True)
            calls["torch.compile"] = lambda: fast(triples, 1)
        rows = BATCH * 3 + (NEGATIVES if shared else BATCH * NEGATIVES)
        distinct = min(rows, entities)
        self.case(f"step, {score}, {'shared' if shared else 'own'} negatives, {entities} entities", calls,
                  count_bytes=8 * DIM * (distinct + min(BATCH, RELATIONS)), cold=True, batch=BATCH, negatives=NEGATIVES,
                  dim=DIM, entities=entities)  # fmt: skip

    def draws(self) -> None:
        triples = self.triples(BATCH, ENTITIES)
        options = dict(side="tail", seed=1, step=2)
        sizes = triples, NEGATIVES, ENTITIES
        calls = {
            f"kgfast {impl}": lambda impl=impl: kgfast.sample_negatives(*sizes, impl=impl, **options)
            for impl in self.impls
        }
        calls["torch eager"] = lambda: torch.randint(ENTITIES, (BATCH, NEGATIVES), device=self.stage.device)
        self.case("sample_negatives", calls, count_bytes=8 * BATCH * NEGATIVES, batch=BATCH, negatives=NEGATIVES)

    def touched_rows(self) -> None:
        device = self.stage.device
        query, table = (torch.randn(rows, DIM, device=device) for rows in (BATCH, ENTITIES))
        ids = torch.randint(ENTITIES, (BATCH, 1 + NEGATIVES), generator=self.generator).to(device)
        coefficients, state = torch.randn(ids.shape, device=device), torch.ones(ENTITIES, device=device)
        calls = {}
        for impl in self.impls:
            backend = backends.get(impl)
            update = backend.row_update(Update.ROW_ADAGRAD, table.clone(), (state.clone(),), lr=1e-6, eps=1e-8)
            calls[f"kgfast {impl}"] = lambda backend=backend, update=update: backend.reduce_rows(
                query, table, ids, coefficients, [], 0, update
            )
        moved = 8 * DIM * min(ids.numel(), ENTITIES) + 4 * DIM * BATCH + 12 * ids.numel()
        self.case(
            "reduce_rows, dot, row-wise Adagrad", calls, count_bytes=moved, batch=BATCH, negatives=NEGATIVES, dim=DIM
        )

    def all_candidates(self) -> None:
        dim = RANK_DIM
        triples = self.triples(BATCH, ENTITIES)
        model = self.model(ENTITIES, "complex", dim)
        tables = [model.entities.detach(), model.relations.detach()]
        options = dict(score="complex", side="tail", impl="triton")

        def ours():
            leaves = [table.detach().requires_grad_() for table in tables]
            loss = kgfast.one_vs_all_loss(*leaves, triples, **options)
            return loss, torch.autograd.grad(loss, leaves)

        rows = tables[0][triples[:, 0]], tables[1][triples[:, 1]], tables[0], triples[:, 2].contiguous()
        eager = rivals.all_candidates("complex")
        calls = {"kgfast triton": ours} if "triton" in self.impls else {}
        calls["torch eager"] = lambda: eager(*rows)
        if not self.stage.tiny:  # the dry run does not wait for the compiler
            fast = rivals.all_candidates("complex", compiled=True)
            calls["torch.compile"] = lambda: fast(*rows)
        self.case("one_vs_all_loss and gradients, complex", calls, operations=6 * BATCH * ENTITIES * dim,
                  rate="float32 by TF32", batch=BATCH, entities=ENTITIES, dim=dim)  # fmt: skip

    def heads(self) -> None:
        for tokens, words, size in HEADS:
            self.head(tokens, words, size)

    def head(self, tokens: int, words: int, size: int) -> None:
        device = self.stage.device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        hidden = torch.randn(tokens, size, device=device).to(dtype)
        weight = (torch.randn(words, size, device=device) * size**-0.5).to(dtype)
        targets = torch.randint(words, (tokens,), generator=self.generator).to(device)
        losses = {"torch eager": rivals.language_head(), "Liger": rivals.liger_head()}
        if "triton" in self.impls:
            ours = rivals.with_gradients(lambda *inputs: kgfast.linear_cross_entropy(*inputs, impl="triton"))
            losses = {"kgfast triton": ours} | losses
        if not self.stage.tiny:
            losses["torch.compile"] = rivals.language_head(compiled=True)
        calls = {name: lambda call=call: call(hidden, weight, targets) for name, call in losses.items() if call}
        self.case(f"linear_cross_entropy and gradients, {tokens} x {words} x {size}", calls,
                  operations=6 * tokens * words * size, tokens=tokens, words=words, size=size)  # fmt: skip

    def several_tasks(self) -> None:
        """A step's losses together: a language head, links and relations over the same hidden size."""
        device = self.stage.device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        made = []
        for batch, count in TASKS:
            rows = torch.randn(batch, TASK_DIM, device=device).to(dtype)
            table = (torch.randn(count, TASK_DIM, device=device) * TASK_DIM**-0.5).to(dtype)
            made.append((rows, table, torch.randint(count, (batch,), generator=self.generator).to(device)))

        def with_gradients(total):
            leaves = [leaf.detach().requires_grad_() for rows, table, _ in made for leaf in (rows, table)]
            value = total(leaves)
            return value, torch.autograd.grad(value, leaves)

        def ours(leaves):
            terms = [kgfast.Term(*leaves[2 * i : 2 * i + 2], targets) for i, (_, _, targets) in enumerate(made)]
            return kgfast.multitask_loss(terms, impl="triton")[0]

        def eager(leaves):
            logits = (leaves[2 * i] @ leaves[2 * i + 1].T for i in range(len(made)))
            return sum(
                torch.nn.functional.cross_entropy(one.float(), task[2]) for one, task in zip(logits, made, strict=True)
            )

        calls = {"kgfast triton": lambda: with_gradients(ours)} if "triton" in self.impls else {}
        calls["torch eager"] = lambda: with_gradients(eager)
        if not self.stage.tiny:
            compiled = torch.compile(eager)
            calls["torch.compile"] = lambda: with_gradients(compiled)
        shapes = ", ".join(f"{batch} x {count}" for batch, count in TASKS)
        self.case(f"multitask_loss and gradients, {shapes}, hidden size {TASK_DIM}", calls,
                  operations=sum(6 * batch * count * TASK_DIM for batch, count in TASKS))  # fmt: skip

    def ranking(self) -> None:
        device, triples = self.stage.device, self.triples(QUERIES, ENTITIES)
        model = self.model(ENTITIES, "complex", RANK_DIM)
        known = kgfast.KnownTriples.from_triples(triples.cpu(), ENTITIES, RELATIONS).to(device)
        tables = model.entities.detach(), model.relations.detach()
        options = dict(score="complex", side="tail", known=known)
        calls = {f"kgfast {impl}": lambda impl=impl: kgfast.rank(*tables, triples, impl=impl, **options)
                 for impl in self.impls if impl == "triton"}  # fmt: skip

        def eager():
            for chunk in triples.split(2048):
                scores = (
                    kgfast.reference.SCORES["complex"].tail_query(tables[0][chunk[:, 0]], tables[1][chunk[:, 1]])
                    @ tables[0].T
                )
                own = scores.gather(1, chunk[:, 2:])
                (scores > own).sum(1), (scores == own).sum(1)

        calls["torch eager, unfiltered"] = eager
        self.case("rank, filtered, one side of FB15k-237's test set", calls, rate="float32 by TF32",
                  operations=2 * QUERIES * ENTITIES * RANK_DIM, queries=QUERIES, dim=RANK_DIM)  # fmt: skip


def main() -> None:
    stage = Stage(__doc__, seconds={"type": float, "default": 1.5, "help": "of measuring each case, about"})
    if stage.tiny:
        globals().update(TINY)
    bench = Bench(stage)
    wanted = [
        lambda: bench.sampled_steps(ENTITIES, "transe_l1", False, compiled=True),
        lambda: bench.sampled_steps(LARGE, "complex", False),
        lambda: bench.sampled_steps(ENTITIES, "complex", True, compiled=True),
        bench.heads,
        bench.several_tasks,
        bench.all_candidates,
        bench.ranking,
        bench.touched_rows,
        bench.draws,
        lambda: bench.sampled_steps(ENTITIES, "complex", False),
        lambda: bench.sampled_steps(ENTITIES, "rotate", False),
        lambda: bench.sampled_steps(LARGE, "transe_l1", False),
    ]  # the most wanted first: a time limit may end the list
    failed = 0
    for measure in wanted:
        try:
            measure()
        except Exception:  # one case that can't be made must not lose the others
            traceback.print_exc()
            failed += 1
        if stage.device.type == "cuda":
            torch.cuda.empty_cache()
    if failed:
        raise SystemExit(f"{failed} cases could not be timed")


if __name__ == "__main__":
    main()
