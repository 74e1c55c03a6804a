"""The CUDA kernels without a GPU: every kernel was compiled for every chip and spills no registers (skipped where they
were not built)."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from kgfast.backends.cpu import _C

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "kernels" / "cuda").glob("*.cu"))
KERNEL = re.compile(r"(?:struct|class) (\w+) (?:final )?\{\n(?:  using .*\n)?  static constexpr int kThreads")
TURNED = re.compile(r"Queries(Adjoint)?I.*RotatE")  # sines of large angles keep 32 bytes of their own on the stack


def cuobjdump():
    spec = importlib.util.find_spec("triton")
    own = spec and Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(own) if own and own.exists() else shutil.which("cuobjdump")


@pytest.fixture(scope="module")
def resources():
    """{kernel: {chip: (registers, stack)}} of the compiled module."""
    if not _C.cuda.built:
        pytest.skip(f"the CUDA kernels are not built: {_C.cuda.about}")
    if cuobjdump() is None:
        pytest.skip("cuobjdump came neither with Triton nor is it on the path")
    run = subprocess.run([cuobjdump(), "-res-usage", _C.__file__], capture_output=True, text=True, check=True)
    found, chip = defaultdict(dict), None
    for line in run.stdout.splitlines():
        chip = line.split()[-1] if line.startswith("arch = ") else chip
        if line.strip().startswith("Function "):
            kernel = line.split()[1].rstrip(":")
        usage = re.search(r"REG:(\d+) STACK:(\d+)", line)
        if usage:
            found[kernel][chip] = int(usage[1]), int(usage[2])
    return {kernel: chips for kernel, chips in found.items() if "6kgfast" in kernel}


def test_every_kernel_is_compiled_for_every_chip(resources):
    chips = set(re.findall(r"sm_\d+", _C.cuda.about))
    assert {"sm_80", "sm_90"} <= chips
    assert all(set(by_chip) == chips for by_chip in resources.values())
    named = {name for path in FILES for name in KERNEL.findall(path.read_text())}
    assert len(named) >= 14, named
    missing = [name for name in named if not any(f"{len(name)}{name}" in kernel for kernel in resources)]
    assert not missing, f"no machine code of {missing}"


def test_no_kernel_spills_registers(resources):
    spilled = {
        f"{chip} {kernel}": stack
        for kernel, by_chip in resources.items()
        for chip, (_, stack) in by_chip.items()
        if stack > (32 if TURNED.search(kernel) else 0)
    }
    assert not spilled


def test_the_module_says_what_was_built():
    assert _C.cuda.about
    if not _C.cuda.built:
        assert re.search(r"nvcc|KGFAST_CUDA=OFF", _C.cuda.about)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_device_is_refused_with_a_reason():
    with pytest.raises(RuntimeError, match="CUDA|without its CUDA kernels"):
        _C.cuda.update_all_rows((False, 0), 1, 1, 0, (2, 0, 0, 0, 0))


def test_the_page_of_figures_comes_from_committed_results_only():
    sys.path.insert(0, str(ROOT))
    from benchmarks.gpu import report

    page = "# Measured\n\nText.\n"
    assert report.page([]) == "" and report.with_part(page, "") == page
    dry = {"dry_run": True, "date": "2026-01-01"}
    assert report.page([dry]) == ""
    row = {"case": "a", "provider": "b", "seconds": 2e-3, "fraction": 0.5, "bound": "memory"}
    result = {
        "dry_run": False,
        "date": "2026-01-01T00:00:00",
        "chip": {"name": "Chip"},
        "commit": "abc",
        "versions": {"torch": "2"},
        "stages": [{"stage": "ops", "status": 124}],
        "parts": {"ops": [row]},
    }
    made = report.with_part(page, report.page([dry, result]))
    for words in ("## Chip (2026-01-01)", "| a | b | 2 ms | 50 % of memory |", "ops (status 124)"):
        assert words in made
    assert report.with_part(made, "") == page  # and goes with them
    for path in (ROOT / "benchmarks" / "results" / "gpu").glob("*.json"):
        assert not json.loads(path.read_text())["dry_run"], f"{path.name} is of a dry run"


@pytest.mark.slow
def test_the_run_on_a_gpu_can_be_tried_without_one(tmp_path):
    """Two short stages of gpu.sh: parts are written, joined, and marked as a dry run."""
    command = ["benchmarks/gpu.sh", "--device", "cpu", "--tiny", "--python", sys.executable, "--out", str(tmp_path)]
    run = subprocess.run([*command, "ceilings", "report"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["dry_run"] and result["parts"]["ceilings"][0]["kind"] == "bytes per second"
    assert {stage["stage"]: stage["status"] for stage in result["stages"]}["ceilings"] == 0
