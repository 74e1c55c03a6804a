"""What a call that is right is made of: plain values over all names of the registry, and the tensors they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

import kgfast
from kgfast import testing
from kgfast.registry import ALL_OBJECTIVES, NEGATIVE_OBJECTIVES, RULES, SCORES, Similarity

Case = dict[str, Any]
SIDES = ("tail", "head")
LAYOUTS = ("whole", "transposed", "strided", "offset", "negated", "expanded")
NUMBERS: dict[str, Callable[[Any], Any]] = {
    "python": lambda value: value,
    "numpy": lambda value: np.float64(value) if isinstance(value, float) else np.int64(value),
    "tensor": lambda value: torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64),
}

COMMON = {
    "score": st.sampled_from(list(SCORES)),
    "dim": st.sampled_from(testing.DIMS + (2, 4, 64)),
    "batch": st.sampled_from((0, 1, 2, 7, 33)),
    "entities": st.sampled_from((1, 2, 37, 70)),
    "relations": st.sampled_from((1, 5)),
    "dtype": st.sampled_from(("float32", "float64")),
    "layout": st.sampled_from(LAYOUTS),
    "threads": st.sampled_from((1, 2)),
    "numbers": st.sampled_from(tuple(NUMBERS)),
    "seed": st.integers(0, 2**32),
    "level": st.sampled_from(kgfast.cpu_levels()),
}
FLAG = st.booleans()
HALF = {"dtype": st.sampled_from(("float32", "float64", "bfloat16", "float16"))}
REDUCTION = {"reduction": st.sampled_from(("mean", "sum", "none"))}
SIDE, BOTH = st.sampled_from(SIDES), st.sampled_from((*SIDES, "both"))
SMOOTHING = st.sampled_from((0.0, 0.1, 1.0))
WEIGHTS = st.sampled_from(("none", "ones", "some", "zeros", "whole"))
OPTIONS: dict[str, dict[str, st.SearchStrategy]] = {
    "score_triples": {"sparse": FLAG, **HALF},
    "score_candidates": {
        "side": SIDE,
        "count": st.sampled_from((None, 1, 2, 5, 64)),
        "flat": FLAG,
        "sparse": FLAG,
        **HALF,
    },
    "sample_negatives": {
        "side": BOTH,
        "count": st.sampled_from((0, 1, 5, 64)),
        "known": FLAG,
        "weights": WEIGHTS,
        "shared": st.sampled_from((0, 1, 3)),
        "step": st.sampled_from((0, 7, 2**33, 2**64 - 1)),
    },
    "negative_sampling_loss": {
        "side": BOTH,
        "count": st.sampled_from(testing.NEGATIVES),
        "lists": st.sampled_from((0, 1, 3)),
        "objective": st.sampled_from(list(NEGATIVE_OBJECTIVES)),
        "margin": st.sampled_from((0.0, 1.0, -2.0)),
        "temperature": st.sampled_from((0.0, 0.5, 2.0)),
        "weights": WEIGHTS,
        "known": FLAG,
        "sparse": FLAG,
        "drawn": FLAG,
        **REDUCTION,
        **HALF,
    },
    "one_vs_all_loss": {
        "side": BOTH,
        "objective": st.sampled_from(list(ALL_OBJECTIVES)),
        "smoothing": SMOOTHING,
        "known": FLAG,
        **REDUCTION,
        **HALF,
    },
    "linear_cross_entropy": {
        **REDUCTION,
        **HALF,
        "smoothing": SMOOTHING,
        "bias": FLAG,
        "ignored": FLAG,
        "default": FLAG,
    },
    "multitask_loss": {
        "batch": st.sampled_from((0, 1, 2, 7)),
        "similarity": st.sampled_from(Similarity.words()),
        "objective": st.sampled_from(list(ALL_OBJECTIVES)),
        "several": FLAG,
        "known": FLAG,
        "candidates": FLAG,
        "bias": FLAG,
        "ignored": FLAG,
        "terms": st.sampled_from((1, 2, 3)),
        **HALF,
    },
    "rank": {"side": SIDE, "known": FLAG, "ties": st.sampled_from(("optimistic", "pessimistic", "realistic")), **HALF},
    "topk": {"side": SIDE, "known": FLAG, "count": st.sampled_from((1, 3, 80)), **HALF},
    "row_optimizer": {"rule": st.sampled_from(list(RULES)), "sparse": FLAG},
    "sampled_step": {
        "side": BOTH,
        "count": st.sampled_from((1, 5, 64)),
        "sharing": st.sampled_from(("none", "chunk", "batch")),
        "objective": st.sampled_from(list(NEGATIVE_OBJECTIVES)),
        "temperature": st.sampled_from((0.0, 1.0)),
        "weights": WEIGHTS,
        "known": FLAG,
        "reciprocal": FLAG,
    },
    "step_over_all": {
        "side": BOTH,
        "objective": st.sampled_from(list(ALL_OBJECTIVES)),
        "smoothing": SMOOTHING,
        "known": FLAG,
        "reciprocal": FLAG,
    },
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One call, as {"op": its name, its options by name}."""
    op = draw(st.sampled_from(list(OPTIONS)))
    return {"op": op, **{name: draw(choice) for name, choice in {**COMMON, **OPTIONS[op]}.items()}}


