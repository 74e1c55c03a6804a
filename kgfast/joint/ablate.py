"""`kgfast ablate`: does training together help? The joint run against each of its parts alone, over seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kgfast.core.files import write_whole
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError
from kgfast.evaluate.spread import mean_and_spread
from kgfast.joint.build import build_model, fit_to_data, load_graph
from kgfast.joint.config import JointConfig
from kgfast.joint.facts import told_by
from kgfast.joint.loop import train_joint

SPLIT = "test"


def ablate(
    config: JointConfig,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    alone: Sequence[Sequence[str]] | None = None,
    console: Console | None = None,
    say: Callable[[str], None] = lambda text: None,
    graph: KnowledgeGraph | None = None,
) -> dict[str, Any]:
    """Train `config` and its parts with every seed; {"joint": .., part: ..} of metrics with mean, spread and values.

    alone: sets of tasks that are trained without the others; by default each task. A part takes as many steps as the
    joint run, with the same batches of its tasks. Runs lie in `config.out`/NAME-seedN; a finished one of the same
    settings is not repeated. Writes ablation.json there. Spread is the sample standard deviation (None for one seed).
    """
    if config.out is None:
        raise ConfigError("out is missing: the folder for the runs of the ablation")
    folder = Path(config.out)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds={list(seeds)}: at least one is needed, each once")
    if config.mixing.method != "every":
        raise ConfigError(f"mixing.method={config.mixing.method}: ablations need every, all tasks in each step")
    parts = [tuple(part) for part in alone] if alone is not None else [(name,) for name in config.tasks]
    for part in parts:
        unknown = [name for name in part if name not in config.tasks]
        if unknown or not part:
            raise ConfigError(f"alone={','.join(part)}: tasks of the run are {', '.join(config.tasks)}")
    graph = load_graph(config) if graph is None else graph
    config = with_steps(config, graph)
    found: dict[str, list[dict[str, Any]]] = {}
    runs = [("joint", tuple(config.tasks)), *(("+".join(part), part) for part in parts)]
    for seed in seeds:
        for name, tasks in runs:
            out = folder / f"{name}-seed{seed}"
            one = config.replace(tasks={task: config.tasks[task] for task in tasks}, seed=seed, out=str(out))
            found.setdefault(name, []).append(run_once(one, out, graph, console, say))
    result = {name: summarise(of_seeds) for name, of_seeds in found.items()}
    complete = {"seeds": list(seeds), "steps": config.steps, "split": SPLIT, "runs": result}
    write_whole(folder / "ablation.json", (json.dumps(complete, indent=1) + "\n").encode())
    return complete


def with_steps(config: JointConfig, graph: KnowledgeGraph) -> JointConfig:
    """Epochs as the steps they are for the joint run, so that every part gets as many."""
    if config.epochs is None:
        return config
    model = build_model(fit_to_data(config, graph, lambda text: None), graph)
    steps = config.epochs * max(len(task) for task in model.tasks.values())
    return config.replace(epochs=None, steps=min(steps, config.steps or steps))


def run_once(
    config: JointConfig, out: Path, graph: KnowledgeGraph, console: Console | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """{task: metrics} of one run, which goes on where an earlier ablation was stopped."""
    if (out / "metrics.json").exists() and JointConfig.load(out / "config.yaml") == config.replace(leave_out=False):
        say(f"{out} is finished")
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    else:
        say(f"training {out}")
        metrics = train_joint(config, resume=out.exists(), console=console, graph=graph)
    return {task: splits[SPLIT] for task, splits in metrics["tasks"].items() if SPLIT in splits}


def summarise(of_seeds: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{task: {metric: {"mean", "spread", "values"}}} over seeds, for the numbers on top."""
    result: dict[str, dict[str, Any]] = {}
    for task, metrics in of_seeds[0].items():
        result[task] = {}
        for name, value in metrics.items():
            if isinstance(value, float):
                result[task][name] = mean_and_spread([one[task][name] for one in of_seeds])
    return result


def rows(complete: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, dict[str, Any]]]]]:
    """(task, metric, [(run, mean and spread)]) of every metric, the joint run first; for a table."""
    runs = complete["runs"]
    result = []
    for task, metrics in runs["joint"].items():
        for name in metrics:
            cells = [(run, found[task][name]) for run, found in runs.items() if name in found.get(task, {})]
            result.append((task, name, cells))
    return result


def better(task: str, metric: str, joint: dict[str, Any], alone: dict[str, Any]) -> str:
    """ "better", "worse" or "same": whether the means are further apart than the larger spread."""
    if joint["mean"] is None or alone["mean"] is None:
        return "same"
    difference = joint["mean"] - alone["mean"]
    if abs(difference) <= max(joint["spread"] or 0.0, alone["spread"] or 0.0):
        return "same"
    return "better" if (difference < 0) == (metric in told_by(task).lower_is_better) else "worse"
