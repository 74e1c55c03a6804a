"""The CUDA kernels without a GPU: every kernel was compiled for every chip and spills no registers (skipped where they
were not built), and the launcher of kernels compiled ahead of time hands over what their signatures ask for."""

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
    assert _C.driver.reason()
    with pytest.raises(RuntimeError, match=re.escape(_C.driver.reason())):
        _C.driver.Kernel(b"", "name", "p", 32, 0, 0)
    with pytest.raises(RuntimeError, match="CUDA|without its CUDA kernels"):
        _C.cuda.update_all_rows((False, 0), 1, 1, 0, (2, 0, 0, 0, 0))


def test_arguments_are_laid_out_as_the_driver_reads_them():
    import struct

    given = (2**63 + 5, -1, -2, 1.5, 2.5)
    packed = _C.driver.packed("pilfd", given)
    raw = [word.to_bytes(8, "little") for word in packed]
    assert int.from_bytes(raw[0], "little") == given[0]
    assert struct.unpack("<i", raw[1][:4])[0] == -1 and struct.unpack("<q", raw[2])[0] == -2
    assert struct.unpack("<f", raw[3][:4])[0] == 1.5 and struct.unpack("<d", raw[4])[0] == 2.5
    with pytest.raises(ValueError, match="2 parameters got 1"):
        _C.driver.packed("pp", (1,))


# The interpreter of test_triton*.py may be on in this process: kernels are compiled in another.
CHECK = """
import sys
from contextlib import ExitStack
from pathlib import Path
from kgfast.kernels.triton import ahead
folder = Path(sys.argv[1])
made = ahead.build(folder, (90,), only="join")
entries = made["kernels"]["90"]
assert len(entries) == 1 and ahead.manifest(folder) == made
(key, entry), = entries.items()
cubin = (folder / "sm_90" / (key + ".cubin")).read_bytes()
assert cubin[:4] == b"\\x7fELF" and entry["name"].encode() in cubin
assert len(entry["parameters"]) >= len(entry["arguments"]) and set(entry["parameters"]) <= set("pilfd")
assert entry["parameters"][0] == "p" and entry["threads"] % 32 == 0

import torch
from unittest import mock
from kgfast.backends import cpu
from kgfast.kernels.triton import hot, rows

launched = []
class Fake:
    def __init__(self, image, name, parameters, threads, shared, device): self.parameters = parameters
    def launch(self, x, y, z, stream, arguments): launched.append((x, len(arguments), len(self.parameters)))
fallen = []
patches = {
    "torch.cuda.current_device": lambda: 0,
    "torch.cuda.current_stream": lambda: mock.Mock(cuda_stream=7),
    "torch.cuda.get_device_capability": lambda: (9, 0),
    "kgfast.kernels.triton.configurations.device_properties": lambda device: (90, 132),
    "kgfast.kernels.triton.ahead.why_not": lambda folder: None,
}
with ExitStack() as stack, mock.patch.object(cpu._C.driver, "Kernel", Fake):
    for name, replaced in patches.items():
        stack.enter_context(mock.patch(name, replaced))
    ahead.use(True, folder)
    for name in ("reduce", "join"):
        launcher = getattr(rows, name).run
        launcher.jit = lambda *args, name=name, **kwargs: fallen.append(name)
    real, whole = hot.real, hot.whole
    hot.real = lambda *shape, dtype=torch.float32: torch.zeros(shape, dtype=dtype)
    hot.whole = lambda *shape: torch.zeros(shape, dtype=torch.int64)
    for _ in range(2):
        hot.touched_rows(hot.DOT)
    ahead.use(False)
assert fallen == ["reduce", "reduce"], fallen  # was not built here: goes to Triton's compiler
assert len(launched) == 2 and all(given == asked for _, given, asked in launched), launched
assert ahead.counts == {}
print("ok")
"""


def test_kernels_ahead_of_time_are_built_found_and_handed_their_arguments(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    run = subprocess.run([sys.executable, "-c", CHECK, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout.strip().endswith("ok"), run.stderr[-3000:]


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


def test_the_run_on_a_gpu_can_be_tried_without_one(tmp_path):
    """Two short stages of gpu.sh: parts are written, joined, and marked as a dry run."""
    command = ["benchmarks/gpu.sh", "--device", "cpu", "--tiny", "--python", sys.executable, "--out", str(tmp_path)]
    run = subprocess.run([*command, "ceilings", "report"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert result["dry_run"] and result["parts"]["ceilings"][0]["kind"] == "bytes per second"
    assert {stage["stage"]: stage["status"] for stage in result["stages"]}["ceilings"] == 0
