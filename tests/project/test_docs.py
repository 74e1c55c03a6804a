"""The documents tell the truth: examples run, links lead somewhere, and a score can be added as its page says."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from kgfast.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
PLACE = re.compile(r'file: (?P<file>\S+), (?P<where>before|after): "(?P<anchor>.*)"')
ADDING = {"docs/adding_a_score.md": 5, "docs/adding_an_objective.md": 6, "docs/adding_a_row_optimizer.md": 6}  # blocks
NOT_COPIED = (".*", "build", "runs", "dist", "*.egg-info", "__pycache__", "*.so", "benchmarks")


def blocks(page, language):
    """(line, note, code) of the fenced blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if found["language"] == language:
            yield text[: found.start("code")].count("\n"), found["note"], found["code"]


def run_block(page, line, code, scope):
    exec(compile("\n" * line + code, str(ROOT / page), "exec"), scope)  # errors name the page's line


@pytest.mark.no_poison  # blocks call torch themselves
def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "example"}
    found = list(blocks("docs/tutorial.md", "python"))
    assert found
    for line, _, code in found:
        run_block("docs/tutorial.md", line, code, scope)
    assert scope["metrics"]["test"]["mrr"] > 0.3
    assert [scope["paris"][0]["name"], scope["france"][0]["name"]] == ["paris", "france"]
    assert scope["near"] > scope["far"] and scope["ranks"][0] < scope["ranks"][1]
    printed = capsys.readouterr().out
    assert re.search(r"MRR 0\.[3-9]", printed) and re.search(r"^[1-5] German test$", printed, re.M)


@pytest.mark.no_poison
def test_the_readme_runs_and_shows_what_is_worth_showing(tmp_path, monkeypatch, capsys):
    """Its blocks in their order; training is shorter, and still finds what was held out."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope, commands = {"__name__": "example"}, []
    for found in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8")):
        if found["language"] == "python":
            run_block("README.md", found.string[: found.start("code")].count("\n"), found["code"], scope)
            continue
        for line in found["code"].splitlines():
            assert line.startswith("kgfast ")
            arguments = shlex.split(line)[1:]
            if arguments[0] == "train":  # the last option of a name counts
                arguments += ["--epochs", "25", "--dim", "64", "validate_every=0", "tensorboard=false"]
            try:
                main(arguments)
            except SystemExit as end:
                assert not end.code, f"{line}: {capsys.readouterr().err}"
            commands.append((arguments[0], capsys.readouterr().out))
            if arguments[0] == "train":
                assert float(re.search(r"test +(\S+)", commands[-1][1])[1]) > 0.3
            if arguments[0] == "predict":
                assert re.search(r"^ *[1-6] .*German .*held out \(test\)", commands[-1][1], re.M)
                assert not re.search(r"Switzerland", commands[-1][1])
        assert (1 / scope["ranks"]).mean() > 0.3
    assert [name for name, _ in commands] == ["data", "train", "evaluate", "predict", "export"]
    assert re.search(r"^[1-6] German test$", capsys.readouterr().out, re.M)
    assert (tmp_path / "embeddings" / "entities.npy").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_no_measured_figure_outside_its_page():
    figure = re.compile(r"\d[\d,.]* ?(?:triples/s|GFLOP|GB/s|times faster|x faster|% faster)")
    for page in PAGES:
        if page.name != "measured.md":
            found = figure.search(page.read_text(encoding="utf-8"))
            assert not found, f"{page.name}: {found[0]}; figures stand in docs/measured.md"


def test_environment_variables_are_documented():
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    sources = [*ROOT.glob("kgfast/**/*.py"), *ROOT.glob("csrc/**/*.cpp"), *ROOT.glob("csrc/**/*.h")]
    read = re.compile(r"""(?:environ(?:\.get|\.setdefault)?[\[(]|getenv\()["'](\w+)""")
    names = {name for path in sources for name in read.findall(path.read_text(encoding="utf-8"))}
    assert names and all(f"`{name}`" in page for name in names), sorted(names)


def follow(page, tree):
    """Puts every block of the page that says where into the files of `tree`; returns into which, block by block."""
    changed = []
    for language in ("python", "cpp"):
        for line, note, code in blocks(page, language):
            if note == "run":
                continue
            place = PLACE.fullmatch(note or "")
            assert place, f"{page}:{line}: the block doesn't say where it goes"
            path, anchor = tree / place["file"], place["anchor"]
            text = path.read_text(encoding="utf-8")
            assert text.count(anchor) == 1, f"{page}:{line}: {anchor!r} is not once in {path}"
            if place["where"] == "before":
                gap = "\n\n" if language == "python" and not code.startswith(" ") else ""
                code = code + gap + anchor
            else:  # behind a whole line, or within one
                code = anchor + ("\n" if f"\n{anchor}\n" in text else "") + code.removesuffix("\n")
            path.write_text(text.replace(anchor, code), encoding="utf-8")
            changed.append(place["file"])
    return changed


def run(command, tree, **environment):
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(tree)} | environment
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


LANGUAGES = ("kgfast/reference/", "csrc/include/kgfast/", "kernels/triton/")


@pytest.mark.parametrize("page", ADDING)
def test_a_page_about_adding_names_one_place_a_language(page, tmp_path):
    """And its blocks fit into today's files."""
    for folder in LANGUAGES:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    changed = follow(page, tmp_path)
    assert len(changed) == ADDING[page]
    assert sorted(file.startswith(LANGUAGES) for file in set(changed)) == [True] * 3
    assert len({next(one for one in LANGUAGES if file.startswith(one)) for file in set(changed)}) == 3


@pytest.mark.no_poison
def test_a_score_in_python_alone_runs_as_the_page_says():
    (code,) = [code for _, note, code in blocks("docs/adding_a_score.md", "python") if note == "run"]
    exec(compile(code, "adding_a_score.md", "exec"), {"__name__": "example"})


@pytest.mark.slow
def test_scores_objectives_and_optimizers_are_added_as_their_pages_say(tmp_path):
    """All three at once, as building takes a minute; then the conformance suite of every lane that needs no GPU."""
    import pybind11

    tree = tmp_path / "kgfast"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NOT_COPIED), symlinks=True)
    for page in ADDING:
        follow(page, tree)
    module = tree / "kgfast" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    configure = [
        "cmake", "-S", ".", "-B", "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0 -w",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", "-DKGFAST_CUDA=OFF",
        f"-DKGFAST_OUTPUT={module}", "-DKGFAST_VERSION=0",
    ]  # fmt: skip
    run(configure, tree)
    run(["cmake", "--build", "build"], tree)
    kernels = tree / "kgfast" / "kernels"  # a link, where kgfast is used from its source
    if not kernels.exists():
        kernels.symlink_to("../kernels")
    told = run([sys.executable, "-c", "import kgfast; print(kgfast.__file__, 'dual' in kgfast.SCORES)"], tree)
    assert told.split() == [str(tree / "kgfast" / "__init__.py"), "True"]
    new = "dual or squared_margin or lion"
    pytest_command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "-k", new]
    run([*pytest_command[:-2], "tests/core/test_registry.py"], tree)
    done = run([*pytest_command, "tests/backends", "tests/steps/test_steps.py"], tree)
    assert re.search(r"\d{2,} passed", done), done
    suite = sorted(str(path) for path in (tree / "tests" / "backends").glob("test_conformance*.py"))
    done = run([*pytest_command, *suite], tree, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert re.search(r"\d{2,} passed", done), done
    script = "import kgfast.kernels.triton.scores as scores; print(scores.__file__)"
    assert run([sys.executable, "-c", script], tree).startswith(str(tree))
