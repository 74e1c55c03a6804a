"""Losses over all candidates beside torch eager, torch.compile, torch's own fused loss, Liger and QuACK, with the
time of the three products that each of them needs, made in the same rounds, and peak memory.

    benchmarks/gpu.sh build heads report          this stage alone, under three minutes after the build

It refuses to run beside another process on the device. Each row has provider, version and mode; `share_of_products` is
the products' time divided by the row's.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import time
import traceback

import torch
from torch.nn.functional import cross_entropy

import kgfast
from benchmarks.gpu.rivals import with_gradients
from benchmarks.gpu.stage import Stage, summary

BFLOAT, FLOAT = torch.bfloat16, torch.float32
# tokens, words, hidden size, dtype, float32 precision
HEADS = [(4096, 30522, 768, BFLOAT, "highest"), (8192, 50257, 1024, BFLOAT, "highest"),
         (4096, 32768, 1024, BFLOAT, "highest"), (1024, 14541, 2000, FLOAT, "highest"),
         (1024, 14541, 2000, FLOAT, "high"), (8192, 128256, 4096, BFLOAT, "highest"),
         (16384, 151936, 2048, BFLOAT, "highest")]  # fmt: skip
TASKS, TASK_DIM = ((4096, 30522), (1024, 14541), (1024, 237), (128, 14541)), 768
TINY_HEADS, TINY_TASKS, TINY_DIM = [(8, 61, 32, FLOAT, "highest")], ((4, 20), (3, 9)), 16


def refuse_company(device: torch.device) -> None:
    """Ends the stage where another process computes on the device: its times would be of both."""
    if device.type != "cuda":
        return
    query = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader", f"--id={torch.cuda.current_device()}"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"nvidia-smi can't tell whether the device is free: {error}") from error
    if len(found) > 1:  # this process is one of them, by whatever number it has outside
        raise SystemExit(f"another process is on the device: nvidia-smi lists {', '.join(found)}")


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def optional(module: str, name: str):
    """A function of a package that may not be here, or None."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def head_losses(tiny: bool) -> dict:
    """{provider, version and mode: loss(hidden, weight, targets)}."""

    def eager(hidden, weight, targets):
        return cross_entropy((hidden @ weight.T).float(), targets)

    def ours(memory):
        return lambda *inputs: kgfast.linear_cross_entropy(*inputs, memory=memory, impl="triton")

    found = {f"kgfast triton, {memory}": ours(memory) for memory in ("fast", "low")}
    found[f"torch {torch.__version__}, eager"] = eager
    if not tiny:
        found[f"torch {torch.__version__}, compile"] = torch.compile(eager)
    if own := optional("torch.nn.functional", "linear_cross_entropy"):
        found[f"torch {torch.__version__}, linear_cross_entropy"] = own
    if liger := optional("liger_kernel.transformers", "LigerFusedLinearCrossEntropyLoss"):
        fused = liger()
        found[f"Liger {version('liger-kernel')}, default"] = lambda hidden, weight, y: fused(weight, hidden, y)
    if quack := optional("quack.linear_cross_entropy", "chunked_linear_cross_entropy"):
        found[f"QuACK {version('quack-kernels')}, chunked"] = quack
    return found


def products(query: torch.Tensor, table: torch.Tensor):
    """The three products alone, into memory that is there, over a padded number of rows where the table's is odd."""
    padded = torch.nn.functional.pad(table, (0, 0, 0, -len(table) % 8))
    scores = query.new_empty((len(query), len(padded)))
    grad_query, grad_table = torch.empty_like(query), torch.empty_like(padded)

    def call():
        torch.mm(query, padded.t(), out=scores)
        torch.mm(scores, padded, out=grad_query)
        torch.mm(scores.t(), query, out=grad_table)

    return call


