"""Two commits side by side: `python -m benchmarks.compare BASE [--cases PART ..]`.

The base is built in a temporary git worktree with a build folder of its own; the cases are this checkout's for both.
Both are checked, then timed in turns. Prints both medians and their ratio (above 1: this checkout is faster).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import machine
from benchmarks.cases import CASES, find
from benchmarks.inputs import SIZES
from benchmarks.worker import Worker, WorkerError, in_turns

FACTORY = "benchmarks.compare:Contestant"


class Contestant:
    """kgfast's part of a case, in a worker."""

    def __init__(self, case: str, size: str, threads: int):
        torch.set_num_threads(threads)
        work = find(case).build(SIZES[size])
        self.check, self.call, self.units, self.unit = work.check, work.providers["kgfast"], work.units, work.unit


@contextmanager
def base_checkout(commit: str, console: Console):
    """A folder with the built commit, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="kgfast-base-") as parent:
        folder = Path(parent) / "base"
        git = ["git", "-C", str(machine.ROOT), "worktree"]
        added = subprocess.run([*git, "add", "--detach", str(folder), commit], capture_output=True, text=True)
        if added.returncode:
            raise SystemExit(f"BASE={commit}: {added.stderr.strip()}")
        try:
            shutil.rmtree(folder / "benchmarks", ignore_errors=True)
            shutil.copytree(
                machine.ROOT / "benchmarks", folder / "benchmarks", ignore=shutil.ignore_patterns("__pycache__")
            )
            console.print(f"building {commit}")
            build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
            built = subprocess.run(build, cwd=folder, capture_output=True, text=True)
            if built.returncode:
                raise SystemExit(f"BASE={commit} does not build:\n{(built.stdout + built.stderr)[-4000:]}")
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True, capture_output=True)


def compare(case: str, folders: dict[str, Path], options) -> dict:
    """{"case", "base", "here", "ratio"} in seconds; or the error of whichever can't run it."""
    workers = {name: Worker(FACTORY, folder=folder) for name, folder in folders.items()}
    found: dict = {"case": case}
    try:
        for name, worker in workers.items():
            try:
                found["units"] = worker.ask("prepare", case=case, size=options.size, threads=options.threads)["units"]
            except WorkerError as error:
                return {**found, "error": f"{name}: {error}"}
        in_turns(workers, 1, options.seconds)  # warm
        times = in_turns(workers, options.windows, options.seconds)
    finally:
        for worker in workers.values():
            worker.close()
    wrong = [f"{name}: {value}" for name, value in times.items() if isinstance(value, str)]
    if wrong:
        return {**found, "error": "; ".join(wrong)}
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [base / here for base, here in zip(times["base"], times["here"], strict=True)]
    return {**found, **medians, "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def chosen(parts: list[str] | None) -> list[str]:
    names = [str(case) for case in CASES]
    if not parts:
        return names
    found = [name for name in names if any(part in name for part in parts)]
    if not found:
        raise SystemExit(f"no case has {' or '.join(map(repr, parts))} in its name; there are {', '.join(names)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="commit, branch or tag")
    parser.add_argument("--cases", nargs="*", help="parts of the names of cases; default: all")
    parser.add_argument("--size", default="fb15k-237", choices=sorted(SIZES))
    parser.add_argument("--threads", type=int, default=machine.cores())
    parser.add_argument("--windows", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each window")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    cases, console = chosen(options.cases), Console(stderr=True, highlight=False)
    with base_checkout(options.base, console) as folder, Progress(console=console) as progress:
        task, rows = progress.add_task("cases", total=len(cases)), []
        for case in cases:
            progress.update(task, description=case)
            rows.append(compare(case, {"base": folder, "here": machine.ROOT}, options))
            progress.advance(task)
    if options.json:
        json.dump({"base": options.base, "here": machine.commit(), "rows": rows}, sys.stdout)
        return
    table = Table("case", f"{options.base} (ms)", f"{machine.commit()} (ms)", "faster by (range)")
    for row in rows:
        if "error" in row:
            table.add_row(row["case"], "", "", row["error"])
        else:
            spread = f"{row['ratio']:.2f} x ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
            table.add_row(row["case"], f"{1e3 * row['base']:.2f}", f"{1e3 * row['here']:.2f}", spread)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
