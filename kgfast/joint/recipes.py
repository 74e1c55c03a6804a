"""Recipes of joint training: names for whole configurations."""

from __future__ import annotations

import copy
from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    # Language, graph and questions over one small Transformer; entities by table and text.
    "joint": dict(
        tasks=dict(mlm={}, nsp={}, link={"batch_size": 256, "n3": 1e-3}, qa={}),
        model="complex", dim=128, reciprocal=True, init_scale=1e-2, entities=dict(kind="hybrid"), leave_out=True,
    ),
    # The graph and its questions: the Transformer reads the questions alone.
    "kgqa": dict(
        tasks=dict(link={"batch_size": 256, "n3": 1e-3}, qa={}),
        model="complex", dim=128, reciprocal=True, init_scale=1e-2, entities=dict(kind="table"),
    ),
    # The graph, whose entities are their texts: those that training never saw are ranked too.
    "text": dict(
        tasks=dict(link={"batch_size": 256, "n3": 1e-3}),
        model="complex", dim=128, reciprocal=True, init_scale=1e-2, entities=dict(kind="text"),
    ),
}  # fmt: skip


def joint_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe as a fresh dictionary."""
    return copy.deepcopy(RECIPES[name])
