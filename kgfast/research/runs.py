"""A run as it lies in its folder: settings, results and history as plain values, its model untouched."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgfast.core.files import read_plain
from kgfast.errors import CheckpointError
from kgfast.evaluate.report import MOST_BYTES, read_history
from kgfast.run.reading import flat, read_yaml

# They decide where and how long a run works, and not what it learns.
BESIDE = {"out", "resume", "threads", "checkpoint_every", "tensorboard", "trackers"}


@dataclass(frozen=True)
class RunFolder:
    """What a run left; `metrics` is None where it isn't finished."""

    path: Path
    settings: dict[str, Any]  # by dotted key, without those that are beside the matter
    seed: int
    metrics: dict[str, Any] | None
    history: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: str | os.PathLike) -> RunFolder:
        """CheckpointError where the folder is no run; KgfastError names a file that is damaged."""
        path = Path(folder)
        if not os.path.lexists(path / "config.yaml"):
            raise CheckpointError(f"{path}: no such run (a folder that `kgfast train` wrote)")
        settings = dict(flat(read_yaml(path / "config.yaml", of_run=True)))
        seed = settings.pop("seed", 0)
        settings = {key: value for key, value in settings.items() if key not in BESIDE}
        metrics = read_json(path / "metrics.json") if os.path.lexists(path / "metrics.json") else None
        return cls(path, settings, seed, metrics, read_history(path / "history.jsonl"))

    @property
    def data_sha256(self) -> str | None:
        """The checksum of its data, where the run says it."""
        return (self.metrics or {}).get("made_by", {}).get("data_sha256")

    def numbers(self) -> dict[str, float]:
        """Every number of the results by dotted name: test.mrr, tasks.qa.test.hits@1, train.seconds."""
        found = {key: value for key, value in (self.metrics or {}).items() if key not in ("made_by", "run")}
        return {key: value for key, value in flat(found) if isinstance(value, (int, float))}


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_plain(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: it holds no results")
    return found
