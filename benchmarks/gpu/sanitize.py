"""Every CUDA kernel once or more, at shapes that hurt, for compute-sanitizer to watch (it watches from outside)."""

from __future__ import annotations

import torch

from benchmarks.gpu.stage import Stage
from kgfast import backends, reference, testing
from kgfast.registry import Regularizer, Update


def everything(device) -> int:
    calls, cuda = 0, backends.get("cuda")
    for dim in (2, 34, 130, 258, 514, 1030):
        for score, spec in reference.SCORES.items():
            code, similarity = spec.code, spec.similarity_code
            if score == "rescal" and dim > 34:
                continue
            case = testing.make_case(score, dim, 7, 6)
            entities, relations, triples, negatives, weights = (
                getattr(case, name).to(device) for name in ("entities", "relations", "triples", "negatives", "weights")
            )
            none, targets = triples.new_empty(0), triples[:, 2].contiguous()
            query = cuda.queries(entities, relations, triples, code, 0)
            cuda.queries_adjoint(query, entities, relations, triples, code, 1)
            for lists in (negatives, negatives[:2].contiguous()):
                for objective in range(4):
                    found = cuda.sampled_loss(query, entities, targets, lists, none, none, none, weights, similarity,
                                              objective, 1.0, 0.5, True)  # fmt: skip
                    calls += 1
            ids = negatives.clamp(min=0)
            scores = cuda.pair_scores(query, entities, ids, similarity)
            cuda.pair_query_gradient(scores, scores, query, entities, ids, similarity)
            own = cuda.sampled_loss(
                query, entities, targets, negatives, none, none, none, weights, similarity, 0, 1.0, 0.0, True
            )
            for rule in ("dense", "sgd", "adagrad", "row_adagrad", "adam"):
                rows = entities.clone()
                shape = (len(rows),) if rule == "row_adagrad" else rows.shape
                states = torch.ones(shape, device=device), torch.ones(rows.shape, device=device)
                constants = dict(lr=0.1, eps=1e-8, beta1=0.9, beta2=0.99, step=1)
                update = cuda.row_update(Update.of(rule, "rule"), rows, states, **constants)
                many = torch.zeros(200, dtype=torch.int64, device=device)
                extras = [(many, torch.ones(200, dim, device=device))]
                cuda.reduce_rows(query, rows, own.pairs, own.coefficients, extras, similarity, update)
                cuda.update_all_rows(torch.ones_like(rows), update)
                calls += 2
            cuda.add_regularizer(Regularizer.N3, 1, 0.1, entities, targets, torch.zeros(7, dim, device=device))
            del found
    none = torch.empty(0, dtype=torch.int64, device=device)
    cuda.sample_negatives(7, 9, 37, 1, 3, 4, none, none, none, none)
    return calls


if __name__ == "__main__":
    stage = Stage(__doc__, without={"action": "store_true", "help": "no sanitizer is watching: only run"})
    reason = backends.why_not("cuda")
    if reason:
        raise SystemExit(f"no CUDA kernels: {reason}")
    print(f"{everything(stage.device)} calls{', without a sanitizer' if stage.options.without else ''}")
    stage.synchronize()
