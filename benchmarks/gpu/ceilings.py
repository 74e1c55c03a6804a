"""What the chip can do, measured in the run that is judged by it: bandwidth, random rows, matrix products."""

from __future__ import annotations

import torch

from benchmarks.gpu.stage import Stage

ROW = 400


def bandwidths(stage: Stage) -> dict:
    """Bytes a second: a copy (read and written), a sum (read), rows at random (read and written)."""
    count = 1 << (12 if stage.tiny else 30)
    source = torch.ones(count // 4, device=stage.device)
    target = torch.empty_like(source)
    table = source[: len(source) // ROW * ROW].view(-1, ROW)
    ids = torch.randint(len(table), (max(len(table) // 4, 1),), device=stage.device)
    rows = torch.empty(len(ids), ROW, device=stage.device)
    moved = {"copy": 8 * len(source), "read": 4 * len(source), "random rows": 8 * rows.numel()}
    calls = {
        "copy": lambda: target.copy_(source),
        "read": lambda: source.sum(),
        "random rows": lambda: torch.index_select(table, 0, ids, out=rows),
    }
    times = stage.in_turns(calls, 1.0, cold=True)
    return {name: moved[name] / min(seconds) for name, seconds in times.items()}


def products(stage: Stage) -> dict:
    """Operations a second of matrix products by torch: float32, TF32, bfloat16."""
    size = 64 if stage.tiny else 8192
    rates = {}
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        a, b = (torch.randn(size, size, device=stage.device).to(dtype) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = tf32
        times = stage.in_turns({name: lambda a=a, b=b: a @ b}, 0.5, cold=False)
        rates[name] = 2 * size**3 / min(times[name])
    torch.backends.cuda.matmul.allow_tf32 = False
    return rates


if __name__ == "__main__":
    stage = Stage(__doc__)
    stage.keep(kind="bytes per second", **bandwidths(stage))
    stage.keep(kind="operations per second", **products(stage))
