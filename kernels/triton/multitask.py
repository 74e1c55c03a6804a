"""The losses of several tasks at once: their tiles share persistent launches, so that small ones fill the device.

A task is the arguments of `candidate_loss` for dot products; all tasks have one dtype. Each is described in device
memory (grouped.py), and nothing is read back, so that a CUDA graph can hold it. Going forward the losses come back as
one tensor [T]; going backward dL/dloss is read from a tensor [T], so that weights may be learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kgfast.core.sums import sum_dtype
from kgfast.registry import Similarity

from . import configurations, grouped
from .active_rows import COMPACT_BLOCK, gather_active
from .candidates import known_operands, mean_factor
from .configurations import TYPES, WORKSPACE_BYTES, arithmetic, bits, tiles
from .gradients import bias_gradient
from .launching import ceil_div, fresh, gradient_blocks, score_blocks, view_of, workspace_bytes


@dataclass(frozen=True)
class Task:
    """The arguments of `candidate_loss`; bias is empty where there is none, weights have the dtype of the sums."""

    query: Tensor
    table: Tensor
    bias: Tensor
    starts: Tensor
    ends: Tensor
    answers: Tensor
    weights: Tensor
    objective: int
    smoothing: float = 0.0
    known: tuple[Tensor, Tensor, Tensor] | None = None


class Buffers:
    """A task's memory on the device, which its fields name."""

    def __init__(self, task: Task, budget: int, columns: int):
        """budget: bytes of the workspace; columns: of a tile."""
        self.task = task
        allocate, acc, dtype = fresh(task.query.device), sum_dtype(task.query.dtype), task.query.dtype
        (batch, dim), count = task.query.shape, len(task.table)
        budget = min(workspace_bytes(batch, count, dim), budget)
        most = ceil_div(count, columns) * columns
        self.forward_width = min(max(budget // max(3 * batch * acc.itemsize, 1), 1) * columns, most)
        self.backward_width = min(max(budget // max(batch * dtype.itemsize * columns, 1), 1) * columns, most)
        num_sums = 1 + self.forward_width // columns
        size = max(3 * num_sums * batch * acc.itemsize, batch * self.backward_width * dtype.itemsize)
        self.workspace = allocate("workspace", (size,), torch.uint8)
        self.partial_sums = view_of(self.workspace, (3 * num_sums, batch), acc).split(num_sums)
        self.grad_scores = view_of(self.workspace, (batch, self.backward_width), dtype)
        self.active_query = torch.empty_like(task.query)  # the queries that count, then zeros
        self.active_rows = allocate("active_rows", (batch,), torch.int32).zero_()
        self.num_active = allocate("num_active", (1,), torch.int32)
        self.losses, self.log_sum_exp = allocate("losses", (batch,), acc), allocate("log_sum_exp", (2, batch), acc)
        self.known = known_operands(task.known, task.starts, task.ends, task.answers, count, allocate, acc)
        self.factor = mean_factor(task.objective, count)

    def panels(self, width: int) -> int:
        return ceil_div(len(self.task.table), max(width, 1))

    def fields(self) -> dict:
        """What stays the same from the forward to the backward pass; tensors stand for their addresses."""
        task, count = self.task, len(self.task.table)
        largest, sums, labels = self.partial_sums
        return dict(
            query=self.active_query,
            table=task.table,
            bias=task.bias,
            starts=task.starts,
            ends=task.ends,
            answers=task.answers,
            **{name.removesuffix("_ptr"): tensor for name, tensor in self.known.items()},
            weights=task.weights,
            active_rows=self.active_rows,
            num_active=self.num_active,
            max=largest,
            sum=sums,
            label=labels,
            losses=self.losses,
            log_sum_exp=self.log_sum_exp,
            grad_scores=self.workspace,
            batch=len(task.query),
            count=count,
            dim=task.query.shape[1],
            objective=int(task.objective),
            answer_label=bits(1.0 - task.smoothing),
            smooth_label=bits(task.smoothing / count),
            factor=bits(self.factor),
            forward_width=self.forward_width,
            backward_width=self.backward_width,
        )


def field(value) -> int:
    """A number, or a tensor's address; 0 where there is none."""
    if isinstance(value, Tensor):
        return value.data_ptr() if value.numel() else 0
    return 0 if value is None else value


class Group:
    """Tasks with what their launches share: buffers, their description on the device, tile sizes."""

    def __init__(self, tasks: list[Task]):
        first = tasks[0].query
        self.tasks, self.dtype, self.device, self.acc = tasks, first.dtype, first.device, sum_dtype(first.dtype)
        dot = Similarity.DOT
        self.sizes = tiles("grouped scores", self.dtype, dot, self.device, max(len(task.query) for task in tasks))
        self.gradient_sizes = tiles("grouped gradients", self.dtype, dot, self.device, 2**30)
        self.buffers = [Buffers(task, WORKSPACE_BYTES // len(tasks), self.sizes.columns) for task in tasks]
        self.fields = torch.empty((len(tasks), grouped.FIELDS.value), dtype=torch.int64, device=self.device)
        self.max_weights = torch.empty((len(tasks),), dtype=self.acc, device=self.device)
        self.kind = arithmetic(self.dtype, dot)
        self.has_known = any(task.known is not None for task in tasks)
        self.walk = dict(
            tasks_ptr=self.fields,
            num_tasks=len(tasks),
            WIDE_DIM=all(task.query.shape[1] % 16 == 0 for task in tasks),
            TYPE=TYPES[self.dtype],
            **self.kind,
        )
        self.of_scores = dict(
            HAS_BIAS=any(len(task.bias) for task in tasks), HAS_KNOWN=self.has_known, **score_blocks(self.sizes)
        )

    def write(self, scales: Tensor | None = None, outputs: list | None = None) -> None:
        """Describes the tasks; going backward with dL/dloss and each one's (sums of query gradient, table gradient)."""
        for place, buffers in enumerate(self.buffers):
            sums, grad_table = outputs[place] if outputs else (buffers.workspace, buffers.workspace)
            fields = buffers.fields() | dict(
                max_weight=self.max_weights[place : place + 1],
                grad_query_sums=sums,
                grad_table=grad_table,
                scale=self.max_weights if scales is None else scales[place:],
            )
            values = {name: field(value) for name, value in fields.items()}
            grouped.write_task[(1,)](task_ptr=self.fields[place], **values)

    def grid(self, sizes, programs: int) -> tuple[int]:
        """As many programs as stay on the device together; each walks on over the tiles of all tasks."""
        resident = configurations.device_properties(self.device)[1] * (1 if sizes.warps > 4 else 2)
        return (max(min(programs, resident), 1),)

    def score_grid(self, widths: list[int]) -> tuple[int]:
        rows, columns = self.sizes.rows, self.sizes.columns
        batches = [ceil_div(len(task.query), rows) for task in self.tasks]
        programs = sum(batch * ceil_div(width, columns) for batch, width in zip(batches, widths, strict=True))
        return self.grid(self.sizes, programs)

    def gradient_grid(self, counts: list[int]) -> tuple[int]:
        rows, columns = self.gradient_sizes.rows, self.gradient_sizes.columns
        dims = [ceil_div(task.query.shape[1], columns) for task in self.tasks]
        programs = sum(dim * ceil_div(count, rows) for dim, count in zip(dims, counts, strict=True))
        return self.grid(self.gradient_sizes, programs)

    def forward(self, per_task: Tensor) -> None:
        """Fills per_task [T], and what the backward pass reads."""
        self.write()
        count, acc = len(self.tasks), self.kind["ACC"]
        grouped.grouped_compact[(count,)](tasks_ptr=self.fields, ACC=acc, BLOCK_B=COMPACT_BLOCK)
        for one in self.buffers:
            gather_active(one.task.query, one.active_rows, one.num_active, one.active_query)
        smooth = any(task.smoothing for task in self.tasks)
        grid = self.score_grid([one.forward_width for one in self.buffers])
        for turn in range(max(one.panels(one.forward_width) for one in self.buffers)):
            grouped.grouped_log_sum_exp[grid](turn=turn, SMOOTH=smooth, **self.walk, **self.of_scores)
            grouped.grouped_losses[(count,)](
                tasks_ptr=self.fields,
                turn=turn,
                per_task_ptr=per_task,
                HAS_KNOWN=self.has_known,
                ACC=acc,
                BLOCK_B=256,
                BLOCK_C=self.sizes.columns,
            )

    def backward(self, scales: Tensor, outputs: list, grad_biases: list) -> None:
        """Fills the gradients; scales [T] are dL/dloss times the largest weights."""
        self.write(scales, outputs)
        widths = [one.backward_width for one in self.buffers]
        grid = self.score_grid(widths)
        query_grid = self.gradient_grid([len(task.query) for task in self.tasks])
        table_grid = self.gradient_grid(widths)
        shared = self.walk | gradient_blocks(self.gradient_sizes)
        for turn in range(max(one.panels(one.backward_width) for one in self.buffers)):
            grouped.grouped_score_gradients[grid](turn=turn, **self.walk, **self.of_scores)
            grouped.grouped_row_gradients[query_grid](turn=turn, OF_QUERIES=True, **shared)
            grouped.grouped_row_gradients[table_grid](turn=turn, OF_QUERIES=False, **shared)
            for place, (one, grad_bias) in enumerate(zip(self.buffers, grad_biases, strict=True)):
                begin = turn * one.backward_width
                out = grad_bias[begin : begin + one.backward_width]
                if len(out):
                    bias_gradient[(ceil_div(len(out), 128),)](
                        grad_ptr=one.grad_scores,
                        grad_stride_row=one.backward_width,
                        num_active_ptr=one.num_active,
                        max_weight_ptr=scales[place:],
                        factor_bits=bits(one.factor),
                        out_ptr=out,
                        columns=len(out),
                        ACC=self.kind["ACC"],
                        BLOCK_B=32,
                        BLOCK_C=128,
                    )


def task_losses(tasks: list[Task]) -> tuple[Tensor, Group]:
    """(sum of each task's weighted losses [T], in the dtype of the sums; what `task_gradients` needs).

    Memory: 64 MiB for all tasks together, active queries [B, D] of each until its gradients are made, and some numbers
    a row. Ids are not checked.
    """
    group = Group(tasks)
    per_task = torch.zeros((len(tasks),), dtype=group.acc, device=group.device)
    group.forward(per_task)
    return per_task, group


def task_gradients(group: Group, scales: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(dL/dquery, dL/dtable, dL/dbias) of each task, L = sum_t scales[t] * loss_t; scales [T] is read on the device."""
    scales = scales.detach().to(group.acc) * group.max_weights
    outputs = [
        (torch.zeros(task.query.shape, dtype=group.acc, device=group.device), torch.empty_like(task.table))
        for task in group.tasks
    ]
    grad_biases = [torch.empty_like(task.bias) for task in group.tasks]
    group.backward(scales, outputs, grad_biases)
    found = []
    for place, (one, (sums, grad_table), grad_bias) in enumerate(zip(group.buffers, outputs, grad_biases, strict=True)):
        grad_query = sums if group.acc == group.dtype else torch.empty_like(one.task.query)
        torch.mul(sums, scales[place] * one.factor, out=grad_query)
        found.append((grad_query, grad_table, grad_bias))
    return found
