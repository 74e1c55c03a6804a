"""From the folder of a run, of either kind, to a `TrainedRun`."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from kgfast.core import checks
from kgfast.data.sources import as_path
from kgfast.errors import CheckpointError
from kgfast.run.manifest import read_manifest
from kgfast.run.memory import use_threads
from kgfast.run.settings import check_device, found_device
from kgfast.train.checkpoint import load_run as load_graph_run
from kgfast.use.trained import TrainedRun


def load(
    run: str | os.PathLike,
    data: str | None = None,
    *,
    threads: int | None = None,
    device: str | torch.device = "auto",
    names_only: bool = False,
) -> TrainedRun:
    """A finished run, ready to answer: `kgfast.load("runs/world").predict(head="France", relation="borders")`.

    Args:
        run: the folder that `kgfast train` wrote, on the graph alone or of a joint run.
        data: where the run's data lies now; None: as in training.
        threads: CPU threads of this process; None: as they are.
        device: cpu, cuda or cuda:N; auto: cuda if there is one.
        names_only: leave the data alone, which may be gone: what asks for triples is refused then. A joint run needs
            its data, as the texts of its entities are part of it.

    CheckpointError names what is missing, damaged, or of other data.
    """
    folder, place = as_path("run", run), found_device(str(device) if isinstance(device, torch.device) else device)
    check_device(place)
    if data is not None:
        as_path("data", data)
    names_only = checks.flag("names_only", names_only)
    joint = is_joint(folder)
    use_threads(threads)
    if joint:
        return load_joint(folder, data, place)
    model, names, config = load_graph_run(folder)
    mapped = config.tables == "partitioned" and str(device) == "auto"  # a GPU may have no room for all of it
    model.to("cpu" if mapped else place).eval()
    if names_only:
        return TrainedRun(folder, model, names)
    graph = config.load_graph(data)
    if graph.fingerprint != read_manifest(folder)["graph"]["fingerprint"]:
        raise CheckpointError(
            f"{folder} was trained on other data than {data or config.data} holds now: names or triples differ"
        )
    return TrainedRun(folder, model, graph)


def is_joint(run: str | os.PathLike) -> bool:
    """Whether a run is one of joint training; CheckpointError where it is no run."""
    if not Path(run).is_dir():
        raise CheckpointError(f"{run}: no such run (a folder that `kgfast train` wrote)")
    return read_manifest(run).get("kind") == "joint"


def load_joint(folder: Path, data: str | None, device: str) -> TrainedRun:
    from kgfast.joint.checkpoint import load_run  # runs on the graph alone have no use for it
    from kgfast.joint.tasks.link import link_model

    joint = load_run(folder, data)[0].to(device)
    return TrainedRun(folder, link_model(joint, joint.graph), joint.graph, joint)
