"""How tasks share the Transformer: one for all (hard), one each, pulled together (soft), or experts (routed)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kgfast.errors import ConfigError, KgfastError
from kgfast.joint.model.backbone import Backbone
from kgfast.joint.model.experts import Experts, layers_of, route_layers
from kgfast.joint.model.packed import Encoded, Packed

MODES = ("hard", "soft", "routed")
PULLS = ("l2", "cosine")
ENTITIES = "entities"  # the name under which texts of entities are encoded, as if they were a task
RELATIONS = "relations"  # the same for texts of relations


class Sharing(nn.Module):
    """Hard sharing: one backbone encodes the texts of all tasks in one pass, each distinct text once.

    tasks: names of those whose texts are encoded, "entities" among them where entities are read as texts.
    """

    def __init__(self, backbone: Backbone, tasks: Sequence[str]):
        super().__init__()
        self.names = tuple(tasks)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ConfigError(f"tasks={list(tasks)}: at least one name is needed, each once")
        self.backbones: Sequence[Backbone] = nn.ModuleList([backbone])  # type: ignore[assignment]

    def backbone_of(self, task: str) -> Backbone:
        """The Transformer which reads for this task; its `lm_table` is the table of the LM head."""
        return self.backbones[self.place(task) if len(self.backbones) > 1 else 0]

    def place(self, task: str) -> int:
        if task not in self.names:
            raise KgfastError(f"no texts are encoded for task {task!r}; there are {', '.join(self.names)}")
        return self.names.index(task)

    @property
    def hidden(self) -> int:
        return self.backbones[0].hidden

    def encode(self, packed: Packed, task: str) -> Encoded:
        """Hidden states of one task's texts."""
        return self.encode_all({task: packed})[task]

    def encode_all(self, requests: Mapping[str, Packed | None]) -> dict[str, Encoded]:
        """Hidden states of every task's texts, in its own order; tasks without texts are left out."""
        asked = {task: packed for task, packed in requests.items() if packed is not None and len(packed)}
        for task in asked:
            self.place(task)
        if not asked:
            return {}
        together = Packed.cat(list(asked.values()))
        distinct, place = together.distinct()
        encoded = self.backbones[0].encode(distinct)
        if len(distinct) == len(together):
            return cut(encoded, {task: len(packed) for task, packed in asked.items()})
        counts = [len(packed) for packed in asked.values()]
        return {task: encoded.select(ids) for task, ids in zip(asked, place.split(counts), strict=True)}

    def balance_loss(self) -> Tensor | None:
        """What the last training pass adds to the loss besides the tasks' own, once; None: nothing."""
        return None

    def add_pull(self) -> Tensor | None:
        """Between backward pass and optimizer step: add the gradient of the pull between backbones; its loss."""
        return None

    def utilisation(self) -> Tensor | None:
        """[layers, tasks, experts]: the share of each task's tokens that an expert got since the last `reset`."""
        return None

    def reset_utilisation(self) -> None:
        """Count from nothing again."""


def cut(encoded: Encoded, counts: Mapping[str, int]) -> dict[str, Encoded]:
    """The texts of each task, which lie one behind another."""
    parts, start = {}, 0
    for task, count in counts.items():
        parts[task] = encoded.slice(start, start + count)
        start += count
    return parts


class SoftSharing(Sharing):
    """A backbone for each task, all equal at first, pulled towards their mean m_l layer by layer (Duong et al. 2015).

    l2:     strength / 2 sum_i |x_i - m|^2, whose gradient is strength (x_i - m)
    cosine: strength sum_i (1 - cos(x_i, m)), for the weights of a layer as one vector; m without gradient
    strength: a number for all layers, or one for the embeddings, each layer and the rest (norms, heads), in that order.
    Memory: a backbone a task. The gradient is added in `add_pull`, outside autograd.
    """

    def __init__(
        self, backbone: Backbone, tasks: Sequence[str], *, pull: str = "l2", strength: float | Sequence[float] = 1e-3
    ):
        super().__init__(backbone, tasks)
        if pull not in PULLS:
            raise ConfigError(f"pull={pull!r}: must be one of {', '.join(PULLS)}")
        self.pull = pull
        copies = [copy.deepcopy(backbone) for _ in self.names[1:]]
        self.backbones = nn.ModuleList([backbone, *copies])  # type: ignore[assignment]
        self.groups = [layer_parameters(one) for one in self.backbones]
        groups = len(self.groups[0])
        strengths = (
            [float(strength)] * groups if isinstance(strength, int | float) else [float(one) for one in strength]
        )
        if len(strengths) != groups or min(strengths) < 0:
            raise ConfigError(f"strength={strength}: must be a number of at least 0, or {groups} of them")
        self.strengths = strengths

    def encode_all(self, requests: Mapping[str, Packed | None]) -> dict[str, Encoded]:
        encoded = {}
        for task, packed in requests.items():
            if packed is not None and len(packed):
                distinct, place = packed.distinct()
                states = self.backbones[self.place(task)].encode(distinct)
                encoded[task] = states if len(distinct) == len(packed) else states.select(place)
        return encoded

    @torch.no_grad()
    def add_pull(self) -> Tensor:
        losses = []
        for place, strength in enumerate(self.strengths):
            layers = [groups[place] for groups in self.groups]
            if strength == 0 or len(layers) < 2 or not layers[0]:
                continue
            means = [torch.stack(same).mean(0) for same in zip(*layers, strict=True)]
            for layer in layers:
                if self.pull == "l2":
                    gradients = [one - mean for one, mean in zip(layer, means, strict=True)]
                    losses.append(strength / 2 * squares(gradients))
                    scale = strength
                else:
                    gradients, loss = cosine_gradients(layer, means)
                    losses.append(strength * loss)
                    scale = strength
                for parameter, gradient in zip(layer, gradients, strict=True):
                    if parameter.grad is None:
                        parameter.grad = scale * gradient
                    else:
                        parameter.grad.add_(gradient, alpha=scale)
        return torch.stack(losses).sum() if losses else torch.zeros(())


