"""Do the tests notice a wrong line? Lines of the core are changed at random, one at a time, and the nearest tests run.

    python tests/mutate.py --lines 10 --seed 0        Python
    python tests/mutate.py --lines 2 --compiled       C++, built anew for each line: some minutes

All is done in a copy of the tree. A change is one of meaning: a comparison, a sign, a constant, an `and`, a `not`, a
statement left out. It is caught where a test fails, or where the run takes too long; what survives wants a test,
unless it makes no difference.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("kgfast", "kernels", "csrc", "tests", "pyproject.toml", "setup.py", "CMakeLists.txt")
PATIENCE = 900  # seconds for the tests of a line
# room or file: the nearest tests
NEAREST = {
    "kgfast/core/known.py": "tests/core tests/functional/test_rank.py tests/functional/test_sampling.py",
    "kgfast/core/csr.py": "tests/functional/test_multitask_known.py tests/steps",
    "kgfast/core": "tests/core tests/fuzz",
    "kgfast/reference": "tests/reference tests/core/test_registry.py tests/functional tests/test_optim.py",
    "kgfast/functional": "tests/core tests/functional tests/fuzz",
    "kgfast/ops": "tests/ops tests/fuzz",
    "kgfast/backends/base.py": "tests/core tests/backends/test_contract.py tests/steps tests/fuzz",
    "kgfast/backends/cpu.py": "tests/backends/test_conformance.py tests/backends/test_conformance_rows.py tests/fuzz",
    "kgfast/nn.py": "tests/core tests/steps tests/train/test_train.py tests/fuzz",
    "kgfast/optim.py": "tests/test_optim.py tests/core tests/fuzz",
    "kgfast/steps": "tests/steps tests/backends/test_conformance_steps.py tests/core tests/fuzz",
}
LEFT_OUT = ("cuda_graph.py", "__init__.py")  # need a GPU, or hold names alone
COMPILED = {"csrc/cpu": "tests/backends tests/functional tests/fuzz", "csrc/include": "tests/backends tests/functional"}
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "in": "not in", "not in": "in",
               "is": "is not", "is not": "is"}  # fmt: skip
SIGNS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "*"), ast.Div: ("/", "*")}


class Change(NamedTuple):
    """Text [start, end) of a file that becomes another."""

    path: str
    line: int
    start: int
    end: int
    text: str


def python_changes(path: Path) -> Iterator[Change]:
    """Every change of meaning in the functions of a file."""
    source = path.read_text(encoding="utf-8")
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))  # files are ASCII where code is: columns of ast count bytes

    def at(line: int, column: int) -> int:
        return lines[line - 1] + column

    name = str(path.relative_to(ROOT))
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for statement in function.body:
            for node in ast.walk(statement):
                for start, end, text in node_changes(node, source, at):
                    yield Change(name, source.count("\n", 0, start) + 1, start, end, text)


def node_changes(node: ast.AST, source: str, at) -> Iterator[tuple[int, int, str]]:
    """(start, end, text) of the changes of one node."""

    def between(left: ast.expr, right: ast.expr) -> tuple[int, int]:
        return at(left.end_lineno, left.end_col_offset), at(right.lineno, right.col_offset)

    def replaced(left: ast.expr, right: ast.expr, before: str, after: str) -> Iterator[tuple[int, int, str]]:
        start, end = between(left, right)
        text = source[start:end]
        if text.count(before) == 1:
            yield start, end, text.replace(before, after)

    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        word = re.sub(r"[()\s]+", " ", source[slice(*between(node.left, node.comparators[0]))]).strip()
        if word in COMPARISONS:
            yield from replaced(node.left, node.comparators[0], word, COMPARISONS[word])
    elif isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        yield from replaced(node.left, node.right, *SIGNS[type(node.op)])
    elif isinstance(node, ast.BoolOp):
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        yield from replaced(node.values[0], node.values[1], *words)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield at(node.lineno, node.col_offset), at(node.operand.lineno, node.operand.col_offset), ""
    elif isinstance(node, ast.Constant) and type(node.value) in (int, bool):
        text = str(not node.value) if isinstance(node.value, bool) else str(node.value + 1)
        yield at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset), text
    elif isinstance(node, (ast.Raise, ast.AugAssign)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset), "pass"


def compiled_changes(path: Path) -> Iterator[Change]:
    """Changes of operators and constants in C++, outside of comments and directives."""
    source, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
    swaps = {
        " < ": " <= ",
        " > ": " >= ",
        " + ": " - ",
        " - ": " + ",
        " == ": " != ",
        " * ": " + ",
        " && ": " || ",
        "+=": "-=",
    }
    place = 0
    for number, line in enumerate(source.splitlines(keepends=True), 1):
        code = line.split("//")[0]
        if not re.match(r"\s*(#|template|inline|static|using|struct|namespace|constexpr|$)", code):
            for before, after in swaps.items():
                for found in re.finditer(re.escape(before), code):
                    yield Change(name, number, place + found.start(), place + found.end(), after)
        place += len(line)


def nearest(path: str, places: dict[str, str]) -> list[str]:
    """The tests of the longest place that the path begins with."""
    return places[max((place for place in places if path.startswith(place)), key=len)].split()


def chosen(count: int, seed: int, compiled: bool) -> list[Change]:
    """As many changes, each of another line."""
    places, pattern = (COMPILED, "*.h") if compiled else (NEAREST, "*.py")
    files = [
        path for place in places for path in ([ROOT / place] if "." in place else sorted((ROOT / place).rglob(pattern)))
    ]
    found: dict[tuple[str, int], list[Change]] = {}
    for path in dict.fromkeys(files):
        if path.name not in LEFT_OUT:
            for change in (compiled_changes if compiled else python_changes)(path):
                found.setdefault((change.path, change.line), []).append(change)
    chance = random.Random(seed)
    return [chance.choice(found[line]) for line in chance.sample(sorted(found), min(count, len(found)))]


def verdict(change: Change, tree: Path, compiled: bool) -> str:
    """What the nearest tests say of a change, made in a copy of the tree."""
    path = tree / change.path
    source = path.read_text(encoding="utf-8")
    path.write_text(source[: change.start] + change.text + source[change.end :], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    tests = nearest(change.path, COMPILED if compiled else NEAREST)
    commands = [[sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]]
    commands.insert(0, [*commands[0], "--quick"])  # most are caught by few
    if compiled:
        commands.insert(0, [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"])
    try:
        for command in commands:
            done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=PATIENCE)
            if done.returncode:
                failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
                return f"caught by {failed[1] if failed else command[2]}"
    except subprocess.TimeoutExpired:
        return "caught, as the tests did not end"
    finally:
        path.write_text(source, encoding="utf-8")
    return "SURVIVED"


def main() -> None:
    parser = argparse.ArgumentParser(prog="mutate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lines", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compiled", action="store_true", help="lines of csrc/ in place of Python's")
    given = parser.parse_args()
    survived = 0
    with tempfile.TemporaryDirectory(prefix="kgfast-mutate-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
        changes = chosen(given.lines, given.seed, given.compiled)
        for change in changes:
            source = (tree / change.path).read_text(encoding="utf-8")
            begin, end = source.rfind("\n", 0, change.start) + 1, source.find("\n", change.end)
            line = f"{source[begin : change.start]}{change.text}{source[change.end : end]}"
            said = verdict(change, tree, given.compiled)
            survived += said == "SURVIVED"
            print(
                f"{change.path}:{change.line}: {said}\n    - {source[begin:end].strip()}\n    + {line.strip()}",
                flush=True,
            )
    print(f"mutate: {len(changes)} lines changed, {survived} survived; seed {given.seed}")


if __name__ == "__main__":
    main()
