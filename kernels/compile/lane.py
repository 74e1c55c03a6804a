"""Compiles every kernel for every architecture without a GPU: registers, stack, shared memory of each as a table,
and how many products on tensor cores and copies ahead of them it has.

    python -m kgfast.kernels.compile.lane [--architectures 80 90] [--cases NAME ..] [--check | --update TABLE]

A stack is where spilled registers go, so it must be empty but for one pair. The table holds for the version of Triton
that it names, whose compiler is deterministic. Triton keeps what it compiled in its own cache.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import triton
import triton.backends

from kgfast.kernels.compile.row_cases import ROW_CASES
from kgfast.kernels.compile.signatures import record
from kgfast.kernels.compile.tile_cases import CASES as TILE_CASES

ARCHITECTURES = (80, 90, 100)
CASES = {**TILE_CASES, **ROW_CASES}
PARKED = 8  # bytes of stack, one pair of registers, that the compiler may leave outside of loops to fit one more block


def cuobjdump() -> str:
    """The program that comes with Triton, or one on the path."""
    own = Path(triton.backends.__file__).parent / "nvidia" / "bin" / "cuobjdump"
    found = str(own) if own.exists() else shutil.which("cuobjdump")
    if not found:
        raise FileNotFoundError("cuobjdump came neither with Triton nor is it on the path")
    return found


def resources(cubin: bytes) -> dict[str, int]:
    """{"registers", "stack"} of the one kernel in a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run([cuobjdump(), "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", run.stdout)
    if not found:
        raise ValueError(f"cuobjdump says nothing of registers: {run.stdout[:500]}")
    return {"registers": int(found[1]), "stack": int(found[2])}


def operations(code: str) -> dict[str, int]:
    """Products on tensor cores, and copies to shared memory that run ahead of them."""
    return {"products": len(re.findall(r"warp_group_dot |tc_gen5_mma|tt\.dot ", code)),
            "copies": code.count("async_copy_global_to_local")}  # fmt: skip


def compile_case(case: str, architecture: int) -> dict[str, dict]:
    """{kernel's key: its resources} of one case."""
    table = {}
    for signature in record(CASES[case], architecture):
        kernel = signature.compile(architecture)
        table[signature.key] = {"case": case, **resources(kernel.asm["cubin"]), "shared": kernel.metadata.shared,
                                **operations(kernel.asm["ttgir"])}  # fmt: skip
    return table


def compile_cases(cases, architectures=ARCHITECTURES, workers: int = 2) -> dict[str, dict[str, dict]]:
    """{"sm_90": {kernel's key: {"case", "registers", "stack", "shared"}}, ..}; a kernel of several cases once."""
    tables: dict[str, dict[str, dict]] = {f"sm_{one}": {} for one in architectures}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        runs = [(one, pool.submit(compile_case, case, one)) for case in cases for one in architectures]
        for architecture, run in runs:
            for key, row in run.result().items():
                tables[f"sm_{architecture}"].setdefault(key, row)
    return tables


def keys(case: str, architecture: int) -> set[str]:
    """The kernels of a case, without compiling them."""
    return {signature.key for signature in record(CASES[case], architecture)}


def merged(found: dict[str, dict[str, dict]], file: Path) -> dict[str, dict[str, dict]]:
    """The rows found, and the file's of the same Triton for kernels that are still there and were not compiled now."""
    old = json.loads(file.read_text()) if file.exists() else {}
    rows = {}
    for architecture in ARCHITECTURES:
        name = f"sm_{architecture}"
        alive = set().union(*(keys(case, architecture) for case in CASES))
        kept = old.get(name, {}) if old.get("triton") == triton.__version__ else {}
        rows[name] = {key: row for key, row in kept.items() if key in alive} | found.get(name, {})
    return rows


def complaints(found: dict[str, dict[str, dict]], table: dict) -> list[str]:
    """What is worse than the table says: a stack, more registers or shared memory, a kernel that is not in it."""
    wrong = []
    for architecture, rows in found.items():
        for key, row in rows.items():
            name, known = f"{architecture} {key} ({row['case']})", table[architecture].get(key)
            if known is None:
                wrong.append(f"{name} is not in the table")
                continue
            if row["stack"] > PARKED:
                wrong.append(f"{name} spills: its stack is {row['stack']} bytes")
            wrong += [f"{name}: {what} grew from {known[what]} to {row[what]}"
                      for what in ("registers", "shared") if row[what] > known[what]]  # fmt: skip
            if row["copies"] < known["copies"]:
                wrong.append(f"{name} waits for its loads: {row['copies']} copies run ahead, {known['copies']} before")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--check", type=Path, help="compare with this table; exit status 1 where something is worse")
    parser.add_argument("--update", type=Path, help="write the table here")
    options = parser.parse_args()
    tables = compile_cases(options.cases, options.architectures, options.workers)
    for architecture, table in tables.items():
        for key, row in sorted(table.items()):
            print(f"{architecture} {key:44} {row['registers']:4} registers {row['stack']:5} stack {row['shared']:7} "
                  f"shared  {row['case']}")  # fmt: skip
    if options.update:
        options.update.parent.mkdir(parents=True, exist_ok=True)
        content = {"triton": triton.__version__, **merged(tables, options.update)}
        options.update.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    if options.check:
        wrong = complaints(tables, json.loads(options.check.read_text()))
        sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