# ---- what the plain values stand for --------------------------------------------------------------------------


class Inputs:
    """The tensors of a case, from its seed alone."""

    def __init__(self, case: Case):
        self.case, self.generator = case, torch.Generator().manual_seed(case["seed"])
        self.dtype = getattr(torch, case["dtype"])
        dim = min(case["dim"], 33) if case["score"] == "rescal" else case["dim"]  # whose relations are matrices
        sizes = dict(num_entities=case["entities"], num_relations=case["relations"])
        self.tables = testing.make_tables(
            case["score"], testing.usable_dim(case["score"], dim), seed=case["seed"], dtype=self.dtype, **sizes
        )
        self.triples = self.ids(case["batch"], 3, count=min(case["entities"], case["relations"]))
        if case["batch"]:
            self.triples[-1] = torch.tensor([case["entities"], case["relations"], case["entities"]]) - 1
        self.known = self.known_triples() if case.get("known") else None

    def known_triples(self) -> kgfast.KnownTriples:
        """The batch, and others of which many answer its queries too."""
        entities, relations, batch = self.case["entities"], self.case["relations"], len(self.triples)
        others = torch.stack([self.ids(40, count=size) for size in (entities, relations, entities)], 1)
        if batch:
            others[:30, :2] = self.triples[torch.arange(30) % batch, :2]
            others[15:30, 2] = self.triples[torch.arange(15) % batch, 2]
        return kgfast.KnownTriples.from_triples(torch.cat([self.triples, others]), entities, relations)

    def ids(self, *shape: int, count: int, lowest: int = 0) -> Tensor:
        """Ids with repeats, the last row among them."""
        found = torch.randint(lowest, count, shape, generator=self.generator)
        if found.numel():
            found.view(-1)[-1] = count - 1
        return found

    def random(self, *shape: int) -> Tensor:
        """Numbers that float32 holds."""
        return torch.randn(shape, generator=self.generator).to(self.dtype)

    def weights(self, count: int) -> Tensor | None:
        """Weights of triples or entities."""
        made = {"none": None, "ones": torch.ones(count), "zeros": torch.zeros(count), "whole": torch.arange(count)}
        some = torch.rand(count, generator=self.generator).to(self.dtype)
        some[::3] = 0
        kind = self.case["weights"]
        return some if kind == "some" else made[kind]

    def number(self, value: Any) -> Any:
        """A number as Python, NumPy or torch write it."""
        return NUMBERS[self.case["numbers"]](value) if abs(value) < 2**63 else value


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same numbers, otherwise in memory."""
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        return torch.stack([tensor, tensor + 1], -1)[..., 0]
    if layout == "offset":
        return torch.cat([tensor.new_ones(1), tensor.flatten()])[1:].view(tensor.shape)
    if layout == "negated" and tensor.is_floating_point() and tensor.dtype != torch.bfloat16:  # has no complex numbers
        return torch.complex(tensor, -tensor).conj().imag  # negative, and only by a mark on the tensor
    if layout == "expanded" and tensor.dim() > 1 and tensor.shape[0] == 1:
        return tensor[0].expand(tensor.shape)
    return tensor
