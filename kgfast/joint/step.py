"""One step of joint training: batches of its tasks, one multitask loss, gradients, updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kgfast.functional.multitask import LossTerm, Term, multitask_loss
from kgfast.joint.balance.pcgrad import project
from kgfast.joint.balance.weights import FixedWeights
from kgfast.joint.config import JointConfig
from kgfast.joint.model.joint_model import JointModel
from kgfast.joint.parallel import Processes
from kgfast.run.seeds import generator, global_seed


class Step:
    """step(index, names, batches) -> losses [K + 1] on the device: of each task (NaN where it is absent) and in sum.

    `names` are the tasks of the step, `batches[name]` the next batch of each. The result is a function of the state,
    the seed and these. A task that is absent has no part in loss, gradient or update.
    """

    def __init__(
        self,
        config: JointConfig,
        model: JointModel,
        weights: FixedWeights,
        optimizers: Mapping[str, torch.optim.Optimizer],
        processes: Processes,
    ) -> None:
        self.config, self.model, self.weights, self.processes = config, model, weights, processes
        self.optimizers = optimizers
        self.names = list(model.tasks)
        groups = [group["params"] for optimizer in optimizers.values() for group in optimizer.param_groups]
        self.parameters = [parameter for group in groups for parameter in group]
        dense = optimizers.get("dense")
        self.dense = [] if dense is None else [one for group in dense.param_groups for one in group["params"]]

    def __call__(self, index: int, names: Sequence[str], batches: Mapping[str, int]) -> Tensor:
        config, size = self.config, self.processes.size
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        present = torch.tensor([name in names for name in self.names], device=config.device)
        results, norms = [], None
        projected: dict[str, list[Tensor | None]] = {}
        for part in range(config.accumulate):
            rank = self.processes.rank
            torch.manual_seed(global_seed(config.seed, f"joint/{index}/{part}/{rank}"))  # of dropout
            made = {name: self.model.tasks[name].batch((batches[name] + part) * size + rank) for name in names}
            turn = (index * config.accumulate + part) * size + rank
            terms, owners, shared = self.model(made, turn)
            if self.weights.needs_norms and part == 0 and index % self.weights.every == 0:
                norms = self.norms(terms, owners, shared)
            if config.weighting.surgery == "pcgrad":
                results.append(self.backward_apart(terms, owners, present, projected))
            else:
                results.append(self.backward(terms, owners, present))
            self.processes.share_memory(self.model.readers)
            self.model.finish_step()
        if projected:
            self.set_projected(projected, index)
        self.processes.average_gradients(self.parameters)
        if self.model.backbone is not None:
            self.model.backbone.add_pull()
        if config.clip and self.dense:
            torch.nn.utils.clip_grad_norm_(self.dense, config.clip)
        for optimizer in self.optimizers.values():
            optimizer.step()
        found = torch.stack(results).mean(0)
        told = found.nan_to_num(nan=0.0) if self.processes.size > 1 else found
        self.processes.average([told])
        self.weights.observe(index, torch.where(present, told[:-1].nan_to_num(), 0.0), present, norms)
        return torch.where(torch.cat([present, present.new_ones(1)]), told, math.nan)

    def backward(self, terms: list[Term | LossTerm], owners: list[str], present: Tensor) -> Tensor:
        """All tasks at once."""
        place = torch.tensor([self.names.index(owner) for owner in owners], device=present.device)
        weights = self.weights.weights()
        total, per_term = multitask_loss(terms, weights[place])
        total = self.with_extras(total, present)
        (total / self.config.accumulate).backward()
        return self.losses(terms, place, per_term, total)

    def losses(self, terms: list[Term | LossTerm], place: Tensor, per_term: Tensor, total: Tensor) -> Tensor:
        """[K + 1]: each task's loss before weighting, a sum over its terms, and the total."""
        own = per_term.new_tensor([float(term.weight) for term in terms])
        tasks = per_term.new_zeros(len(self.names)).index_add(0, place, per_term.detach() * own)
        return torch.cat([tasks, total.detach()[None].to(tasks)]).float()

    def with_extras(self, total: Tensor, present: Tensor) -> Tensor:
        """Plus what belongs to no single task: penalty of learned weights, load balance of experts."""
        penalty = self.weights.penalty(present)
        if penalty is not None:
            total = total + penalty
        balance = self.model.backbone.balance_loss() if self.model.backbone is not None else None
        return total if balance is None else total + balance

    def backward_apart(
        self,
        terms: list[Term | LossTerm],
        owners: list[str],
        present: Tensor,
        projected: dict[str, list[Tensor | None]],
    ) -> Tensor:
        """A backward pass a task, whose gradients are kept apart in `projected` (see `pcgrad`)."""
        place = torch.tensor([self.names.index(owner) for owner in owners], device=present.device)
        weights = self.weights.weights()
        sums, per_term = [], torch.zeros(len(terms), device=present.device)
        for which, name in enumerate(self.names):
            chosen = [index for index, owner in enumerate(owners) if owner == name]
            if not chosen:
                continue
            total, parts = multitask_loss([terms[index] for index in chosen], weights[[which] * len(chosen)])
            per_term[chosen] = parts.detach().to(per_term)
            sums.append(total.detach())
            gradients = torch.autograd.grad(
                total / self.config.accumulate, self.parameters, retain_graph=True, allow_unused=True
            )
            before = projected.get(name)
            projected[name] = list(gradients) if before is None else list(map(add, before, gradients))
        extras = self.with_extras(torch.zeros((), device=present.device), present)
        if extras.requires_grad:
            (extras / self.config.accumulate).backward()
        return self.losses(terms, place, per_term, torch.stack(sums).sum() + extras.detach())

    def set_projected(self, projected: dict[str, list[Tensor | None]], index: int) -> None:
        """The projected sum becomes the gradient, on top of what the extras left there."""
        total = project(projected, generator(self.config.seed, f"pcgrad/{index}"))
        for parameter, gradient in zip(self.parameters, total, strict=True):
            parameter.grad = add(parameter.grad, gradient)

    def norms(self, terms: list[Term | LossTerm], owners: list[str], shared: Mapping[str, list[Tensor]]) -> Tensor:
        """|dL_i / d representation| of each task [K]; 0 where it is absent."""
        found = torch.zeros(len(self.names), device=self.config.device)
        for which, name in enumerate(self.names):
            chosen = [term for term, owner in zip(terms, owners, strict=True) if owner == name]
            if not chosen:
                continue
            total, _ = multitask_loss(chosen)
            inputs = [tensor for tensor in shared[name] if tensor.requires_grad]
            gradients = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
            squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
            if squares:
                found[which] = torch.stack([square.float() for square in squares]).sum().sqrt()
        self.processes.average([found])
        return found


def add(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
