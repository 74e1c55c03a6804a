"""Models of torch_geometric.nn.kge come in with the same scores."""

import pytest
import torch

import kgfast
from kgfast import KgfastError, testing

kge = pytest.importorskip("torch_geometric.nn.kge", reason="PyG isn't installed (pip install torch_geometric)")

MODELS = {
    "TransE-1": (kge.TransE, dict(p_norm=1.0), "transe_l1"),
    "TransE-2": (kge.TransE, dict(p_norm=2.0), "transe_l2"),
    "DistMult": (kge.DistMult, {}, "distmult"),
    "ComplEx": (kge.ComplEx, {}, "complex"),
    "RotatE": (kge.RotatE, dict(margin=0.0), "rotate_l2"),
}


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_the_same(name):
    kind, options, score = MODELS[name]
    torch.manual_seed(1)
    theirs = kind(9, 3, 6, **options)
    ours = kgfast.from_pyg(theirs)
    triples = testing.make_triples(20, num_entities=9, num_relations=3)
    assert ours.score == score
    head, relation, tail = triples.unbind(1)
    with torch.no_grad():
        torch.testing.assert_close(ours.score_triples(triples), theirs(head, relation, tail))
        every = torch.arange(9).repeat(20)
        expected = theirs(every, relation.repeat_interleave(9), tail.repeat_interleave(9)).view(20, 9)
        torch.testing.assert_close(ours.score_candidates(triples, "head"), expected)


def test_a_margin_changes_no_rank():
    theirs = kge.RotatE(9, 3, 6, margin=4.0)
    triples = testing.make_triples(5, num_entities=9, num_relations=3)
    with torch.no_grad():
        torch.testing.assert_close(kgfast.from_pyg(theirs).score_triples(triples) + 4.0, theirs(*triples.unbind(1)))


def test_what_has_no_equal_is_refused():
    with pytest.raises(KgfastError, match="TransE with p_norm=3.0"):
        kgfast.from_pyg(kge.TransE(9, 3, 6, p_norm=3.0))
    with pytest.raises(KgfastError, match="Linear is no model of torch_geometric.nn.kge"):
        kgfast.from_pyg(torch.nn.Linear(2, 2))
