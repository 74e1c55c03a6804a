"""The task "towers": texts of entities and relations through two towers."""

import pytest
import torch
from joint_helpers import joint_config, run_joint, write_towns
from pretrained_helpers import bert, save

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.functional.multitask import multitask_loss
from kgfast.joint import build
from kgfast.joint.checkpoint import load_run
from kgfast.joint.config import resolve
from kgfast.joint.model.joint_model import evaluating
from kgfast.joint.unseen import evaluate_tasks_unseen

pytest.importorskip("transformers")
OPTIONS = {"towers": dict(batch_size=16, width=32, out=16, dropout=0.0)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_towns(tmp_path_factory.mktemp("data") / "towns", countries=4, towns=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(bert().base_model, tmp_path_factory.mktemp("bert"))


def made(data, folder=None, **settings):
    backbone = {} if folder is None else dict(backbone=dict(path=str(folder), max_length=24, freeze=True))
    config = joint_config("unused", OPTIONS, data=str(data), entities="text", **backbone, **settings)
    graph = KnowledgeGraph.load(data, cache=False)
    return config, graph, build.build_model(config, graph)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_loss(data, folder, frozen):
    """As written out: cosines over a temperature, other right answers masked; gradients reach both towers, and texts
    where these learn."""
    _, graph, model = made(data, folder if frozen else None)
    task = model.tasks["towers"]
    model.refresh()
    batch = task.batch(0)
    assert (batch.packed is None) == frozen
    terms, _, _ = model.eval()({"towers": batch}, 0)
    loss = multitask_loss(terms)[0]
    loss.backward()
    memory = model.entities.pooled().detach()
    relations = task.read_relations(model, task.texts)
    total, offsets = 0.0, graph.num_relations
    for head, relation, tail in batch.triples.tolist():
        for side, (asked, wanted) in enumerate(((head, tail), (tail, head))):
            query = task.asked(memory[[asked]], relations[[relation + side * offsets]])
            scores = (query @ task.answering(memory[task.rivals]).T)[0] / 0.05
            place = task.rivals.tolist().index(wanted)
            right = {
                t if not side else h
                for h, r, t in graph.train.tolist()
                if r == relation and (h == head if not side else t == tail)
            } - {wanted}
            mask = torch.tensor([entity in right for entity in task.rivals.tolist()])
            total -= float(scores.detach().masked_fill(mask, -torch.inf).log_softmax(0)[place])
    assert float(loss.detach()) == pytest.approx(total / len(batch.targets), rel=1e-4)
    assert all(one.grad.abs().sum() > 0 for one in (task.query[2].weight, task.entity[2].weight, task.log_scale))
    texts = [one.grad for one in model.backbone.parameters() if one.grad is not None]
    assert bool(texts) != frozen


def test_a_run_ranks_graphs_it_never_saw(data, folder, tmp_path):
    """By texts alone; a graph with other relations too, which have texts. What was learned shows in the 40 queries of
    train (.49 to .68 over six seeds, random ranks .16): the four of test say nothing."""
    config, graph, _ = made(data, folder, steps=80, lr=5e-3)
    config = config.replace(out=str(tmp_path / "run"))
    metrics, _ = run_joint(config, graph)
    assert metrics["tasks"]["towers"]["test"]["queries"] == 4
    model, _ = load_run(tmp_path / "run")
    with evaluating(model), torch.no_grad():
        assert model.tasks["towers"].evaluate(model, "train")["mrr"] > 0.35
    other = write_towns(tmp_path / "other", countries=3, towns=3)
    for file in other.glob("*.txt"):
        file.write_text(file.read_text().replace("lies_in", "located_in"))
    found = evaluate_tasks_unseen(model, KnowledgeGraph.load(other, cache=False))
    assert list(found) == ["towers"] and found["towers"]["queries"] == 4
    assert 0 < found["towers"]["mrr"] <= 1 and 0 <= found["towers"]["hits@10"] <= 1
    names = (other / "entity2text.txt").read_text().splitlines()
    (other / "entity2text.txt").write_text("\n".join(names[:3]) + "\n")
    (other / "entity2desc.txt").unlink()
    with pytest.raises(DataError, match="has no text to know it by"):
        evaluate_tasks_unseen(model, KnowledgeGraph.load(other, cache=False))


def test_the_recipe(data):
    with pytest.raises(ConfigError, match="backbone.freeze needs backbone.path"):
        resolve(pairs=["recipe=simkgc", f"data={data}"])
    config = resolve(pairs=["recipe=simkgc", f"data={data}", "backbone.path=FOLDER"])
    assert list(config.tasks) == ["towers"] and config.backbone.freeze is True and config.entities.kind == "text"
    config = joint_config("unused", OPTIONS, data=str(data), entities="table")
    with pytest.raises(ConfigError, match="task towers reads texts of entities: it needs entities.kind=text or hybrid"):
        build.build_model(config, KnowledgeGraph.load(data, cache=False))
