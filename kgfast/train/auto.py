"""Settings that follow the graph: with `regularizer_weight=auto` short trials choose N3's weight on valid.

How many trials there are and how long they last comes from the settings, and all draws from the seed: equal runs choose
alike, and what follows has the bits of a run that was told the weight. Only `minutes` brings the clock in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from rich.console import Console

from kgfast.data import KnowledgeGraph
from kgfast.evaluate.metrics import all_ranks, summarize
from kgfast.nn import KGEModel
from kgfast.run.progress import progress_bar
from kgfast.run.schedule import learning_rate
from kgfast.run.seeds import generator
from kgfast.train.batches import batches_of
from kgfast.train.build import build_model, build_optimizer, build_step
from kgfast.train.config import AUTO, TrainConfig

WEIGHTS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # from 1/3 on, a triple's penalty outgrows its loss
START = 0.02  # in the middle of what graphs want
USUAL = 0.05  # the literature's on FB15k-237, for where there is nothing to choose by
TRIALS = 5  # at most
SHARE = 5  # all trials together have at most this part, 1 / SHARE, of the run's steps, and of its minutes
SHORTEST, LONGEST = 20, 1000  # steps of a trial: fewer tell nothing, more tell the same
VALID = 2000  # triples that a trial is measured on, at most


@dataclass
class Choice:
    """What was chosen, why, and the valid MRR of each weight that was tried, by trials of so many steps."""

    regularizer_weight: float
    why: str
    trials: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0

    def told(self) -> str:
        found = ", ".join(f"{one['regularizer_weight']} {one['mrr']:.4f}" for one in self.trials)
        found = f"; valid MRR after {self.steps} steps: {found}" if found else ""
        return f"regularizer_weight={self.regularizer_weight}: {self.why}{found}"


def choose(config: TrainConfig, graph: KnowledgeGraph, console: Console) -> Choice | None:
    """What the settings leave to the graph, said on the console; None where they leave nothing."""
    if config.regularizer != "n3" or config.regularizer_weight != AUTO:
        return None
    begin, search = time.monotonic(), Search(config, graph)
    if len(graph.valid) == 0:
        choice = Choice(USUAL, "no valid triples to choose by")
    elif search.trials < 2:
        choice = Choice(USUAL, f"{search.all_steps} steps are too few to choose by")
    else:
        with progress_bar(console, "choosing regularizer_weight") as progress:
            choice = search.run(begin, progress)
    choice.seconds = time.monotonic() - begin
    console.print(choice.told(), highlight=False, markup=False)
    return choice


class OutOfTimeError(Exception):
    """The search's part of the minutes is over."""


class Search:
    """Trials of one length, each with a whole course of the learning rate."""

    def __init__(self, config: TrainConfig, graph: KnowledgeGraph) -> None:
        self.config, self.graph = config, graph
        per_epoch = -(-len(graph.train) // config.batch_size)
        self.all_steps = per_epoch * (config.epochs or config.default_epochs)
        self.steps = min(LONGEST, max(SHORTEST, self.all_steps // (SHARE * TRIALS)))
        self.trials = min(TRIALS, self.all_steps // SHARE // self.steps)
        self.found: dict[float, float] = {}  # valid MRR by weight, in the order of the trials

    def run(self, begin: float, progress: Callable[[int, int], None]) -> Choice:
        """Climb as long as there are trials and time; `progress` is called with steps done and steps in all."""
        end = begin + 60 * self.config.minutes / SHARE if self.config.minutes else math.inf
        why = "the best on valid of those tried"
        try:
            best = climb(lambda weight: self.trial(weight, end, progress), self.trials)
        except OutOfTimeError:
            best = max(self.found, key=self.found.__getitem__, default=USUAL)
            why = f"{len(self.found)} trials fitted into 1 / {SHARE} of the minutes"
        trials = [{"regularizer_weight": weight, "mrr": mrr} for weight, mrr in self.found.items()]
        return Choice(best, why, trials, self.steps)

    def trial(self, weight: float, end: float, progress: Callable[[int, int], None]) -> float:
        """The valid MRR that a run of `steps` ends with; 0 where it diverged."""
        warmup = self.config.warmup * self.steps // self.all_steps
        config = self.config.replace(regularizer_weight=weight, warmup=warmup)
        model = build_model(config, self.graph.num_entities, self.graph.num_relations)
        optimizer = build_optimizer(config, model)
        step, batches = build_step(config, model, optimizer, self.graph), batches_of(config, self.graph)
        for index in range(self.steps):
            if time.monotonic() >= end:
                raise OutOfTimeError
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, index, self.steps, 0.0)
            batches.begin(index // batches.per_epoch)
            triples, weights = batches[index % batches.per_epoch]
            step(triples, index, weights)
            progress(len(self.found) * self.steps + index + 1, self.trials * self.steps)
        finite = all(bool(torch.isfinite(table).all()) for table in (model.entities, model.relations))
        self.found[weight] = self.mrr(model) if finite else 0.0
        return self.found[weight]

    def mrr(self, model: KGEModel) -> float:
        valid = self.graph.valid
        if len(valid) > VALID:
            drawn = torch.randperm(len(valid), generator=generator(self.config.seed, "auto"))
            valid = valid[drawn[:VALID]]
        ranks = all_ranks(model, self.graph, valid)
        return summarize(torch.cat([ranks["tail"], ranks["head"]]))["mrr"]


def climb(measure: Callable[[float], float], trials: int) -> float:
    """The weight that no neighbour betters, from `START` on, by at most so many measures; one hill is assumed."""
    place, best = WEIGHTS.index(START), measure(START)
    for way in (1, -1):
        begin = place
        while trials > 1 and 0 <= place + way < len(WEIGHTS):
            trials -= 1
            found = measure(WEIGHTS[place + way])
            if found <= best:
                break
            place, best = place + way, found
        if place != begin:  # where it rises one way, it falls the other
            break
    return WEIGHTS[place]
