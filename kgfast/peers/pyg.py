"""PyG: the models of torch_geometric.nn.kge as ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kgfast.errors import KgfastError
from kgfast.nn import KGEModel
from kgfast.peers import is_of
from kgfast.peers.tables import rotate_l2

if TYPE_CHECKING:
    from torch_geometric.nn import kge


def from_pyg(model: kge.KGEModel) -> KGEModel:
    """A model of torch_geometric.nn.kge as a kgfast.nn.KGEModel with the same scores.

    DistMult and ComplEx are those of kgfast. TransE normalizes the rows of entities in each call: the model gets them
    normalized. RotatE takes the L2 norm of all complex numbers together and adds its margin: it becomes the score
    "rotate_l2", without the margin, which ranks alike. Any other is refused by name.

    Args:
        model: trained or not. Its tables are copied; ids are its own.
    """
    if not is_of("torch_geometric", model) or not hasattr(model, "node_emb"):
        raise KgfastError(f"model: {type(model).__name__} is no model of torch_geometric.nn.kge")
    name = type(model).__name__
    if name not in CONVERTERS:
        raise KgfastError(f"model: kgfast has no score of PyG's {name}; there are those of {', '.join(CONVERTERS)}")
    with torch.no_grad():
        score, entities, relations = CONVERTERS[name](model)
    return KGEModel.from_tables(entities, relations, score=score)


def rows(model: Any, *names: str) -> Tensor:
    """Embeddings of a model side by side."""
    return torch.cat([getattr(model, name).weight.detach() for name in names], 1)


def transe(model: Any) -> tuple[str, Tensor, Tensor]:
    if model.p_norm not in (1, 2):
        raise KgfastError(f"model: TransE with p_norm={model.p_norm}; kgfast has the norms 1 and 2")
    entities = torch.nn.functional.normalize(rows(model, "node_emb"), p=model.p_norm, dim=-1)
    return f"transe_l{int(model.p_norm)}", entities, rows(model, "rel_emb")


CONVERTERS: dict[str, Callable[[Any], tuple[str, Tensor, Tensor]]] = {
    "TransE": transe,
    "DistMult": lambda model: ("distmult", rows(model, "node_emb"), rows(model, "rel_emb")),
    "ComplEx": lambda model: ("complex", rows(model, "node_emb", "node_emb_im"), rows(model, "rel_emb", "rel_emb_im")),
    "RotatE": lambda model: (rotate_l2(), rows(model, "node_emb", "node_emb_im"), rows(model, "rel_emb")),
}
