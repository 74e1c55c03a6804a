"""Data parallel training by `torchrun`: each process has its own batches, and all have the same weights.

    torchrun --nproc-per-node 2 -m kgfast train joint.yaml

Gradients are averaged between backward pass and optimizer step, in one reduction a number type. A parameter that no
process reached keeps no gradient. Tables take part with their dense gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from kgfast.joint.model.kept_texts import KeptTexts


@dataclass(frozen=True)
class Processes:
    """This process among all: rank of size."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> Processes:
        """Join those that torchrun started; alone where it started none."""
        if not (distributed.is_available() and distributed.is_torchelastic_launched()):
            return cls()
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        return self.rank == 0

    def leave(self) -> None:
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def wait(self) -> None:
        if self.size > 1:
            distributed.barrier()

    def agree(self, value: float) -> float:
        """The first process's value, for all."""
        if self.size == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            told = told.cuda()
        distributed.broadcast(told, 0)
        return float(told)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes its mean over the processes, in place."""
        if self.size == 1:
            return
        tensors = list(tensors)
        for dtype in {tensor.dtype for tensor in tensors}:
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in same])
            distributed.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Mean gradients; a parameter that only some processes reached counts 0 in the others."""
        if self.size == 1:
            return
        parameters = list(parameters)
        reached = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        reached = reached.to(parameters[0].device)
        distributed.all_reduce(reached, distributed.ReduceOp.MAX)
        used = [parameter for parameter, yes in zip(parameters, reached.tolist(), strict=True) if yes]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.average(parameter.grad for parameter in used if parameter.grad is not None)

    @torch.no_grad()
    def share_memory(self, readers: Iterable[KeptTexts]) -> None:
        """Texts that another process has read go to the memory of all. Equal numbers a process."""
        for rows in readers:
            if self.size == 1 or rows._fresh is None:
                continue
            ids, pooled = (part.detach().contiguous() for part in rows._fresh)
            for each_ids, each_pooled in zip(self.gather(ids), self.gather(pooled), strict=True):
                rows.memory[each_ids] = each_pooled

    def gather(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor)
        return parts
