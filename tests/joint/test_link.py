"""Link and relation prediction as tasks: losses against the ops that train alone, and learning above chance."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from training_helpers import ENTITIES, RELATIONS, grouped_graph

import kgfast
from kgfast import ConfigError, KgfastError, Term, multitask_loss
from kgfast.data import KnowledgeGraph
from kgfast.evaluate.metrics import evaluate
from kgfast.functional.regularizers import cubed
from kgfast.joint.tasks import LossTerm, ModelDims, task_class
from kgfast.joint.tasks.link import link_model
from kgfast.nn import KGEModel
from kgfast.reference import SCORES

DIM = 16
graph = functools.cache(grouped_graph)


class Model(nn.Module):
    """What the tasks see of a joint model whose entities are a table."""

    def __init__(self, score, reciprocal, dtype=torch.float32, dim=DIM):
        super().__init__()
        tables = KGEModel(ENTITIES, RELATIONS, dim, score=score, reciprocal=reciprocal, dtype=dtype)
        self.table, self.relations, self.score = tables.entities, tables.relations, score
        self.entities = SimpleNamespace(
            kind="table",
            reads=False,
            all_rows=lambda: self.table,
            rows=lambda ids: self.table[ids],
            both_rows=lambda ids=None: (self.table if ids is None else self.table[ids], None),
        )

    def both_relations(self):
        return self.relations, None


def task(name, score="complex", **options):
    made = task_class(name)
    dims = ModelDims(0, DIM, score, SCORES[score].relation_width(DIM), ENTITIES, RELATIONS)
    return made(made.Options(**options), graph(), None, dims, 0)


def test_a_ready_loss_is_a_term():
    losses = torch.tensor([1e-3, 0.5, 3.0, 40.0], dtype=torch.float64, requires_grad=True)
    total, each = multitask_loss([LossTerm(losses)], [0.7])
    (gradient,) = torch.autograd.grad(total, losses)
    torch.testing.assert_close(each[0], losses.mean(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, torch.full_like(losses, 0.7 / 4), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("impl", [None, "reference"])
def test_ready_losses_stand_among_the_others(impl):
    losses = torch.tensor([-2.0, 0.0, 8.0], dtype=torch.float64, requires_grad=True)
    query = torch.eye(3, dtype=torch.float64, requires_grad=True)
    term = Term(query, torch.eye(3, dtype=torch.float64), torch.arange(3))
    alone = multitask_loss([term], impl=impl)[1]
    total, each = multitask_loss(
        [LossTerm(losses, weight=0.5), term, LossTerm(losses[:0])], torch.tensor([3.0, 1.0, 1.0]), impl=impl
    )
    torch.testing.assert_close(each, torch.cat([losses.mean()[None], alone, losses.new_zeros(1)]))
    torch.testing.assert_close(total, 1.5 * losses.mean() + alone[0])
    torch.testing.assert_close(torch.autograd.grad(total, losses)[0], torch.full_like(losses, 0.5))


def test_ready_losses_are_a_number_an_example():
    assert multitask_loss([LossTerm(torch.tensor(3.0))])[0] == 3
    with pytest.raises(KgfastError, match=r"terms\[1\].losses is \[2, 2\]"):
        multitask_loss([LossTerm(torch.zeros(())), LossTerm(torch.zeros(2, 2))])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("answers", ["one", "all"])
def test_its_loss_is_that_of_one_vs_all(score, answers):
    link, model = task("link", score, batch_size=64, answers=answers), Model(score, False, torch.float64)
    batch = link.batch(3)
    total, _ = multitask_loss(link.terms(model, batch, None))
    known = graph().known("train") if answers == "all" else None
    expected = kgfast.one_vs_all_loss(
        model.table, model.relations, batch.triples, score=score, side="both", known=known, impl="reference"
    )
    inputs = (model.table, model.relations)
    for ours, theirs in zip(
        (total, *torch.autograd.grad(total, inputs)), (expected, *torch.autograd.grad(expected, inputs)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_with_reciprocal_rows_heads_are_tails_of_the_inverse():
    link, model = task("link", batch_size=32), Model("complex", True, torch.float64)
    batch = link.batch(0)
    total, _ = multitask_loss(link.terms(model, batch, None))
    head, relation, tail = batch.triples.unbind(1)
    turned = torch.stack([tail, relation + RELATIONS, head], 1)
    expected = kgfast.one_vs_all_loss(
        model.table, model.relations, torch.cat([batch.triples, turned]), score="complex", side="tail"
    )
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-12)


def test_drawn_candidates_are_rows_given_by_id():
    model = Model("distmult", False, torch.float64)
    everyone = task("link", "distmult", batch_size=16, candidates=5000)  # so many that all entities are drawn
    few = task("link", "distmult", batch_size=16, candidates=4)
    whole = task("link", "distmult", batch_size=16)
    losses = {}
    for name, link in (("everyone", everyone), ("few", few), ("whole", whole)):
        batch = link.batch(1)
        losses[name], _ = multitask_loss(link.terms(model, batch, None))
        if name == "few":
            assert set(batch.triples[:, [0, 2]].flatten().tolist()) <= set(batch.entities.tolist())
            assert len(batch.entities) <= 16 * 2 + 4
            assert torch.equal(batch.entities[batch.answers[:16]], batch.triples[:, 2])
    torch.testing.assert_close(losses["everyone"], losses["whole"], rtol=1e-10, atol=1e-12)
    assert losses["few"] < losses["whole"]  # fewer compete


class Hybrid(Model):
    """Rows, and rows by text alone, of which training saw all."""

    def __init__(self, dtype=torch.float64):
        super().__init__("complex", True, dtype)
        self.tables = (self.table, nn.Parameter(torch.randn_like(self.table)))
        self.entities = SimpleNamespace(
            kind="hybrid", reads=True, all_rows=lambda: self.table,
            both_rows=lambda ids=None: self.tables if ids is None else [rows[ids] for rows in self.tables],
        )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"candidates": 4}], ids=["all", "drawn"])
def test_hybrid_entities_have_a_loss_by_text(options):
    """About half of them stand there by text, answering and asking; gradients reach texts alone."""
    model, link = Hybrid(), task("link", batch_size=16, n3=0.1, text_weight=0.25, **options)
    batch = link.batch(0)
    terms = link.terms(model, batch, None)
    assert [term.name for term in terms] == ["link", "n3", "link/text", "n3/text"]
    assert [term.weight for term in terms] == [1.0, 0.1, 0.25, 0.25 * 0.1]
    rows, texts = model.entities.both_rows(batch.entities)
    mixed, entities = terms[2].table, torch.arange(ENTITIES) if batch.entities is None else batch.entities
    by_text = (mixed == texts).all(1)
    assert ((mixed == rows).all(1) | by_text).all() and 0.2 < by_text.float().mean() < 0.8
    head, relation, _ = batch.triples.unbind(1)
    asking = mixed[torch.searchsorted(entities, head.contiguous())]
    expected = kgfast.reference.find_score("complex").tail_query(asking, model.relations[relation])
    torch.testing.assert_close(terms[2].query[: len(head)], expected)
    total, _ = multitask_loss(terms[2:])
    gradients = torch.autograd.grad(total, [*model.tables, model.relations], allow_unused=True)
    assert gradients[0] is None and gradients[1].abs().sum() > 0 and gradients[2] is None
    assert not torch.equal(link.terms(model, batch, None)[2].table, mixed), "another half each time"
    assert len(task("link", text_weight=0.0).terms(model, batch, None)) == 1


def test_entities_without_training_triples_do_not_compete_where_texts_are_read():
    """Of 72 entities training sees all but one, whose rows get no gradient then; a table's row does."""
    whole = graph()
    kept = (whole.train[:, [0, 2]] != 7).all(1)
    smaller = KnowledgeGraph.from_arrays(whole.train[kept], None, None, ENTITIES, RELATIONS)
    made = task_class("link")
    dims = ModelDims(0, DIM, "complex", DIM, ENTITIES, RELATIONS)
    link = made(made.Options(batch_size=64), smaller, None, dims, 0)
    for model, competes in ((Hybrid(), False), (Model("complex", True, torch.float64), True)):
        total, _ = multitask_loss(link.terms(model, link.batch(0), None))
        (gradient,) = torch.autograd.grad(total, [model.table])
        assert bool(gradient[7].abs().sum() > 0) == competes
        assert (gradient[8:].abs().sum(1) > 0).all()
    drawn = made(made.Options(batch_size=8, candidates=5000), smaller, None, dims, 0).batch(0)
    assert len(drawn.entities) == ENTITIES - 1 and 7 not in drawn.entities


