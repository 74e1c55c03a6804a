"""PCGrad: of gradients that conflict, each loses the part that works against another (Yu et al. 2020).

    for each task i, for the others j in random order:  if g_i . g_j < 0:  g_i <- g_i - (g_i . g_j / |g_j|^2) g_j
    gradient = sum_i g_i

Where tasks meet here are parameters: the texts of two tasks are different rows of the hidden states, whose gradients
never overlap. So g_i is taken over the parameters that several tasks share; what one task has alone keeps its gradient.
Memory: a copy of these gradients a task.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def project(gradients: dict[str, list[Tensor | None]], generator: torch.Generator) -> list[Tensor | None]:
    """The sum of the tasks' gradients, a list over parameters each (None: not reached), after the projections."""
    names = list(gradients)
    reached = [[gradient is not None for gradient in gradients[name]] for name in names]
    shared = [place for place in range(len(reached[0])) if sum(task[place] for task in reached) > 1]

    def dot(first: list[Tensor | None], second: list[Tensor | None]) -> Tensor:
        pairs = ((first[place], second[place]) for place in shared)
        parts = [(one * other).sum() for one, other in pairs if one is not None and other is not None]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    squares = {name: dot(gradients[name], gradients[name]) for name in names}
    total: list[Tensor | None] = [None] * len(reached[0])
    for name in names:
        own = list(gradients[name])
        others = [other for other in names if other != name]
        for place in torch.randperm(len(others), generator=generator).tolist():
            other = others[place]
            product = dot(own, gradients[other])
            factor = torch.where(product < 0, product / squares[other].clamp(min=1e-24), torch.zeros_like(product))
            for index in shared:
                taken = gradients[other][index]
                if taken is not None:
                    before = own[index]
                    own[index] = -factor * taken if before is None else before - factor * taken
        for index, gradient in enumerate(own):
            if gradient is not None:
                summed = total[index]
                total[index] = gradient.clone() if summed is None else summed.add_(gradient)
    return total
