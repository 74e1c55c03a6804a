"""Every combination of language task, score, sharing and entity encoder takes a step; a dozen train and beat chance."""

import math
from itertools import product

import pytest
import torch
from joint_helpers import joint_config, towns

from kgfast.evaluate.metrics import evaluate
from kgfast.joint import build
from kgfast.joint.parallel import Processes
from kgfast.joint.step import Step
from kgfast.joint.tasks.link import link_model

pytest.importorskip("transformers")

LANGUAGES = {"mlm+nsp": ("mlm", "nsp"), "clm": ("clm",)}
SCORES = ("transe", "distmult", "complex", "rotate")
SHARINGS = {"hard": {"mode": "hard"}, "soft": {"mode": "soft"}, "routed": {"mode": "routed", "experts": 2, "top_k": 1}}
ENTITIES = ("table", "text", "hybrid")
CASES = list(product(LANGUAGES, SCORES, SHARINGS, ENTITIES))
# A dozen in which every value of every axis stands thrice or more.
CHOSEN = [case for number, case in enumerate(CASES) if number % 6 == (number // 12) % 6][:12]


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return towns(tmp_path_factory)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(graph, case, **settings):
    language, score, sharing, entities = case
    backbone = dict(
        kind="gpt" if language == "clm" else "bert", hidden=16, layers=1, heads=2, max_length=24, dropout=0.0
    )
    config = joint_config(
        "unused", (*LANGUAGES[language], "link", "qa"), model=score, sharing=SHARINGS[sharing], entities=entities,
        backbone=backbone, **settings,
    )  # fmt: skip
    model, weights = build.build_model(config, graph), build.build_weights(config)
    model.refresh()
    model.train()
    return model, Step(config, model, weights, build.build_optimizers(config, model, weights), Processes())


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("score", SCORES)
def test_every_combination_takes_a_step(graph, language, score):
    for sharing, entities in product(SHARINGS, ENTITIES):
        model, step = made(graph, (language, score, sharing, entities))
        names = list(model.tasks)
        before = {name: value.clone() for name, value in model.named_parameters()}
        losses = step(0, names, dict.fromkeys(names, 0))
        assert losses.isfinite().all(), (sharing, entities)
        moved = [name for name, value in model.named_parameters() if not torch.equal(before[name], value)]
        assert {name.split(".")[0] for name in moved} >= {"backbone", "relations", "tasks"}, (sharing, entities)
        assert any(name.startswith("entities") for name in moved)


def test_the_chosen_dozen_holds_every_value():
    assert len(CHOSEN) == 12
    for axis, values in enumerate((LANGUAGES, SCORES, SHARINGS, ENTITIES)):
        assert {case[axis] for case in CHOSEN} == set(values)


@pytest.mark.parametrize("case", CHOSEN, ids="-".join)
def test_the_chosen_train_and_beat_chance(graph, case):
    """After 60 steps: language loss under 3/4 of that of guessing tokens evenly, MRR of the training triples over
    thrice that of random ranks, question loss under 3/4 of the first."""
    table = {"transe": (0.05, "adam"), "rotate": (0.05, "adam")}.get(case[1], (0.3, "row_adagrad"))
    model, step = made(graph, case, table_lr=table[0], table_optimizer=table[1], lr=5e-3)
    names = list(model.tasks)
    losses = torch.stack([step(index, names, dict.fromkeys(names, index)) for index in range(60)])
    found = dict(zip(names, losses[-10:].mean(0).tolist(), strict=False))
    first = dict(zip(names, losses[:3].mean(0).tolist(), strict=False))
    language = "clm" if "clm" in names else "mlm"
    assert found[language] < 0.75 * math.log(len(model.tokenizer)), found
    assert found["qa"] < 0.75 * first["qa"], (first, found)
    model.eval()
    model.refresh()
    chance = sum(1 / rank for rank in range(1, graph.num_entities + 1)) / graph.num_entities
    with torch.no_grad():
        assert evaluate(link_model(model, graph), graph, "train")["mrr"] > 3 * chance
