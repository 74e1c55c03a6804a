"""Every Triton kernel compiled for GPUs that are not here: no spills, no growth beyond the committed table.

`make cubins` does all of it; here every signature is compared with the table, and one case of each kind compiled.
"""

import json
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kgfast import backends
from kgfast.core.environment import TRITON_INTERPRETED

if not backends.TRITON or TRITON_INTERPRETED:
    pytest.skip("needs Triton's compiler", allow_module_level=True)

import triton  # noqa: E402

from kgfast.kernels.compile import lane as compile_lane
from kgfast.kernels.compile import signatures
from kgfast.kernels.compile import tile_cases as cases  # noqa: E402

TABLE = json.loads((Path(__file__).parent / "registers.json").read_text())
COMPILED = {
    80: ["language head, bfloat16"],
    90: ["language head, bfloat16", "modulus", "rank, l1", "tasks, bfloat16", "own negatives, l1", "draws"],
    100: ["topk, float32"],
}

if triton.__version__ != TABLE["triton"]:
    pytest.skip(f"the table is of Triton {TABLE['triton']}, here is {triton.__version__}", allow_module_level=True)


@pytest.mark.parametrize("architecture", compile_lane.ARCHITECTURES)
def test_table_knows_every_signature(architecture):
    """Where this fails on purpose: python -m kgfast.kernels.compile.lane --update tests/kernels/registers.json"""
    found = set().union(*(compile_lane.keys(case, architecture) for case in compile_lane.CASES))
    assert found == set(TABLE[f"sm_{architecture}"])


def test_nothing_in_the_table_spills():
    rows = [row for name, table in TABLE.items() if name != "triton" for row in table.items()]
    assert not [(key, row["case"]) for key, row in rows if row["stack"] > compile_lane.PARKED]


def test_products_do_not_wait_for_loads():
    """Operands of tensor cores are copied ahead; a kernel without such copies is five times as slow."""
    rows = [(arch, key, row) for arch, table in TABLE.items() if arch != "triton" for key, row in table.items()]
    assert sum(row["products"] > 0 for _, _, row in rows) > 60
    assert not [(arch, key, row["case"]) for arch, key, row in rows if row["products"] and not row["copies"]]


@pytest.mark.slow
def test_registers_do_not_grow():
    found = {}
    for architecture, names in COMPILED.items():
        found |= compile_lane.compile_cases(names, [architecture])
    assert all(found.values()) and not compile_lane.complaints(found, TABLE)


def test_growth_and_spills_are_noticed():
    (key, row), *_ = TABLE["sm_90"].items()
    row = {**row, "copies": 1}
    table = {"sm_90": {key: row}}
    for worse in ({"stack": 16}, {"registers": row["registers"] + 1}, {"shared": row["shared"] + 16}, {"copies": 0}):
        assert len(compile_lane.complaints({"sm_90": {key: {**row, **worse}}}, table)) == 1
    assert compile_lane.complaints({"sm_90": {"unknown-0": row}}, table)
    assert not compile_lane.complaints({"sm_90": {key: row}}, table)


class Allocated(TorchDispatchMode):
    """Bytes of all tensors that factories inside make."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if "empty" in function.__name__ or "zeros" in function.__name__ or "new_" in function.__name__:
            self.total += result.numel() * result.element_size()
        return result


@pytest.mark.parametrize("sizes, share", [((4096, 32768, 1024), 0.1), ((8192, 128256, 4096), 0.05)])
def test_extra_memory_of_a_language_head(sizes, share):
    """Beyond inputs and gradients: less than 5 % of float32 logits, where they are many."""
    batch, count, dim = sizes
    with Allocated() as inputs:
        real = [cases.real(*shape, dtype=torch.bfloat16) for shape in ((batch, dim), (count, dim))]
        [cases.whole(batch) for _ in range(2)], cases.whole(2 * batch), cases.real(batch)
    with Allocated() as seen:
        signatures.record(lambda: cases.loss(sizes, torch.bfloat16), 90)
    gradients = sum(one.numel() * one.element_size() for one in real)
    assert 0 < seen.total - inputs.total - gradients < share * 4 * batch * count
