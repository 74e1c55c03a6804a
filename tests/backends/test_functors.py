"""What the CUDA kernels do inside: every layout of a row, rows wider than a block, what they refuse.

Without a GPU they run on the host: every thread of every block runs the code that a GPU would
(kernels/cuda/emulate.h), so formulae that host and device share (csrc/include/kgfast), sums over warps and blocks and
masks are held to the specification. What they compute: the test_conformance files. What only a device can show
(races, speed): benchmarks/gpu.sh.
"""

import pytest
import torch
from row_cases import RowCase, check_rows

import kgfast
from kgfast import testing
from kgfast.errors import KgfastError
from kgfast.registry import Similarity

WIDE = 1030  # a block, not a warp, holds a row

pytestmark = [pytest.mark.of_backend("cuda"), pytest.mark.lanes(impls=("cuda",))]


@pytest.mark.parametrize("score", ["distmult", "transe_l1", "transe_l2", "rotate"])
@pytest.mark.parametrize("dim", [258, 514, WIDE])
def test_every_layout_of_a_row(lane, score, dim):
    case = lane.case(score, dim, 3, 6)

    def loss(op, entities, relations, **impl):
        return op(
            entities, relations, case.triples, case.negatives, score=score, side="tail", objective="softmax", **impl
        )

    lane.compare("negative_sampling_loss", [case.entities, case.relations], loss)


@pytest.mark.parametrize("rule", ("dense", "row_adagrad", "adagrad", "adam"))
@pytest.mark.parametrize("dim", [WIDE, 4100])
def test_extra_rows_wider_than_a_block(lane, rule, dim):
    """Relations may be wider than any entity row."""
    generator = torch.Generator().manual_seed(0)
    extras = [(torch.randint(3, (70,), generator=generator), torch.randn(70, dim, generator=generator))]
    no_pairs = torch.empty(0, dim), torch.ones(3, dim), torch.empty(0, 0, dtype=torch.int64), torch.empty(0, 0)
    check_rows(lane.backend, rule, RowCase(*no_pairs, extras), Similarity.DOT, lane.device)


def test_what_the_kernels_do_not_take_is_named(lane):
    table, ids, wide = lane.on(torch.zeros(3, 4).double(), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 5000))
    with pytest.raises(KgfastError, match="float32 rows; table is torch.float64"):
        lane.backend.pair_scores(table[:1], table, ids, 0)
    with pytest.raises(KgfastError, match="at most 4096 numbers; table has 5000"):
        lane.backend.pair_scores(wide, wide, ids, 0)


def test_without_the_host_lane_cpu_tensors_are_refused(lane):
    case = testing.make_case("distmult", 4, 2, 2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KgfastError, match="impl='cuda' can't serve"):
        patch.setattr("kgfast.backends.cuda.ON_HOST", False)
        kgfast.score_triples(case.entities, case.relations, case.triples, score="distmult", impl="cuda")
