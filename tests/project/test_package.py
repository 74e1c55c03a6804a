"""What is shipped: one version everywhere, the licence, the marks that make types visible."""

import json
import os
import re
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import yaml

import kgfast
from kgfast import _C

ROOT = Path(__file__).parents[2]


def installed():
    """The metadata of kgfast, if what is installed is this tree."""
    try:
        found = metadata.distribution("kgfast")
    except metadata.PackageNotFoundError:
        return None
    origin = json.loads(found.read_text("direct_url.json") or '{"url": ""}')["url"]
    return found if Path(unquote(urlparse(origin).path)) == ROOT else None


def test_the_version_stands_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", kgfast.__version__)
    assert _C.__version__ == kgfast.__version__, "kgfast._C was built from another version: run `make build`"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == kgfast.__version__
    assert not re.search(r"^version\s*=\s*\"", (ROOT / "pyproject.toml").read_text(), re.M)


def test_metadata_agrees():
    found = installed()
    if found is None:
        pytest.skip("this tree is not installed")
    assert found.version == kgfast.__version__
    assert found.metadata["License-Expression"] == "Apache-2.0"


def test_licence():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text and len(text.splitlines()) > 200
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == "Apache-2.0" and citation["title"] == "kgfast"


def test_a_build_holds_more_than_modules(tmp_path):
    """Types, data and pages are files that setuptools copies only if it is told to."""
    build = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    built = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    expected = {"kgfast/py.typed", "kgfast/_C.pyi", "kgfast/kernels/triton/scores.py", "kgfast/errors.py"}
    assert expected <= built
    told = subprocess.run(["git", "ls-files", "kgfast"], cwd=ROOT, capture_output=True, text=True)
    if told.returncode == 0:  # a copy without its history has no list
        data = [name for name in told.stdout.split() if not name.endswith(".py")]
        assert set(data) <= built


def test_a_source_distribution_has_what_is_built_and_what_pages_name(tmp_path):
    build = ["egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path]
    subprocess.run([sys.executable, "setup.py", "--quiet", *build], cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as packed:
        held = {name.partition("/")[2] for name in packed.getnames()}
    named = {"CMakeLists.txt", "csrc/bindings.cpp", "kernels/triton/scores.py", "kgfast/use/server/page/index.html"}
    for page in ("README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))):
        text = (ROOT / page).read_text(encoding="utf-8")
        links = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
        named |= {os.path.normpath(os.path.join(os.path.dirname(page), target)) for target in links}
        named |= set(re.findall(r"\bexamples/\w+\.\w+", text))
    assert "examples/world.yaml" in named and named <= held, sorted(named - held)


def test_hooks_run_what_lint_runs():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    commands = {
        line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" $(COMPILED)") for line in recipe.splitlines()
    }
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["entry"] for hook in hooks} == commands
