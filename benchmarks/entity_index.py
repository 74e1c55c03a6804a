"""Answers by an index against exact ones, on random tables: time of one query, recall, building.

    python -m benchmarks.entity_index --entities 500000 --dim 128 --clusters 1000

Rows are normal numbers, around one of so many centres (0: none, which is the hardest case for any index).
"""

import argparse
import time

import torch

from kgfast import KnowledgeGraph
from kgfast.evaluate.predict import Searcher
from kgfast.nn import KGEModel
from kgfast.run.memory import most_resident_bytes
from kgfast.use.indexing import K, build

RELATIONS, TRIPLES = 100, 2000


def tables(entities: int, dim: int, clusters: int, score: str) -> KGEModel:
    """A model whose rows lie around centres; a relation's row is near one, so that queries lie there too."""
    model = KGEModel(entities, RELATIONS, dim, score=score, init_scale=1.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if clusters:
            centres = torch.randn(clusters, dim, generator=generator)
            rows = torch.randint(clusters, (entities,), generator=generator)
            model.entities.mul_(0.5).add_(centres[rows])
        model.relations.mul_(0.2).add_(1.0)
    return model


def processor_ms(searcher: Searcher, triples: torch.Tensor, count: int) -> float:
    """The median of ten calls, for each of `count` queries: what other work on the machine doesn't change."""
    times = []
    for part in triples[: 10 * count].split(count):
        begin = time.process_time()
        searcher.topk(part, K, "tail")
        times.append(time.process_time() - begin)
    return 1000 * sorted(times)[len(times) // 2] / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--clusters", type=int, default=0)
    parser.add_argument("--score", default="distmult")
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--exact", action="store_true", help="measure the memory of exact answers alone")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = tables(asked.entities, asked.dim, asked.clusters, asked.score)
    generator = torch.Generator().manual_seed(2)
    sizes = (asked.entities, RELATIONS, asked.entities)
    triples = torch.stack([torch.randint(size, (TRIPLES,), generator=generator) for size in sizes], 1)
    if asked.exact:
        before = most_resident_bytes()
        model.topk(triples[:64], K, "tail")
        more = most_resident_bytes() - before
        print(
            f"best {K} of 64 queries, {model.entities.numel() / 2**18:,.0f} MiB of rows: {more / 2**20:,.1f} MiB more"
        )
        return
    graph = KnowledgeGraph.from_arrays(triples[:100], None, triples[100:], asked.entities, RELATIONS)
    index, found = build(model, graph, asked.recall, print)
    print(f"{index.kind}, effort {index.effort}, built in {found['seconds']:.1f} s: recall@{K} {found['recall']:.3f}")
    print(f"one query: exact {found['exact_ms']:.2f} ms, by index {found['index_ms']:.2f} ms")
    for count in (1, 64):
        exact, by_index = (processor_ms(one, triples, count) for one in (model, index))
        print(f"processor's time of {count} together, for each: exact {exact:.2f} ms, by index {by_index:.2f} ms")


if __name__ == "__main__":
    main()
