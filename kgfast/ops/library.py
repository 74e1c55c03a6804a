"""torch.library registration: schemas, implementations, shapes for torch.compile. No other file says torch.library.

Codes (score, side, similarity, objective) are those of `registry.py`; an absent tensor is an empty one. Gradients
are not registered here: the autograd.Functions of autograd.py call these ops. The same schemas stand in a namespace
for each backend: `kgfast` (CPU tensors; tensors on a GPU go to its default backend), `kgfast_triton`, `kgfast_cuda`.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from kgfast import backends

# namespace -> the backend of each kind of device
NAMESPACES = {
    "kgfast": {"CPU": "cpu", "CUDA": backends.GPU},
    "kgfast_triton": {"CPU": "triton", "CUDA": "triton"},
    "kgfast_cuda": {"CPU": "cuda", "CUDA": "cuda"},  # CPU: tests, see backends/cuda.py
}
OF_BACKEND = {"cpu": "kgfast", "triton": "kgfast_triton", "cuda": "kgfast_cuda"}
LIBRARIES = {namespace: torch.library.Library(namespace, "DEF") for namespace in NAMESPACES}


def register(schema: str, fake, adapted=None) -> None:
    """Puts an op into every namespace; `adapted(backend, ..)` calls it where its arguments differ."""
    name = schema.split("(")[0]
    for namespace, library in LIBRARIES.items():
        library.define(schema)
        for key, backend in NAMESPACES[namespace].items():
            library.impl(name, implementation(backend, name, adapted), key)
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)


def implementation(backend: str, name: str, adapted):
    """The backend's method, found at the first call: a GPU backend is not imported before."""

    def call(*arguments):
        own = backends.get(backend)
        return adapted(own, *arguments) if adapted else getattr(own, name)(*arguments)

    return call


def wide(tensor, shape):
    """An output that sums: float32 for tables of 16 bits, else of the table's dtype."""
    dtype = torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else tensor.dtype
    return tensor.new_empty(shape, dtype=dtype)


register(
    "queries(Tensor entities, Tensor relations, Tensor triples, int score, int side) -> Tensor",
    lambda entities, relations, triples, score, side: entities.new_empty((triples.shape[0], entities.shape[1])),
)
register(
    "queries_adjoint(Tensor d_query, Tensor entities, Tensor relations, Tensor triples, int score, int side)"
    " -> (Tensor, Tensor)",
    lambda d_query, entities, relations, triples, score, side: (
        wide(entities, (triples.shape[0], entities.shape[1])),
        wide(entities, (triples.shape[0], relations.shape[1])),
    ),
)
register(
    "pair_scores(Tensor query, Tensor table, Tensor ids, int similarity) -> Tensor",
    lambda query, table, ids, similarity: wide(query, ids.shape),
)
register(
    "pair_query_gradient(Tensor g, Tensor scores, Tensor query, Tensor table, Tensor ids, int similarity)"
    " -> (Tensor, Tensor)",
    lambda g, scores, query, table, ids, similarity: (wide(query, ids.shape), wide(query, query.shape)),
)
register(
    "all_scores(Tensor query, Tensor table, int similarity) -> Tensor",
    lambda query, table, similarity: query.new_empty((query.shape[0], table.shape[0])),
)
register(
    "all_scores_gradient(Tensor g, Tensor scores, Tensor query, Tensor table, int similarity) -> (Tensor, Tensor)",
    lambda g, scores, query, table, similarity: (torch.empty_like(query), torch.empty_like(table)),
)


def sampled_loss_fake(
    query,
    table,
    targets,
    negatives,
    starts,
    ends,
    known,
    weights,
    similarity,
    objective,
    margin,
    temperature,
    gradient,
    check,
):
    batch, dim = query.shape
    groups, count = negatives.shape
    width = 1 + count if groups == batch else 1
    shared = gradient and groups != batch
    return (
        wide(query, (batch,)),
        wide(query, (batch if gradient else 0, dim)),
        targets.new_empty((batch, width)),
        wide(query, (batch, width)),
        wide(query, (groups if shared else 0, count if shared else 0, dim)),
    )


register(
    "sampled_loss(Tensor query, Tensor table, Tensor targets, Tensor negatives, Tensor starts, Tensor ends,"
    " Tensor known, Tensor weights, int similarity, int objective, float margin, float temperature, bool gradient,"
    " bool check) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    sampled_loss_fake,
    lambda backend, *arguments: backend.sampled_loss(*arguments[:-1], check=arguments[-1]),
)


