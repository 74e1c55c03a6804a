"""A user's program, to be type-checked and run: a small graph is trained and asked through the public names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import kgfast
from kgfast.nn import ComplEx, KGEModel
from kgfast.optim import RowAdagrad, RowOptimizer
from kgfast.steps import NegativeSamplingStep, OneVsAllStep, Step


def load() -> kgfast.KnowledgeGraph:
    rows = [(head, relation, (head + relation + 1) % 12) for head in range(12) for relation in range(2)]
    return kgfast.KnowledgeGraph.from_arrays(rows[:20], valid=rows[20:22], test=rows[22:], num_entities=12)


def losses_of(step: Step, triples: Tensor, first: int, count: int) -> list[float]:
    return [float(step(triples, index)) for index in range(first, first + count)]


def train_model(graph: kgfast.KnowledgeGraph) -> tuple[KGEModel, list[float]]:
    """Fused steps, first over sampled negatives, then over all entities."""
    model = ComplEx(graph.num_entities, graph.num_relations, 16, reciprocal=True, seed=1)
    optimizer: RowOptimizer = RowAdagrad(model.parameters(), lr=0.2)
    known = graph.known("train")
    sampled = NegativeSamplingStep(model, optimizer, negatives=4, known=known, filter="redraw", side="both")
    losses = losses_of(sampled, graph.train, 0, 20)
    return model, losses + losses_of(OneVsAllStep(model, optimizer, label_smoothing=0.1), graph.train, 20, 20)


def train_tables(graph: kgfast.KnowledgeGraph) -> tuple[Tensor, Tensor, float]:
    """Plain tensors and autograd."""
    generator = torch.Generator().manual_seed(0)
    entities = nn.Parameter(torch.randn(graph.num_entities, 8, generator=generator))
    relations = nn.Parameter(torch.randn(graph.num_relations, 8, generator=generator))
    optimizer = torch.optim.Adam([entities, relations], lr=0.05)
    last = 0.0
    for step in range(30):
        sampler = kgfast.NegativeSampler(num_negatives=4, seed=0, step=step)
        loss = kgfast.negative_sampling_loss(
            entities, relations, graph.train, sampler, score="distmult", side="tail", objective="softmax"
        )
        loss = loss + kgfast.one_vs_all_loss(entities, relations, graph.train, score="distmult", side="head")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
    return entities.detach(), relations.detach(), last


def both_tasks(entities: Tensor, vocabulary: Tensor, hidden: Tensor, tokens: Tensor) -> dict[str, float]:
    """A language model's loss and a graph's in one call; and the first of them alone."""
    terms = [
        kgfast.Term(hidden, vocabulary, tokens, name="text"),
        kgfast.Term(entities[:3], entities, torch.tensor([1, 2, -100]), weight=0.5, name="graph"),
    ]
    total, each = kgfast.multitask_loss(terms, weights=[1.0, 2.0])
    alone = kgfast.linear_cross_entropy(hidden, vocabulary, tokens)
    named = {term.name: loss for term, loss in zip(terms, each.tolist(), strict=True) if term.name is not None}
    return {**named, "total": total.item(), "alone": alone.item()}


def mean_reciprocal_rank(model: KGEModel, graph: kgfast.KnowledgeGraph) -> float:
    known: kgfast.KnownTriples = graph.known()
    ranks = [model.rank(graph.train, side, known=known) for side in ("tail", "head")]
    return float((1 / torch.cat(ranks)).mean())


def best(entities: Tensor, relations: Tensor, graph: kgfast.KnowledgeGraph, name: str) -> list[str]:
    query = torch.tensor([[graph.entity_id(name), 0, 0]])
    scores, ids = kgfast.topk(
        entities, relations, query, 3, score="distmult", side="tail", exclude=graph.known("train")
    )
    assert scores.shape == ids.shape == (1, 3)
    return [graph.label(place) for place in ids[0].tolist()]


def main() -> None:
    graph = load()
    model, losses = train_model(graph)
    assert losses[19] < losses[0] and losses[-1] < losses[20]
    assert mean_reciprocal_rank(model, graph) > 0.5
    entities, relations, last = train_tables(graph)
    assert 0 < last < 6
    triples = graph.train[:2]
    scores: Tensor = kgfast.score_triples(entities, relations, triples, score="distmult")
    every: Tensor = kgfast.score_candidates(entities, relations, triples, score="distmult")
    assert torch.allclose(scores, every.gather(1, triples[:, 2:])[:, 0])
    hidden, vocabulary = torch.randn(5, 8), torch.randn(30, 8)
    told = both_tasks(entities, vocabulary, hidden, torch.randint(30, (5,)))
    assert abs(told["total"] - told["text"] - told["graph"]) < 1e-4 and abs(told["text"] - told["alone"]) < 1e-4
    ids: Tensor = kgfast.sample_negatives(triples, 4, graph.num_entities, side="both", seed=0)
    assert ids.shape == (2, 2, 4)
    print(best(entities, relations, graph, "3"), kgfast.SCORES["distmult"].even_dim, kgfast.cpu_level())
    try:
        kgfast.score_triples(entities, relations, triples, score="distnult")
    except kgfast.KgfastError as error:
        assert "did you mean 'distmult'" in str(error)


if __name__ == "__main__":
    main()
