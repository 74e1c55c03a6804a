"""Fuzzing: calls of the public functions, right and wrong, and files. `python tests/fuzz --calls 20000 --files 5000`.

The work is done in child processes, which may crash or hang: then the case is noted and another child goes on. All that
a child does follows from the seed. What failed is printed, and kept in build/fuzz.txt, as lines of which each makes its
case again: `python tests/fuzz LINE`.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent / "helpers")]
BUSY, SILENT = 20.0, 300.0  # seconds of work, and by the clock, that a case may take
MEMORY = 16 << 30  # of addresses: torch alone asks for several GB
KINDS = ("right", "wrong", "files")


def use_extension(path: str) -> None:
    """Another build of the compiled module, such as a sanitizer's."""
    import torch  # noqa: F401  its OpenMP runtime must be loaded before

    spec = importlib.util.spec_from_file_location("kgfast._C", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["kgfast._C"] = module
    from kgfast.backends import cpu

    assert cpu._C is module


# ---- in a child -------------------------------------------------------------------------------------------------


def right(count: int, seed: int) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """(line, check) of calls that are right."""
    import hypothesis
    from right_inputs import cases

    found: list[dict] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=cases())
    def collect(case: dict) -> None:
        found.append(case)

    collect()
    for case in found:
        yield repr(case), functools.partial(wrong_number, case)


def wrong_number(case: dict) -> str | None:
    from right_calls import check

    try:
        check(case)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def wrong(count: int, seed: int) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """(line, check) of calls with one or two arguments that are wrong."""
    import wrong_calls
    from wrong_arguments import IMPLS
    from wrong_functions import FUNCTIONS, STEPS

    chance, names = random.Random(seed), list(FUNCTIONS)
    for _ in range(count):
        name = chance.choice(names)
        arguments = wrong_calls.arguments_of(name)
        asked = chance.sample(sorted(arguments), k=min(chance.choice((1, 1, 2)), len(arguments)))
        places = {argument: chance.choice(sorted(arguments[argument].wrong)) for argument in asked}
        impl = chance.choice(IMPLS) if name not in STEPS else None
        yield repr((name, places, impl)), functools.partial(wrong_calls.complaint, name, places, impl)


def files(count: int, seed: int) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """(line, check) of folders with files that were changed."""
    from mutated_files import complaint

    for number in range(count):
        yield repr((number, seed)), functools.partial(complaint, number, seed)


def child(kind: str, count: int, first: int, seed: int) -> None:
    """Prints `> line` before each case from `first` on, `! complaint` after one that fails."""
    import resource
    import warnings

    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    for number, (line, check) in enumerate({"right": right, "wrong": wrong, "files": files}[kind](count, seed)):
        if number >= first:
            print(f"> {line}", flush=True)
            signal.setitimer(signal.ITIMER_PROF, BUSY)  # ends the process where a case does not end
            if found := check():
                print(f"! {ascii(found)}", flush=True)
    print("done", flush=True)


# ---- in the parent ------------------------------------------------------------------------------------------------


class Child:
    """A child process, line by line; a wait that is too long ends it."""

    def __init__(self, words: list[str]):
        command = [sys.executable, str(HERE), *words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        self.rest = b""

    def lines(self) -> Iterator[str]:
        """What it prints; ends with the process, or raises TimeoutError."""
        assert self.process.stdout is not None and self.process.stderr is not None
        streams, errors = [self.process.stdout, self.process.stderr], b""
        while streams:
            ready, _, _ = select.select(streams, [], [], SILENT)
            if not ready:
                self.process.kill()
                self.process.wait()
                raise TimeoutError
            for stream in ready:
                data = os.read(stream.fileno(), 1 << 16)
                if not data:
                    streams.remove(stream)
                elif stream is self.process.stderr:
                    errors = (errors + data)[-4000:]
                else:
                    *whole, self.rest = (self.rest + data).split(b"\n")
                    yield from (line.decode() for line in whole)
        code = self.process.wait()
        if code == -signal.SIGPROF:
            raise TimeoutError
        if code:
            yield f"! {ascii(f'the process ended with {code}: ' + errors.decode(errors='replace')[-1500:])}"


def fuzz(kind: str, count: int, seed: int, extension: str | None) -> tuple[int, list[tuple[str, str]]]:
    """(cases that were run, [(line, complaint)]) of a kind."""
    run, failures, line, done = 0, [], "the beginning", False
    while not done:
        words = ["--child", kind, "--calls", str(count), "--first", str(run), "--seed", str(seed)]
        before = run
        try:
            for said in Child(words + (["--extension", extension] if extension else [])).lines():
                if said.startswith("> "):
                    line, run = said[2:], run + 1
                elif said.startswith("! "):
                    failures.append((line, ast.literal_eval(said[2:])))
                done = done or said == "done"
        except TimeoutError:
            failures.append((line, f"a hang: {BUSY:.0f} s of work, or {SILENT:.0f} by the clock"))
        if run == before and not done:
            failures.append((line, "no case could be run"))
            break
    return run, failures


def again(line: str) -> str | None:
    """Makes the case of a line once more."""
    case = ast.literal_eval(line)
    if isinstance(case, dict):
        return wrong_number(case)
    if isinstance(case[0], int):
        from mutated_files import complaint

        return complaint(*case)
    from wrong_calls import complaint as complaint_of_call

    return complaint_of_call(*case)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("line", nargs="?", help="a case to make again")
    parser.add_argument("--calls", type=int, default=20000, help="a quarter of them right, the others wrong")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--extension", help="a build of kgfast._C to use")
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "fuzz.txt", help="where lines of failures go")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.extension and (given.child or given.line):
        use_extension(given.extension)
    if given.child:
        return child(given.child, given.calls, given.first, given.seed)
    if given.line:
        found = again(given.line)
        print(found or "as it should be")
        sys.exit(bool(found))
    counts = {"right": given.calls // 4, "wrong": given.calls - given.calls // 4, "files": given.files}
    failures, ran, start = [], Counter(), time.perf_counter()
    for kind in KINDS:
        ran[kind], found_here = fuzz(kind, counts[kind], given.seed, given.extension) if counts[kind] else (0, [])
        failures += found_here
        for line, said in found_here:
            print(f"{line}\n    {ascii(said)}")
    if failures:
        given.keep.parent.mkdir(exist_ok=True)
        given.keep.write_text("".join(f"{line}\n" for line, _ in failures), encoding="utf-8")
    print(
        f"fuzz: {ran['right']:,} calls that are right, {ran['wrong']:,} that are wrong, {ran['files']:,} files; "
        f"{len(failures)} failures; seed {given.seed}, {time.perf_counter() - start:.0f} s"
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
