"""What a launch costs the host by either way, and the first call in a new process: CUDA C++ through the module, and
Triton's launcher.

The kernels are small, so that the host is what takes the time: seconds a call over many calls, the device awaited once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import torch

from benchmarks.gpu.stage import Stage
from kgfast import backends

CALLS, BATCH, NEGATIVES, ENTITIES, DIM = 300, 1024, 256, 14541, 400


def work(way: str, device, tiny: bool):
    """(a call of sampled_loss with own negatives, the same op by each way; None) or (None, why there is none)."""
    batch, negatives, entities, dim = (4, 16, 60, 16) if tiny else (BATCH, NEGATIVES, ENTITIES, DIM)
    reason = backends.why_not(way, device.type)
    if reason:
        return None, reason
    torch.manual_seed(0)  # every way gets the same work, and must give the same loss
    backend, none = backends.get(way), torch.empty(0, dtype=torch.int64, device=device)
    query, table = (torch.randn(rows, dim, device=device) for rows in (batch, entities))
    targets, ids = (torch.randint(entities, shape, device=device) for shape in ((batch,), (batch, negatives)))
    weights, room = torch.full((batch,), 1 / batch, device=device), backend.workspace(device)
    return lambda: backend.sampled_loss(query, table, targets, ids, none, none, none, weights, 0, 0, 9.0, 0.0, True,
                                        allocate=room, check=False), None  # fmt: skip


def measure(stage: Stage, way: str) -> dict:
    call, reason = work(way, stage.device, stage.tiny)
    if call is None:
        return {"way": way, "skipped": reason}
    first = stage.once(call)
    second = stage.once(call)
    calls = 2 if stage.tiny else CALLS
    host = stage.once(lambda: [call() for _ in range(calls)]) / calls
    row = {"way": way, "loss": float(call()[0].sum()), "first_call": first, "alone": second, "in_a_row": host}
    return row


if __name__ == "__main__":
    stage = Stage(__doc__, way={"choices": ("cuda", "triton"), "help": "one way, in this process"})
    if stage.options.way:
        print(json.dumps(measure(stage, stage.options.way)))
    else:
        for way in ("cuda", "triton"):
            arguments = ["--device", stage.device.type, *(["--tiny"] if stage.tiny else []), "--way", way]
            for cache in ("empty", "filled"):  # Triton's own cache on disk
                if cache == "empty":
                    folder = tempfile.TemporaryDirectory()
                command = [sys.executable, "-m", "benchmarks.gpu.launches", *arguments]
                environment = {**os.environ, "TRITON_CACHE_DIR": folder.name}
                run = subprocess.run(command, capture_output=True, text=True, env=environment)
                if run.returncode:
                    stage.keep(way=way, cache=cache, failed=run.stderr[-500:])
                    continue
                stage.keep(cache=cache, **json.loads(run.stdout.splitlines()[-1]))
        losses = [row["loss"] for row in stage.rows if "loss" in row]
        if losses and max(losses) - min(losses) > 1e-4 * abs(losses[0]):
            raise SystemExit(f"the ways differ: {losses}")
