"""Types are true: the stub has what is compiled, and a type checker sees a user's mistakes."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from kgfast import _C

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "project" / "typed_program.py"
STUB = ast.parse((ROOT / "kgfast" / "_C.pyi").read_text(encoding="utf-8"))


def described(body):
    """{name: its function or annotation} of a module or class of the stub."""
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    values = {node.target.id: node.annotation for node in body if isinstance(node, ast.AnnAssign)}
    return {name: node for name, node in {**functions, **values}.items() if not name.startswith("_")}


def compiled(module):
    return {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}


STUBS, COMPILED = described(STUB.body), compiled(_C)
STUBS |= {f"cuda.{name}": node for name, node in described(STUBS["cuda"].body).items()}
COMPILED |= {f"cuda.{name}": value for name, value in compiled(_C.cuda).items()}
FUNCTIONS = [name for name, value in COMPILED.items() if callable(value)]


def test_the_stub_has_every_name():
    assert sorted(STUBS) == sorted(COMPILED)


def signature_of_stub(function):
    """[(name, type)] and the type of the result, with the stub's own names for types written out."""
    own = {
        node.target.id: ast.unparse(node.value) for node in STUB.body if isinstance(node, ast.AnnAssign) and node.value
    }

    def written(annotation):
        return re.sub(r"\b_\w+", lambda found: own[found[0]], ast.unparse(annotation))

    return [(argument.arg, written(argument.annotation)) for argument in function.args.args], written(function.returns)


def signature_compiled(function):
    """The same from the first line of what pybind11 says of a function."""
    text = function.__doc__.strip().splitlines()[0]
    text = re.sub(r"typing\.Supports(Int|Float) \| typing\.SupportsIndex", lambda found: found[1].lower(), text)
    node = ast.parse(f"def {text.replace('collections.abc.', '')}: ...").body[0]
    return [(argument.arg, ast.unparse(argument.annotation)) for argument in node.args.args], ast.unparse(node.returns)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_stub_has_every_argument(name):
    assert signature_of_stub(STUBS[name]) == signature_compiled(COMPILED[name])


def test_the_stub_has_the_right_values():
    kinds = {"str": str, "bool": bool, "int": int}
    values = {name: node for name, node in STUBS.items() if not isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert values and all(type(COMPILED[name]) is kinds[ast.unparse(node)] for name, node in values.items())


@pytest.mark.no_poison
def test_a_users_program_runs(capsys):
    runpy.run_path(str(PROGRAM), run_name="__main__")
    assert _C.cpu_level() in capsys.readouterr().out


MISTAKES = """
import kgfast
import torch

table, ids = torch.zeros(3, 4), torch.zeros(2, 3, dtype=torch.int64)
kgfast.score_triples(table, table, ids, score=1)  # arg-type
kgfast.rank(table, table, ids, score="distmult")  # call-arg
kgfast.topk(table, table, ids, "3", score="distmult", side="tail")  # arg-type
kgfast.score_triples(torch.nn.Embedding(3, 4), table, ids).turn()  # attr-defined
kgfast.negative_sampling_loss(table, table, ids, "16", score="distmult", side="tail")  # arg-type
kgfast.Term(table, table, ids, wieght=1.0)  # call-arg
kgfast.nn.TransE(3, 1, 4).turn()  # operator
kgfast.optim.RowAdagrad([table], lr="high")  # arg-type
kgfast.KnowledgeGraph.load("world").num_entities.upper()  # attr-defined
total, each, more = kgfast.multitask_loss([])  # misc
kgfast.steps.OneVsAllStep(kgfast.nn.TransE(3, 1, 4), table)  # arg-type
kgfast.cpu_level() + 1  # operator
run = kgfast.load("runs/world")
run.predict(head="France", relation=3)  # arg-type
run.ask("where?").append(1)  # attr-defined
run.ask(["where?"]).keys()  # attr-defined
run.embedding("France", kind=1)  # arg-type
"""


def test_a_type_checker_sees_mistakes(tmp_path):
    """None in the program; in this file, those that its comments name."""
    pytest.importorskip("mypy")
    mistakes = tmp_path / "mistakes.py"
    mistakes.write_text(MISTAKES)
    check = [sys.executable, "-m", "mypy", "--no-error-summary", str(PROGRAM), str(mistakes)]
    told = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)  # with the cache that `make lint` keeps
    assert told.returncode in (0, 1), told.stdout + told.stderr
    found = re.findall(r"^(\S+?):(\d+): error: .*\[([a-z-]+)\]$", told.stdout, re.M)
    assert not [line for line in told.stdout.splitlines() if line.startswith("tests/project/typed_program.py")]
    wrong = {int(line): code for path, line, code in found if Path(path).name == mistakes.name}
    lines = enumerate(MISTAKES.splitlines(), 1)
    assert wrong == {number: line.partition("  # ")[2] for number, line in lines if "  # " in line}
