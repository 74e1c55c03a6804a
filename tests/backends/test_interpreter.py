"""The tests of Triton's kernels without a GPU: under its interpreter, which must be chosen before it is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = ["../ops/test_ops.py", *sorted(path.name for path in Path(__file__).parent.glob("test_triton*.py"))]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("file", FILES)
def test_in_the_interpreter(file, pytestconfig):
    """Every test of the file passes in a process of its own."""
    place = Path(__file__).parent / file
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(place)]
    command += ["--quick"] if pytestconfig.getoption("--quick") else []
    result = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
