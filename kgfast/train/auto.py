"""Settings that follow the graph: with `regularizer_weight=auto` short trials choose N3's weight on valid.

How many trials there are and how long they last comes from the settings, and all draws from the seed: equal runs choose
alike, and what follows has the bits of a run that was told the weight. Only `minutes` brings the clock in.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from rich.console import Console

from kgfast.data import KnowledgeGraph
from kgfast.evaluate.metrics import all_ranks, summarize
from kgfast.run.checkpoint import load_optimizer_state, optimizer_state
from kgfast.run.progress import progress_bar
from kgfast.run.schedule import learning_rate
from kgfast.run.seeds import generator
from kgfast.train.batches import batches_of
from kgfast.train.build import build_model, build_optimizer, build_step, load_tables, tables
from kgfast.train.config import AUTO, TrainConfig

WEIGHTS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # from 1/3 on, a triple's penalty outgrows its loss
START = 0.05  # the literature's on FB15k-237; it stays where there is nothing to choose by
SHARED = 0.02  # in the steps that all trials share: a large weight is slow at first, whatever it is worth at last
TRIALS = 5  # at most
SHARE = 5  # the search has at most this part, 1 / SHARE, of the run's steps, and of its minutes
SHORTEST, LONGEST = 20, 1000  # steps of a trial: fewer tell nothing, more aren't worth their time
MARGIN, FEWEST = 0.02, 0.5  # by what part a smaller weight must be better, over a trial's epochs, so many at least
YOUNG = 0.1  # where the first trial gained a larger part, a smaller weight leads anyway: the margin is all of that part
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
        choice = Choice(START, "no valid triples to choose by")
    elif search.trials < 2:
        choice = Choice(START, f"{search.all_steps} steps are too few to choose by")
    else:
        with progress_bar(console, "choosing regularizer_weight") as progress:
            choice = search.run(begin, progress)
    del search
    gc.collect()  # its tables leave before the run's are made: a step holds itself
    choice.seconds = time.monotonic() - begin
    console.print(choice.told(), highlight=False, markup=False)
    return choice


class OutOfTimeError(Exception):
    """The search's part of the minutes is over."""


class Search:
    """Trials of one length: from tables that all share, each goes on with its own weight as the rate falls."""

    def __init__(self, config: TrainConfig, graph: KnowledgeGraph) -> None:
        self.config, self.graph = config, graph
        self.batches = batches_of(config, graph)
        per_epoch = self.batches.per_epoch
        self.all_steps = per_epoch * (config.epochs or config.default_epochs)
        most = self.all_steps // SHARE
        self.steps = min(LONGEST, max(SHORTEST, most // (TRIALS + 1)))
        self.trials = min(TRIALS, most // self.steps - 1)
        self.margin = MARGIN / max(FEWEST, self.steps / per_epoch)
        self.found: dict[float, float] = {}  # valid MRR by weight, in the order of the trials

    def run(self, begin: float, progress: Callable[[int, int], None]) -> Choice:
        """Climb as long as there are trials and time; `progress` is called with steps done and steps in all."""
        self.end = begin + 60 * self.config.minutes / SHARE if self.config.minutes else math.inf
        self.progress = progress
        why = "the best on valid of those tried"
        try:
            self.share_steps()
            before, after = self.mrr(), self.trial(START)
            gained = after / before - 1 if before else 0.0
            if gained > YOUNG:
                self.margin = max(self.margin, gained)
            best = climb(
                lambda one: self.found[one] if one in self.found else self.trial(one), self.trials, self.margin
            )
        except OutOfTimeError:
            why = f"{len(self.found)} trials fitted into 1 / {SHARE} of the minutes"
            best = climb(lambda weight: self.found.get(weight, 0.0), len(WEIGHTS), self.margin)
        trials = [{"regularizer_weight": weight, "mrr": mrr} for weight, mrr in self.found.items()]
        return Choice(best, why, trials, self.steps)

    def share_steps(self) -> None:
        """The steps that come before every trial."""
        self.model = build_model(self.config, self.graph.num_entities, self.graph.num_relations)
        self.optimizer = build_optimizer(self.config, self.model)
        self.train(SHARED, 0)
        tensors, numbers = optimizer_state(self.optimizer)
        self.tables = {name: table.clone() for name, table in tables(self.model).items()}
        self.state = {**numbers, **{name: tensor.clone() for name, tensor in tensors.items()}}

    def trial(self, weight: float) -> float:
        """The valid MRR after a trial."""
        load_tables(self.model, self.tables)
        load_optimizer_state(self.optimizer, self.state)
        self.train(weight, self.steps)
        self.found[weight] = self.mrr()
        return self.found[weight]

    def train(self, weight: float, first: int) -> None:
        """So many steps at this weight, from step `first` on; after the shared ones the rate falls as in the run."""
        config, done = self.config.replace(regularizer_weight=weight, warmup=0), first and len(self.found) + 1
        step = build_step(config, self.model, self.optimizer, self.graph)
        for count in range(self.steps):
            if time.monotonic() >= self.end:
                raise OutOfTimeError
            rate = learning_rate(config, count, self.steps, 0.0) if first else config.lr
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.batches.begin((first + count) // self.batches.per_epoch)
            triples, weights = self.batches[(first + count) % self.batches.per_epoch]
            step(triples, first + count, weights)
            self.progress(done * self.steps + count + 1, (self.trials + 1) * self.steps)

    def mrr(self) -> float:
        """On valid, or a part of it; 0 where training diverged."""
        valid = self.graph.valid
        if not all(bool(torch.isfinite(table).all()) for table in tables(self.model).values()):
            return 0.0
        if len(valid) > VALID:
            drawn = torch.randperm(len(valid), generator=generator(self.config.seed, "auto"))
            valid = valid[drawn[:VALID]]
        ranks = all_ranks(self.model, self.graph, valid)
        return summarize(torch.cat([ranks["tail"], ranks["head"]]))["mrr"]


def climb(measure: Callable[[float], float], trials: int, margin: float) -> float:
    """The weight that no neighbour betters, from `START` on, by at most so many measures; one hill is assumed.

    A smaller weight must be better by the margin: what it lets a longer run overfit, a trial doesn't show.
    """
    place, best = WEIGHTS.index(START), measure(START)
    for way, needed in ((1, 1.0), (-1, 1 + margin)):
        begin = place
        while trials > 1 and 0 <= place + way < len(WEIGHTS):
            trials -= 1
            found = measure(WEIGHTS[place + way])
            if found <= best * needed:
                break
            place, best = place + way, found
        if place != begin:  # where it rises one way, it falls the other
            break
    return WEIGHTS[place]
