"""Recipes: names for whole configurations, on the graph alone and of joint training. Edit the two tables."""

from __future__ import annotations

import copy
from typing import Any

from kgfast.errors import ConfigError
from kgfast.run.yaml_files import shortened

# On the graph alone, taken from the literature.
GRAPH: dict[str, dict[str, Any]] = {
    # Lacroix et al. 2018 (kbc): softmax over all entities, reciprocal relations, weighted N3, full Adagrad. Twice their
    # rate, and falling: sooner there, and a better end. N3's weight follows the graph; theirs is 0.05 on FB15k-237.
    "complex-n3": dict(
        model="complex", dim=512, reciprocal=True, init_scale=1e-3,
        candidates="all", objective="softmax", side="both",
        regularizer="n3", regularizer_weight="auto",
        optimizer="adagrad", lr=0.2, lr_schedule="linear", lr_final=0.05, batch_size=250, epochs=100,
        validate_every=5, early_stopping_patience=5,
    ),
    # As ComplEx: softmax over all entities, reciprocal relations and N3 serve DistMult too.
    "distmult": dict(
        model="distmult", dim=512, reciprocal=True, init_scale=1e-3,
        candidates="all", objective="softmax", side="both",
        regularizer="n3", regularizer_weight=5e-2,
        optimizer="adagrad", lr=0.2, lr_schedule="linear", lr_final=0.05, batch_size=250, epochs=100,
        validate_every=5, early_stopping_patience=5,
    ),
    # Sun et al. 2019: L1, self-adversarial negatives, margin 9, frequency subsampling, lr / 10 at half time; negatives
    # shared by chunks, which costs no quality here and trains twice as fast.
    # init_scale puts the first distances at the margin: a spread of (9 + 2) / (numbers that are summed).
    "transe": dict(
        model="transe_l1", dim=400, init_scale=0.0125,
        candidates="sampled", objective="logistic", side="alternate",
        negatives=256, negative_sharing="chunk", negative_filter="mask",
        margin=9.0, adversarial_temperature=1.0, subsampling=True,
        optimizer="adam", lr=2e-3, lr_schedule="step", lr_final=0.1, batch_size=1024, epochs=100,
        validate_every=10, early_stopping_patience=5,
    ),
    # Sun et al. 2019: as for TransE, with rotations in the complex plane.
    "rotate": dict(
        model="rotate", dim=400, init_scale=0.025,
        candidates="sampled", objective="logistic", side="alternate",
        negatives=256, negative_sharing="chunk", negative_filter="mask",
        margin=9.0, adversarial_temperature=1.0, subsampling=True,
        optimizer="adam", lr=2e-3, lr_schedule="step", lr_final=0.1, batch_size=1024, epochs=100,
        validate_every=10, early_stopping_patience=5,
    ),
}  # fmt: skip

# Of several tasks together.
JOINT: dict[str, dict[str, Any]] = {
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
    # Wang et al. 2022 (SimKGC), over a frozen Transformer: two towers over texts, by which unseen entities are ranked;
    # it needs backbone.path. All entities compete, which a memory of texts affords.
    "simkgc": dict(
        tasks=dict(towers={}), entities=dict(kind="text"), backbone=dict(freeze=True), lr=1e-3, warmup=20, steps=400,
    ),
}  # fmt: skip


def is_recipe(name: Any, table: dict[str, dict[str, Any]]) -> bool:
    """Whether this, which may be anything that a file can hold, names a recipe of the table."""
    return isinstance(name, str) and name in table


def graph_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe on the graph alone, as a fresh dictionary; ConfigError names the recipes there are."""
    if is_recipe(name, JOINT):
        raise ConfigError(
            f"recipe={name!r} trains tasks jointly: `kgfast train --recipe {name}` takes it; available here: "
            f"{', '.join(GRAPH)}"
        )
    if not is_recipe(name, GRAPH):
        raise ConfigError(f"recipe={shortened(name)} is unknown; available: {', '.join([*GRAPH, *JOINT])}")
    return copy.deepcopy(GRAPH[name])


def joint_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe of joint training, as a fresh dictionary; ConfigError names the recipes there are."""
    if not is_recipe(name, JOINT):
        raise ConfigError(f"recipe={shortened(name)} is no recipe of joint training; available: {', '.join(JOINT)}")
    return copy.deepcopy(JOINT[name])
