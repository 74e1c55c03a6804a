"""Training on the graph alone: what its run is, in the loop of all runs (`kgfast.run.loop`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from kgfast.core.terminal import Screen
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError
from kgfast.evaluate.kept import KeptRanks
from kgfast.evaluate.measures import summarize
from kgfast.evaluate.metrics import DETAILS, all_ranks, evaluate
from kgfast.evaluate.report import write_report
from kgfast.run.folder import run_folder
from kgfast.run.loop import TrainingLoop
from kgfast.run.progress import progress_bar
from kgfast.run.seeds import generator
from kgfast.run.session import TrainingError, check_triples, start
from kgfast.run.trackers import Tracker
from kgfast.train import checkpoint
from kgfast.train.auto import choose
from kgfast.train.build import build_step, check_training_memory, load_tables
from kgfast.train.build import tables as tables_of
from kgfast.train.config import TrainConfig
from kgfast.train.partitions.tables import PartitionedTables
from kgfast.train.tables import WholeTables

LOG_STEPS = 4096  # at most, between two reads of the losses


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
    graph: KnowledgeGraph | None = None,
    trackers: Sequence[Tracker] = (),
) -> dict[str, Any]:
    """Train as configured and leave a run: config.yaml, checkpoint/, history.jsonl, tensorboard/,
    metrics.json, report.html.

    `resume` goes on from the checkpoint in `config.out` (from the beginning where the run was stopped
    before its first one). `graph` stands in for loading `config.data`. `trackers` are told of the run, beside
    those that the settings name. Returns what metrics.json holds:
    "valid" and "test" (None without triples), "train" (triples_per_second and seconds of training alone,
    peak_memory_bytes, steps, epochs, stopped), "tasks", "made_by". With validations the best tables are restored
    first; they cost a second copy of the tables. Raises ConfigError, DataError, CheckpointError on bad
    input, TrainingError when the loss is no number any more.
    """
    resume = begin(config, resume)
    graph = config.load_graph() if graph is None else graph
    check_triples(graph)
    with run_folder(config.out, run_name(config, graph), resume) as run:
        training = Training(config, graph, run, console or Screen(stderr=True), resume=resume)
        training.watchers = trackers
        return training.run_to_end()


def begin(config: TrainConfig, resume: bool) -> bool:
    """Whether the run goes on; ConfigError before anything is read where it can't start."""
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: training on a graph alone is one process, and torchrun would "
            "start several runs; joint training (tasks=..) takes several processes"
        )
    return start(config, resume)


def run_name(config: TrainConfig, graph: KnowledgeGraph) -> str:
    """The name of a run's folder, but for its number."""
    return f"{Path(graph.name).name}-{config.recipe or config.model}"