def squares(layer: Sequence[Tensor]) -> Tensor:
    """|x|^2, x the tensors of a layer as one vector."""
    parts = [one.square().sum() for one in layer]
    return sum(parts[1:], parts[0])


def cosine_gradients(layer: Sequence[Tensor], means: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """(gradient of 1 - cos(x, m) by x, its value), x and m the tensors of a layer as one vector each."""
    dot = sum((one * mean).sum() for one, mean in zip(layer, means, strict=True))
    own, other = squares(layer).clamp(min=1e-24), squares(means).clamp(min=1e-24)
    cosine = dot / (own * other).sqrt()
    scale = (own * other).rsqrt()
    return [cosine / own * one - scale * mean for one, mean in zip(layer, means, strict=True)], 1 - cosine


def layer_parameters(backbone: Backbone) -> list[list[nn.Parameter]]:
    """Parameters that learn, by layer: the embeddings, each layer, and the rest."""
    layers = [list(layer.parameters()) for layer in layers_of(backbone.model)]
    inside = {id(parameter) for layer in layers for parameter in layer}
    embeddings = [
        parameter
        for module in backbone.model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
        if id(parameter) not in inside
    ]
    inside |= {id(parameter) for parameter in embeddings}
    rest = [parameter for parameter in backbone.parameters() if id(parameter) not in inside]
    return [[one for one in group if one.requires_grad] for group in (embeddings, *layers, rest)]


class RoutedSharing(Sharing):
    """One backbone whose feed-forward layers are experts, chosen for each token by what it is, by its task, or both.

    The texts of all tasks go through in one pass. A text of two tasks is encoded for each where the gate asks for the
    task. balance_weight: weight of the load-balance loss, a mean over layers (see `Experts`).
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        experts: int = 4,
        top_k: int = 2,
        gate: str = "both",
        balance_weight: float = 0.01,
    ):
        super().__init__(backbone, tasks)
        self.gate, self.balance_weight = gate, balance_weight
        self.routed: list[Experts] = route_layers(
            backbone.model, backbone.hidden, len(self.names), experts=experts, top_k=top_k, gate=gate
        )

    def encode_all(self, requests: Mapping[str, Packed | None]) -> dict[str, Encoded]:
        asked = {task: packed for task, packed in requests.items() if packed is not None and len(packed)}
        if not asked:
            return {}
        if self.gate == "token":
            return self.by_token(asked, {task: self.place(task) for task in asked})
        distinct, places = {}, {}
        for task, packed in asked.items():
            distinct[task], places[task] = packed.distinct()
        together = Packed.cat(list(distinct.values()))
        ids = [torch.full((len(packed.tokens),), self.place(task)) for task, packed in distinct.items()]
        states = self.run(together, torch.cat(ids).to(together.tokens.device))
        parts = cut(states, {task: len(packed) for task, packed in distinct.items()})
        return {
            task: part if len(distinct[task]) == len(asked[task]) else part.select(places[task])
            for task, part in parts.items()
        }

    def by_token(self, requests: Mapping[str, Packed], tasks: Mapping[str, int]) -> dict[str, Encoded]:
        """As hard sharing; a text of several tasks counts for the first of them."""
        together = Packed.cat(list(requests.values()))
        distinct, place = together.distinct()
        counts = [len(packed) for packed in requests.values()]
        owner = torch.repeat_interleave(torch.tensor(list(tasks.values())), torch.tensor(counts)).to(place.device)
        first = torch.full((len(distinct),), len(self.names), device=place.device)
        first = first.scatter_reduce(0, place, owner, "amin")
        states = self.run(distinct, first[distinct.rows])
        if len(distinct) == len(together):
            return cut(states, dict(zip(requests, counts, strict=True)))
        return {task: states.select(ids) for task, ids in zip(requests, place.split(counts), strict=True)}

    def run(self, packed: Packed, tasks: Tensor) -> Encoded:
        backbone = self.backbones[0]
        if backbone.packing != "packed":
            raise ConfigError("sharing='routed' needs packed texts: this backbone allows padded ones only")
        for router in self.routed:
            router.begin(tasks)
        return backbone.encode(packed)

    def balance_loss(self) -> Tensor | None:
        losses = [router.balance for router in self.routed if router.balance is not None]
        for router in self.routed:
            router.balance = None
        return self.balance_weight * torch.stack(losses).mean() if losses else None

    def utilisation(self) -> Tensor:
        counts = torch.stack([router.counts for router in self.routed]).double()
        return counts / counts.sum(-1, keepdim=True).clamp(min=1)

    def reset_utilisation(self) -> None:
        for router in self.routed:
            router.counts.zero_()


def make_sharing(mode: str, backbone: Backbone, tasks: Sequence[str], **options) -> Sharing:
    """The sharing called `mode`; options as its class takes them. ConfigError for those it has not."""
    classes = {"hard": (Sharing, ()), "soft": (SoftSharing, ("pull", "strength")),
               "routed": (RoutedSharing, ("experts", "top_k", "gate", "balance_weight"))}  # fmt: skip
    if mode not in classes:
        raise ConfigError(f"sharing={mode!r}: must be one of {', '.join(MODES)}")
    made, allowed = classes[mode]
    for name in options:
        if name not in allowed:
            known = f"it has {', '.join(allowed)}" if allowed else "it has none"
            raise ConfigError(f"{name}={options[name]!r} has no effect with sharing={mode}: {known}")
    return made(backbone, tasks, **options)
