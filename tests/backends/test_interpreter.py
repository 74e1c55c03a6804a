"""The tests of Triton's kernels without a GPU: under its interpreter, which must be chosen before it is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = {
    "conformance": [*HERE.glob("test_conformance*.py"), HERE / "test_contract.py", HERE / "test_own_scores.py"],
    "ops": [*HERE.parent.glob("ops/test_*.py")],
    "triton": [*HERE.glob("test_triton*.py")],
}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("files", FILES)
def test_in_the_interpreter(files, pytestconfig):
    """Every test of the files passes in a process of its own."""
    if pytestconfig.getoption("--impl") or pytestconfig.getoption("--device"):
        pytest.skip("the lane that was asked for has this process")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, sorted(FILES[files]))]
    command += ["--quick"] if pytestconfig.getoption("--quick") else []
    result = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
