"""`kgfast compare`: runs side by side, those that differ in the seed alone as one row."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kgfast.errors import ConfigError
from kgfast.evaluate.measures import heading as of_ranks
from kgfast.evaluate.spread import mean_and_spread
from kgfast.joint.facts import told_by
from kgfast.research.runs import RunFolder

SHOWN = ("mrr", "hits@1", "hits@10")  # of a run on the graph alone, where nothing else is asked for
LOWER_IS_BETTER = ("mean_rank", "amr", "seconds", "peak_memory_bytes")


BESIDE = 6  # settings at most that stand as columns beside the results


@dataclass(frozen=True)
class Row:
    """Runs of the same settings, seed by seed."""

    settings: dict[str, Any]  # those that differ between rows
    runs: list[RunFolder]
    metrics: dict[str, dict[str, Any]]  # by name: mean, spread, values

    @property
    def name(self) -> str:
        """What to call it: its settings, or its folder where none differ, or too many."""
        told = ", ".join(f"{key}={shown(value)}" for key, value in self.settings.items())
        return told if told and len(self.settings) <= BESIDE else self.runs[0].path.name


@dataclass(frozen=True)
class Comparison:
    """Rows, the best first."""

    settings: list[str]  # that differ
    metrics: list[str]  # that are shown
    rows: list[Row]
    unfinished: list[RunFolder]

    @property
    def beside(self) -> list[str]:
        """The settings that stand beside the results; none where they are too many, and have a table of their own."""
        return self.settings if len(self.settings) <= BESIDE else []

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON has it: every number of the results, not those alone that are shown."""
        rows = [
            {
                "settings": row.settings,
                "runs": [str(run.path) for run in row.runs],
                "seeds": [run.seed for run in row.runs],
                "metrics": {name: summary(row.runs, name) for name in names_of(row.runs)},
            }
            for row in self.rows
        ]
        return {
            "settings": self.settings, "metrics": self.metrics, "rows": rows,
            "unfinished": [str(run.path) for run in self.unfinished],
        }  # fmt: skip


def compare(folders: Iterable[str | os.PathLike], metrics: Sequence[str] = ()) -> Comparison:
    """The runs in `folders`, grouped; `metrics` by dotted name, such as test.mrr, by default those of a run's table.

    ConfigError where no run is finished, a folder is given twice, or no run has a metric.
    """
    runs = [RunFolder.read(folder) for folder in folders]
    twice = [
        str(run.path) for place, run in enumerate(runs) if any(run.path.samefile(one.path) for one in runs[:place])
    ]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice")
    finished = [run for run in runs if run.metrics is not None]
    if not finished:
        raise ConfigError("none of the runs is finished: metrics.json is written at the end of training")
    keys = differing(finished)
    names = list(metrics) or shown_metrics(finished)
    check_metrics(names, finished)
    groups: dict[str, list[RunFolder]] = {}
    for run in finished:
        groups.setdefault(json.dumps(settings_of(run, keys)), []).append(run)
    rows = [
        Row(settings_of(group[0], keys), group, {name: summary(group, name) for name in names})
        for group in (sorted(group, key=lambda run: run.seed) for group in groups.values())
    ]
    rows.sort(key=lambda row: order(names[0], row.metrics[names[0]]["mean"]))
    return Comparison(keys, names, rows, [run for run in runs if run.metrics is None])


def differing(runs: list[RunFolder]) -> list[str]:
    """Settings that aren't the same in all runs; of the data its checksum, where it is known, not where it lay."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    checksums = {run.data_sha256 for run in runs}
    found = [key for key in keys if len({json.dumps(run.settings.get(key)) for run in runs}) > 1]
    if None in checksums:
        return found
    told = "data" in found and len({run.settings.get("data") for run in runs}) == len(checksums)
    found = [key for key in found if key != "data" or told]
    return found if told or len(checksums) == 1 else [*found, "data_sha256"]


def settings_of(run: RunFolder, keys: Iterable[str]) -> dict[str, Any]:
    values = {**run.settings, "data_sha256": run.data_sha256}
    return {key: values.get(key) for key in keys}


def shown_metrics(runs: list[RunFolder]) -> list[str]:
    """The numbers of a run's own table: of every task the one that stands for it, and the ranks on the graph alone."""
    names: dict[str, None] = {}
    for run in runs:
        metrics = run.metrics or {}
        if not metrics.get("tasks"):
            split = "test" if metrics.get("test") else "valid"
            names |= dict.fromkeys(f"{split}.{name}" for name in SHOWN if name in (metrics.get(split) or {}))
        for task, splits in metrics.get("tasks", {}).items():
            split = "test" if "test" in splits else "valid"
            if split in splits:
                names[f"tasks.{task}.{split}.{told_by(task).headline_of(splits[split])[0]}"] = None
    if not names:
        raise ConfigError("the runs have no held-out results: name what to compare by --metric, such as train.seconds")
    return list(names)


def names_of(runs: Iterable[RunFolder]) -> dict[str, None]:
    return dict.fromkeys(name for run in runs for name in run.numbers())


def check_metrics(names: Iterable[str], runs: list[RunFolder]) -> None:
    known = list(names_of(runs))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise ConfigError(f"metric={name!r}: none of the runs has it; did you mean {', '.join(near)}?")


def summary(runs: Iterable[RunFolder], name: str) -> dict[str, Any]:
    return mean_and_spread([run.numbers().get(name) for run in runs])


def lower_is_better(name: str) -> bool:
    first, *path, last = name.split(".")
    return last in (told_by(path[0]).lower_is_better if first == "tasks" else LOWER_IS_BETTER)


def order(name: str, mean: float | None) -> tuple[bool, float]:
    """A key that sorts the best first, what is missing last."""
    return mean is None, (mean or 0.0) if lower_is_better(name) else -(mean or 0.0)


def best(rows: list[Row], name: str) -> Row | None:
    """The row with the best mean, where there is something to choose from."""
    known = [row for row in rows if row.metrics[name]["mean"] is not None]
    return min(known, key=lambda row: order(name, row.metrics[name]["mean"])) if len(known) > 1 else None


def heading(name: str) -> str:
    """How a table calls a metric: test.mrr is MRR test, tasks.qa.test.hits@1 is qa Hits@1 test."""
    *path, last = name.split(".")
    if path[:1] == ["tasks"] and len(path) == 3:
        return f"{path[1]} {told_by(path[1]).columns.get(last, last)} {path[2]}"
    word = of_ranks(last)
    return name if word is None else " ".join([word, *path])


def shown(value: Any) -> str:
    """A setting's value as a table shows it."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
