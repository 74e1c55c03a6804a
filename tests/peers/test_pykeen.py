"""PyKEEN's graphs and models come in with the same ids and scores, and ours go into its pipeline."""

import re
import sys
from pathlib import Path

import pytest
import torch

import kgfast
from kgfast import DataError, KgfastError, KnowledgeGraph, testing
from kgfast.evaluate import evaluate

pytest.importorskip("pykeen", reason="PyKEEN isn't installed (pip install kgfast[pykeen])")

from pykeen import losses, models  # noqa: E402
from pykeen.datasets import Nations  # noqa: E402
from pykeen.evaluation import RankBasedEvaluator  # noqa: E402
from pykeen.pipeline import pipeline  # noqa: E402
from pykeen.triples import CoreTriplesFactory  # noqa: E402

MODELS = {
    "TransE-1": (models.TransE, dict(embedding_dim=6, scoring_fct_norm=1), "transe_l1"),
    "TransE-2": (models.TransE, dict(embedding_dim=6, scoring_fct_norm=2), "transe_l2"),
    "DistMult": (models.DistMult, dict(embedding_dim=6), "distmult"),
    "ComplEx": (models.ComplEx, dict(embedding_dim=3), "complex"),
    "RESCAL": (models.RESCAL, dict(embedding_dim=4), "rescal"),
    "CP": (models.CP, dict(embedding_dim=3, rank=2), "cp"),
    "RotatE": (models.RotatE, dict(embedding_dim=3), "rotate_l2"),
    "SimplE": (models.SimplE, dict(embedding_dim=3), "distmult"),
}
METRICS = {"mrr": "inverse_harmonic_mean_rank", "hits@1": "hits_at_1", "hits@10": "hits_at_10"}


@pytest.fixture(scope="module", params=[False, True], ids=["", "inverse"])
def nations(request):
    return Nations(create_inverse_triples=request.param)


def made(name, dataset):
    """A model whose rows are of order 1, so that scores differ."""
    kind, options, score = MODELS[name]
    model = kind(triples_factory=dataset.training, random_seed=3, **options)
    if score != "rotate_l2":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
    return model, score


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_the_same(name, nations):
    """Of triples, of all tails, and of all heads, which models with inverse triples ask otherwise."""
    theirs, score = made(name, nations)
    ours = kgfast.from_pykeen(theirs)
    assert ours.score == score and ours.reciprocal == nations.create_inverse_triples
    triples = nations.testing.mapped_triples[:50]
    with torch.no_grad():
        torch.testing.assert_close(ours.score_triples(triples), theirs.predict_hrt(triples)[:, 0])
        torch.testing.assert_close(ours.score_candidates(triples, "tail"), theirs.predict_t(triples[:, :2]))
        torch.testing.assert_close(ours.score_candidates(triples, "head"), theirs.predict_h(triples[:, 1:]))


@pytest.mark.parametrize("name", MODELS)
def test_metrics_are_the_same(name, nations):
    theirs, _ = made(name, nations)
    graph = KnowledgeGraph.load(nations)
    found = RankBasedEvaluator(filtered=True).evaluate(
        theirs, nations.testing.mapped_triples, device="cpu", use_tqdm=False, batch_size=256,
        additional_filter_triples=[nations.training.mapped_triples, nations.validation.mapped_triples],
    )  # fmt: skip
    ours = evaluate(kgfast.from_pykeen(theirs), graph)
    for metric, word in METRICS.items():
        assert ours[metric] == pytest.approx(found.get_metric(f"both.realistic.{word}"), abs=5e-5), metric
    assert 0 < ours["mrr"] < 1


@pytest.mark.parametrize(
    "kind, options, message",
    [
        (models.TuckER, {}, "no score of TuckERInteraction .*those of TransE, DistMult"),
        (models.HolE, {}, "no score of HolEInteraction"),
        (models.TransE, dict(scoring_fct_norm=3), "scoring_fct_norm=3; kgfast has the norms 1 and 2"),
        (models.SimplE, dict(clamp_score=20.0), "SimplE clamps scores to"),
        (models.RotatE, dict(relation_initializer="normal", relation_constrainer=None), "is no rotation: its number"),
        (models.MarginalDistributionBaseline, None, "is no model of PyKEEN with a row"),
    ],
    ids=lambda one: one.__name__ if isinstance(one, type) else "",
)
def test_what_has_no_equal_is_refused(kind, options, message):
    if options is None:
        model = kind(triples_factory=Nations().training)
    else:
        model = kind(triples_factory=Nations().training, embedding_dim=4, random_seed=0, **options)
    with pytest.raises(KgfastError, match=message):
        kgfast.from_pykeen(model)
    with pytest.raises(KgfastError, match="Linear is no model of PyKEEN"):
        kgfast.from_pykeen(torch.nn.Linear(2, 2))


def test_graphs_have_the_same_names_and_ids(nations):
    """Of a dataset, its name, and a factory alone, with labels or without."""
    graph = KnowledgeGraph.load(nations)
    assert torch.equal(graph.train, nations.training.mapped_triples)
    assert torch.equal(graph.valid, nations.validation.mapped_triples)
    assert torch.equal(graph.test, nations.testing.mapped_triples)
    assert all(graph.entity_id(name) == id for name, id in nations.training.entity_to_id.items())
    assert all(graph.relation_id(name) == id for name, id in nations.training.relation_to_id.items())
    named = KnowledgeGraph.load("pykeen:Nations")
    assert named.fingerprint == graph.fingerprint and named.name == "pykeen:Nations"
    alone = KnowledgeGraph.load(nations.training)
    assert torch.equal(alone.train, graph.train) and not len(alone.valid) + len(alone.test)
    assert list(alone.entity_names) == list(graph.entity_names)
    bare = CoreTriplesFactory(nations.training.mapped_triples, num_entities=20, num_relations=60)
    assert KnowledgeGraph.load(bare).num_entities == 20 and KnowledgeGraph.load(bare).entity_names[3] == "3"


