"""Tables in host memory: a step over fetched rows is the step over the whole table, bit for bit."""

import pytest
import torch

import kgfast
from kgfast import nn, optim
from kgfast.steps import NegativeSamplingStep
from kgfast.steps.host_tables import HostTablesStep
from kgfast.testing import make_triples

ENTITIES, RELATIONS, BATCH = 3000, 40, 24
OPTIMIZERS = {
    "sgd": lambda params: optim.RowSGD(params, lr=0.5),
    "row_adagrad": optim.RowAdagrad,
    "adagrad": lambda params: optim.RowAdagrad(params, full=True),
    "adam": optim.RowAdam,
}


def trained(step_class, score, optimizer, reciprocal, steps=4, **options):
    """Losses, tables and state after a few steps on batches of several sizes, with a rate that falls."""
    model = nn.KGEModel(ENTITIES, RELATIONS, 16, score=score, reciprocal=reciprocal, seed=1)
    moved = OPTIMIZERS[optimizer]([model.entities, model.relations])
    graph = make_triples(600, num_entities=ENTITIES, num_relations=RELATIONS, seed=2)
    if "filter" in options:
        # most answers of a query are known, so that negatives meet them
        crowd = torch.stack([torch.zeros(2500), torch.zeros(2500), torch.arange(2500.0)], 1).long()
        graph[::3, :2] = 0
        options["known"] = kgfast.KnownTriples.from_triples(torch.cat([graph, crowd]), ENTITIES, RELATIONS)
    step = step_class(model, moved, negatives=7, chunk=5, margin=1.0, adversarial_temperature=0.5, seed=5, **options)
    losses = []
    for index in range(steps):
        batch = graph[index * BATCH : (index + 1) * BATCH - (3, 0, 1, 0)[index]]
        weights = torch.rand(len(batch), generator=torch.Generator().manual_seed(index))
        losses.append(step(batch, index, weights).clone())
        for group in moved.param_groups:
            group["lr"] *= 0.9
    states = [value for param in (model.entities, model.relations) for value in moved.state[param].values()]
    return [torch.stack(losses), model.entities.detach(), model.relations.detach(), *states]


@pytest.mark.parametrize("score", list(kgfast.SCORES))
@pytest.mark.parametrize("sharing", ["none", "chunk", "batch"])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_a_step_over_fetched_rows_has_the_bits_of_one_over_the_table(score, sharing, optimizer):
    options = dict(score=score, optimizer=optimizer, sharing=sharing, reciprocal=sharing == "chunk", side="both")
    for one, other in zip(
        trained(NegativeSamplingStep, **options), trained(HostTablesStep, device="cpu", **options), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("sharing", "filter"), [("none", "mask"), ("batch", "mask"), ("none", "redraw")])
@pytest.mark.parametrize("reciprocal", [False, True])
def test_known_answers_are_found_among_fetched_rows(sharing, filter, reciprocal):
    options = dict(score="complex", optimizer="row_adagrad", reciprocal=reciprocal, sharing=sharing)
    whole = trained(NegativeSamplingStep, **options, filter=filter, side="alternate")
    fetched = trained(HostTablesStep, device="cpu", **options, filter=filter, side="alternate")
    for one, other in zip(whole, fetched, strict=True):
        assert torch.equal(one, other)
    unfiltered = trained(HostTablesStep, device="cpu", **options, side="alternate")
    assert not torch.equal(fetched[0], unfiltered[0])


def test_rows_that_no_step_names_stay_as_they_were():
    tables = trained(HostTablesStep, "distmult", "adam", False, steps=1, device="cpu")
    untouched = nn.KGEModel(ENTITIES, RELATIONS, 16, score="distmult", seed=1).entities
    same = (tables[1] == untouched).all(1).sum()
    assert ENTITIES - BATCH * 9 <= same < ENTITIES


def test_a_model_elsewhere_is_refused():
    model = nn.KGEModel(5, 2, 4, score="distmult")
    optimizer = optim.RowSGD(model.parameters())
    far = nn.KGEModel(5, 2, 4, score="distmult").to("meta")
    with pytest.raises(kgfast.KgfastError, match="model must be on the CPU"):
        HostTablesStep(far, optimizer, device="cpu", negatives=3)
