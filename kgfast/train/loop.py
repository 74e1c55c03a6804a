"""The training loop.

All randomness comes from (seed, epoch, step), so a run that was killed and resumed has the bits of one that
was not. Nothing in a step waits for the device: losses are read when a line is logged.
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
from kgfast.evaluate.metrics import all_ranks, evaluate, summarize
from kgfast.evaluate.report import write_report
from kgfast.run.monitor import Monitor
from kgfast.run.schedule import learning_rate
from kgfast.run.session import TrainingError, TrainingLoop, leave, peak_memory_bytes, run_folder, stop_signals
from kgfast.run.storage import write_durably
from kgfast.train import checkpoint
from kgfast.train.batches import Batches, frequency_weights, generator
from kgfast.train.build import build_model, build_optimizer, build_step
from kgfast.train.config import TrainConfig

REPORTED = ("mrr", "hits@1", "hits@3", "hits@10", "mean_rank", "triples", "head", "tail")
LOG_STEPS = 4096  # at most, between two reads of the losses


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
    graph: KnowledgeGraph | None = None,
) -> dict[str, Any]:
    """Train as configured and leave a run: config.yaml, checkpoint/, history.jsonl, tensorboard/,
    metrics.json, report.html.

    `resume` goes on from the checkpoint in `config.out` (from the beginning where the run was stopped
    before its first one). `graph` stands in for loading `config.data`. Returns what metrics.json holds:
    "valid" and "test" (None without triples), "train" (triples_per_second and seconds of training alone,
    peak_memory_bytes, steps, epochs, stopped), "tasks". With validations the best tables are restored
    first; they cost a second copy of the tables. Raises ConfigError, DataError, CheckpointError on bad
    input, TrainingError when the loss is no number any more.
    """
    resume = resume or config.resume
    console = console or Console(stderr=True)
    if resume and config.out is None:
        raise ConfigError("resume: needs out=RUN, the folder of the run to go on with")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    graph = KnowledgeGraph.load(config.data) if graph is None else graph
    if len(graph.train) == 0:
        raise DataError(f"graph {graph.name!r} has no train triples")
    run = run_folder(config.out, run_name(config, graph), resume)
    return Training(config, graph, run, console, resume=resume).run_to_end()


def run_name(config: TrainConfig, graph: KnowledgeGraph) -> str:
    """The name of a run's folder, but for its number."""
    return f"{Path(graph.name).name}-{config.recipe or config.model}"


