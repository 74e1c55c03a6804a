"""Training steps of every kind over a small graph, for tests that compare or watch them."""

import torch

import kgfast
from kgfast import nn, optim, steps, testing

ENTITIES, RELATIONS = 11, 3
SIZES = dict(num_entities=ENTITIES, num_relations=RELATIONS)
STEPS = {
    "own": dict(negatives=5, margin=2.0, adversarial_temperature=1.0, regularizer="n3", regularizer_weight=0.1),
    "chunk": dict(negatives=4, sharing="chunk", chunk=3, objective="softmax", side="both"),
    "batch": dict(negatives=4, sharing="batch", objective="bce", regularizer="l2", regularizer_weight=0.1),
    "masked": dict(negatives=4, filter="mask", objective="margin", margin=1.0, negative_power=0.5),
    "redrawn": dict(negatives=4, filter="redraw", objective="softmax", side="both"),
    "all": dict(objective="softmax", label_smoothing=0.1, regularizer="n3", regularizer_weight=0.1),
    "answers": dict(objective="bce", answers=True, relation_weight=0.5),
}
OVER_ALL = ("all", "answers")  # of STEPS: losses over all entities


def known_graph(triples):
    """Known triples of a batch's graph, on the CPU."""
    return kgfast.KnownTriples.from_triples(testing.make_known_triples(triples, 30, **SIZES), ENTITIES, RELATIONS)


def make_step(kind, device, impl, score, reciprocal=False, optimizer=optim.RowAdagrad, dtype=torch.float32, **more):
    """(model, a step of STEPS, its triples), on the device."""
    options = {**STEPS[kind], **more}
    model = nn.KGEModel(ENTITIES, RELATIONS, 6, score=score, seed=1, reciprocal=reciprocal, dtype=dtype).to(device)
    triples = testing.make_triples(7, **SIZES)
    known = known_graph(triples).to(device)
    if "filter" in options:
        options["known"] = known
    if "negative_power" in options:
        options["entity_counts"] = torch.arange(ENTITIES)
    if "answers" in options:
        options["answers"] = known
    make = steps.OneVsAllStep if kind in OVER_ALL else steps.NegativeSamplingStep
    step = make(model, optimizer(model.parameters(), lr=0.1), impl=impl, seed=4, **options)
    return model, step, triples.to(device)
