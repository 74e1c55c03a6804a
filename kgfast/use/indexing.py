"""How an index is made: its kind by the number of entities, its effort by the recall that real queries get."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kgfast.core import checks
from kgfast.core.optional import needs
from kgfast.errors import ConfigError
from kgfast.evaluate.predict import Searcher
from kgfast.nn import KGEModel
from kgfast.registry import find_score
from kgfast.use.index import EntityIndex

if TYPE_CHECKING:
    from kgfast.core.known import KnownTriples
    from kgfast.data import KnowledgeGraph

SIMILARITIES = ("dot", "l2")  # that an index can order rows by
HNSW_MOST = 200_000  # entities; beyond, lists are built in a fraction of the time
LINKS, BUILD_EFFORT = 32, 80  # of HNSW: neighbours of a row, and candidates while it is built
LEAST_EFFORT = 16
PER_LIST = 39  # rows that k-means wants for each
K, QUERIES = 10, 100  # recall is measured on: so many of each side to choose the effort, and as many to tell it
TIMED = 50  # queries


def build(
    model: KGEModel, graph: KnowledgeGraph, recall: float = 0.95, say: Callable[[str], None] = lambda text: None
) -> tuple[EntityIndex, dict[str, float]]:
    """An index of a model's entities with the least effort that reaches `recall`, and what was measured: seconds of
    building, recall of the best ten on queries that the effort wasn't chosen on, milliseconds of one query.

    ConfigError for scores that no index can order rows by.
    """
    recall, begin = checks.finite("recall", recall, 0.0, 1.0), time.monotonic()
    rows, most = filled(model, say)
    index, seconds = EntityIndex(model, rows, min(LEAST_EFFORT, most)), time.monotonic() - begin
    known = graph.known().to(model.entities.device)
    for_choice, for_telling = cases(model, graph, known)
    while (reached := recall_of(index, for_choice, known)) < recall and index.effort < most:
        say(f"effort {index.effort}: recall@{K} {reached:.3f}")
        index.effort = min(2 * index.effort, most)
    say(f"effort {index.effort}: recall@{K} {reached:.3f}")
    asked = for_telling[0][0]
    measured = {
        "seconds": seconds, "recall": recall_of(index, for_telling, known),
        "queries": float(sum(len(triples) for triples, _, _ in for_telling)),
        "exact_ms": milliseconds(model, asked, known), "index_ms": milliseconds(index, asked, known),
    }  # fmt: skip
    return index, measured


def filled(model: KGEModel, say: Callable[[str], None]) -> tuple[Any, int]:
    """(index of faiss with all rows, the most effort that makes sense)."""
    faiss = needs("faiss", "an index", "faiss")
    metric = measure(model, faiss)
    faiss.omp_set_num_threads(torch.get_num_threads())
    table = model.entities.detach().float().cpu().contiguous().numpy()
    count, dim = table.shape
    if count <= HNSW_MOST:
        say(f"hnsw of {count:,} entities, {LINKS} links a row")
        rows = faiss.IndexHNSWFlat(dim, LINKS, metric)
        rows.hnsw.efConstruction = BUILD_EFFORT
        most = count
    else:
        most = min(int(4 * math.sqrt(count)), count // PER_LIST)
        say(f"ivf of {count:,} entities, {most:,} lists")
        rows = faiss.IndexIVFFlat(faiss.IndexFlat(dim, metric), dim, most, metric)
        rows.train(table[sample(count, PER_LIST * most).numpy()])
    rows.add(table)
    return rows, most


def measure(model: KGEModel, faiss: Any) -> int:
    """The measure of faiss that orders rows as this score does; ConfigError where there is none."""
    similarity = find_score(model.score).similarity
    if similarity not in SIMILARITIES:
        raise ConfigError(
            f"model={model.score}: an index orders rows by {' or '.join(SIMILARITIES)}, and this score's similarity is "
            f"{similarity}; its answers are exact without one"
        )
    return faiss.METRIC_INNER_PRODUCT if similarity == "dot" else faiss.METRIC_L2


Case = tuple[Tensor, str, Tensor]  # triples, the side that is asked for, and the exact answers [B, K]


def cases(model: KGEModel, graph: KnowledgeGraph, known: KnownTriples) -> tuple[list[Case], list[Case]]:
    """Real queries of both sides in two halves, of test where there is one; the halves are one where there is one
    triple."""
    triples = next(split for split in (graph.test, graph.valid, graph.train) if len(split))
    triples = triples[sample(len(triples), 2 * QUERIES)].to(known.device)
    made: list[list[Case]] = []
    for half in (triples[0::2], triples[1::2] if len(triples) > 1 else triples):
        made.append([(half, side, model.topk(half, K, side, known)[1]) for side in ("tail", "head")])
    return made[0], made[1]


def recall_of(index: EntityIndex, cases: list[Case], known: KnownTriples) -> float:
    """The part of the exact best K that the index finds."""
    hits = total = 0
    for triples, side, exact in cases:
        found = index.topk(triples, K, side, known)[1]
        there = exact >= 0
        hits += int(((exact[:, :, None] == found[:, None, :]).any(2) & there).sum())
        total += int(there.sum())
    return hits / max(total, 1)


@torch.no_grad()
def milliseconds(searcher: Searcher, triples: Tensor, known: KnownTriples) -> float:
    """The median time of one query."""
    times = []
    for row in triples[:TIMED].split(1):
        begin = time.perf_counter()
        searcher.topk(row, K, "tail", known)[1].cpu()
        times.append(time.perf_counter() - begin)
    return 1000 * sorted(times)[len(times) // 2]


def sample(total: int, count: int) -> Tensor:
    """`count` of `total`, all where there are no more, in any order, the same each time."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count]
