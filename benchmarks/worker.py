"""Contestants in processes of their own, timed in turns: (ours, theirs, ours, theirs, ..).

A child reads one JSON command a line and answers with one: prepare (build and check), window (time calls for some
seconds), memory. What it prints itself goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time

# glibc maps and faults every large temporary anew unless told otherwise: 2 to 5 times slower for whoever makes them
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "30000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "THP_MEM_ALLOC_ENABLE": "1",
}
REST = 0.05  # seconds between windows, in which threads of the last one go to sleep


class WorkerError(RuntimeError):
    """A child could not do what it was asked; the message is its own."""


class Worker:
    """One child. `factory` is "module:function"; prepare calls it with keyword arguments, and it returns an object with
    `check()`, `call()` and `units` (a call's)."""

    def __init__(self, factory: str, *, folder, environment: dict | None = None):
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", factory], cwd=folder, text=True,
            env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, command: str, **arguments):
        self.process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"the process ended with status {self.process.wait()} at {command!r}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def in_turns(workers: dict[str, Worker], windows: int, seconds: float, tell=lambda done, total: None) -> dict:
    """{name: [seconds a call in each window]}; a worker that fails is left out of the rest, its error in its place."""
    found: dict = {name: [] for name in workers}
    for number in range(windows):
        for name, worker in workers.items():
            if isinstance(found[name], str):
                continue
            try:
                found[name].append(worker.ask("window", seconds=seconds))
            except WorkerError as error:
                found[name] = str(error)
            time.sleep(REST)
        tell(number + 1, windows)
    return found


def window(call, seconds: float) -> float:
    """Seconds a call, over as many as fit, at least one."""
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


def serve(factory: str, source, answers) -> None:
    module, _, name = factory.partition(":")
    made = None
    for line in source:
        request = json.loads(line)
        command = request.pop("command")
        try:
            if command == "prepare":
                made = getattr(importlib.import_module(module), name)(**request)
                made.check()
                result = {"units": made.units, "unit": made.unit}
            elif command == "memory":
                from benchmarks.machine import peak_above

                if getattr(made, "compiled", False):
                    made.call()  # the compiler's memory is not the call's
                result = peak_above(made.call)
            elif command == "window":
                result = window(made.call, request["seconds"])
            else:
                raise ValueError(f"command {command!r}")
            answer = {"result": result}
        except Exception as error:  # whatever it is belongs to this contestant, and is told to the parent
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # prints of libraries must not mix with the answers
    serve(sys.argv[1], sys.stdin, answers)
