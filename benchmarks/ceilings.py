"""What this machine can do, measured in the run that is judged by it: `python -m benchmarks.ceilings [--json]`.

Arithmetic: the best rate of large matrix products (the libraries reach close to the peak of the multiply-add units).
Memory: reading one long array, and reading random rows of a table larger than the caches.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch

import kgfast
from benchmarks.machine import available_bytes, cores
from kgfast import backends

PRODUCTS = ((2048, 2048, 2048), (1024, 400, 14_541), (512, 256, 512))  # large, a batch against a graph, in cache
TINY_PRODUCTS = ((128, 128, 128),)
TABLE_BYTES = 8 << 30  # of 5 million rows: how far pages reach is part of what the machine can do
ROW = 400


def best_seconds(call, seconds: float) -> float:
    """The fastest of several calls: a ceiling is what the machine can do when nothing disturbs it."""
    call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def products(dtype) -> dict:
    """name -> function(a [M, K], b [N, K]) -> a @ b.T, for the libraries that torch carries."""
    found = {"matmul": lambda a, b: a @ b.T}
    if dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        found["onednn"] = lambda a, b: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return found


def arithmetic(seconds: float, tiny: bool) -> dict[str, float]:
    """GFLOP/s of matrix products: {"fp32 matmul": , "fp32 onednn": , "bf16 matmul": }, the best over the shapes."""
    rates: dict[str, float] = {}
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        for library, product in products(dtype).items():
            for m, k, n in TINY_PRODUCTS if tiny else PRODUCTS:
                a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
                rate = 2e-9 * m * k * n / best_seconds(lambda p=product, a=a, b=b: p(a, b), seconds)
                key = f"{name} {library}"
                rates[key] = max(rates.get(key, 0.0), rate)
    return rates


def memory(seconds: float, tiny: bool) -> dict[str, float]:
    """GB/s: {"stream": read one long array, "rows torch": index_select, "rows kgfast": scores of random ids}.

    Every row of a table on huge pages, in random order: fewer, read again and again, would come from the cache.
    """
    size = (1 << 22) if tiny else min(TABLE_BYTES, available_bytes() // 3)
    count = 128
    batch = size // (4 * ROW * count)
    table = torch.ones(batch * count, ROW)
    backends.get("cpu").use_huge_pages(table)
    ids = torch.randperm(batch * count, generator=torch.Generator().manual_seed(0)).view(batch, count)
    out = torch.empty(batch * count, ROW)
    flat = ids.flatten()
    triples = torch.zeros(batch, 3, dtype=torch.int64)
    relation = torch.ones(1, ROW)
    gathered = 4e-9 * ROW * ids.numel()
    candidates = lambda: kgfast.score_candidates(table, relation, triples, ids, score="distmult")  # noqa: E731
    return {
        "stream": 1e-9 * 4 * table.numel() / best_seconds(table.sum, seconds),
        "rows torch": gathered / best_seconds(lambda: torch.index_select(table, 0, flat, out=out), seconds),
        "rows kgfast": gathered / best_seconds(candidates, seconds),
    }


def measure(threads: tuple[int, ...] | None = None, *, seconds: float = 0.25, tiny: bool = False) -> dict:
    """{threads: {"fp32 matmul": GFLOP/s, .., "stream": GB/s, .., "arithmetic": best fp32, "random": best of rows}}."""
    before = torch.get_num_threads()
    found = {}
    for count in threads or sorted({1, cores()}):
        torch.set_num_threads(count)
        rates = {**arithmetic(seconds, tiny), **memory(seconds, tiny)}
        rates["arithmetic"] = max(rates[key] for key in rates if key.startswith("fp32"))
        rates["random"] = max(rates["rows torch"], rates["rows kgfast"])
        found[count] = {key: round(value, 3) for key, value in rates.items()}
    torch.set_num_threads(before)
    return found


def floor(bytes_: int, operations: int, access: str, rates: dict[str, float]) -> tuple[float, str]:
    """(seconds below which this work can't be done at these rates, what bounds it: "memory" or "arithmetic")."""
    moving = 1e-9 * bytes_ / rates[access]
    computing = 1e-9 * operations / rates["arithmetic"]
    return (moving, "memory") if moving > computing else (computing, "arithmetic")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="*", help="default: 1 and all cores")
    parser.add_argument("--seconds", type=float, default=0.5, help="spent on each probe")
    parser.add_argument("--tiny", action="store_true", help="small probes, to see that it runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(tuple(options.threads or ()) or None, seconds=options.seconds, tiny=options.tiny)
    if options.json:
        json.dump(found, sys.stdout)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("probe", *(f"{count} thread{'s' if count > 1 else ''}" for count in found))
    for key in next(iter(found.values())):
        unit = "GB/s" if key in ("stream", "random") or key.startswith("rows") else "GFLOP/s"
        table.add_row(f"{key} ({unit})", *(f"{rates[key]:,.1f}" for rates in found.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
