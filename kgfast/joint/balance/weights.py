"""Weights of the tasks' losses: fixed, or learned from the losses. All state lies on the device, in the checkpoint.

A step asks `weights()` for w [K], adds `penalty(present)` to the loss, and calls `observe` when it is done. An absent
task counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kgfast.errors import ConfigError

METHODS = ("fixed", "uncertainty", "dwa", "gradnorm")


class FixedWeights(nn.Module):
    """w_i as given."""

    needs_norms = False
    given: Tensor

    def __init__(self, given: Sequence[float], every: int = 1):
        super().__init__()
        self.every = every
        self.register_buffer("given", torch.tensor(given, dtype=torch.float32))

    def weights(self) -> Tensor:
        """w [K]; gradients flow through it where weights are learned by the loss itself."""
        return self.given

    def penalty(self, present: Tensor) -> Tensor | None:
        """What is added to sum_i w_i L_i; present: bool [K]."""
        return None

    def observe(self, step: int, losses: Tensor, present: Tensor, norms: Tensor | None = None) -> None:
        """The losses L [K] of step `step`; norms [K]: |dL_i / d representation|, for those that need them."""


class UncertaintyWeights(FixedWeights):
    """w_i = given_i exp(-s_i), penalty sum_i s_i / 2 over present tasks, s_i learned (Kendall et al. 2018).

    For one task the loss is least where exp(-s) = 1 / (2 L). s is kept within [-5, 5], for a loss of 0 would drive it
    to minus infinity.
    """

    LIMIT = 5.0

    def __init__(self, given: Sequence[float], every: int = 1):
        super().__init__(given, every)
        self.log_variance = nn.Parameter(torch.zeros(len(given)))

    def weights(self) -> Tensor:
        return self.given * torch.exp(-self.log_variance)

    def penalty(self, present: Tensor) -> Tensor:
        return torch.where(present, self.log_variance, 0.0).sum() / 2

    @torch.no_grad()
    def observe(self, step: int, losses: Tensor, present: Tensor, norms: Tensor | None = None) -> None:
        self.log_variance.clamp_(-self.LIMIT, self.LIMIT)


class DynamicWeightAverage(FixedWeights):
    """w_i = given_i K softmax_i(r_i / T), r_i the mean loss of the last `every` steps over that of those before (Liu
    et al. 2019, there by epochs). Until two such windows are full, w_i = given_i. A task absent from a whole window
    keeps its last mean.
    """

    current: Tensor
    sums: Tensor
    counts: Tensor
    means: Tensor

    def __init__(self, given: Sequence[float], every: int = 20, temperature: float = 2.0):
        super().__init__(given, every)
        self.temperature, count = temperature, len(given)
        self.register_buffer("current", torch.ones(count))
        self.register_buffer("sums", torch.zeros(count))
        self.register_buffer("counts", torch.zeros(count))
        self.register_buffer("means", torch.zeros(2, count))  # of the last window, and of the one before; 0: not full

    def weights(self) -> Tensor:
        return self.given * self.current

    @torch.no_grad()
    def observe(self, step: int, losses: Tensor, present: Tensor, norms: Tensor | None = None) -> None:
        self.sums += torch.where(present, losses.to(self.sums), 0.0)
        self.counts += present.to(self.counts)
        if (step + 1) % self.every:
            return
        filled = self.counts > 0
        last = torch.where(filled, self.sums / self.counts.clamp(min=1), self.means[0])
        self.means.copy_(torch.stack([last, torch.where(filled, self.means[0], self.means[1])]))
        self.sums.zero_()
        self.counts.zero_()
        ratios = torch.where(self.means[1] > 0, self.means[0] / self.means[1].clamp(min=1e-12), 1.0)
        self.current.copy_(len(ratios) * torch.softmax(ratios / self.temperature, 0))


class GradNorm(FixedWeights):
    """Weights that even out gradients: G_i = w_i |dL_i/dz| moves towards mean(G) r_i^alpha, r_i = (L_i / L_i(0)) over
    its mean, z the representation that tasks share (Chen et al. 2018). Every `every` steps

        w_i <- max(w_i - lr sign(G_i - mean(G) r_i^alpha) |dL_i/dz| / mean_j |dL_j/dz|, 0.01)

    then w is scaled to sum to K. The gradient is that of sum |G_i - ..| by w_i, the target held constant; divided by
    the mean norm, lr does not depend on the size of gradients.
    """

    needs_norms = True
    current: Tensor
    first: Tensor

    def __init__(self, given: Sequence[float], every: int = 20, alpha: float = 1.5, lr: float = 0.025):
        super().__init__(given, every)
        self.alpha, self.lr = alpha, lr
        self.register_buffer("current", torch.ones(len(given)))
        self.register_buffer("first", torch.zeros(len(given)))  # L_i(0); 0: not seen

    def weights(self) -> Tensor:
        return self.given * self.current

    @torch.no_grad()
    def observe(self, step: int, losses: Tensor, present: Tensor, norms: Tensor | None = None) -> None:
        losses = losses.to(self.first)
        self.first.copy_(torch.where(present & (self.first == 0), losses, self.first))
        if norms is None:
            return
        count = present.sum().clamp(min=1)
        norms = torch.where(present, norms.to(self.first), 0.0)
        own = self.weights() * norms
        rate = torch.where(present, losses / self.first.clamp(min=1e-12), 0.0)
        rate = rate / (rate.sum() / count).clamp(min=1e-12)
        aim = own.sum() / count * rate**self.alpha
        change = torch.sign(own - aim) * norms / (norms.sum() / count).clamp(min=1e-12)
        moved = torch.where(present, (self.current - self.lr * change).clamp(min=0.01), self.current)
        self.current.copy_(moved * len(moved) / moved.sum())


def make_weights(
    method: str, given: Sequence[float], *, every: int, temperature: float, alpha: float, lr: float
) -> FixedWeights:
    """The weighting called `method` for tasks whose configured weights are `given`."""
    if method == "fixed":
        return FixedWeights(given)
    if method == "uncertainty":
        return UncertaintyWeights(given)
    if method == "dwa":
        return DynamicWeightAverage(given, every, temperature)
    if method == "gradnorm":
        return GradNorm(given, every, alpha, lr)
    raise ConfigError(f"weighting={method!r}: must be one of {', '.join(METHODS)}")
