"""An exported model, loaded into PyKEEN, gets the same filtered metrics from PyKEEN's own evaluator."""

import os
from pathlib import Path

import numpy
import pytest
import torch

from kgfast.data import KnowledgeGraph
from kgfast.evaluate import evaluate, export
from kgfast.nn import KGEModel

pytest.importorskip("pykeen", reason="PyKEEN isn't installed (pip install kgfast[test])")
NAMES = {"mrr": "inverse_harmonic_mean_rank", "hits@1": "hits_at_1", "hits@10": "hits_at_10"}
NAMES["mean_rank"] = "arithmetic_mean_rank"
NAMES |= {"amr": "adjusted_arithmetic_mean_rank", "amri": "adjusted_arithmetic_mean_rank_index"}


def real_data(name):
    """A dataset folder under $KGFAST_DATA or ../shared/data."""
    root = Path(os.environ.get("KGFAST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"no {root / name}: set KGFAST_DATA to a folder that holds {name}")
    return str(root / name)


def learned(graph, score, dim=32, steps=60):
    """A model that has learned something: ranks of every size, and none by chance alone."""
    model = KGEModel(graph.num_entities, graph.num_relations, dim, score=score, init_scale=0.3, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = graph.train[torch.randint(len(graph.train), (512,), generator=random)]
        wrong = rows.clone()
        wrong[:, 2] = torch.randint(graph.num_entities, (512,), generator=random)
        scores = torch.stack([model.score_triples(rows), model.score_triples(wrong)], 1)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(scores, torch.zeros(512, dtype=torch.int64)).backward()
        optimizer.step()
    return model


def in_pykeen(score, entities, relations, factory):
    """PyKEEN's model of the same score with these tables."""
    from pykeen.models import ComplEx, DistMult, TransE

    def interleaved(table):  # PyKEEN's complex numbers are pairs, ours two halves
        real, imaginary = numpy.split(table, 2, axis=1)
        return numpy.stack([real, imaginary], axis=-1).reshape(len(table), -1)

    dim = entities.shape[1]
    if score == "complex":
        model = ComplEx(triples_factory=factory, embedding_dim=dim // 2, random_seed=0)
        entities, relations = interleaved(entities), interleaved(relations)
    elif score == "distmult":
        model = DistMult(triples_factory=factory, embedding_dim=dim, random_seed=0)
    else:
        model = TransE(triples_factory=factory, embedding_dim=dim, scoring_fct_norm=int(score[-1]), random_seed=0)
    for representations, table in (
        (model.entity_representations, entities),
        (model.relation_representations, relations),
    ):
        weight = next(representations[0].parameters())
        with torch.no_grad():
            weight.copy_(torch.from_numpy(table).view(weight.shape))
    return model


def pykeen_metrics(score, folder, graph):
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.triples import CoreTriplesFactory

    sizes = {"num_entities": graph.num_entities, "num_relations": graph.num_relations}
    factory = CoreTriplesFactory(graph.train, **sizes)
    tables = (numpy.load(folder / f"{name}.npy", allow_pickle=False) for name in ("entities", "relations"))
    model = in_pykeen(score, *tables, factory)
    found = RankBasedEvaluator(filtered=True).evaluate(
        model,
        graph.test,
        additional_filter_triples=[graph.train, graph.valid],
        batch_size=256,
        use_tqdm=False,
        device="cpu",
    )
    return {
        side: {ours: found.get_metric(f"{theirs}.realistic.{name}") for ours, name in NAMES.items()}
        for side, theirs in (("both", "both"), ("head", "head"), ("tail", "tail"))
    }


@pytest.mark.parametrize("score", ["distmult", "complex", "transe_l1", "transe_l2"])
@pytest.mark.parametrize("data", ["world", "nations", "umls"])
def test_pykeen_agrees(data, score, tmp_path):
    graph = KnowledgeGraph.load(data if data == "world" else real_data(data), cache=False)
    model = learned(graph, score)
    export(model, graph, tmp_path)
    assert (tmp_path / "entities.txt").read_text(encoding="utf-8").split("\n")[:-1] == list(graph.entity_names)
    ours = evaluate(model, graph)
    theirs = pykeen_metrics(score, tmp_path, graph)
    for side, found in (("both", ours), ("head", ours["head"]), ("tail", ours["tail"])):
        for name in ("mrr", "hits@1", "hits@10", "amr", "amri"):
            assert found[name] == pytest.approx(theirs[side][name], abs=5e-5), (side, name)
        assert found["mean_rank"] == pytest.approx(theirs[side]["mean_rank"], rel=1e-4), side
    assert 0.02 < ours["mrr"] < 0.98
