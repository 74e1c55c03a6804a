"""Joint training: what its run is, in the loop of all runs (`kgfast.run.loop`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from kgfast.core.terminal import Screen
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError
from kgfast.joint import build, checkpoint
from kgfast.joint.balance.mixing import Mixing, Starvation
from kgfast.joint.config import JointConfig
from kgfast.joint.evaluate import SPLITS, evaluate_tasks, numbers_of
from kgfast.joint.facts import FactResults, Facts, evaluate_facts, language_task
from kgfast.joint.model.joint_model import JointModel
from kgfast.joint.parallel import Processes
from kgfast.joint.room import check_batch_room, check_model_room
from kgfast.joint.start import start_tables
from kgfast.joint.step import Step
from kgfast.run.folder import run_folder
from kgfast.run.loop import TrainingLoop
from kgfast.run.progress import progress_bar
from kgfast.run.session import TrainingError, check_triples, start
from kgfast.run.trackers import Tracker

LOG_STEPS = 256  # at most, between two reads of the losses
MAIN = "link"  # the task whose metrics stand on top of metrics.json, as those of a run on the graph alone


def train_joint(
    config: JointConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
    graph: KnowledgeGraph | None = None,
    trackers: Sequence[Tracker] = (),
) -> dict[str, Any]:
    """Train as configured and leave a run: config.yaml, tokenizer.json, checkpoint/, history.jsonl, tensorboard/,
    metrics.json, report.html.

    `graph` stands in for loading `config.data`, with the questions and triples that it has. `trackers` are told of the
    run, beside those that the settings name. Returns what metrics.json holds: "run", "test" and "valid" (link
    prediction, None without the task), "tasks" ({task: {split: metrics}}), "train" (seconds, steps, peak_memory_bytes,
    stopped), "made_by". Raises ConfigError, DataError, CheckpointError on bad input,
    TrainingError where a loss is no number any more.
    """
    resume = start(config, resume)
    processes = Processes.join(config.device)
    if processes.size > 1 and config.out is None:
        raise ConfigError("out is missing: processes of torchrun share the folder of a run")
    graph = build.load_graph(config) if graph is None else graph
    check_triples(graph)
    console = (console or Screen(stderr=True)) if processes.first else Screen(stderr=True, quiet=True)
    config = build.fit_to_data(config, graph, lambda text: console.print(text, highlight=False, markup=False))
    name = f"{Path(graph.name).name}-{config.recipe or '-'.join(config.tasks)}"
    folder: AbstractContextManager[Path] = nullcontext(Path(config.out or ""))  # the first process's own, for others
    if processes.first:
        folder = run_folder(config.out, name, resume)
    devices = [config.device] if config.device.startswith("cuda") else []
    try:
        with folder as run, torch.random.fork_rng(devices=devices):
            processes.wait()
            training = JointTraining(config, graph, run, console, processes, resume=resume)
            training.watchers = trackers
            return training.run_to_end()
    finally:
        processes.leave()


class JointTraining(TrainingLoop):
    """One run: its model, weights, optimizers, and where it stands."""

    config: JointConfig
    position: checkpoint.Position

    def __init__(
        self,
        config: JointConfig,
        graph: KnowledgeGraph,
        run: Path,
        console: Console,
        processes: Processes,
        *,
        resume: bool,
    ) -> None:
        self.config, self.graph, self.run, self.console, self.processes = config, graph, run, console, processes
        self.first = processes.first
        check_model_room(config, graph, build.fewest_tokens(config), training=True)
        saved = checkpoint.read(run, config, graph) if resume else None
        self.model = self.shared_model(resume)
        for line in build.warnings(config, self.model):
            console.print(line, highlight=False, markup=False)
        self.weights = build.build_weights(config)
        self.optimizers = build.build_optimizers(config, self.model, self.weights)
        names, chosen = list(self.model.tasks), config.mixing
        sizes = {name: max(1, len(task) // processes.size) for name, task in self.model.tasks.items()}
        self.mixing = Mixing(chosen.method, sizes, temperature=chosen.temperature, seed=config.seed)
        self.position = checkpoint.Position(
            batches=dict.fromkeys(names, 0), last=dict.fromkeys(names, 0), processes=processes.size
        )
        self.texts, self.frozen = checkpoint.texts_fingerprint(graph, config), checkpoint.frozen_fingerprint(self.model)
        self.go_on(saved, resume)
        if saved is None:
            start_tables(config, self.model, lambda text: console.print(text, highlight=False, markup=False))
            self.model.refresh()
        self.model.train()
        check_batch_room(config, self.model)
        self.step = Step(config, self.model, self.weights, self.optimizers, processes)
        ends = [config.epochs and config.epochs * self.mixing.per_epoch, config.steps]
        self.steps = min((end for end in ends if end), default=None)
        self.starvation = Starvation(names, chosen.starving_steps)
        self.losses = torch.full((LOG_STEPS, len(names) + 1), math.nan, device=config.device)
        if processes.first:
            config.save(run / "config.yaml")

    def shared_model(self, resume: bool) -> JointModel:
        """The model; the first process settles on the tokenizer before the others read it."""
        config, run, graph = self.config, self.run, self.graph
        if self.processes.first:
            tokenizer = build.build_tokenizer(config, graph, run if resume else None)
            if tokenizer is not None:
                tokenizer.save(run)
        self.processes.wait()
        return build.build_model(config, graph, run)

    def restore(self, saved: checkpoint.Saved) -> None:
        then, now = saved.position.processes, self.processes.size
        if then != now:
            raise ConfigError(
                f"{self.run} was trained by {then} processes, now there are {now}: what a step sees would differ"
            )
        build.check_tokenizer(self.model.tokenizer, saved.tokenizer, saved.roles, str(self.run))
        checkpoint.restore(saved, self.model, self.weights, self.optimizers)
        self.position = saved.position

    def set_rates(self, rate: float) -> None:
        share = rate / self.config.lr
        for name, optimizer in self.optimizers.items():
            own = self.config.table_lr if name == "tables" else self.config.lr
            for group in optimizer.param_groups:
                group["lr"] = share * own * group.get("times", 1)

    def take_step(self) -> Tensor:
        position = self.position
        names = self.mixing.tasks(position.step)
        losses = self.step(position.step, names, position.batches)
        for name in names:
            position.batches[name] += self.config.accumulate
            position.last[name] = position.step
        return losses

    def after_step(self) -> None:
        every = self.config.validate_every
        if every and self.position.step % every == 0:
            self.validate()

    def ended(self) -> str | None:
        if self.steps is None or self.position.step < self.steps:
            return None
        return "steps" if self.config.steps == self.steps else "epochs"

    def at_end(self) -> None:
        """The results measure every task."""

    def check_finite(self, losses: Tensor) -> None:
        wrong = (~losses[:, -1].isfinite()).nonzero()
        if len(wrong):
            row = int(wrong[0])
            bad = [name for i, name in enumerate(self.model.tasks) if not math.isfinite(losses[row, i])]
            present = self.mixing.tasks(self.logged + row)
            found = ", ".join(name for name in bad if name in present) or "the sum"
            raise TrainingError(
                f"the loss of {found} is no number at step {self.logged + row}: try a smaller lr (it is "
                f"{self.config.lr}, of tables {self.config.table_lr}), more warmup or a smaller weight; the last "
                f"checkpoint in {self.run / 'checkpoint'} is from before"
            )

    def write_line(self, losses: Tensor, seconds: float) -> None:
        position, names = self.position, list(self.model.tasks)
        present = losses.nan_to_num(nan=-math.inf).isfinite()
        means = torch.where(present, losses, 0.0).sum(0) / present.sum(0).clamp(min=1)
        weights = dict(zip(names, self.weights.weights().detach().cpu().tolist(), strict=True))
        numbers: dict[str, Any] = {
            "loss": float(means[-1]),
            "losses": {name: float(means[i]) for i, name in enumerate(names) if bool(present[:, i].any())},
            "weights": weights,
            "steps_per_second": len(losses) / seconds,
            "lr": self.optimizers.get("dense", self.optimizers["tables"]).param_groups[0]["lr"],
        }
        sharing = self.model.backbone
        if sharing is not None and (use := sharing.utilisation()) is not None:
            numbers["utilisation"] = use.mean(0).tolist()
            sharing.reset_utilisation()
        parts = "  ".join(f"{name} {value:.3f}" for name, value in numbers["losses"].items())
        self.tell(numbers, f"{parts}  {numbers['steps_per_second']:.1f} steps/s", self.place())
        for alarm in self.starvation.alarms(position.step, position.last, weights).values():
            self.monitor.say(f"alarm: {alarm}")

    def measure(self) -> tuple[dict[str, Any], str] | None:
        """Every task on valid."""
        tasks = self.model.tasks
        if not any(task.can_evaluate("valid") for task in tasks.values()):
            return None
        found = evaluate_tasks(self.model, "valid")
        told = [(name, *tasks[name].headline_of(metrics)) for name, metrics in found.items()]
        text = "  ".join(f"{name} {metric} {value:.3f}" for name, metric, value in told if value is not None)
        return {name: numbers_of(metrics) for name, metrics in found.items()}, f"{self.place()}  valid: {text}"

    def write_checkpoint(self) -> None:
        if self.processes.first:
            checkpoint.save(
                self.run, self.config, self.position, self.model, self.weights, self.optimizers, self.texts, self.frozen
            )  # fmt: skip

    def epoch(self) -> float:
        return self.position.step / self.mixing.per_epoch

    def evaluate(self, stopped: str) -> dict[str, Any]:
        """Every task on both held-out splits."""
        self.say(f"stopped by {stopped} after {self.position.step} steps; evaluating")
        tasks = self.model.tasks
        splits = [split for split in SPLITS if any(task.can_evaluate(split) for task in tasks.values())]
        found = {}
        for split in splits:
            with progress_bar(self.console, f"evaluating {split}") as advance:
                found[split] = evaluate_tasks(self.model, split, progress=advance)
        told = list(tasks)
        if self.config.facts and language_task(self.model) is not None:
            told.append(FactResults.name)
            for split in splits:
                if len(Facts.of(self.graph, split)):
                    with progress_bar(self.console, f"asking for the facts of {split}") as advance:
                        facts = evaluate_facts(self.model, split, most=self.config.facts, progress=advance)
                    found[split][FactResults.name] = facts
        return {
            "run": str(self.run),
            **{split: found.get(split, {}).get(MAIN) for split in SPLITS},
            "tasks": {name: {split: found[split][name] for split in splits if name in found[split]} for name in told},
        }

    def pace(self) -> dict[str, Any]:
        position = self.position
        return {"steps_per_second": position.step / position.seconds if position.seconds else 0.0}

    def write_report(self, metrics: dict[str, Any]) -> None:
        from kgfast.joint.report import write_joint_report  # its charts are needed once, at the end

        with progress_bar(self.console, "drawing the map of entities") as advance:
            write_joint_report(self.run, self.model, metrics, advance)

    def checksums(self) -> dict[str, str]:
        return super().checksums() | {"texts_sha256": self.texts}

    def agree(self, value: float) -> float:
        return self.processes.agree(value)

    def run_to_end(self) -> dict[str, Any]:
        metrics = super().run_to_end()
        self.processes.wait()
        return metrics