class Training(TrainingLoop):
    """One run: its model, optimizer, step, and where it stands."""

    def __init__(
        self, config: TrainConfig, graph: KnowledgeGraph, run: Path, console: Console, *, resume: bool
    ) -> None:
        self.config, self.graph, self.run, self.console = config, graph, run, console
        saved = checkpoint.read(run, config, graph) if resume else None
        self.model = build_model(config, graph.num_entities, graph.num_relations)
        self.optimizer = build_optimizer(config, self.model)
        self.position = checkpoint.Position()
        self.best: dict[str, Tensor] | None = None
        if saved is not None:
            checkpoint.restore(saved, self.model, self.optimizer)
            self.position = saved.position
            self.best = saved.best and {name: table.to(config.table_device) for name, table in saved.best.items()}
            self.say(f"resuming {run} at step {self.position.step} (epoch {self.position.epoch + 1})")
        elif resume:
            self.say(f"{run} holds no checkpoint yet: starting from the beginning")
        self.step = build_step(config, self.model, self.optimizer, graph)
        triples = graph.train.to(config.table_device)
        weights = frequency_weights(triples, graph.num_entities) if config.subsampling else None
        self.batches = Batches(triples, weights, config.batch_size, config.seed)
        self.steps = config.epochs * self.batches.per_epoch if config.epochs else None
        self.valid = self.validation_triples()
        self.losses = torch.empty(LOG_STEPS, dtype=torch.float64, device=config.device)
        self.logged = self.position.step  # the first step that isn't logged yet
        self.logged_triples = self.position.triples
        config.save(run / "config.yaml")

    def run_to_end(self) -> dict[str, Any]:
        """Train, evaluate, write the results."""
        resume_from = dict(history_bytes=self.position.history_bytes, step=self.position.step)
        with Monitor(self.run, self.console, tensorboard=self.config.tensorboard, **resume_from) as self.monitor:
            stopped = self.train_until_stop()
        memory = peak_memory_bytes(self.config.device)
        if self.best is not None:
            checkpoint.load_tables(self.model, self.best)
        splits = [split for split in ("test", "valid") if len(getattr(self.graph, split))]
        asked = " and ".join(splits) or "nothing"
        self.say(f"stopped by {stopped} after {self.epoch():.1f} epochs; evaluating {asked}")
        details = evaluate(self.model, self.graph, splits[0], details=True) if splits else None
        metrics: dict[str, Any] = {"test": None, "valid": None}
        for split in splits:
            found = details if split == splits[0] else evaluate(self.model, self.graph, split)
            metrics[split] = {key: found[key] for key in REPORTED}
        position = self.position
        metrics["train"] = {
            "triples_per_second": position.triples / position.seconds if position.seconds else 0.0,
            "seconds": position.seconds,
            "peak_memory_bytes": memory,
            "steps": position.step,
            "epochs": self.epoch(),
            "best_epoch": position.best_epoch,
            "stopped": stopped,
        }
        metrics["tasks"] = {}
        write_durably(self.run / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
        write_report(self.run, model=self.model, graph=self.graph, details=details)
        return metrics

    def train_until_stop(self) -> str:
        """Steps, validations and checkpoints until epochs, minutes or patience end; says which."""
        config, position, batches = self.config, self.position, self.batches
        budget = 60 * config.minutes if config.minutes else math.inf
        self.start_clock()
        rate, stopped = None, None
        with stop_signals() as received:
            while stopped is None:
                if self.steps is not None and position.step >= self.steps and position.batch == 0:
                    stopped = "epochs"
                elif config.early_stopping_patience and position.stale >= config.early_stopping_patience:
                    stopped = "early stopping"
                else:
                    batches.begin(position.epoch)
                while stopped is None and position.batch < batches.per_epoch:
                    now = time.monotonic()
                    elapsed = now - self.begin
                    if received:
                        self.save()
                        leave(received[0], self.run)
                    self.log_and_save(now)
                    if elapsed >= budget:
                        stopped = "minutes"
                        break
                    new_rate = learning_rate(config, position.step, self.steps, elapsed)
                    if new_rate != rate:
                        rate = new_rate
                        for group in self.optimizer.param_groups:
                            group["lr"] = rate
                    triples, weights = batches[position.batch]
                    index = position.step - self.logged
                    self.losses[index] = self.step(triples, position.step, weights)
                    position.step += 1
                    position.batch += 1
                    position.triples += len(triples)
                    if index + 1 == LOG_STEPS:
                        self.log()
                if position.batch == batches.per_epoch:
                    every = config.validate_every if self.valid is not None else 0
                    if every and (position.epoch + 1) % every == 0 and position.validated_step != position.step:
                        self.log()
                        self.validate()
                        position.stale = 0 if position.best_step == position.step else position.stale + 1
                    position.epoch += 1
                    position.batch = 0
            self.log()
            if position.validated_step != position.step:
                self.validate()
            self.save()
            if received:
                leave(received[0], self.run)
        return stopped

    def check_finite(self, losses: Tensor) -> None:
        wrong = (~torch.isfinite(losses)).nonzero()
        if len(wrong):
            step = self.logged + int(wrong[0])
            raise TrainingError(
                f"the loss is {losses[wrong[0]].item()} at step {step} "
                f"(epoch {step // self.batches.per_epoch + 1}): try a smaller lr (it is {self.config.lr}), "
                f"warmup or a regularizer; the last checkpoint in {self.run / 'checkpoint'} is from before"
            )

    def write_line(self, losses: Tensor, seconds: float) -> None:
        position = self.position
        triples = position.triples - self.logged_triples
        self.logged_triples = position.triples
        over, left = self.progress()
        record = {
            "step": position.step,
            "epoch": self.epoch(),
            "loss": losses.mean().item(),
            "triples_per_second": triples / seconds,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        text = f"loss {record['loss']:.4f}  {record['triples_per_second']:,.0f} triples/s  {left}"
        self.monitor.training(record, over, text, f"epoch {record['epoch']:.1f}")

    def validate(self) -> None:
        """Filtered MRR of the valid triples (or the drawn ones); the best tables so far are kept."""
        if self.valid is None:
            return
        position = self.position
        ranks = all_ranks(self.model, self.graph, self.valid)
        metrics = summarize(torch.cat([ranks["tail"], ranks["head"]]))
        position.validated_step = position.step
        better = position.best_mrr is None or metrics["mrr"] > position.best_mrr
        if better:
            position.best_mrr, position.best_step = metrics["mrr"], position.step
            position.best_epoch = self.epoch()
            if self.best is None:
                self.best = {name: table.clone() for name, table in checkpoint.tables(self.model).items()}
            else:
                for name, table in checkpoint.tables(self.model).items():
                    self.best[name].copy_(table)
        text = f"epoch {self.epoch():.1f}  valid MRR {metrics['mrr']:.4f}  hits@10 {metrics['hits@10']:.4f}"
        record = {"step": position.step, "epoch": self.epoch(), "valid": metrics}
        self.monitor.validation(record, text + "  best so far" * better)
        self.mark = time.monotonic()  # validation is no training time

    def write_checkpoint(self) -> None:
        checkpoint.save(self.run, self.config, self.graph, self.position, self.model, self.optimizer, self.best)

    def epoch(self) -> float:
        """Passes over the triples so far."""
        return self.position.step / self.batches.per_epoch

    def validation_triples(self) -> Tensor | None:
        """The valid triples to ask, all or `validate_triples` drawn by the seed; None without validation."""
        if self.config.validate_every == 0:
            return None
        valid, wanted = self.graph.valid, self.config.validate_triples
        if len(valid) == 0:
            self.say(
                f"graph {self.graph.name!r} has no valid triples: no validation and no early stopping, "
                "the last tables count"
            )
            return None
        if 0 < wanted < len(valid):
            valid = valid[torch.randperm(len(valid), generator=generator(self.config.seed, "valid"))[:wanted]]
        return valid
