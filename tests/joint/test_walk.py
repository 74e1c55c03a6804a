"""Following: values and gradients against a dense walk, what fills in for missing edges, and the way to an answer."""

import pytest
import torch

from kgfast import DataError
from kgfast.joint.tasks.qa import walk as walking
from kgfast.joint.tasks.qa.edges import Edges
from kgfast.joint.tasks.qa.fill import Fill, all_scores
from kgfast.joint.tasks.qa.walk import Move, support, walk
from kgfast.reference import SCORES, SIMILARITIES

ENTITIES, RELATIONS, BATCH, HOPS = 11, 2, 5, 3


def random_graph(seed=0, count=18):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([ENTITIES - 2, RELATIONS, ENTITIES - 2])  # the last two entities have no edge
    triples = (torch.rand(count, 3, generator=generator) * sizes).long()
    triples[0] = torch.tensor([4, 1, 4])  # a loop
    return triples.unique(dim=0)


def transitions(triples, dtype=torch.float64):
    """Dense [2R, E, E]: from an entity to its tails by each relation, shared out evenly; rows without an edge are 0."""
    matrix = torch.zeros(2 * RELATIONS, ENTITIES, ENTITIES, dtype=dtype)
    for head, relation, tail in triples.tolist():
        matrix[relation, head, tail] = 1
        matrix[relation + RELATIONS, tail, head] = 1
    return matrix / matrix.sum(2, keepdim=True).clamp(min=1)


def attention(seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(HOPS, 2 * RELATIONS, BATCH, generator=generator, dtype=dtype).softmax(1)


def tables(score, reciprocal, seed=2):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(ENTITIES, 4, generator=generator, dtype=torch.float64)
    width, count = SCORES[score].relation_width(4), RELATIONS * (2 if reciprocal else 1)
    return rows, torch.randn(count, width, generator=generator, dtype=torch.float64)


def gradients(result, inputs, seed=3):
    outer = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed), dtype=result.dtype)
    return torch.autograd.grad((result * outer).sum(), inputs)


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 2**22])
def test_a_hop_is_a_dense_product(chunk, monkeypatch):
    monkeypatch.setattr(walking, "CHUNK", chunk * BATCH)
    triples, matrix = random_graph(), transitions(random_graph())
    edges = Edges.of(triples, ENTITIES, RELATIONS)
    mass = torch.rand(ENTITIES, BATCH, dtype=torch.float64)
    mass[3] = 0  # nothing walks from here, but its gradient is that of all its edges
    inputs = mass.requires_grad_(), attention()[0].requires_grad_()
    ours = Move.apply(*inputs, edges)
    dense = torch.einsum("eb,rb,ret->tb", *inputs, matrix)
    assert_same([ours, *gradients(ours, inputs)], [dense, *gradients(dense, inputs)])


def test_a_walk_along_known_edges_loses_mass_only_where_there_is_none():
    edges = Edges.of(random_graph(), ENTITIES, RELATIONS)
    topics = torch.tensor([0, 4, 9, 10, 1])  # 9 and 10 have no edge
    masses = walk(topics, attention(), edges)
    assert len(masses) == HOPS + 1
    assert torch.equal(masses[0].argmax(0), topics)
    assert (masses[1][:, 2:4] == 0).all()
    assert all(
        (later.sum(0) <= earlier.sum(0) + 1e-6).all() for earlier, later in zip(masses, masses[1:], strict=False)
    )


@pytest.mark.parametrize("score", ["transe_l1", "distmult", "complex", "rotate"])
@pytest.mark.parametrize("reciprocal", [False, True])
def test_missing_edges_are_filled_as_a_dense_walk_fills_them(score, reciprocal):
    triples = random_graph()
    edges, matrix = Edges.of(triples, ENTITIES, RELATIONS), transitions(triples)
    rows, relations = (table.requires_grad_() for table in tables(score, reciprocal))
    temperature, trust = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.3, 0.4))
    hops = attention().requires_grad_()
    fill = Fill(rows, relations, score, temperature, trust, pairs=ENTITIES * 2 * RELATIONS)
    topics = torch.tensor([0, 4, 9, 10, 1])
    ours = walk(topics, hops, edges, fill)[-1]

    spec, missing = SCORES[score], matrix.sum(2) == 0
    guesses = torch.zeros(2 * RELATIONS, ENTITIES, ENTITIES, dtype=torch.float64)
    for relation in range(2 * RELATIONS):
        if reciprocal or relation < RELATIONS:
            query = spec.tail_query(rows, relations[relation].expand(ENTITIES, -1))
        else:
            query = spec.head_query(rows, relations[relation - RELATIONS].expand(ENTITIES, -1))
        scores = SIMILARITIES[spec.similarity](query[:, None], rows) * temperature
        guesses = guesses.index_copy(0, torch.tensor([relation]), scores.softmax(1)[None])
    counts = torch.zeros(2 * RELATIONS, ENTITIES, dtype=torch.float64)
    for head, relation, tail in triples.tolist():
        counts[relation, tail] += 1
        counts[relation + RELATIONS, head] += 1
    marginals = counts / counts.sum(1, keepdim=True)
    filled = missing[:, :, None] * (trust * guesses + (1 - trust) * marginals[:, None])
    mass = torch.nn.functional.one_hot(topics, ENTITIES).double().t()
    for hop in hops:
        mass = torch.einsum("eb,rb,ret->tb", mass, hop, matrix + filled)
    inputs = (rows, relations, temperature, trust, hops)
    assert_same([ours, *gradients(ours, inputs)], [mass, *gradients(mass, inputs)])


