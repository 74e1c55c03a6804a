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

from kgfast.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
PLACE = re.compile(r'file: (?P<file>\S+), before: "(?P<anchor>.*)"')
NOT_COPIED = (".*", "build", "runs", "dist", "*.egg-info", "__pycache__", "*.so", "benchmarks")


def blocks(page, language):
    """(line, note, code) of the fenced blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if found["language"] == language:
            yield text[: found.start("code")].count("\n"), found["note"], found["code"]


@pytest.mark.no_poison  # blocks call torch themselves
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": "example"}
    found = list(blocks(page, "python"))
    assert found
    for line, _, code in found:
        exec(compile("\n" * line + code, str(ROOT / page), "exec"), scope)  # errors name the page's line


def test_commands_of_the_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [line for _, _, code in blocks("README.md", "sh") for line in code.splitlines()]
    assert lines and all(line.startswith("kgfast ") for line in lines)
    for line in lines:
        arguments = shlex.split(line)[1:]
        if arguments[0] == "train":
            arguments += ["--epochs", "1", "--dim", "16", "tensorboard=false"]  # the last one counts
        try:
            main(arguments)
        except SystemExit as end:
            assert not end.code, f"{line}: {capsys.readouterr().err}"
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
    """Puts every block of the page that says where into the files of `tree`; returns how many."""
    count = 0
    for language in ("python", "cpp"):
        for line, note, code in blocks(page, language):
            place = PLACE.fullmatch(note or "")
            assert place, f"{page}:{line}: the block doesn't say where it goes"
            path = tree / place["file"]
            text = path.read_text(encoding="utf-8")
            assert text.count(place["anchor"]) == 1, f"{page}:{line}: {place['anchor']!r} is not once in {path}"
            gap = "\n\n" if language == "python" and not code.startswith(" ") else ""
            path.write_text(text.replace(place["anchor"], code + gap + place["anchor"]), encoding="utf-8")
            count += 1
    return count


def run(command, tree, **environment):
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(tree)} | environment
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
def test_a_score_is_added_as_the_page_says(tmp_path):
    import pybind11

    tree = tmp_path / "kgfast"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NOT_COPIED))
    assert follow("docs/adding_a_score.md", tree) == 4
    module = tree / "kgfast" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    configure = [
        "cmake", "-S", ".", "-B", "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0 -w",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DKGFAST_OUTPUT={module}", "-DKGFAST_VERSION=0",
    ]  # fmt: skip
    run(configure, tree)
    run(["cmake", "--build", "build"], tree)
    told = run([sys.executable, "-c", "import kgfast; print(kgfast.__file__, 'dual' in kgfast.SCORES)"], tree)
    assert told.split() == [str(tree / "kgfast" / "__init__.py"), "True"]
    pytest_command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x"]
    run([*pytest_command, "tests/core/test_registry.py"], tree)
    done = run([*pytest_command, "tests/backends/test_conformance.py", "tests/steps/test_steps.py", "-k", "dual"], tree)
    assert re.search(r"\d{2,} passed", done), done
