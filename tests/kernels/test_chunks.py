"""How losses in library products are cut: arithmetic alone."""

import pytest

from kgfast.kernels.triton.chunks import FEW_BYTES, ROUNDED_CHUNKS, plan

HEADS = [(4096, 30522, 768), (8192, 50257, 1024), (8192, 128256, 4096), (16384, 151936, 2048), (4096, 32768, 1024),
         (1, 1, 1), (7, 37, 33), (65536, 128256, 4096), (100_000, 1000, 16), (1024, 237, 768)]  # fmt: skip


@pytest.mark.parametrize("sizes", HEADS)
@pytest.mark.parametrize("itemsize", [2, 4, 8])
@pytest.mark.parametrize("wide", [False, True])
def test_a_plan_covers_all_and_keeps_its_promises(sizes, itemsize, wide):
    batch, count, dim = sizes
    cut = plan(batch, count, dim, itemsize, wide)
    line = 128 // itemsize
    assert cut.stride % line == 0 and 0 <= cut.stride - count < line
    assert 1 <= cut.rows <= batch and (cut.number(batch) - 1) * cut.rows < batch <= cut.number(batch) * cut.rows
    assert cut.main <= count <= cut.main + cut.tail if cut.tail else cut.main == count
    logits, rest = batch * cut.stride * itemsize, cut.tail * dim * (itemsize + (4 if cut.wide_sums else itemsize))
    assert cut.extra_bytes(count, dim, itemsize) <= logits + rest
    if cut.tail:
        assert itemsize == 2 and cut.main % 8 == 0 and 0 < count - cut.main < 8 == cut.tail
        assert cut.main + cut.tail <= cut.stride
    if itemsize == 2 and not cut.wide_sums:
        assert cut.number(batch) <= ROUNDED_CHUNKS
    assert not cut.wide_sums or (wide and itemsize == 2)
    if logits <= FEW_BYTES:
        assert cut.rows == batch


@pytest.mark.parametrize(
    "sizes, rows, wide_sums",
    [((8192, 128256, 4096), 2048, False), ((16384, 151936, 2048), 4096, False), ((4096, 32768, 1024), 2048, False),
     ((65536, 128256, 4096), 4096, True)],
)  # fmt: skip
def test_chunks_of_known_heads(sizes, rows, wide_sums):
    cut = plan(*sizes, 2, True)
    assert (cut.rows, cut.wide_sums) == (rows, wide_sums)


def test_odd_vocabularies_are_split_where_that_is_worth_launches():
    assert [plan(4096, words, 768, 2, True).main for words in (30522, 50257, 50304)] == [30520, 50256, 50304]
    assert plan(1024, 237, 768, 2, True).tail == 0 and plan(4096, 50257, 768, 4, True).tail == 0
