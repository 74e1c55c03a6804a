"""Which questions the report shows."""

import torch

from kgfast.joint.tasks.qa.examples import SHOWN, ranked, varied


def test_the_first_key_counts_before_the_others():
    hops, sure = torch.tensor([1, 3, 3, 2]), torch.tensor([0.9, 0.2, 0.8, 1.0])
    assert ranked((hops, sure), torch.tensor([True, True, True, False])) == [2, 1, 0]
    assert ranked((sure,), torch.tensor([True, False, True, True])) == [3, 0, 2]


def test_questions_of_the_same_wording_stand_once():
    texts = ["which river?", "which sea?", "which river?", *(f"which {number}?" for number in range(20))]
    rows = torch.arange(len(texts))
    places = varied([2, 0, 1, *range(3, 20)], texts, rows)
    assert places[:2] == [2, 1] and 0 not in places and len(places) == SHOWN