def test_graphs_that_are_none_are_refused(monkeypatch):
    with pytest.raises(DataError, match="did you mean 'pykeen:Nations'"):
        KnowledgeGraph.load("pykeen:Nation")
    with pytest.raises(DataError, match="source is a TransE of PyKEEN"):
        KnowledgeGraph.load(models.TransE(triples_factory=Nations().training, random_seed=0))
    with pytest.raises(DataError, match="iris, header, columns and literals have no meaning"):
        KnowledgeGraph.load("pykeen:Nations", header=True)

    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("pykeen.datasets.FB15k237._load", offline)
    with pytest.raises(DataError, match="pykeen:FB15k237: PyKEEN can't load it: OSError: no network"):
        KnowledgeGraph.load("pykeen:FB15k237")
    monkeypatch.setitem(sys.modules, "pykeen", None)
    with pytest.raises(KgfastError, match=r"source=pykeen:Nations needs the package pykeen .*kgfast\[pykeen\]"):
        KnowledgeGraph.load("pykeen:Nations")


@pytest.mark.slow
@pytest.mark.parametrize("loop, inverse", [("slcwa", False), ("lcwa", True)])
def test_a_fused_model_trains_in_the_pipeline(loop, inverse):
    """And its metrics, ranks of heads and tails by PyKEEN, are those that kgfast finds."""
    from kgfast.peers.fused_model import FusedModel

    dataset = Nations(create_inverse_triples=inverse)
    found = pipeline(
        dataset=dataset, model=FusedModel, model_kwargs=dict(score="distmult", dim=16, init_scale=0.3),
        training_loop=loop, training_kwargs=dict(num_epochs=3, batch_size=256, use_tqdm=False), optimizer="Adam",
        optimizer_kwargs=dict(lr=0.05), random_seed=1, device="cpu", use_tqdm=False,
        evaluation_kwargs=dict(use_tqdm=False, batch_size=128),
    )  # fmt: skip
    mrr = found.metric_results.get_metric("both.realistic.inverse_harmonic_mean_rank")
    assert found.losses[-1] < found.losses[0] and mrr > 0.3
    kge = found.model.kge
    assert kge.num_relations == dataset.training.num_relations
    if not inverse:
        assert evaluate(kge, KnowledgeGraph.load(dataset))["mrr"] == pytest.approx(mrr, abs=5e-5)
    pairs = dataset.testing.mapped_triples[:7]
    assert found.model.score_r(pairs[:, [0, 2]]).shape == (7, kge.num_relations)
    some = torch.tensor([3, 1])
    every = found.model.score_h(pairs[:, 1:])
    torch.testing.assert_close(found.model.score_h(pairs[:, 1:], heads=some), every[:, some])
    before = kge.entities.detach().clone()
    found.model.reset_parameters_()
    assert not torch.equal(kge.entities, before)


SAMPLED = {
    "nssa": (
        losses.NSSALoss(margin=2.0, adversarial_temperature=0.7),
        dict(objective="logistic", margin=2.0, adversarial_temperature=0.7),
    ),
    "margin": (losses.MarginRankingLoss(margin=1.0), dict(objective="margin", margin=1.0)),
    "softplus": (losses.SoftplusLoss(), dict(objective="bce")),
    "bce": (losses.BCEWithLogitsLoss(), dict(objective="bce")),
    "infonce": (losses.InfoNCELoss(margin=0.0, log_adversarial_temperature=0.0), dict(objective="softmax")),
}


def tables():
    entities, relations = testing.make_tables("distmult", 4)
    return entities, relations, testing.make_triples(6)


@pytest.mark.parametrize("name", SAMPLED)
def test_losses_over_negatives_are_the_same(name):
    theirs, options = SAMPLED[name]
    *given, triples = tables()
    away = torch.randint(1, len(given[0]), (6, 7), generator=torch.Generator().manual_seed(0))
    negatives = (triples[:, 2:] + away) % len(given[0])  # not the target, which has no part in ours
    positive = kgfast.score_triples(*given, triples, score="distmult")[:, None]
    negative = kgfast.score_candidates(*given, triples, negatives, score="distmult")
    ours = kgfast.negative_sampling_loss(*given, triples, negatives, score="distmult", side="tail", **options)
    torch.testing.assert_close(ours, theirs.process_slcwa_scores(positive, negative))


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("kind, objective", [(losses.CrossEntropyLoss, "softmax"), (losses.BCEWithLogitsLoss, "bce")])
def test_losses_over_all_entities_are_the_same(kind, objective, several):
    *given, triples = tables()
    labels = torch.zeros(6, len(given[0])).scatter_(1, triples[:, 2:], 1.0)
    known = None
    if several:
        known = testing.make_known(triples)
        for row, triple in enumerate(triples):
            labels[row, known.answers(triple, "tail")] = 1
    scores = kgfast.score_candidates(*given, triples, score="distmult")
    options = dict(score="distmult", side="tail", objective=objective, known=known)
    torch.testing.assert_close(
        kgfast.one_vs_all_loss(*given, triples, **options), kind().process_lcwa_scores(scores, labels)
    )


@pytest.mark.slow
@pytest.mark.no_poison  # blocks call torch themselves
def test_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "from_pykeen.md"
    scope = {"__name__": "example"}
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    torch.manual_seed(0)
    for code in blocks:
        exec(compile(code, str(page), "exec"), scope)
