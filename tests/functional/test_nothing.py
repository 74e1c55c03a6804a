"""Tables and batches without a row, or without a number in one."""

import pytest
import torch

import kgfast
from kgfast.errors import KgfastError

LISTS = {"ids": torch.tensor([0, 1]), "lists": (torch.tensor([0, 1, 2]), torch.tensor([0, 1]))}


@pytest.mark.parametrize("kind", LISTS)
def test_no_row_is_the_target_of_an_empty_table(kind):
    term = kgfast.Term(torch.randn(2, 3), torch.randn(0, 3), LISTS[kind])
    with pytest.raises(KgfastError, match=r"terms\[0\]\.targets\[0\] is 0; ids must be in \[0, 0\)"):
        kgfast.multitask_loss([term])


@pytest.mark.parametrize("targets", [torch.tensor([-100, -100]), (torch.zeros(3, dtype=torch.int64), torch.arange(0))])
def test_an_empty_table_that_nothing_is_asked_of(targets):
    total, _ = kgfast.multitask_loss([kgfast.Term(torch.randn(2, 3), torch.randn(0, 3), targets)])
    assert total == 0


@pytest.mark.parametrize("shape", [(5,), (2, 3), (), (0,)])
@pytest.mark.parametrize("impl", [None, "cpu", "reference"])
def test_rows_without_a_number_are_refused(shape, impl):
    hidden, weight, targets = torch.randn(*shape, 0), torch.randn(11, 0), torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(KgfastError, match=r"weight has shape \[11, 0\]: its rows hold no number"):
        kgfast.linear_cross_entropy(hidden, weight, targets, impl=impl)
    with pytest.raises(KgfastError, match=r"hidden has shape \[\d, 0\]: its rows hold no number"):
        kgfast.linear_cross_entropy(hidden, torch.randn(11, 4), targets, impl=impl)
    with pytest.raises(KgfastError, match=r"query has shape \[2, 0\]: its rows hold no number"):
        kgfast.multitask_loss([kgfast.Term(torch.randn(2, 0), weight, torch.tensor([0, 1]))], impl=impl)
    with pytest.raises(KgfastError, match="entities .*0"):
        kgfast.rank(weight, torch.randn(2, 0), torch.tensor([[0, 0, 1]]), score="distmult", side="tail", impl=impl)
