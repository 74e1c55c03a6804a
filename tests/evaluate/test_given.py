"""Ranks among OGB's candidates are those of OGB's Evaluator: of its rule written out, and its own where it is there."""

import json

import pytest
import torch
from data_helpers import write_ogb

from kgfast.cli.main import main
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError, KgfastError
from kgfast.evaluate import evaluate_ogb
from kgfast.nn import KGEModel

pytestmark = pytest.mark.usefixtures("own_cache")


def evaluators():
    """OGB's rule, and its package where that can be imported."""
    yield lambda own, others: 1 / (((others > own).sum(1) + (others >= own).sum(1)) / 2 + 1)
    try:
        from ogb.linkproppred import Evaluator
    except ImportError:
        return
    official = Evaluator(name="ogbl-wikikg2")
    yield lambda own, others: official.eval({"y_pred_pos": own[:, 0], "y_pred_neg": others})["mrr_list"]


def scored(model, graph, split):
    """{side: (scores of the triples [M, 1], scores of their candidates [M, K])}, one triple at a time, by OGB's ids."""
    folder, typed = graph.laid_out / "split", (graph.laid_out / "split" / "random").is_dir()
    names = ["drug:007", "drug:b", "gene:b", "gene:g", "gene:h"] if typed else ["Q9", "Q7", "Q5", "Q3", "Q1"]
    relations = ["treats", "binds"] if typed else ["P1", "P2"]
    found = torch.load(next(folder.glob(f"*/{split}.pt")), weights_only=False)
    shift = {"head": 0, "tail": 2 if typed else 0}
    parts = {"head": ([], []), "tail": ([], [])}
    for row, (h, r, t) in enumerate(zip(found["head"], found["relation"], found["tail"], strict=True)):
        ends = {"head": h + shift["head"], "tail": t + shift["tail"]}
        for side, (own, others) in parts.items():
            triples = [ends | {side: ends[side]}]
            triples += [ends | {side: candidate + shift[side]} for candidate in found[f"{side}_neg"][row]]
            named = [(names[one["head"]], relations[r], names[one["tail"]]) for one in triples]
            ids = [[graph.entity_id(a), graph.relation_id(b), graph.entity_id(c)] for a, b, c in named]
            scores = model.score_triples(torch.tensor(ids)).detach()
            own.append(scores[:1])
            others.append(scores[1:])
    return {side: (torch.stack(own), torch.stack(others)) for side, (own, others) in parts.items()}


@pytest.mark.parametrize("typed", [False, True], ids=["wikikg2", "biokg"])
@pytest.mark.parametrize("reciprocal", [False, True], ids=["", "reciprocal"])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_metric_is_ogbs(tmp_path, typed, reciprocal, split):
    graph = KnowledgeGraph.load(write_ogb(tmp_path, typed))
    torch.manual_seed(3)
    model = KGEModel(graph.num_entities, graph.num_relations, 4, score="distmult", reciprocal=reciprocal)
    if reciprocal:  # heads are then asked for by other relations
        with torch.no_grad():
            model.relations[graph.num_relations :] = model.relations[: graph.num_relations]
    found = evaluate_ogb(model, graph, split, batch_size=1)
    assert found["given_candidates"] == {"head": 2, "tail": 3} and found["triples"] == (1 if split == "valid" else 2)
    for mrr in evaluators():
        of_sides = {side: mrr(*scores).double() for side, scores in scored(model, graph, split).items()}
        for side, values in of_sides.items():
            assert found[side]["ogb_mrr"] == pytest.approx(float(values.mean()), rel=1e-6)
            assert found[side]["ogb_hits@1"] == pytest.approx(float((values == 1).double().mean()))
        assert found["ogb_mrr"] == pytest.approx(float(torch.cat(list(of_sides.values())).mean()), rel=1e-6)
    assert not any(name in found for name in ("mrr", "hits@1", "mean_rank"))


def test_ties_count_half(tmp_path):
    graph = KnowledgeGraph.load(write_ogb(tmp_path))
    model = KGEModel(graph.num_entities, graph.num_relations, 4, score="distmult")
    with torch.no_grad():
        model.entities.fill_(1.0)
        model.relations.fill_(1.0)
    found = evaluate_ogb(model, graph, "test")
    assert (found["head"]["ogb_mean_rank"], found["tail"]["ogb_mean_rank"]) == (2.0, 2.5)
    assert all(part["ogb_amr"] == 1.0 and part["ogb_amri"] == 0.0 for part in (found, found["head"], found["tail"]))
    assert "ogb_hits@2" in evaluate_ogb(model, graph, "test", hits=[2])["head"]
    with torch.no_grad():
        model.entities[0] = torch.nan
    with pytest.raises(KgfastError, match="training diverged"):
        evaluate_ogb(model, graph, "test")


def test_part_of_a_split(tmp_path):
    graph = KnowledgeGraph.load(write_ogb(tmp_path))
    model = KGEModel(graph.num_entities, graph.num_relations, 4, score="distmult")
    found = evaluate_ogb(model, graph, "test", triples=1, seed=5)
    assert (found["triples"], found["of"], found["seed"]) == (1, 2, 5) and "ogb_mrr" in found["interval"]


def test_graphs_without_candidates(tmp_path):
    graph = KnowledgeGraph.load(write_ogb(tmp_path))
    model = KGEModel(graph.num_entities, graph.num_relations, 4, score="distmult")
    with pytest.raises(ConfigError, match="split='train': OGB gives candidates for valid and test"):
        evaluate_ogb(model, graph, "train")
    path = graph.laid_out / "split" / "time" / "test.pt"
    found = torch.load(path, weights_only=False)
    torch.save(found | {"head_neg": found["head_neg"] + 4}, path)
    with pytest.raises(DataError, match=r"a candidate of OGB for head is outside \[0, 5\)"):
        evaluate_ogb(model, graph)
    torch.save(found | {"head_neg": found["head_neg"][:1]}, path)
    with pytest.raises(DataError, match=r"head_neg must be integers \[2, K\]"):
        evaluate_ogb(model, graph)
    torch.save({key: found[key] for key in ("head", "relation", "tail")}, path)
    with pytest.raises(DataError, match="OGB gives no candidates for test"):
        evaluate_ogb(model, graph)
    other = KnowledgeGraph.from_arrays(graph.train, num_entities=5, num_relations=2)
    with pytest.raises(DataError, match="graph 'arrays' has no given candidates: OGB's folders"):
        evaluate_ogb(model, other)


def test_the_command_line_names_it(tmp_path, capsys):
    def call(*words):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        return end.value.code or 0, *capsys.readouterr()

    kg, run = write_ogb(tmp_path / "kg"), tmp_path / "run"
    assert call("train", kg, "--dim", 4, "--epochs", 1, "tensorboard=false", "--out", run)[0] == 0
    code, output, _ = call("evaluate", run, "--ogb")
    assert code == 0 and output.startswith("ogb ")
    assert "among the candidates that OGB gives (2 heads, 3 tails a triple)" in output.replace("\n", " ")
    code, output, _ = call("evaluate", run, "--ogb", "--split", "valid", "--json")
    assert code == 0 and "ogb_mrr" in json.loads(output) and "mrr" not in json.loads(output)
    code, _, error = call("evaluate", run, "--ogb", "--candidates", 3)
    assert code == 2 and "--candidates can't apply" in error.replace("\n", " ")