class Training(TrainingLoop):
    """One run: its model, optimizer, step, and where it stands."""

    config: TrainConfig
    position: checkpoint.Position

    def __init__(
        self, config: TrainConfig, graph: KnowledgeGraph, run: Path, console: Console, *, resume: bool
    ) -> None:
        self.config, self.graph, self.run, self.console = config, graph, run, console
        check_training_memory(config, graph)
        saved = checkpoint.read(run, config, graph) if resume else None
        choice = saved.position.choice if saved is not None else choose(config, graph, console)
        self.before = choice.seconds if choice is not None else 0.0
        whole = config.tables != "partitioned"
        self.tables = WholeTables(config, graph) if whole else PartitionedTables(config, graph, run, saved)
        self.model, self.optimizer = self.tables.model, self.tables.optimizer
        self.position = checkpoint.Position(elapsed=self.before, choice=choice)
        self.best: dict[str, Tensor] | None = None
        self.go_on(saved, resume)
        if saved is not None and choice is not None:
            self.say(f"auto kept: {choice.told()}")
        decided = config if choice is None else config.replace(regularizer_weight=choice.regularizer_weight)
        self.step = build_step(decided, self.model, self.optimizer, graph)
        self.batches = self.tables.batches(self.step)
        self.steps = self.batches.steps(config.epochs) if config.epochs else None
        self.valid = self.validation_triples()
        self.losses = torch.empty(LOG_STEPS, dtype=torch.float64, device=config.device)
        self.logged_triples = self.position.triples
        config.save(run / "config.yaml")

    def run_to_end(self) -> dict[str, Any]:
        try:
            return super().run_to_end()
        finally:
            self.tables.close()

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        self.tables.restore(saved)
        self.position = saved.position
        device = self.config.table_device
        self.best = saved.best and {name: table.to(device) for name, table in saved.best.items()}

    def place(self) -> str:
        return f"step {self.position.step} (epoch {self.position.epoch + 1})"

    def set_rates(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def take_step(self) -> Tensor:
        position = self.position
        self.batches.begin(position.epoch)
        triples, weights = self.batches[position.batch]
        loss = self.step(triples, position.step, weights)
        position.batch += 1
        position.triples += len(triples)
        return loss

    def after_step(self) -> None:
        """The end of an epoch: validation, where it is due, and the count of those that found nothing better."""
        position, config = self.position, self.config
        if position.batch < self.batches.per_epoch:
            return
        every = config.validate_every if self.valid is not None else 0
        if every and (position.epoch + 1) % every == 0:
            self.validate()
            position.stale = 0 if position.best_step == position.step else position.stale + 1
        position.epoch += 1
        position.batch = 0

    def ended(self) -> str | None:
        position, patience = self.position, self.config.early_stopping_patience
        if position.batch:
            return None
        if self.steps is not None and position.step >= self.steps:
            return "epochs"
        return "early stopping" if patience and position.stale >= patience else None

    def at_end(self) -> None:
        if self.valid is not None:
            self.validate()

    def check_finite(self, losses: Tensor) -> None:
        wrong = (~torch.isfinite(losses)).nonzero()
        if len(wrong):
            step = self.logged + int(wrong[0])
            raise TrainingError(
                f"the loss is {losses[wrong[0]].item()} at step {step} "
                f"(epoch {int(self.batches.epochs(step)) + 1}): try a smaller lr (it is {self.config.lr}), "
                f"warmup or a regularizer; the last checkpoint in {self.run / 'checkpoint'} is from before"
            )

    def write_line(self, losses: Tensor, seconds: float) -> None:
        triples = self.position.triples - self.logged_triples
        self.logged_triples = self.position.triples
        numbers = {
            "loss": losses.mean().item(),
            "triples_per_second": triples / seconds,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        text = f"loss {numbers['loss']:.4f}  {numbers['triples_per_second']:,.0f} triples/s"
        self.tell(numbers, text, f"epoch {self.epoch():.1f}")

    def measure(self) -> tuple[dict[str, Any], str]:
        """Filtered ranks of the valid triples (or the drawn ones); the tables with the best MRR so far are kept."""
        position = self.position
        ranks = all_ranks(self.model, self.graph, self.valid)
        metrics = summarize(torch.cat([ranks["tail"], ranks["head"]]))
        better = position.best_mrr is None or metrics["mrr"] > position.best_mrr
        if better:
            position.best_mrr, position.best_step = metrics["mrr"], position.step
            position.best_epoch = self.epoch()
            self.keep_tables()
        text = f"epoch {self.epoch():.1f}  valid MRR {metrics['mrr']:.4f}  hits@10 {metrics['hits@10']:.4f}"
        return metrics, text + "  best so far" * better

    def keep_tables(self) -> None:
        tables = tables_of(self.model)
        if self.best is None:
            self.best = {name: table.clone() for name, table in tables.items()}
        else:
            for name, table in tables.items():
                self.best[name].copy_(table)

    def write_checkpoint(self) -> None:
        self.tables.save(self.run, self.position, self.best)

    def epoch(self) -> float:
        return self.batches.epochs(self.position.step)

    def evaluate(self, stopped: str) -> dict[str, Any]:
        """Both held-out splits, with the best tables where there were validations."""
        del self.step, self.optimizer, self.model  # what was trained on may be as large as memory
        self.model = self.tables.trained(self.run, self.position)
        if self.best is not None:
            load_tables(self.model, self.best)
        splits = [split for split in ("test", "valid") if len(getattr(self.graph, split))]
        asked = " and ".join(splits) or "nothing"
        self.say(f"stopped by {stopped} after {self.epoch():.1f} epochs; evaluating {asked}")
        self.details = None
        metrics: dict[str, Any] = {"test": None, "valid": None, "tasks": {}}
        self.kept = KeptRanks(self.run / "evaluation")
        for split in splits:
            with progress_bar(self.console, f"ranking {split}") as advance:
                found = evaluate(
                    self.model, self.graph, split, details=split == splits[0], seen=True, hits=self.config.hits,
                    progress=advance, kept=self.kept, triples=self.config.test_triples or None,
                    seed=self.config.seed,
                )  # fmt: skip
            self.details = found if split == splits[0] else self.details
            metrics[split] = {key: value for key, value in found.items() if key not in DETAILS}
        return metrics

    def pace(self) -> dict[str, Any]:
        position = self.position
        found: dict[str, Any] = {
            "triples_per_second": position.triples / position.seconds if position.seconds else 0.0,
            "best_epoch": position.best_epoch,
        }
        return found if position.choice is None else {**found, "auto": asdict(position.choice)}

    def write_report(self, metrics: dict[str, Any]) -> None:
        self.kept.remove()  # as metrics.json is written
        with progress_bar(self.console, "drawing the map of entities") as advance:
            write_report(self.run, model=self.model, graph=self.graph, details=self.details, mapping=advance)

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
