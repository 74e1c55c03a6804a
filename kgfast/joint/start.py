"""Tables that begin where a run of `kgfast train` on the graph alone ended: the graph first, then all together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kgfast.errors import CheckpointError, ConfigError
from kgfast.joint.config import JointConfig
from kgfast.joint.model.joint_model import JointModel
from kgfast.run.storage import read_manifest
from kgfast.train.checkpoint import load_run
from kgfast.train.id_maps import IdMaps


@torch.no_grad()
def start_tables(config: JointConfig, model: JointModel, say: Callable[[str], None]) -> None:
    """Rows of entities and relations from the runs that `entities.from` and `relations.from` name, matched by name.

    What such a run lacks begins as without it, and is told. ConfigError for a run of another score or dimension, or
    with relations of another kind; CheckpointError where it can't be read or is a joint run.
    """
    graph, sections = model.graph, {"entities": config.entities, "relations": config.relations}
    for kind, section in sections.items():
        run = getattr(section, "from")
        if run is None:
            continue
        table, names = saved_table(config, kind, run)
        if kind == "entities":
            own, target = graph.entity_names, model.entities.table
        else:
            own, target = graph.relation_names, model.relation_table
        ids = torch.from_numpy((names.entity_names if kind == "entities" else names.relation_names).find_all(own.array))
        here = (ids >= 0).nonzero()[:, 0]
        if not len(here):
            raise ConfigError(f"{kind}.from={run}: it has none of the {len(own):,} {kind} of {graph.name}")
        sets = 2 if kind == "relations" and config.reciprocal else 1
        for turned in range(sets):  # the second set asks for heads
            there = ids[here] + turned * names.num_relations
            target[(here + turned * len(own)).to(target.device)] = table[there].to(target)
        missing = (ids < 0).nonzero()[:, 0].tolist()
        if missing:
            some = ", ".join(repr(own[place]) for place in missing[:3])
            say(f"{kind}.from={run}: {len(missing):,} of {len(own):,} {kind} are not there, and begin anew: {some}")


def saved_table(config: JointConfig, kind: str, run: str) -> tuple[Tensor, IdMaps]:
    """The table of entities or relations of a run, and its names."""
    if read_manifest(run).get("kind") == "joint":
        raise CheckpointError(f"{kind}.from={run}: it is a joint run; one on the graph alone is needed")
    saved, names, settings = load_run(run)
    for key in ("model", "dim", *(["reciprocal"] if kind == "relations" else [])):
        then, now = getattr(settings, key), getattr(config, key)
        if then != now:
            raise ConfigError(f"{kind}.from={run}: it was trained with {key}={then}, this run has {key}={now}")
    return (saved.entities if kind == "entities" else saved.relations).detach(), names