def candidate_loss(backend, query, table, bias, starts, ends, answers, weights, *rest):
    """Empty ranges of known rows stand for none."""
    *known, similarity, objective, smoothing, gradient, memory, check = rest
    return backend.candidate_loss(
        query, table, bias, starts, ends, answers, weights, similarity, objective, smoothing, gradient, memory,
        known=tuple(known) if known[0].numel() else None, check=check,
    )  # fmt: skip


def candidate_loss_fake(query, table, bias, *rest):
    *_, gradient, _, _ = rest
    rows = [tensor.shape[0] if gradient else 0 for tensor in (query, table, bias)]
    return (
        query.new_empty((query.shape[0],)),
        query.new_empty((rows[0], query.shape[1])),
        query.new_empty((rows[1], query.shape[1])),
        query.new_empty((rows[2],)),
    )


register(
    "candidate_loss(Tensor query, Tensor table, Tensor bias, Tensor starts, Tensor ends, Tensor answers,"
    " Tensor weights, Tensor known_starts, Tensor known_ends, Tensor known, int similarity, int objective,"
    " float smoothing, bool gradient, int memory, bool check) -> (Tensor, Tensor, Tensor, Tensor)",
    candidate_loss_fake,
    candidate_loss,
)
register(
    "table_gradient(Tensor query, Tensor table, Tensor ids, Tensor coefficients, Tensor extra_ids, Tensor extra_rows,"
    " int similarity) -> Tensor",
    lambda query, table, ids, coefficients, extra_ids, extra_rows, similarity: torch.empty_like(table),
)


def table_gradient_rows_fake(query, table, ids, coefficients, extra_ids, extra_rows, similarity):
    distinct = torch.library.get_ctx().new_dynamic_size()
    return ids.new_empty((distinct,)), table.new_empty((distinct, table.shape[1]))


register(
    "table_gradient_rows(Tensor query, Tensor table, Tensor ids, Tensor coefficients, Tensor extra_ids,"
    " Tensor extra_rows, int similarity) -> (Tensor, Tensor)",
    table_gradient_rows_fake,
)
register(
    "rank(Tensor query, Tensor table, Tensor targets, Tensor starts, Tensor ends, Tensor known, int similarity)"
    " -> (Tensor, Tensor, Tensor)",
    lambda query, table, targets, starts, ends, known, similarity: (
        torch.empty_like(targets),
        torch.empty_like(targets),
        query.new_empty((query.shape[0],)),
    ),
)
register(
    "topk(Tensor query, Tensor table, Tensor starts, Tensor ends, Tensor excluded, int k, int similarity)"
    " -> (Tensor, Tensor)",
    lambda query, table, starts, ends, excluded, k, similarity: (
        query.new_empty((query.shape[0], k)),
        query.new_empty((query.shape[0], k), dtype=torch.int64),
    ),
)


def own_answers(backend, starts, ends, ids, targets):
    """An op may not return its inputs."""
    found = backend.answers(starts, ends, ids, targets)
    return tuple(one.clone() if one is given else one for one, given in zip(found, (starts, ends, ids), strict=True))


def answers_fake(starts, ends, ids, targets):
    count = torch.library.get_ctx().new_dynamic_size()
    return torch.empty_like(starts), torch.empty_like(ends), ids.new_empty((count,))


register(
    "answers(Tensor starts, Tensor ends, Tensor ids, Tensor targets) -> (Tensor, Tensor, Tensor)",
    answers_fake,
    own_answers,
)


def sample_like(backend, like, lists, count, entities, side, seed, step, weights, starts, ends, known):
    """`like` (any int64 tensor on the device) gives the op its device."""
    return backend.sample_negatives(lists, count, entities, side, seed, step, weights, starts, ends, known)


register(
    "sample_negatives(Tensor like, SymInt lists, SymInt count, SymInt entities, int side, int seed, int step,"
    " Tensor weights, Tensor starts, Tensor ends, Tensor known) -> Tensor",
    lambda like, lists, count, *_: like.new_empty((lists, count)),
    sample_like,
)

NAMES = (
    "queries", "queries_adjoint", "pair_scores", "pair_query_gradient", "all_scores", "all_scores_gradient",
    "sampled_loss", "candidate_loss", "answers", "table_gradient", "table_gradient_rows", "rank", "topk",
    "sample_negatives",
)  # fmt: skip
SETS = {
    backend: SimpleNamespace(**{name: getattr(getattr(torch.ops, namespace), name).default for name in NAMES})
    for backend, namespace in OF_BACKEND.items()
}


def of(backend: str) -> SimpleNamespace:
    """The ops of a backend, by name."""
    return SETS[backend]
