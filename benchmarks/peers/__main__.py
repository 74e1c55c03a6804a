"""`python -m benchmarks.peers --data FOLDER [--peers torch,compile,pykeen,pyg,torchkge]`: the same work, in turns.

Every contestant runs in a process of its own, glibc's malloc tuned for all; first it is checked, then windows alternate
with kgfast's. A library that isn't installed is skipped, with the line that installs it.
"""

from __future__ import annotations

import argparse
import statistics
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.peers.work import KINDS, SCORES
from benchmarks.worker import MALLOC, Worker, WorkerError, in_turns

INDEPENDENT, SHARED, ALL, EVALUATE = KINDS
LIBRARY = SCORES[:4]  # torch has a kernel for their similarity to all
EVERYTHING = {kind: SCORES for kind in KINDS}
TORCHKGE = ("transe_l1", "distmult", "complex")
# name -> class, module it needs, package on PyPI, kind -> scores it can do
PEERS = {
    "kgfast": ("contestants:Kgfast", None, "kgfast", EVERYTHING),
    "torch": ("contestants:Torch", None, "torch", {**EVERYTHING, SHARED: LIBRARY, ALL: LIBRARY}),
    "compile": ("contestants:Compiled", None, "torch", {INDEPENDENT: SCORES, SHARED: LIBRARY, ALL: LIBRARY}),
    "pykeen": ("libraries:PyKEEN", "pykeen", "pykeen", {INDEPENDENT: SCORES, ALL: SCORES, EVALUATE: SCORES}),
    "pyg": ("libraries:PyG", "torch_geometric", "torch_geometric", {INDEPENDENT: LIBRARY}),
    "torchkge": ("libraries:TorchKGE", "torchkge", "torchkge", {INDEPENDENT: TORCHKGE}),
}  # fmt: skip
# what is measured unless asked otherwise: one score for each kind of similarity that matters there
DEFAULT_SCORES = {
    INDEPENDENT: ("transe_l1", "distmult", "complex", "rotate"),
    SHARED: ("transe_l1", "transe_l2", "distmult", "complex"),
    ALL: ("complex",),
    EVALUATE: ("transe_l1", "complex"),
}
TINY = {"size": "tiny", "dim": 16, "batch": 48, "negatives": 8, "test": 24}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="synthetic", help="dataset folder; default: a graph like FB15k-237")
    parser.add_argument("--peers", default=",".join(name for name in PEERS if name != "kgfast"))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--scores", help="default: those that matter for each kind of work")
    parser.add_argument("--dim", type=int, default=400, help="reals of an entity row")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--negatives", type=int, default=256)
    parser.add_argument("--test", type=int, default=1024, help="triples ranked in a call of `evaluate`")
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each window; a window is one call at least")
    parser.add_argument("--tiny", action="store_true", help="a small graph, one window; keeps nothing")
    parser.add_argument("--results", type=Path, help="default: results/<machine>-peers.jsonl")
    options = parser.parse_args()
    for name, allowed in (("peers", PEERS), ("kinds", KINDS), ("scores", SCORES)):
        given = getattr(options, name)
        wrong = [one for one in (given or "").split(",") if one and one not in allowed]
        if wrong:
            parser.error(f"--{name}: {wrong[0]!r} is unknown; there are {', '.join(allowed)}")
    return options


def available(names: list[str], console: Console) -> list[str]:
    """Those that are installed; tells how to get the others."""
    found = []
    for name in names:
        _, module, package, _ = PEERS[name]
        if module is None or find_spec(module):
            found.append(name)
        else:
            console.print(f"{name} isn't installed, skipped: pip install {package}")
    return found


def contend(kind: str, score: str, peer: str, job: dict, options, console: Console) -> list[dict]:
    """Rows of kgfast and one peer at the same work; none where one of them fails its check."""
    names = ["kgfast", peer]
    workers = {
        name: Worker(f"benchmarks.peers.{PEERS[name][0]}", folder=machine.ROOT, environment=MALLOC) for name in names
    }
    try:
        prepared, memory = {}, {}
        for name, worker in workers.items():
            console.print(f"[dim]{kind} {score}: preparing {name}[/dim]")
            prepared[name] = worker.ask("prepare", kind=kind, score=score, **job)
            memory[name] = worker.ask("memory")
        in_turns(workers, 1, min(1.0, options.seconds))  # warm
        times = in_turns(workers, options.windows, options.seconds)
    except WorkerError as error:
        console.print(f"[red]{kind} {score} {peer}: {error}[/red]")
        return []
    finally:
        for worker in workers.values():
            worker.close()
    rows = []
    for name in names:
        if isinstance(times[name], str):
            console.print(f"[red]{kind} {score} {name}: {times[name]}[/red]")
            return []
        rates = [prepared[name]["units"] / seconds for seconds in times[name]]
        rows.append({
            "kind": "peer", "work": kind, "score": score, "peer": name, "against": peer, **prepared[name],
            "per_second": statistics.median(rates), "per_second_min": min(rates), "per_second_max": max(rates),
            "windows": len(rates), "peak_memory_bytes": memory[name], "version": machine.installed(PEERS[name][2]),
        })  # fmt: skip
    ours, theirs = rows
    ratio = ours["per_second"] / theirs["per_second"]
    rates = f"kgfast {ours['per_second']:,.0f}, {peer} {theirs['per_second']:,.0f} {ours['unit']}/s"
    console.print(f"{kind} {score}: {rates}: {ratio:.1f} x")
    return rows


def main() -> None:
    options, console = arguments(), Console(stderr=True, highlight=False)
    peers = available([name for name in options.peers.split(",") if name and name != "kgfast"], console)
    job = dict(data=options.data, dim=options.dim, batch=options.batch, negatives=options.negatives, test=options.test,
               threads=options.threads)  # fmt: skip
    if options.tiny:
        job.update(TINY)
        options.windows, options.seconds = 1, 0.05
    path = options.results or (None if options.tiny else machine.RESULTS / f"{machine.machine()}-peers.jsonl")
    about = {**machine.environment(), "threads": options.threads, "data": Path(options.data).name,
             "sizes": {key: job[key] for key in ("dim", "batch", "negatives", "test")}}  # fmt: skip
    failed = 0
    for kind in options.kinds.split(","):
        for score in options.scores.split(",") if options.scores else DEFAULT_SCORES[kind]:
            for peer in peers:
                if score not in PEERS[peer][3].get(kind, ()):
                    continue
                rows = contend(kind, score, peer, job, options, console)
                failed += not rows
                if path is not None and rows:
                    machine.append([{**about, **row} for row in rows], path)
    if failed:
        raise SystemExit(f"{failed} comparison(s) failed, see above")


if __name__ == "__main__":
    main()
