"""Rows of new entities fitted to triples of their own: the text says where a row begins, the triples move it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kgfast.data import KnowledgeGraph
from kgfast.functional.multitask import multitask_loss
from kgfast.joint.task import ModelDims
from kgfast.joint.tasks.link import LinkTask
from kgfast.optim import RowAdagrad

BATCH = 128  # triples of a step, each asked from both sides
EPOCHS, STEPS = 12, 200  # so many epochs, and so many steps at least
RATE = 0.1  # of Adagrad, full


def fit(
    model, graph: KnowledgeGraph, rows: Tensor, relations: Tensor, *, others: Tensor | None = None, learn: bool = True
) -> tuple[Tensor, Tensor]:
    """(rows [n, D], relations) after gradient steps on the link loss of `graph.train`, as the model's run has it.

    rows, relations  where they begin, of entities and relations by id in `graph`; learn: whether relations move too
    others           rows [E, D] that stay: they compete, and have the ids before those of `rows`

    Without `others` only entities with a triple compete, as in training; those without keep their rows. The same bits
    for the same arguments.
    """
    options = model.tasks[LinkTask.name].options.model_copy(update=dict(batch_size=BATCH, candidates=0, dropout=0.0))
    dims = ModelDims(
        hidden=0, dim=rows.shape[1], score=model.score, relation_width=relations.shape[1],
        num_entities=graph.num_entities, num_relations=graph.num_relations,
    )  # fmt: skip
    task = LinkTask(options, graph, None, dims, seed=0)
    rows = nn.Parameter(rows.detach().clone())
    relations = nn.Parameter(relations.detach().clone(), requires_grad=learn)
    optimizer = RowAdagrad([rows, relations] if learn else [rows], lr=RATE, full=True)
    candidates = task.seen.to(rows.device) if others is None else None
    for step in range(max(STEPS, EPOCHS * len(task))):
        table = rows if others is None else torch.cat((others.detach(), rows))
        loss, _ = multitask_loss(task.losses(table, relations, task.batch(step), candidates))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rows.detach(), relations.detach()
