"""The arithmetic of launches at sizes that no memory here holds: tensors without memory, launches that are noted.

A GPU takes 2^31 - 1 blocks along x, but 65,535 along y and z, where nothing may depend on what grows.
"""

import re
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch

from kgfast import backends
from kgfast.backends.cpu import _C
from kgfast.core.environment import TRITON_INTERPRETED

if not backends.TRITON or TRITON_INTERPRETED:
    pytest.skip("needs Triton's compiler", allow_module_level=True)

import triton

from kgfast.kernels.compile.lane import CASES
from kgfast.kernels.compile.row_cases import allocate, real, whole
from kgfast.kernels.compile.signatures import architecture_is
from kgfast.kernels.triton import all_scores, launching, pairs, queries, sampled, sampling, shared, updates
from kgfast.registry import Objective, Regularizer, Side, Similarity

KERNELS = Path(launching.__file__).parent
NONE = whole(0), whole(0), whole(0)
DOT, L1, L2, MODULUS = Similarity


@contextmanager
def noted():
    """Launches inside, not made: (kernel's name, grid, its arguments)."""
    found = []

    def note(kernel, *, grid, warmup, **given):
        found.append((kernel.__name__, tuple(grid), given))

    with architecture_is(90), mock.patch.object(triton.JITFunction, "run", note):
        yield found


def grids(found) -> dict:
    return {name: grid for name, grid, _ in found}


@pytest.mark.parametrize("case", CASES)
def test_every_launch_has_one_dimension(case):
    with noted() as found:
        CASES[case]()
    assert found and all(len(grid) == 1 for _, grid, _ in found)


def test_no_kernel_asks_for_another_dimension():
    for file in KERNELS.glob("*.py"):
        assert not re.search(r"(program_id|num_programs)\(\s*(axis=)?[12]", file.read_text()), file.name


def test_many_lists_and_many_columns():
    """More than 65,535 lists that are shared, 262,140 candidates of a query, 2^25 negatives."""
    with noted() as found:
        lists, count, dim, batch = 70_000, 300, 16, 140_000
        inputs = real(batch, dim), real(1000, dim), whole(batch), whole(lists, count), *NONE, real(batch)
        shared.loss(*inputs, L1, Objective.LOGISTIC, 0.0, 0.0, real(batch), real(batch, dim), real(batch, 1),
                    real(lists, count, dim), allocate)  # fmt: skip
        wide = whole(2, 300_000)
        pairs.score(real(2, 400), real(10, 400), wide, DOT, real(2, 300_000))
        sampling.sample(whole(3, 2**25), 1, whole(1), 100, Side.TAIL, whole(0), *NONE)
        pairs.query_gradient(real(2, 300_000), real(2, 300_000), real(2, 400), real(10, 400), wide, DOT,
                             real(2, 300_000), real(2, 400))  # fmt: skip
    sizes = grids(found)
    assert sizes["list_scores"] == (lists * 5,) and sizes["list_query_gradient"] == (lists,)
    assert sizes["list_row_gradient"] == (lists * 10,)
    assert sizes["pair_scores"] == (2 * 75_000,) and sizes["draw_negatives"] == (3 * 2**15,)


def test_large_matrices_of_relations():
    """RESCAL with rows of 8,192 numbers has 65,536 tiles of a matrix."""
    dim = 8192
    with noted() as found:
        tables = real(10, dim), real(3, dim * dim), whole(5, 3)
        queries.adjoint(real(5, dim), *tables, "Rescal", Side.TAIL, real(5, dim), real(5, dim * dim))
        updates.add_regularizer(Regularizer.N3, 1, 0.1, real(3, dim * dim), whole(5), real(5, dim * dim))
    sizes = grids(found)
    assert sizes["outer_product"] == (5 * 65_536,) and sizes["add_penalty_gradient"] == (5 * 32_768,)


def test_own_negatives_of_many_columns():
    with noted() as found:
        batch, count = 3, 2**27
        scores = real(batch, 1 + count)
        sampled.loss(real(batch, 8), real(9, 8), whole(batch), whole(batch, count), *NONE, real(batch), DOT,
                     Objective.SOFTMAX, 0.0, 1.0, real(batch), real(batch, 8), whole(batch, 1 + count), scores,
                     real(2, batch), real(batch))  # fmt: skip
    assert grids(found)["negative_score_gradients"] == (batch * 2**17,)


@pytest.mark.parametrize("count, far", [(2**20, False), (20_000_000, True)])
def test_strides_of_64_bits_where_a_tile_is_that_far_apart(count, far):
    """Beyond 2^23 columns: rows of a tile may lie 2^31 numbers apart. Wide dots with shared lists have no tiles."""
    with noted() as found:
        tables = (real(rows, 8, dtype=torch.bfloat16) for rows in (64, 9))
        inputs = *tables, whole(64), whole(1, count), *NONE, real(64)
        shared.loss(*inputs, DOT, Objective.LOGISTIC, 0.0, 0.0, real(64), real(64, 8), real(64, 1),
                    real(1, count, 8), allocate)  # fmt: skip
        all_scores.all_scores_gradient(real(64, count), real(64, count), real(64, 8), real(count, 8), DOT)
    asked = [given["FAR"] for _, _, given in found if "FAR" in given]
    assert len(asked) == 4 and set(asked) == {far}


# ---- CUDA: the same launches on the host, counted and not run -------------------------------------------------


@pytest.fixture
def host():
    if not _C.cuda.on_host:
        pytest.skip("the CUDA kernels run on the host under Linux only")
    _C.cuda.watch_host(False)
    yield (True, 0)
    _C.cuda.watch_host(True)


def sampled_loss(host, similarity, batch, groups, count, dim):
    """Launches of a loss whose tensors are nowhere, with a gradient."""
    _C.cuda.sampled_loss(host, similarity, Objective.LOGISTIC, 0.0, 0.0, *[16] * 4, *[0] * 3, 16, batch, groups, count,
                         dim, *[16] * 6)  # fmt: skip
    return _C.cuda.host_grids()


def test_cuda_millions_of_shared_negatives(host):
    tiles = 5_000_000 // 64
    assert sampled_loss(host, DOT, 100, 1, 5_000_000, 200) == [
        (2 * tiles, 1), (100, 1), (2, 4), (tiles, 4)]  # fmt: skip


def test_cuda_many_lists_and_candidates(host):
    assert max(y for _, y in sampled_loss(host, MODULUS, 140_000, 70_000, 300, 4096)) == 32
    _C.cuda.pair_scores(host, DOT, 16, 16, 16, 1, 100_000_000, 400, 16)
    assert _C.cuda.host_grids()[-1] == (1, 1024)


def test_cuda_refuses_what_a_gpu_would_cut(host):
    with pytest.raises(ValueError, match=r"a launch of 3000000000 x 1 blocks; a GPU takes 2147483647 x 65535"):
        sampled_loss(host, DOT, 3_000_000_000, 3_000_000_000, 1, 8)


def test_cuda_sorts_all_sources_with_one_launch(host):
    _C.cuda.sort_rows(host, [(16, 1000, 0), (16, 24, 0), (16, 24, 500)], 600, 16, 16, 16, 1)
    assert _C.cuda.host_grids() == [(5, 1)]
