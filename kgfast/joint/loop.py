"""The loop of joint training.

All randomness of a step comes from (seed, step), so a run that was killed and resumed has the bits of one that was not.
Nothing in a step waits for the device: losses are read when a line is logged.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError, DataError
from kgfast.joint import build, checkpoint
from kgfast.joint.balance.mixing import Mixing, Starvation
from kgfast.joint.config import JointConfig
from kgfast.joint.evaluate import SPLITS, evaluate_tasks, headline, held_out, numbers_of
from kgfast.joint.parallel import Processes
from kgfast.joint.step import Step
from kgfast.run.monitor import Monitor
from kgfast.run.schedule import learning_rate
from kgfast.run.session import TrainingError, TrainingLoop, leave, peak_memory_bytes, run_folder, stop_signals
from kgfast.run.settings import check_device
from kgfast.run.storage import write_durably

LOG_STEPS = 256  # at most, between two reads of the losses


def train_joint(
    config: JointConfig, *, resume: bool = False, console: Console | None = None, graph: KnowledgeGraph | None = None
) -> dict[str, Any]:
    """Train as configured and leave a run: config.yaml, tokenizer.json, checkpoint/, history.jsonl, tensorboard/,
    metrics.json, report.html.

    `graph` stands in for loading `config.data`, with the questions and triples that it has. Returns what metrics.json
    holds: "run", "test" and "valid" (link prediction, None without the task), "tasks" ({task: {split: metrics}}),
    "train" (seconds, steps, peak_memory_bytes, stopped). Raises ConfigError, DataError, CheckpointError on bad input,
    TrainingError where a loss is no number any more.
    """
    resume = resume or config.resume
    console = console or Console(stderr=True)
    if resume and config.out is None:
        raise ConfigError("resume: needs out=RUN, the folder of the run to go on with")
    check_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    processes = Processes.join(config.device)
    if processes.size > 1 and config.out is None:
        raise ConfigError("out is missing: processes of torchrun share the folder of a run")
    graph = build.load_graph(config) if graph is None else graph
    if len(graph.train) == 0:
        raise DataError(f"graph {graph.name!r} has no train triples")
    if not processes.first:
        console = Console(stderr=True, quiet=True)
    config = build.fit_to_data(config, graph, lambda text: console.print(text, highlight=False, markup=False))
    if processes.first:
        name = f"{Path(graph.name).name}-{config.recipe or '-'.join(config.tasks)}"
        run = run_folder(config.out, name, resume)
    processes.wait()
    if not processes.first:
        run = Path(config.out)
    devices = [config.device] if config.device.startswith("cuda") else []
    try:
        with torch.random.fork_rng(devices=devices):
            return JointTraining(config, graph, run, console, processes, resume=resume).run_to_end()
    finally:
        processes.leave()


class JointTraining(TrainingLoop):
    """One run: its model, weights, optimizers, and where it stands."""

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
        saved = checkpoint.read(run, config, graph) if resume else None
        self.model = self.shared_model(resume)
        self.weights = build.build_weights(config)
        self.optimizers = build.build_optimizers(config, self.model, self.weights)
        sizes = {name: max(1, len(task) // processes.size) for name, task in self.model.tasks.items()}
        chosen = config.mixing
        self.mixing = Mixing(chosen.method, sizes, temperature=chosen.temperature, seed=config.seed)
        names = list(self.model.tasks)
        self.position = checkpoint.Position(
            batches=dict.fromkeys(names, 0), last=dict.fromkeys(names, 0), processes=processes.size
        )
        self.texts = checkpoint.texts_fingerprint(graph, config)
        if saved is not None:
            self.check_processes(saved.position)
            build.check_tokenizer(self.model.tokenizer, saved.tokenizer, str(run))
            checkpoint.restore(saved, self.model, self.weights, self.optimizers)
            self.position = saved.position
            self.say(f"resuming {run} at step {self.position.step}")
        elif resume:
            self.say(f"{run} holds no checkpoint yet: starting from the beginning")
        if saved is None:
            self.model.refresh()
        self.model.train()
        self.step = Step(config, self.model, self.weights, self.optimizers, processes)
        ends = [config.epochs and config.epochs * self.mixing.per_epoch, config.steps]
        self.steps = min((end for end in ends if end), default=None)
        self.starvation = Starvation(names, chosen.starving_steps)
        self.losses = torch.full((LOG_STEPS, len(names) + 1), math.nan, device=config.device)
        self.logged = self.position.step  # the first step that isn't logged yet
        if processes.first:
            config.save(run / "config.yaml")

    def shared_model(self, resume: bool):
        """The model; the first process settles on the tokenizer before the others read it."""
        config, run, graph = self.config, self.run, self.graph
        if self.processes.first:
            tokenizer = build.build_tokenizer(config, graph, run if resume else None)
            if tokenizer is not None:
                tokenizer.save(run)
        self.processes.wait()
        return build.build_model(config, graph, run)

    def check_processes(self, position: checkpoint.Position) -> None:
        if position.processes != self.processes.size:
            raise ConfigError(
                f"{self.run} was trained by {position.processes} processes, now there are {self.processes.size}: "
                f"what a step sees would differ"
            )

    def run_to_end(self) -> dict[str, Any]:
        """Train, evaluate, write the results."""
        resume_from = dict(history_bytes=self.position.history_bytes, step=self.position.step)
        run = self.run if self.processes.first else None
        with Monitor(run, self.console, tensorboard=self.config.tensorboard, **resume_from) as self.monitor:
            stopped = self.train_until_stop()
        metrics: dict[str, Any] = {}
        if self.processes.first:
            metrics = self.results(stopped)
        self.processes.wait()
        return metrics

    def results(self, stopped: str) -> dict[str, Any]:
        memory = peak_memory_bytes(self.config.device)
        self.say(f"stopped by {stopped} after {self.position.step} steps; evaluating")
        splits = [split for split in SPLITS if any(held_out(self.model, name, split) for name in self.model.tasks)]
        found = {split: evaluate_tasks(self.model, split) for split in splits}
        metrics: dict[str, Any] = {"run": str(self.run)}
        for split in SPLITS:
            metrics[split] = found.get(split, {}).get("link")
        metrics["train"] = {
            "steps_per_second": self.position.step / self.position.seconds if self.position.seconds else 0.0,
            "seconds": self.position.seconds,
            "peak_memory_bytes": memory,
            "steps": self.position.step,
            "epochs": self.epoch(),
            "stopped": stopped,
        }
        metrics["tasks"] = {
            name: {split: found[split][name] for split in splits if name in found[split]} for name in self.model.tasks
        }
        write_durably(self.run / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
        from kgfast.joint.report import write_joint_report

        write_joint_report(self.run, self.model, metrics)
        return metrics

    def train_until_stop(self) -> str:
        """Steps, validations and checkpoints until steps or minutes end; says which."""
        config, position = self.config, self.position
        budget = 60 * config.minutes if config.minutes else math.inf
        self.start_clock()
        stopped = None
        with stop_signals() as received:
            while True:
                now = time.monotonic()
                elapsed = self.processes.agree(now - self.begin)
                if self.processes.agree(float(bool(received))):
                    self.save()
                    leave(received[0] if received else 15, self.run)
                self.log_and_save(now)
                if self.steps is not None and position.step >= self.steps:
                    stopped = "steps" if config.steps == self.steps else "epochs"
                    break
                if elapsed >= budget:
                    stopped = "minutes"
                    break
                rate = learning_rate(config, position.step, self.steps, elapsed) / config.lr
                self.set_rates(rate)
                index = position.step - self.logged
                names = self.mixing.tasks(position.step)
                self.losses[index] = self.step(position.step, names, position.batches)
                for name in names:
                    position.batches[name] += config.accumulate
                    position.last[name] = position.step
                position.step += 1
                if index + 1 == LOG_STEPS:
                    self.log()
                if config.validate_every and position.step % config.validate_every == 0:
                    self.validate()
            self.log()
            self.save()
            if received:
                leave(received[0], self.run)
        return stopped

    def set_rates(self, share: float) -> None:
        for name, optimizer in self.optimizers.items():
            rate = self.config.table_lr if name == "tables" else self.config.lr
            for group in optimizer.param_groups:
                group["lr"] = share * rate * group.get("times", 1)

    def write_line(self, losses: Tensor, seconds: float) -> None:
        position, names = self.position, list(self.model.tasks)
        present = losses.nan_to_num(nan=-math.inf).isfinite()
        means = torch.where(present, losses, 0.0).sum(0) / present.sum(0).clamp(min=1)
        weights = dict(zip(names, self.weights.weights().detach().cpu().tolist(), strict=True))
        record: dict[str, Any] = {
            "step": position.step,
            "epoch": self.epoch(),
            "loss": float(means[-1]),
            "losses": {name: float(means[i]) for i, name in enumerate(names) if bool(present[:, i].any())},
            "weights": weights,
            "steps_per_second": len(losses) / seconds,
            "lr": self.optimizers.get("dense", self.optimizers["tables"]).param_groups[0]["lr"],
        }
        use = self.model.backbone.utilisation() if self.model.backbone is not None else None
        if use is not None:
            record["utilisation"] = use.mean(0).tolist()
            self.model.backbone.reset_utilisation()
        over, left = self.progress()
        parts = "  ".join(f"{name} {value:.3f}" for name, value in record["losses"].items())
        text = f"{parts}  {record['steps_per_second']:.1f} steps/s  {left}"
        self.monitor.training(record, over, text, f"step {position.step}")
        for alarm in self.starvation.alarms(position.step, position.last, weights).values():
            self.monitor.say(f"alarm: {alarm}")

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

    def validate(self) -> None:
        """Every task on valid; a line of history."""
        if self.position.validated_step == self.position.step:
            return
        self.log()
        self.position.validated_step = self.position.step
        if any(held_out(self.model, name, "valid") for name in self.model.tasks):
            found = evaluate_tasks(self.model, "valid")
            record = {"step": self.position.step, "epoch": self.epoch()}
            record["valid"] = {name: numbers_of(metrics) for name, metrics in found.items()}
            told = [(name, *headline(name, metrics)) for name, metrics in found.items()]
            text = "  ".join(f"{name} {metric} {value:.3f}" for name, metric, value in told if value is not None)
            self.monitor.validation(record, f"step {self.position.step}  valid: {text}")
        self.mark = time.monotonic()  # validation is no training time

    def write_checkpoint(self) -> None:
        if self.processes.first:
            checkpoint.save(self.run, self.config, self.position, self.model, self.weights, self.optimizers, self.texts)

    def epoch(self) -> float:
        return self.position.step / self.mixing.per_epoch
