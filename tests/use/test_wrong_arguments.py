"""Every wrong argument of what a run answers ends in a KgfastError that names it."""

import pytest
import torch

import kgfast
from kgfast.errors import KgfastError
from kgfast.evaluate import evaluate, predict


class Odd:
    def __repr__(self):
        return "odd"


VALUES = [None, 3, 1.5, float("nan"), "", b"x", "x", ["x"], [None], {}, Odd(), torch.tensor(1), "\ud800", "a\0"]


def refused(call, value, name, taken=()):
    """The call with this value is refused by the argument's name, or the value is one that is taken."""
    if any(type(value) is type(good) and value == good for good in taken):
        call(value)
        return
    with pytest.raises(KgfastError, match=name):
        call(value)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_load(graph_run, value):
    refused(kgfast.load, value, "run|no such run")
    refused(lambda value: kgfast.load(graph_run, value), value, "data|source|no such file|endings", [None])
    refused(lambda value: kgfast.load(graph_run, threads=value), value, "threads", [None, 3, torch.tensor(1)])
    refused(lambda value: kgfast.load(graph_run, device=value), value, "device")
    refused(lambda value: kgfast.load(graph_run, names_only=value), value, "names_only")


@pytest.mark.parametrize("device", ["meta", "mps", "cud", "CPU", "cpu:x", torch.device("meta")], ids=str)
def test_devices_that_nothing_runs_on(graph_run, device):
    with pytest.raises(KgfastError, match=r"device='.*': must be cpu, cuda or cuda:N"):
        kgfast.load(graph_run, device=device)
    assert kgfast.load(graph_run, device=torch.device("cpu")).device.type == "cpu"


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_run_on_the_graph(graph_run, value):
    run = kgfast.load(graph_run)
    head, relation = run.entities[0], run.relations[0]
    refused(lambda value: run.predict(head, relation, k=value), value, "k=", [3, torch.tensor(1)])
    refused(lambda value: run.predict(head, relation, known=value), value, "known")
    refused(lambda value: run.predict(head, relation, loops=value), value, "loops", [None])
    refused(lambda value: run.predict(head, relation, index=value), value, "index")
    refused(lambda value: run.predict(value, relation), value, "no entity|predict needs|entity")
    refused(run.predict_all, value, "queries")
    refused(lambda value: run.predict_all([value]), value, "queries")
    refused(run.score, value, "triples")
    refused(lambda value: run.score([value]), value, "triples")
    refused(lambda value: run.score([(head, value, head)]), value, "relation")
    refused(lambda value: run.rank([(head, relation, head)], known=value), value, "known")
    for call in (lambda value: evaluate(value, run.graph), lambda value: predict(value, run.graph, head, relation)):
        refused(call, value, "model must be")
    for call in (lambda value: evaluate(run.model, value), lambda value: predict(run.model, value, head, relation)):
        refused(call, value, "graph must be")


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_run_with_questions(joint_run, value):
    run = kgfast.load(joint_run)
    question = run.graph.questions["train"][0][0]
    refused(lambda value: run.ask([value]), value, "text|question", ["x", "a\0"])  # they name nothing, which is told
    refused(run.ask, value, "questions|text|question", ["x", "a\0", ["x"]])
    refused(lambda value: run.ask([question], topics=value), value, "topic|no entity", [None, [None]])
    refused(lambda value: run.ask(question, k=value), value, "k=", [3, torch.tensor(1)])
    refused(lambda value: run.ask(question, always=value), value, "always")
    refused(lambda value: run.predict_for_text(value, run.relations[0]), value, "text", ["x", "a\0"])
    refused(lambda value: run.predict_for_text("x", run.relations[0], edges=value), value, "edges")
    refused(lambda value: run.predict_for_text(None, run.relations[0], entity=value), value, "entity")
    refused(lambda value: run.predict_for_text("x", relation_text=value), value, "relation")


def test_a_topic_for_each_question(joint_run):
    run = kgfast.load(joint_run)
    question = run.graph.questions["train"][0][0]
    with pytest.raises(KgfastError, match="topics: 1 of them for 2 questions"):
        run.ask([question, question], topics=[None])