def test_answers_teach_missing_edges():
    """4 -> 0 and 5 -> 0 by relation 0 are known, 0 -> 3 by relation 1 is not; who asks 4 for both is told 3."""
    edges = Edges.of(torch.tensor([[4, 0, 0], [5, 0, 0], [1, 1, 2], [2, 1, 1]]), 6, 2)
    rows, relations = (table[: count].float().requires_grad_() for table, count in
                       zip(tables("distmult", True), (6, 4), strict=True))  # fmt: skip
    hops = torch.nn.functional.one_hot(torch.tensor([0, 1]), 4).float()[:, :, None]
    optimizer = torch.optim.Adam([rows, relations], lr=0.1)

    def arriving(topic):
        return walk(torch.tensor([topic]), hops, edges, Fill(rows, relations, "distmult", trust=0.9))[-1][:, 0]

    assert arriving(5)[3] < 0.3
    for _ in range(30):
        loss = -arriving(4)[3].log()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert arriving(5)[3] > 0.8, "the same edge answers another topic"


def test_with_marginals_no_mass_is_lost():
    edges = Edges.of(random_graph(), ENTITIES, RELATIONS)
    masses = walk(torch.tensor([0, 4, 9, 10, 1]), attention(dtype=torch.float32), edges, Fill())
    for mass in masses:
        torch.testing.assert_close(mass.sum(0), torch.ones(BATCH))


def test_few_pairs_take_the_most_mass():
    edges = Edges.of(torch.tensor([[0, 0, 1]]), 4, 1)
    mass = torch.tensor([[0.1], [0.2], [0.3], [0.4]])
    entities, relations = Fill(pairs=2).missing(mass, torch.tensor([[0.9], [0.1]]), edges)
    assert list(zip(entities[:, 0].tolist(), relations[:, 0].tolist(), strict=True)) == [(3, 0), (2, 0)]


@pytest.mark.parametrize("score", SCORES)
def test_all_scores_are_the_specification(score):
    query, table = torch.randn(3, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    expected = SIMILARITIES[SCORES[score].similarity](query[:, None], table)
    assert_same([all_scores(query, table, score)], [expected])


def test_threads_do_not_change_a_walk(for_threads):
    edges = Edges.of(random_graph(), ENTITIES, RELATIONS)
    hops = attention(dtype=torch.float32)

    def run():
        shares = hops.clone().requires_grad_()
        result = walk(torch.arange(BATCH), shares, edges)[-1]
        return result.detach(), *gradients(result, [shares])

    for one, two in zip(*for_threads(run), strict=True):
        assert torch.equal(one, two)


FAMILY = {"parents": 0, "spouse": 1, "born": 2}
ANN, BOB, CAT, DAN, ROME, OSLO = range(6)
TRIPLES = torch.tensor([[ANN, 0, BOB], [CAT, 1, BOB], [CAT, 2, ROME], [BOB, 2, OSLO], [DAN, 2, OSLO]])


def one_way(*relations):
    """Attention [K, 6, 1] that is all at one relation a hop."""
    return torch.nn.functional.one_hot(torch.tensor(relations), 6).float()[:, :, None]


def test_the_way_to_an_answer_is_triples_of_the_graph():
    edges = Edges.of(TRIPLES, 6, 3)
    hops = one_way(0, 1 + 3, 2)  # Ann's parent, of whom somebody is the spouse, born where?
    masses = walk(torch.tensor([ANN]), hops, edges)
    steps = support(ROME, masses, hops, edges)
    assert [(step.head, step.relation, step.tail) for step in steps] == [(ANN, 0, BOB), (CAT, 1, BOB), (CAT, 2, ROME)]
    assert all(step.known and step.share == pytest.approx(1) for step in steps)
    assert support(OSLO, masses, hops, edges) == []


def test_a_predicted_step_says_so():
    edges = Edges.of(TRIPLES, 6, 3)
    hops = one_way(1, 2)  # where is Dan's spouse born? Dan has none
    masses = walk(torch.tensor([DAN]), hops, edges, Fill())
    steps = support(OSLO, masses, hops, edges, Fill())
    assert [(step.head, step.relation, step.tail, step.known) for step in steps] == [
        (DAN, 1, BOB, False),  # the only spouse there is
        (BOB, 2, OSLO, True),
    ]


def test_edges_are_checked():
    with pytest.raises(DataError, match=r"triples\[1\]: tail id 6"):
        Edges.of(torch.tensor([[0, 0, 1], [0, 0, 6]]), 6, 3)
