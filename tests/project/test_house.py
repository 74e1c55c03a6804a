"""The house keeps its rules: imports run one way, a file can be read in one sitting, a function seen at once."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES, FUNCTION_LINES = 400, 60
PYTHON = [path for path in sorted(ROOT.glob("kgfast/**/*.py")) if "kernels" not in path.relative_to(ROOT).parts]
PYTHON += sorted(ROOT.glob("kernels/**/*.py"))  # installed as kgfast.kernels
COMPILED = [path for folder in ("csrc", "kernels/cuda") for path in sorted((ROOT / folder).glob("**/*.*"))]


def module_of(path):
    """kgfast.core.known of kgfast/core/known.py, kgfast.kernels.triton of kernels/triton/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("kgfast", *parts) if parts[0] == "kernels" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PYTHON}


def known_module(name):
    """The module that `name`, a module or something in one, belongs to; None for other people's."""
    if name == "kgfast._C" or name.startswith("kgfast._C."):
        return "kgfast._C"
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def imports_of(module):
    """(line, module imported) of every import, in functions and for type checkers too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            names = [f"{base}.{alias.name}" for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        for name in names:
            target = known_module(name)
            if target and target != module:
                yield node.lineno, target


def rooms():
    """{room: its row} of the table of rooms in docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = text.partition("## The rooms")[2].partition("\n## ")[0]
    rows = [re.findall(r"`([\w.]+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    return {room: number for number, row in enumerate(rows) for room in row}


def room_of(module, places):
    """The most specific room of the table: kernels.compile before kernels; kgfast is its __init__.py alone."""
    name = module.removeprefix("kgfast.")
    while name and name not in places:
        name = name.rpartition(".")[0]
    return name


def test_every_file_is_in_a_room():
    places = rooms()
    homeless = [module for module in MODULES if room_of(module, places) not in places]
    assert not homeless, f"docs/design.md, 'The rooms', has no row for {homeless}"
    empty = [room for room in places if not any(room_of(name, places) == room for name in [*MODULES, "kgfast._C"])]
    assert not empty, f"docs/design.md has rows for {empty}, where nothing is"


def test_imports_run_one_way():
    places, wrong = rooms(), []
    for module in MODULES:
        room = room_of(module, places)
        for line, target in imports_of(module):
            other = room_of(target, places)
            if other != room and places[other] >= places[room]:
                wrong.append(f"{MODULES[module].relative_to(ROOT)}:{line}: {room} imports {target}")
    assert not wrong, "\n".join(["imports against the table of docs/design.md:", *wrong])


def test_no_module_needs_itself():
    graph = {}
    for module in MODULES:
        targets = {target for _, target in imports_of(module)}
        # `from package import part` is a matter of the part; a package hands on the names of its own parts
        graph[module] = {target for target in targets if not module.startswith(f"{target}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("modules import each other: " + " -> ".join(reversed(error.args[1])))


def test_files_are_short():
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in [*PYTHON, *COMPILED]}
    long = [f"{path.relative_to(ROOT)} has {count} lines" for path, count in counts.items() if count > FILE_LINES]
    assert not long, "\n".join([f"over {FILE_LINES} lines:", *long])


REASON = re.compile(r"(#|//) long: \w")


def python_functions(lines):
    """(line, name, head, number of lines) of every function of a Python file."""
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            head = lines[node.lineno - 1 : node.body[0].lineno - 1]
            yield node.lineno, node.name, "\n".join(head), node.end_lineno - node.lineno + 1


def compiled_functions(lines):
    """The same of C++ as clang-format lays it out: in a namespace or a class, and its brace closes below its head."""
    other = r"[ }#/]|$|namespace|extern|enum|using|typedef|static const|(template <[^>]*> )?struct"
    beginning = re.compile(rf" {{0,2}}(?!{other})")
    for number, line in enumerate(lines):
        if not beginning.match(line):
            continue
        end = next((n for n, text in enumerate(lines[number:], number) if re.search(r"[;{}]\s*(//.*)?$", text)), number)
        head = "\n".join(lines[number : end + 1])
        name = re.search(r"(\w+|operator\(\))\(", head)
        if name and re.search(r"\{\s*(//.*)?$", head):
            close = " " * (len(line) - len(line.lstrip())) + "}"
            last = next((n for n, text in enumerate(lines[end:], end) if text.startswith(close)), end)
            yield number + 1, name[1], head, last - number + 1


def test_functions_are_short():
    long, seen = [], 0
    for path in [*PYTHON, *COMPILED]:
        functions = python_functions if path.suffix == ".py" else compiled_functions
        for line, name, head, count in functions(path.read_text(encoding="utf-8").splitlines()):
            seen += 1
            if count > FUNCTION_LINES and not REASON.search(head):
                long.append(f"{path.relative_to(ROOT)}:{line}: {name} has {count} lines")
    assert seen > 1000, "functions are no longer found"
    assert not long, "\n".join([f"over {FUNCTION_LINES} lines, and no `long: why` in a comment on its head:", *long])