class Heads:
    def __init__(self, stage: Stage):
        self.stage, self.seconds = stage, 0.01 if stage.tiny else stage.options.seconds
        self.end = time.monotonic() + stage.options.limit

    def rows(self, count: int, dim: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(count, dim, device=self.stage.device) * scale).to(dtype)

    def case(self, name: str, calls: dict, **sizes) -> None:
        """Rows of one case; "three products" is the one that others are measured by."""
        ready, peaks = {}, {}
        for provider, call in calls.items():
            try:
                call()
                self.stage.synchronize()
                peaks[provider] = self.stage.peak_above(call)
                ready[provider] = call
            except Exception as error:  # compilers' errors are of no common kind
                self.stage.keep(case=name, provider=provider, failed=f"{type(error).__name__}: {error}"[:300])
        found = {provider: summary(all) for provider, all in self.stage.in_turns(ready, self.seconds, False).items()}
        least = found.get("three products", {}).get("seconds")
        for provider, row in found.items():
            share = {"share_of_products": least / row["seconds"]} if least else {}
            self.stage.keep(case=name, provider=provider, **row, **share, peak_bytes=peaks[provider], sizes=sizes)

    def head(self, tokens: int, words: int, size: int, dtype: torch.dtype, precision: str) -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            hidden, weight = self.rows(tokens, size, dtype), self.rows(words, size, dtype, size**-0.5)
            targets = torch.randint(words, (tokens,), device=self.stage.device)
            losses = {name: with_gradients(loss) for name, loss in head_losses(self.stage.tiny).items()}
            calls = {name: lambda loss=loss: loss(hidden, weight, targets) for name, loss in losses.items()}
            calls["three products"] = products(hidden, weight)
            word = str(dtype).removeprefix("torch.") + (f", {precision}" if dtype == FLOAT else "")
            self.case(f"head, {tokens} x {words} x {size}, {word}", calls, tokens=tokens, words=words, size=size)
        finally:
            torch.set_float32_matmul_precision(before)

    def several(self, tasks, dim: int, dtype: torch.dtype) -> None:
        made = [(self.rows(batch, dim, dtype), self.rows(count, dim, dtype, dim**-0.5),
                 torch.randint(count, (batch,), device=self.stage.device)) for batch, count in tasks]  # fmt: skip

        def with_gradients_of_all(total):
            leaves = [leaf.detach().requires_grad_() for query, table, _ in made for leaf in (query, table)]
            return torch.autograd.grad(total(leaves), leaves)

        def ours(memory):
            def total(leaves):
                terms = [kgfast.Term(*leaves[2 * i : 2 * i + 2], task[2]) for i, task in enumerate(made)]
                return kgfast.multitask_loss(terms, memory=memory, impl="triton")[0]

            return total

        def eager(leaves):
            logits = [leaves[2 * i] @ leaves[2 * i + 1].T for i in range(len(made))]
            return sum(cross_entropy(one.float(), task[2]) for one, task in zip(logits, made, strict=True))

        totals = {f"kgfast triton, {memory}": ours(memory) for memory in ("fast", "low")}
        totals[f"torch {torch.__version__}, eager"] = eager
        if not self.stage.tiny:
            totals[f"torch {torch.__version__}, compile"] = torch.compile(eager)
        calls = {name: lambda total=total: with_gradients_of_all(total) for name, total in totals.items()}
        alone = [products(query, table) for query, table, _ in made]
        calls["three products"] = lambda: [one() for one in alone]
        self.case(f"several tasks, {', '.join(f'{b} x {c}' for b, c in tasks)}, hidden size {dim}", calls)

    def all(self) -> None:
        """Until the time is over; what is left out is named."""
        heads, tasks, dim = (TINY_HEADS, TINY_TASKS, TINY_DIM) if self.stage.tiny else (HEADS, TASKS, TASK_DIM)
        several_dtype = FLOAT if self.stage.tiny else BFLOAT
        cases = [
            lambda: self.several(tasks, dim, several_dtype),
            *(lambda head=head: self.head(*head) for head in heads),
        ]
        failed = 0
        for place, measure in enumerate(cases):
            if time.monotonic() > self.end:
                self.stage.keep(case=f"number {place} of {len(cases)}", failed="the time of the stage was over")
                continue
            refuse_company(self.stage.device)
            try:
                measure()
            except Exception:  # one case that can't be made must not lose the others
                traceback.print_exc()
                failed += 1
            if self.stage.device.type == "cuda":
                torch.cuda.empty_cache()
        if failed:
            raise SystemExit(f"{failed} cases could not be timed")


def main() -> None:
    stage = Stage(__doc__, seconds={"type": float, "default": 0.8, "help": "of measuring each case, about"},
                  limit={"type": float, "default": 150.0, "help": "seconds after which no case is begun"})  # fmt: skip
    Heads(stage).all()


if __name__ == "__main__":
    main()