def test_batches_depend_on_seed_and_step_alone():
    one, other = task("link", candidates=8), task("link", candidates=8)
    other.batch(0)
    for step in (5, 2):
        for field in ("triples", "answers", "entities"):
            assert torch.equal(getattr(one.batch(step), field), getattr(other.batch(step), field))


def test_n3_is_a_term_of_its_own():
    link, model = task("link", batch_size=32, n3=0.1), Model("complex", False, torch.float64)
    batch = link.batch(0)
    _, each = multitask_loss(link.terms(model, batch, None))
    head, relation, tail = batch.triples.unbind(1)
    parts = model.table[head], model.relations[relation], model.table[tail]
    expected = sum(
        torch.view_as_complex(part.unflatten(1, (2, -1)).mT.contiguous()).abs().pow(3).sum() for part in parts
    )
    torch.testing.assert_close(each[1], expected / len(batch.triples), rtol=1e-9, atol=1e-12)
    assert link.terms(model, batch, None)[1].weight == 0.1
    torch.testing.assert_close(cubed(torch.tensor([[1.0, -2.0]]), False), torch.tensor([9.0]))


@pytest.mark.parametrize("score", ["transe_l1", "distmult", "complex", "rotate"])
@pytest.mark.parametrize("options", [{}, {"candidates": 16, "answers": "all"}], ids=["all", "drawn"])
def test_every_score_learns_links(score, options):
    torch.manual_seed(0)
    link, model = task("link", score, batch_size=256, **options), Model(score, True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(40):
        total, _ = multitask_loss(link.terms(model, link.batch(step), None))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    result = link.evaluate(model, "test")
    assert result["mrr"] > 0.35  # a random ranking of some 67 entities has 0.07
    assert result["entities"]["seen"]["triples"] == result["triples"] == len(graph().test)


def test_its_evaluation_is_that_of_a_model_alone():
    tables = KGEModel(ENTITIES, RELATIONS, DIM, score="rotate", reciprocal=True)
    model = Model("rotate", True)
    expected = evaluate(tables, graph(), "valid")
    found = task("link", "rotate").evaluate(model, "valid")
    assert {name: found[name] for name in expected} == expected
    torch.testing.assert_close(link_model(model, graph()).entities, tables.entities)


def test_relations_between_two_entities_are_all_right():
    model, relation = Model("distmult", False, torch.float64), task("relation", "distmult", batch_size=50)
    batch = relation.batch(0)
    _, each = multitask_loss(relation.terms(model, batch, None))
    scores = (model.table[batch.pairs[:, 0]] * model.table[batch.pairs[:, 1]]) @ model.relations.t()
    held = {tuple(row) for row in graph().train.tolist()}
    expected = []
    for (head, tail), likelihoods in zip(batch.pairs.tolist(), scores.log_softmax(1), strict=True):
        right = [kind for kind in range(RELATIONS) if (head, kind, tail) in held]
        expected.append(-likelihoods[right].mean())
    torch.testing.assert_close(each[0], torch.stack(expected).mean(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("score", ["transe_l2", "complex"])
def test_relations_are_learned(score):
    torch.manual_seed(0)
    relation, model = task("relation", score, batch_size=256), Model(score, False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(40):
        total, _ = multitask_loss(relation.terms(model, relation.batch(step), None))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert relation.evaluate(model, "test")["mrr"] > 0.85  # a random ranking of 3 has 0.61


def test_a_score_without_relation_queries_is_refused():
    with pytest.raises(ConfigError, match="'rotate' has no relation query; these have one: transe_l1"):
        task("relation", "rotate")
